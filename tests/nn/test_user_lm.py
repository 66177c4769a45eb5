"""Adapters of many users: each as if it were alone, kept, and told apart by what it was trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_backbone import CONFIGS
from torch.nn import functional as F
from transformers import AutoModel, GPT2Model, LlamaModel

from personae.nn import lora, user_lm
from personae.nn.causal import Causal
from personae.nn.user_lm import Training, UserModels, divided
from personae.types import InputError

LIKES = {"ann": "boat sail wind", "bob": "soup pot salt", "cid": "dog lead walk", "dan": "boat pot dog"}
SMALL = Training(layers=2, rank=4, steps=30, messages=4, learning_rate=0.01)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random Llama of three layers, whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    known = ["<end>", "<unk>", "i", "like", "my", *dict.fromkeys(" ".join(LIKES.values()).split())]
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(known),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _precise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_lm, "fastest", lambda: "32-true")


def said(user: str) -> list[list[str]]:
    words = LIKES[user].split()
    return [["i", "like", "my", word] for word in words] + [[word] for word in words] + [[]]


ASKED = [["i", "like", "my", "boat"], ["soup"], [], ["unheard", "words", "only"], ["walk", "my", "dog", "i", "like"]]


def models(users: str, backbone: str, home: Path, training: Training = SMALL) -> UserModels:
    return UserModels([said(user) for user in users.split()], backbone=backbone, home=home, training=training)


def test_each_user_is_least_surprised_by_what_they_would_say(backbone: str, tmp_path: Path) -> None:
    users = models("ann bob cid", backbone, tmp_path, replace(SMALL, steps=60, messages=7))
    found = users.perplexities([["i", "like", "my", word] for word in ("wind", "salt", "lead")])
    assert found.argmin(1).tolist() == [0, 1, 2]
    assert np.isfinite(users.perplexities(ASKED)).all()
    assert users.perplexities([]).shape == (0, 3)


def test_who_else_is_trained_and_asked_does_not_matter(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(SMALL, steps=10)
    together = models("ann bob cid dan", backbone, tmp_path / "one", short).perplexities(ASKED)
    monkeypatch.setattr(user_lm, "AT_ONCE", 3)
    monkeypatch.setattr(user_lm, "ROOM", 4)
    again = models("dan bob ann cid", backbone, tmp_path / "other", short)
    np.testing.assert_allclose(again.perplexities(ASKED)[:, [2, 1, 3, 0]], together, rtol=1e-3)
    np.testing.assert_allclose(again.perplexities(ASKED[:1])[0, [2, 1, 3, 0]], together[0], rtol=1e-3)


def test_every_message_is_read_and_who_said_less_is_not_trained_longer(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(SMALL, steps=3, messages=2)
    texts = {
        "ann": 11 * ["boat"],
        "bob": ["i like soup", "pot", "salt"],
        "cid": [f"dog {'walk ' * n}" for n in range(7)],
    }
    people = {user: [text.split() for text in each] for user, each in texts.items()}
    steps: list[list[tuple[int, ...]]] = []
    losses = UserModels._losses

    def watched(self: UserModels, states: torch.Tensor, labels: torch.Tensor, users: int) -> torch.Tensor:
        steps.append([tuple(row[row > 0].tolist()) for row in labels])
        return losses(self, states, labels, users)

    with monkeypatch.context() as patch:
        patch.setattr(UserModels, "_losses", watched)
        together = UserModels(list(people.values()), backbone=backbone, home=tmp_path / "all", training=short)
    assert [len(step) // 2 for step in steps] == [3, 3, 3, 2, 1, 1]  # ann 6 steps, cid 4, bob 3
    read = [row for step in steps for row in step]
    known = together.causal.tokens(" ".join(words) for each in people.values() for words in each)
    for each in people.values():
        for words in each:
            told = known[" ".join(words)]
            assert read.count(told) >= sum(known[" ".join(other)] == told for other in each)
    for place, (user, each) in enumerate(people.items()):
        alone = UserModels([each], backbone=backbone, home=tmp_path / user, training=short)
        np.testing.assert_allclose(alone.perplexities(ASKED)[:, 0], together.perplexities(ASKED)[:, place], rtol=1e-4)


def test_the_perplexity_is_that_of_the_merged_transformer(backbone: str, tmp_path: Path) -> None:
    users = models("ann bob", backbone, tmp_path)
    users.perplexities(ASKED)  # puts the adapters in place
    whole = Causal(backbone, field="backbone")
    adapted = list(lora.adapters(users.upper))
    plain = [layer for layer in whole.backbone.layers[-2:].modules() if isinstance(layer, torch.nn.Linear)]
    assert len(adapted) == len(plain) == 14
    for layer, other in zip(adapted, plain, strict=True):
        assert layer.up.data[1].abs().max() > 0
        other.weight.data = layer.merged()[1].detach()
    tokens = torch.tensor([[0, *(whole.tokenizer.convert_tokens_to_ids(word) for word in ASKED[0]), 0]])
    with torch.no_grad():
        logits = whole.logits(whole.states(whole.embed(tokens[:, :-1])))
    expected = F.cross_entropy(logits[0], tokens[0, 1:]).exp().item()
    assert users.perplexities(ASKED)[0, 1] == pytest.approx(expected, rel=1e-4)


def test_what_was_trained_is_kept(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = UserModels._train
    monkeypatch.setattr(UserModels, "_train", lambda self, texts: (trained.append(len(texts)), train(self, texts))[1])
    first = models("ann bob", backbone, tmp_path).perplexities(ASKED)
    assert trained == [2]
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.iterdir())) == 2
    assert (models("bob ann", backbone, tmp_path).perplexities(ASKED)[:, ::-1] == first).all()
    assert trained == [2]
    models("ann cid", backbone, tmp_path)  # a new user
    assert trained == [2, 1]
    models("ann", backbone, tmp_path, replace(SMALL, rank=3))  # another training
    assert trained == [2, 1, 1]
    models("ann", backbone, tmp_path / "alpha", SMALL)
    models("ann", backbone, tmp_path / "alpha", replace(SMALL, alpha=8.0))
    assert trained.pop() == trained.pop() == 1
    some = sorted(tmp_path.glob("*.safetensors"))[0]
    some.write_bytes(some.read_bytes()[:100])  # half a file
    models("ann bob cid", backbone, tmp_path)
    models("ann", backbone, tmp_path, replace(SMALL, rank=3))
    assert trained == [2, 1, 1, 1]


def test_adapters_are_of_one_transformer_and_its_tokens(backbone: str, tmp_path: Path) -> None:
    keys = [models("ann", backbone, tmp_path / "adapters", replace(SMALL, steps=1)).keys]
    for name, change in (("config.json", ("rms_norm_eps", 0.5)), ("tokenizer.json", ("pre_tokenizer", None))):
        other = tmp_path / name
        shutil.copytree(backbone, other)
        told = json.loads((other / name).read_text())
        assert change[0] in told
        (other / name).write_text(json.dumps({**told, change[0]: change[1]}))
        keys.append(models("ann", str(other), tmp_path / "adapters", replace(SMALL, steps=1)).keys)
    assert len({key for (key,) in keys}) == 3
    shutil.copytree(backbone, tmp_path / "moved")
    assert models("ann", str(tmp_path / "moved"), tmp_path / "adapters", replace(SMALL, steps=1)).keys == keys[0]


def test_an_interruption_loses_those_at_work_only(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_lm, "AT_ONCE", 1)
    losses = UserModels._losses
    calls = iter(range(1000))

    def stopping(self: UserModels, *given: object) -> torch.Tensor:
        if next(calls) == SMALL.steps + 3:
            raise KeyboardInterrupt
        return losses(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(UserModels, "_losses", stopping)
        with pytest.raises(KeyboardInterrupt):
            models("ann bob", backbone, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = models("ann bob", backbone, tmp_path).perplexities(ASKED)
    np.testing.assert_allclose(models("ann bob", backbone, tmp_path / "other").perplexities(ASKED), resumed, rtol=1e-4)


def test_users_with_the_same_history_share_a_model(backbone: str, tmp_path: Path) -> None:
    ready: list[int] = []
    both = UserModels(
        [said("ann"), said("ann"), said("bob")], backbone=backbone, home=tmp_path, training=SMALL, advance=ready.append
    )
    found = both.perplexities(ASKED)
    assert (found[:, 0] == found[:, 1]).all()
    assert ready == [0, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision_is_near(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precise = models("ann bob", backbone, tmp_path)
    monkeypatch.setattr(user_lm, "fastest", lambda: "bf16-mixed")
    half = models("ann bob", backbone, tmp_path, replace(SMALL, steps=1))
    half.kept = dict(zip(half.keys, (precise.kept[key] for key in precise.keys), strict=True))
    found, expected = half.perplexities(ASKED), precise.perplexities(ASKED)
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=0.2)
    assert (found != expected).any()


def test_mistakes(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="user 1, counted from 0, said no word"):
        UserModels([[["a"]], [[]]], backbone=backbone, home=tmp_path)
    with pytest.raises(InputError, match="there is no user"):
        UserModels([], backbone=backbone, home=tmp_path)
    with pytest.raises(InputError, match="--backbone: "):
        models("ann", str(tmp_path / "none"), tmp_path)


class Doubled(LlamaModel):
    """Reads twice what it is given, so that its layers cannot be had apart."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **more: Any) -> Any:
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return super().forward(inputs_embeds=2 * embedded, **more)


