from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer, ElectraConfig, RobertaConfig

from personae import weights
from personae.models.generation import minilm_seq2seq
from personae.models.generation.minilm_seq2seq import MiniLMSeq2Seq
from personae.nn.decoding import Decoded, Decoding, decode
from personae.nn.pretrained import PACKAGE
from personae.types import Example, InputError, Persona

DECODINGS = [Decoding(kind="greedy", longest=6), Decoding(kind="beam", n=2, longest=6), Decoding(n=2, longest=6)]


@pytest.fixture(scope="module")
def folders(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A BERT, a RoBERTa and an ELECTRA whose embeddings are narrower than its states."""
    found = {"bert": backbone}
    shared: dict[str, Any] = {"vocab_size": AutoConfig.from_pretrained(backbone).vocab_size, "pad_token_id": 0}
    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    configs: dict[str, Any] = {
        "roberta": RobertaConfig(**shared, **small, type_vocab_size=1, max_position_embeddings=513),
        "electra": ElectraConfig(**shared, **small, embedding_size=8),
    }
    for name, config in configs.items():
        folder = tmp_path_factory.mktemp(name)
        AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
        torch.manual_seed(0)
        model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        for weight in model.parameters():
            weight.data += 0.4 * torch.randn_like(weight)
        model.save_pretrained(folder)
        found[name] = str(folder)
    return found


@pytest.fixture(params=["bert", "roberta", "electra"])
def source(folders: dict[str, str], request: pytest.FixtureRequest) -> str:
    return folders[request.param]


def built(source: str, *, seed: int = 0, **arguments: Any) -> MiniLMSeq2Seq:
    torch.manual_seed(seed)
    model = MiniLMSeq2Seq(backbone=source, **arguments)
    model.prepare([])
    torch.nn.init.normal_(model.bias, std=0.3)
    return model.eval()


def numbers(model: MiniLMSeq2Seq, text: str) -> list[int]:
    found: list[int] = model.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def plainly(model: MiniLMSeq2Seq, other: Any, source: Sequence[int], reply: Sequence[int]) -> Tensor:
    """The log-probabilities of a reply's tokens by transformers' module, which reads all again for each of them."""
    config, found = other.config, []
    skipped = 1 if config.model_type == "roberta" else 0
    for place, token in enumerate(reply):
        read = [*source, *reply[:place], model.encoder.tokenizer.mask_token_id]
        order = torch.arange(len(read))
        seen = (order <= order[:, None]) | ((order < len(source)) & (order[:, None] < len(source)))
        kinds = (order >= len(source)).long()[None] if config.type_vocab_size > 1 else torch.zeros(1, len(read)).long()
        states = other(
            input_ids=torch.tensor([read]),
            attention_mask=torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None],
            token_type_ids=kinds,
            position_ids=order[None] + skipped,
        ).last_hidden_state[0, -1]
        logits = F.linear(model.transform(states), other.get_input_embeddings().weight, model.bias)
        found.append(logits.log_softmax(0)[token])
    return torch.stack(found)


@torch.no_grad()
def test_the_likelihood_is_that_of_a_mask_in_each_place(source: str, cases: Sequence[Example]) -> None:
    model, other = built(source, persona="both"), AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    sums, counts = model.log_likelihood(model.collate(cases))
    for row, case in enumerate(cases):
        batch = model.collate([case])
        reply = [*numbers(model, case.target.text), model.encoder.end]
        told = plainly(model, other, batch.source[0].tolist(), reply)
        assert int(counts[row]) == len(reply)
        assert float(sums[row]) == pytest.approx(float(told.sum()), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("decoding", DECODINGS, ids=lambda decoding: decoding.kind)
def test_what_is_generated_is_as_likely_as_it_is_when_read(
    source: str, cases: Sequence[Example], decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step against all at once."""
    found: list[list[list[Decoded]]] = []

    def kept(*given: Any, **more: Any) -> list[list[Decoded]]:
        found.append(decode(*given, **more))
        return found[-1]

    monkeypatch.setattr(minilm_seq2seq, "decode", kept)
    model = built(source)
    model.generate(model.collate(cases), decoding)
    for case, replies in zip(cases, found[0], strict=True):
        for reply in replies:
            written = torch.tensor([[*reply.tokens, model.encoder.end]])
            batch = replace(model.collate([case]), reply=written, written=torch.tensor([written.shape[1]]))
            steps = -F.nll_loss(_steps(model, batch), written[0], reduction="none")
            again = float(steps.sum() if len(reply.tokens) < 6 else steps[:-1].sum())
            assert reply.log_probability == pytest.approx(again, abs=1e-3)


def _steps(model: MiniLMSeq2Seq, batch: Any) -> Tensor:
    """What is told of each token of a single reply, as log-probabilities (T, V)."""
    shown: list[Tensor] = []
    hook = model.transform.register_forward_hook(lambda _module, _given, features: shown.append(features))
    model.log_likelihood(batch)
    hook.remove()
    weight = model.encoder.backbone.embeddings.word_embeddings.weight
    return F.linear(shown[0], weight, model.bias).log_softmax(1)


@torch.no_grad()
def test_a_batch_of_one(source: str, cases: Sequence[Example]) -> None:
    model = built(source)
    sums = model.log_likelihood(model.collate(cases))[0]
    for row, case in enumerate(cases):
        torch.testing.assert_close(model.log_likelihood(model.collate([case]))[0], sums[row : row + 1])
    for decoding in DECODINGS:
        texts = model.generate(model.collate(cases), decoding)
        assert [model.generate(model.collate([case]), decoding)[0] for case in cases] == texts


def test_a_reply_is_told_piece_by_piece(source: str, cases: Sequence[Example]) -> None:
    model = built(source)
    for decoding in (Decoding(kind="greedy", longest=6), Decoding(longest=6)):
        for case in cases[:3]:
            batch = model.collate([case])
            assert "".join(model.stream(batch, decoding)) == model.generate(batch, decoding)[0][0]


def test_every_weight_has_a_gradient(source: str, cases: Sequence[Example]) -> None:
    model = built(source).double()
    model.loss(model.collate(cases)).backward()
    flat = {
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or float(weight.grad.abs().max()) < 1e-12
    }
    assert {name for name in flat if not name.endswith("self.key.bias")} == set()  # which a softmax does not see


@torch.no_grad()
def test_the_loss_is_of_a_token(source: str, cases: Sequence[Example]) -> None:
    model = built(source)
    batch = model.collate(cases)
    sums, counts = model.log_likelihood(batch)
    torch.testing.assert_close(model.loss(batch), -sums.sum() / counts.sum())


def test_what_is_read(folders: dict[str, str], cases: Sequence[Example]) -> None:
    case = cases[2]
    own, said = case.facts("self"), [turn.text for turn in case.context.turns]
    other = replace(case, context=_with(case.context, 0, ("i sail",)))
    end, start = [3], [2]
    for whose, whom, lines in (
        ("none", case, ()),
        ("self", case, (own,)),
        ("partner", case, ()),
        ("partner", other, (("i sail",),)),
        ("both", case, (own, ())),
        ("both", other, (own, ("i sail",))),
    ):
        model = built(folders["bert"], persona=whose)
        expected = [*start]
        for persona in lines:
            expected += [token for line in persona for token in numbers(model, line)] + end
        for text in said:
            expected += numbers(model, text) + end
        assert model.collate([whom]).source[0].tolist() == expected
        assert model.size(whom) == len(expected) + len(numbers(model, whom.target.text))
    nothing = replace(cases[1], context=replace(cases[1].context, turns=()))
    assert built(folders["bert"]).collate([nothing]).source[0].tolist() == start + end
    last = built(folders["bert"], persona="none", utterances=1).collate([case]).source[0].tolist()
    assert last == start + numbers(model, said[-1]) + end


def test_what_is_too_long_is_left_out(folders: dict[str, str], case: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = built(folders["bert"], longest=12, reply=4)
    long = case(said=["a cat a cat", "the dog sings"], candidates=["a river near the sea"], facts=["i like", "my dog"])
    batch = model.collate([long])
    assert model.encoder.tokenizer.decode(batch.source[0]) == "[CLS] i like my dog [SEP] the dog sings [SEP]"
    assert batch.written.tolist() == [5]
    assert "the oldest utterances do not fit in" in caplog.text


def _with(dialogue: Any, place: int, facts: tuple[str, ...]) -> Any:
    speakers = [
        replace(speaker, persona=Persona(facts)) if number == place else speaker
        for number, speaker in enumerate(dialogue.speakers)
    ]
    return replace(dialogue, speakers=tuple(speakers))


def test_replies_are_learnt_by_heart(folders: dict[str, str], case: Any) -> None:
    """To the same words, as each persona says."""
    told = [
        case(said=["what do you like ?"], candidates=[reply], facts=[fact])
        for fact, reply in (("i like to swim .", "the sea !"), ("i like my dog .", "a dog near the river"))
    ]
    model = built(folders["bert"], dropout=0.0, persona="self").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(model.collate(told)).backward()
        optimizer.step()
    model.eval()
    for kind in ("greedy", "beam"):
        written = model.generate(model.collate(told), Decoding(kind=kind))
        assert [each[0].replace(" ", "") for each in written] == [each.target.text.replace(" ", "") for each in told]


def test_saved_and_loaded(source: str, cases: Sequence[Example], tmp_path: Path) -> None:
    model = built(source)
    weights.write(model, tmp_path / "model.safetensors")
    model.encoder.keep(tmp_path / "backbone")
    again = MiniLMSeq2Seq(backbone=str(tmp_path / "backbone")).eval()
    with pytest.raises(InputError, match="is without weights"):
        again.prepare([])
    again.load_state_dict(weights.read(tmp_path / "model.safetensors", again))
    again.prepare([])
    with torch.no_grad():
        assert torch.equal(*(each.log_likelihood(each.collate(cases))[0] for each in (again, model)))
    assert again.tokens == model.tokens


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
def test_the_package_has_a_name(tmp_path: Path) -> None:
    model = MiniLMSeq2Seq()
    assert model.tokens == "minilm"
    model.encoder.keep(tmp_path)
    assert MiniLMSeq2Seq(backbone=str(tmp_path)).tokens == "minilm"


def test_half_precision_is_close(folders: dict[str, str], cases: Sequence[Example]) -> None:
    model = built(folders["bert"])
    batch = model.collate(cases)
    with torch.no_grad():
        exact = model.log_likelihood(batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded, loss = model.log_likelihood(batch)[0], model.loss(batch)
        assert all(len(each) == 1 for each in model.generate(batch, Decoding(longest=3)))
    torch.testing.assert_close(rounded.float(), exact, atol=0.5, rtol=0.05)
    assert loss.dtype == torch.float32
    loss.backward()


def test_mistakes_are_named(folders: dict[str, str], cases: Sequence[Example]) -> None:
    for arguments, message in (
        ({"persona": "mine"}, "task.model.persona: 'mine'"),
        ({"utterances": 0}, "task.model.utterances: 0 is not at least 1"),
        ({"reply": 0}, "task.model.reply: 0 is not at least 1"),
        ({"longest": 448}, "task.model.reply: the backbone has room for 512 tokens, not for 448"),
    ):
        with pytest.raises(InputError, match=message):
            MiniLMSeq2Seq(backbone=folders["bert"], **arguments)
    model = built(folders["bert"])
    with pytest.raises(InputError, match=r"decoding\.longest: 192 tokens do not fit in; 191 do"):
        model.generate(model.collate(cases), Decoding(longest=192))
