"""What is taken for a sentence encoder, what is not, and how it encodes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
)

from personae.models.selection.minilm import MiniLM
from personae.models.selection.p5 import P5
from personae.nn.cross_encoder import CrossEncoder
from personae.nn.sentence_encoder import SentenceEncoder
from personae.tasks.negatives import Hard
from personae.types import Dialogue, Example, InputError, Speaker, Turn

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def written(made: Callable[[int], Any], backbone: str, folder: Path) -> str:
    """The folder of a random model, made for so many tokens, and the tokenizer of `backbone`."""
    tokenizer = BertTokenizer.from_pretrained(backbone)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    made(len(tokenizer)).save_pretrained(folder)
    return str(folder)


RELATIVES: dict[str, Callable[[int], Any]] = {
    "albert": lambda words: AlbertModel(
        AlbertConfig(**SMALL, vocab_size=words, embedding_size=8, max_position_embeddings=12)
    ),
    "distilbert": lambda words: DistilBertModel(
        DistilBertConfig(vocab_size=words, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=12)
    ),
    "mpnet": lambda words: MPNetModel(MPNetConfig(**SMALL, vocab_size=words, max_position_embeddings=14)),
}


@pytest.mark.parametrize("relative", RELATIVES)
def test_relatives_of_bert_encode_sentences_as_far_as_they_can_read(
    relative: str, backbone: str, tmp_path: Path
) -> None:
    encoder = SentenceEncoder(written(RELATIVES[relative], backbone, tmp_path))
    assert encoder.longest == 12
    encoder.encode(["a cat", "a dog", "a cat " * 20, "a cat " * 30])
    found = encoder.vectors
    assert not torch.allclose(found["a cat"], found["a dog"], atol=1e-3)
    torch.testing.assert_close(found["a cat " * 20], found["a cat " * 30])
    tokens = encoder.tokenizer("a cat", return_tensors="pt").input_ids
    states = encoder.transformer(tokens).last_hidden_state[0]
    torch.testing.assert_close(found["a cat"], torch.nn.functional.normalize(states.mean(0), dim=0))


def hard(encoder: str) -> None:
    speakers = (Speaker("0"), Speaker("1"))
    Hard(encoder=encoder).start(
        [Example(Dialogue(name, speakers, (Turn(0, "hi"),)), Turn(1, name)) for name in ("a", "b")]
    )


USERS: dict[str, Callable[[str, str], Any]] = {
    "task.model.encoder": lambda encoder, backbone: MiniLM(encoder=encoder),
    "task.model.sentence_encoder": lambda encoder, backbone: P5(backbone=backbone, sentence_encoder=encoder),
    "task.negatives.encoder": lambda encoder, backbone: hard(encoder),
}


@pytest.mark.parametrize("field", USERS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r": there is no such folder"),
        ("empty", r" cannot be loaded, give a folder or a hub id of one of bert, .*, mpnet: "),
        ("cut", r" cannot be loaded, give a folder or a hub id of one of bert, .*, mpnet: "),
        ("type", r" is no encoder like BERT, it is of the type 'gpt2'; name one of the types bert, .*, mpnet, or none"),
        ("weights", r" holds weights of another model than its config\.json says, without a fitting embeddings\."),
        ("tokenizer", r" holds a tokenizer that is not its own, of \d+ tokens for 300 embeddings"),
        ("kept", r"/backbone is without weights, they are in the model\.safetensors of the run; start .*, or name"),
        ("run", r" is the folder of a run, no encoder; start from the run with --init_from "),
    ],
)
def test_what_is_no_sentence_encoder_is_refused(
    field: str, damage: str, message: str, backbone: str, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    named = folder
    if damage == "empty":
        folder.mkdir()
    elif damage == "cut":
        shutil.copytree(backbone, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "type":
        written(lambda words: GPT2Model(GPT2Config(vocab_size=words, n_embd=16, n_layer=1, n_head=2)), backbone, folder)
    elif damage == "weights":
        written(RELATIVES["distilbert"], backbone, folder)
        shutil.copy(Path(backbone) / "config.json", folder)
    elif damage == "tokenizer":
        written(lambda words: RELATIVES["distilbert"](300), backbone, folder)
    elif damage == "kept":
        named = folder / "backbone"
        CrossEncoder(backbone, longest=40, dropout=0).keep(named)
    elif damage == "run":
        folder.mkdir()
        (folder / "recipe.yaml").write_text("seed: 0\n")
    with pytest.raises(InputError, match=rf"^{field}: {folder}{message}"):
        USERS[field](str(named), backbone)


def test_each_text_is_encoded_once_and_alone(backbone: str) -> None:
    """Beside others or not, in any order."""
    texts = ["a cat", "the dog is here and there", "", "half a pair: \ud83d"]
    together, apart = SentenceEncoder(backbone), SentenceEncoder(backbone)
    together.encode(texts)
    for text in reversed(texts):
        apart.encode([text])
    for text in texts:
        assert float(together.vectors[text].norm()) == pytest.approx(1, abs=1e-5)
        assert together.vectors[text].tolist() == pytest.approx(apart.vectors[text].tolist(), abs=1e-5)
    kept = together.vectors["a cat"]
    together.encode(["a cat"])
    assert together.vectors["a cat"] is kept
