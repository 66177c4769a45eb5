import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbone import write, write_words
from torch import Tensor
from transformers import AutoModelForCausalLM

from personae import weights
from personae.data.candidates import examples
from personae.data.planted import Planted
from personae.models.generation.causal_lm import CausalLM
from personae.nn.decoding import Decoding
from personae.nn.lora import adapters
from personae.nn.personalization import Factorization
from personae.types import Dialogue, Example, InputError, Speaker, Turn

RANKS = (3, 4, 5)
TABLE = Factorization(ranks=RANKS, spread=3.0)
ENCODED = Factorization(ranks=RANKS, question="encoder", spread=3.0)
END = 256


def example(number: int, *said: str, reply: str = "well", user: str = "ann", question: str | None = "food") -> Example:
    turns = tuple(Turn((len(said) - 1 - place) % 2, text) for place, text in enumerate(said))
    return Example(Dialogue(f"d{number}", (Speaker("asker"), Speaker(user)), turns, question), Turn(1, reply))


EXAMPLES = (
    example(0, "what do you eat?", reply="soup"),
    example(1, "hello", "hi", "do you like cats, or rather dogs?", reply="i like dogs and cats", user="bob"),
    example(2, "where?", reply="", user="cid", question="place"),
    example(3, "and your work", reply="none at all", user="nobody", question="never asked"),
    example(4, reply="i begin", user="bob", question=None),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: write(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")}


@pytest.fixture(params=["llama", "gpt2"])
def backbone(folders: dict[str, str], request: pytest.FixtureRequest) -> str:
    return folders[request.param]


def built(backbone: str, *, seed: int = 0, **arguments: Any) -> CausalLM:
    torch.manual_seed(seed)
    model = CausalLM(backbone=backbone, **arguments)
    model.prepare([replace(e.context, turns=(*e.context.turns, e.target)) for e in EXAMPLES[:3]])
    for layer in adapters(model):
        torch.nn.init.normal_(layer.up, std=0.3)
    return model.eval()


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"tensor": TABLE},
    {"tensor": ENCODED, "tune": "lora", "rank": 2},
]


def spelled(example: Example) -> tuple[list[int], list[int]]:
    """A context and a reply as tokens, an end after each utterance, and the reply's end."""
    bytes_ = pretrained_bytes()
    context = [token for turn in example.context.turns for token in (*(bytes_[c] for c in turn.text), END)]
    return context or [END], [*(bytes_[c] for c in example.target.text), END]


def pretrained_bytes() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    numbers = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    return {chr(code): numbers["Ġ" if code == 32 else chr(code)] for code in range(32, 127)}


def added(model: CausalLM, example: Example) -> Tensor:
    """What the tensor makes of a user and a question, computed on its own."""
    assert model.personal is not None
    user = model.personal.users.numbers([example.user.id])
    words = model.words.backbone.get_input_embeddings().weight
    last = spelled(replace(example, context=replace(example.context, turns=example.context.turns[-1:])))[0][:-1]
    encoded = words[last].mean(0) if last else torch.zeros(words.shape[1])
    found: Tensor = model.personal(user, model.personal.numbers([example.context]), encoded[None])[0]
    return found


def plainly(model: CausalLM, other: Any, example: Example, reply: list[int]) -> Tensor:
    """The logits (reply, V) of each token of a reply, by transformers alone, the embedding added by hand."""
    context, _ = spelled(example)
    embedded = other.get_input_embeddings()(torch.tensor([[*context, *reply]]))
    if model.personal is not None:
        embedded[:, len(context) - 1 :] += added(model, example)
    logits: Tensor = other(inputs_embeds=embedded).logits[0, len(context) - 1 :]
    return logits


@pytest.mark.parametrize("tensor", [None, TABLE, ENCODED])
@torch.no_grad()
def test_the_likelihood_is_that_of_figure_2(backbone: str, tensor: Factorization | None) -> None:
    model, other = built(backbone, tensor=tensor), AutoModelForCausalLM.from_pretrained(backbone).eval()
    found, tokens = model.log_likelihood(model.collate(EXAMPLES))
    expected = []
    for one in EXAMPLES:
        reply = spelled(one)[1]
        steps = plainly(model, other, one, reply[:-1]).log_softmax(1)
        expected.append(float(steps[torch.arange(len(reply)), torch.tensor(reply)].sum()))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    assert tokens.tolist() == [len(one.target.text) + 1 for one in EXAMPLES]
    assert float(model.loss(model.collate(EXAMPLES))) == pytest.approx(-sum(expected) / int(tokens.sum()), abs=1e-4)