def test_what_cannot_be_divided_is_refused() -> None:
    for backbone in (GPT2Model(CONFIGS["gpt2"]()), Doubled(CONFIGS["llama"]())):
        with pytest.raises(
            InputError, match=f"a {type(backbone).__name__} cannot be divided into its layers: name one"
        ):
            divided(backbone.eval(), 1)
    lower, upper = divided(AutoModel.from_config(CONFIGS["gemma2"]()).eval(), 8)  # of two
    assert (len(lower.layers), len(upper.layers)) == (1, 1)


def test_of_very_much_the_latest_and_the_first_is_read(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(user_lm, "LATEST", 3)
    short = replace(SMALL, steps=2, longest=6)
    latest = said("bob")[-4:-1]
    some = UserModels([said("bob")[:-1], said("ann")[:3]], backbone=backbone, home=tmp_path, training=short)
    assert caplog.messages == ["of 1 of 2 users the latest 3 messages are read"]
    alone = UserModels([latest], backbone=backbone, home=tmp_path / "alone", training=short)
    asked = [["soup"], ["salt"]]
    np.testing.assert_allclose(some.perplexities(asked)[:, 0], alone.perplexities(asked)[:, 0], rtol=1e-4)
    caplog.clear()
    long = ["i", "like", "my", "soup", "and", "my", "salt", "and", "my", "pot"]
    assert len(some.causal.tokens([" ".join(long)])[" ".join(long)]) > 6
    found = some.perplexities([long, [*long, "boat"], ["pot"]])
    assert caplog.messages == ["of 2 of 3 responses the first 6 tokens are read"]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