@pytest.mark.parametrize("tensor", [None, TABLE, ENCODED])
@torch.no_grad()
def test_what_is_generated_is_what_all_of_it_again_would_give(backbone: str, tensor: Factorization | None) -> None:
    model, other = built(backbone, tensor=tensor), AutoModelForCausalLM.from_pretrained(backbone).eval()
    found = model.generate(model.collate(EXAMPLES), Decoding("greedy", longest=12))
    assert any(found)
    for one, (text,) in zip(EXAMPLES, found, strict=True):
        reply: list[int] = []
        while len(reply) < 12:
            logits = plainly(model, other, one, reply)[-1]
            logits[[257, *([] if reply else [END])]] = -math.inf
            if (token := int(logits.argmax())) == END:
                break
            reply.append(token)
        assert text == model.words.text(reply)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@torch.no_grad()
def test_a_batch_of_one(backbone: str, arguments: dict[str, Any]) -> None:
    model = built(backbone, **arguments)
    together, tokens = model.log_likelihood(model.collate(EXAMPLES))
    for decoding in (Decoding("greedy", longest=8), Decoding(n=2, longest=8), Decoding("beam", longest=8)):
        texts = model.generate(model.collate(EXAMPLES), decoding)
        assert [model.generate(model.collate([one]), decoding)[0] for one in EXAMPLES] == texts
        assert model.generate(model.collate(EXAMPLES), decoding) == texts
    for one, likelihood, count in zip(EXAMPLES, together, tokens, strict=True):
        alone, own = model.log_likelihood(model.collate([one]))
        assert float(alone[0]) == pytest.approx(float(likelihood), abs=1e-3)
        assert own.tolist() == [int(count)]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_every_weight_that_is_trained_has_a_gradient(backbone: str, arguments: dict[str, Any]) -> None:
    model = built(backbone, **arguments).train()
    model.loss(model.collate(EXAMPLES[:3])).backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.abs().sum()]
    adapted = any(name.endswith(".down") for name in trained)
    assert adapted == (arguments.get("tune") == "lora")
    assert any("norm" in name or "ln_" in name for name in trained) != adapted


@pytest.mark.parametrize("arguments", ARGUMENTS)
@torch.no_grad()
def test_saved_and_loaded(backbone: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    model = built(backbone, **arguments)
    model.words.keep(tmp_path / "backbone")
    weights.write(model, tmp_path / "model.safetensors")
    extra = {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}
    torch.manual_seed(5)
    again = CausalLM(backbone=str(tmp_path / "backbone"), **arguments).eval()
    again.load_state_dict({**weights.read(tmp_path / "model.safetensors", again), **extra})
    assert again.tokens == model.tokens
    batch, other = model.collate(EXAMPLES), again.collate(EXAMPLES)
    assert torch.equal(model.log_likelihood(batch)[0], again.log_likelihood(other)[0])
    assert model.generate(batch, Decoding(longest=9)) == again.generate(other, Decoding(longest=9))


@torch.no_grad()
def test_the_user_and_the_question_count(backbone: str) -> None:
    model = built(backbone, tensor=TABLE)
    same = [replace(EXAMPLES[0], context=replace(EXAMPLES[0].context, question=name)) for name in ("food", "place")]
    other = replace(same[0], context=replace(same[0].context, speakers=(Speaker("asker"), Speaker("bob"))))
    values = model.log_likelihood(model.collate([*same, other]))[0].tolist()
    assert len({round(value, 3) for value in values}) == 3
    unknown = replace(same[0].context, speakers=(Speaker("asker"), Speaker("dora")), question="what?")
    assert model.log_likelihood(model.collate([replace(same[0], context=unknown)]))[0].isfinite().all()


@pytest.mark.parametrize("arguments", [{}, {"tune": "lora", "rank": 2}])
@torch.no_grad()
def test_a_balance_of_nothing_is_the_model_without_a_tensor(backbone: str, arguments: dict[str, Any]) -> None:
    bare = built(backbone, seed=3, **arguments)
    batch = bare.collate(EXAMPLES)
    for tensor, equal in ((replace(TABLE, balance=0.0), True), (TABLE, False)):
        model = built(backbone, seed=3, tensor=tensor, **arguments)
        found = model.log_likelihood(model.collate(EXAMPLES))[0]
        assert torch.equal(found, bare.log_likelihood(batch)[0]) == equal
        texts = model.generate(model.collate(EXAMPLES), Decoding(longest=9))
        assert (texts == bare.generate(batch, Decoding(longest=9))) == equal


def test_how_much_is_read(folders: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    model = built(folders["llama"], longest=12, reply=8)
    batch = model.collate([example(0, "one", "two", "three four", reply="five")])
    known = pretrained_bytes()
    assert batch.tokens.tolist() == [[*(known[c] for c in "three four"), END, *(known[c] for c in "five"), END]]
    assert (batch.read.tolist(), batch.asked.tolist(), batch.written.tolist()) == ([11], [11], [5])
    assert not caplog.records
    one = example(0, "one", "a longer text than can be read", reply="an endless reply")
    batch = model.collate([one, one])
    expected = [*(known[c] for c in "can be read"), END, *(known[c] for c in "an endle"), END]
    assert batch.tokens.tolist() == [expected] * 2
    assert model.size(one) == 20
    assert [record.message.partition(":")[0] for record in caplog.records] == ["some texts are too long"] * 2
    assert "task.model.reply" in caplog.text
    assert "task.model.longest" in caplog.text
    both = model.collate([example(0, "one", "two", reply="x")])
    assert (both.read.tolist(), both.asked.tolist()) == ([8], [4])


def test_the_context_is_read_alike_whatever_the_reply(folders: dict[str, str]) -> None:
    model = built(folders["llama"], longest=12)
    texts = ("one", "two", "three four")
    short, long = (model.collate([example(0, *texts, reply="x" * length)]) for length in (0, 60))
    assert short.read.tolist() == long.read.tolist()
    assert model.generate(short, Decoding(longest=5)) == model.generate(long, Decoding(longest=5))


def test_a_start_of_text_comes_first(tmp_path: Path) -> None:
    model = built(write(tmp_path, "llama", begins=True), longest=12)
    batch = model.collate([example(0, "hello there, you"), example(1)])
    assert batch.tokens[:, 0].tolist() == [257, 257]
    assert batch.read.tolist() == [12, 2]


@torch.no_grad()
def test_half_precision(backbone: str) -> None:
    model = built(backbone, tensor=ENCODED)
    batch = model.collate(EXAMPLES)
    single = model.log_likelihood(batch)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.log_likelihood(batch)[0]
        texts = model.generate(batch, Decoding("greedy", longest=5))
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, single, rtol=0.1, atol=1)
    assert len(texts) == len(EXAMPLES)


def test_mistakes_are_named(folders: dict[str, str], tmp_path: Path) -> None:
    backbone = folders["llama"]
    for arguments, message in (
        ({"tune": "some"}, r"task\.model\.tune: 'some'"),
        ({"tune": "lora", "rank": 0}, r"task\.model\.rank: 0"),
        ({"longest": 7}, r"task\.model\.longest: 7"),
        ({"reply": 7}, r"task\.model\.reply: 7"),
        ({"longest": 200}, r"has room for 256 tokens, not for 200, a reply of 64 and its end"),
        ({"longest": 192}, r"has room for 256 tokens, not for 192, a reply of 64 and its end"),
    ):
        with pytest.raises(InputError, match=message):
            CausalLM(backbone=backbone, **arguments)
    model = built(backbone)
    with pytest.raises(InputError, match=r"decoding\.longest: 129 tokens do not fit in; 128 do"):
        model.generate(model.collate(EXAMPLES), Decoding(longest=129))
    model.words.keep(tmp_path)
    with pytest.raises(InputError, match="is without weights"):
        CausalLM(backbone=str(tmp_path)).prepare([])


@pytest.mark.slow
def test_the_tensor_learns_how_each_user_speaks(tmp_path: Path) -> None:
    corpus = Planted()
    dialogues, held_out = list(corpus.split("train")), examples(list(corpus.split("valid")))
    words = sorted({word for dialogue in dialogues for turn in dialogue.turns for word in turn.text.split()})
    backbone = write_words(tmp_path, words)
    styled, likelihood = {}, {}
    for name, tensor in (("plain", None), ("tensor", Factorization(ranks=(16, 16, 32), spread=0.02))):
        torch.manual_seed(0)
        model = CausalLM(backbone=backbone, tensor=tensor)
        model.prepare(dialogues)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
        drawn = random.Random(0)
        for _ in range(450):
            loss = model.loss(model.collate(drawn.sample(examples(dialogues), 32)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            batch = model.collate(held_out)
            sums, tokens = model.log_likelihood(batch)
        texts = model.generate(batch, Decoding())
        shares = [corpus.styled(one.user.id, text) for one, (text,) in zip(held_out, texts, strict=True)]
        styled[name], likelihood[name] = sum(shares) / len(shares), float(sums.sum() / tokens.sum())
    assert styled["plain"] < 0.3
    assert styled["tensor"] > 0.8
    assert likelihood["tensor"] > likelihood["plain"] + 0.1
