import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from personae.nn.decoding import Decoded, Decoding, decode, pieces, stream
from personae.types import InputError

V, END = 5, 4
GREEDY = Decoding(kind="greedy", longest=6)


@dataclass
class Said:
    """A state that is all tokens so far (N, L), the case's number first."""

    tokens: Tensor

    def select(self, rows: Tensor) -> "Said":
        return Said(self.tokens[rows])


class Random:
    """A tiny model whose next logits depend on the case and on all tokens before, drawn once and for ever."""

    def __init__(self, sharpness: float = 2.0, vocabulary: int = V) -> None:
        self.sharpness, self.vocabulary = sharpness, vocabulary
        self.rows: list[int] = []

    def logits(self, said: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash(said) % 2**40)
        return torch.randn(self.vocabulary, generator=generator) * self.sharpness

    def __call__(self, tokens: Tensor, state: Said) -> tuple[Tensor, Said]:
        self.rows.append(len(tokens))
        return self.told(Said(torch.cat([state.tokens, tokens[:, None]], 1)))

    def told(self, state: Said) -> tuple[Tensor, Said]:
        return torch.stack([self.logits(tuple(row)) for row in state.tokens.tolist()]), state

    def decode(self, cases: list[int], decoding: Decoding, forbidden: tuple[int, ...] = ()) -> list[list[Decoded]]:
        logits, state = self.told(Said(torch.tensor(cases)[:, None]))
        names = [f"case {case}" for case in cases]
        return decode(logits, state, self, names=names, end=END, forbidden=forbidden, decoding=decoding)

    def log_probability(self, case: int, reply: Decoded, longest: int) -> float:
        tokens = [*reply.tokens, END] if len(reply.tokens) < longest else reply.tokens
        said = (case, *reply.tokens)
        return sum(float(self.logits(said[: place + 1]).log_softmax(0)[token]) for place, token in enumerate(tokens))


def every_reply(model: Random, case: int, longest: int, penalty: float) -> list[tuple[float, list[int]]]:
    """All replies there are, the best first."""
    found = []
    for length in range(longest + 1):
        for tokens in itertools.product(range(END), repeat=length):
            total = model.log_probability(case, Decoded(list(tokens), 0.0), longest)
            found.append((total / min(length + 1, longest) ** penalty, list(tokens)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, -0.5])
def test_enough_beams_find_the_best_of_all_replies(penalty: float) -> None:
    model = Random(1.0)
    decoding = Decoding(kind="beam", beams=100, n=7, longest=4, shortest=0, length_penalty=penalty)
    for case, found in zip([1, 2], model.decode([1, 2], decoding), strict=True):
        expected = every_reply(model, case, 4, penalty)[:7]
        assert [reply.tokens for reply in found] == [tokens for _, tokens in expected]
        for reply in found:
            assert reply.log_probability == pytest.approx(model.log_probability(case, reply, 4), abs=1e-4)


def test_beam_search_is_over_when_nothing_can_be_gained() -> None:
    model = Random(8.0)
    model.decode([3], Decoding(kind="beam", beams=2, longest=1000, length_penalty=0.0))
    assert len(model.rows) < 30


def test_a_beam_has_replies_as_long_as_there_are_any() -> None:
    found = Random().decode([1], Decoding(kind="beam", beams=9, n=9, longest=1), forbidden=(0, 1))[0]
    assert sorted(reply.tokens for reply in found) == [[2], [3]]


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_search_as_transformers_does_it(beams: int, penalty: float) -> None:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=12, num_attention_heads=2, pad_token_id=2, bos_token_id=1, eos_token_id=2, **sizes)
    llama = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        llama.lm_head.weight.mul_(60)
    prompts = torch.tensor([[1, 5, 6], [1, 7, 3], [1, 9, 9]])
    theirs = llama.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=7,
        num_beams=beams,
        num_return_sequences=2,
        length_penalty=penalty,
        early_stopping="never",
        do_sample=False,
    )

    def step(tokens: Tensor, state: Said) -> tuple[Tensor, Said]:
        said = torch.cat([state.tokens, tokens[:, None]], 1)
        return llama(said).logits[:, -1], Said(said)

    decoding = Decoding(kind="beam", beams=beams, n=2, longest=7, shortest=0, length_penalty=penalty)
    with torch.no_grad():
        first = llama(prompts).logits[:, -1]
    ours = decode(first, Said(prompts), step, names=["a", "b", "c"], end=2, forbidden=(), decoding=decoding)
    expected = [[token for token in row if token != 2] for row in theirs[:, 3:].tolist()]
    assert [reply.tokens for case in ours for reply in case] == expected
    assert any(len(tokens) < 7 for tokens in expected)


def test_greedy_takes_the_most_probable_token() -> None:
    model = Random()
    for case, (reply,) in zip(range(20), model.decode(list(range(20)), GREEDY), strict=True):
        said: list[int] = []
        while len(said) < 6:
            logits = model.logits((case, *said)).clone()
            logits[END] = -math.inf if not said else logits[END]
            if (token := int(logits.argmax())) == END:
                break
            said.append(token)
        assert reply.tokens == said
        assert reply.log_probability == pytest.approx(model.log_probability(case, reply, 6), abs=1e-4)


def test_samples_come_as_often_as_they_are_probable() -> None:
    model = Random(1.0)
    decoding = Decoding(top_k=None, n=4000, longest=2, shortest=0)
    replies = model.decode([7], decoding)[0]
    counts = Counter(tuple(reply.tokens) for reply in replies)
    for reply in {tuple(reply.tokens): reply for reply in replies}.values():
        probability = math.exp(model.log_probability(7, reply, 2))
        error = (probability * (1 - probability) / 4000) ** 0.5
        assert counts[tuple(reply.tokens)] / 4000 == pytest.approx(probability, abs=4 * error)
    assert [reply.log_probability for reply in replies] == sorted((r.log_probability for r in replies), reverse=True)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_of_the_two_best(temperature: float) -> None:
    model = Random(1.0)
    found = model.decode([7], Decoding(top_k=2, n=4000, longest=1, temperature=temperature))[0]
    logits = model.logits((7,))[:END]
    values, tokens = logits.topk(2)
    share = float((values / temperature).softmax(0)[0])
    counts = Counter(reply.tokens[0] for reply in found)
    assert set(counts) == set(tokens.tolist())
    assert counts[int(tokens[0])] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_the_nucleus_is_the_fewest_tokens_that_reach_its_mass() -> None:
    state = Said(torch.zeros(1, 1, dtype=torch.long))
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3, 1e-9]]).log()

    def drawn(mass: float) -> set[int]:
        decoding = Decoding(top_k=None, top_p=mass, n=500, longest=1)
        found = decode(logits, state, Random(), names=["a"], end=END, forbidden=(), decoding=decoding)
        return {reply.tokens[0] for reply in found[0]}

    assert drawn(0.39) == {1}
    assert drawn(0.41) == {1, 3}
    assert drawn(0.71) == {1, 2, 3}
    assert drawn(1.0) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(longest=9),
        Decoding(longest=9, n=3, top_k=None, top_p=0.9, seed=5),
        GREEDY,
        Decoding(kind="beam", beams=3, n=2, longest=9),
    ],
)
def test_a_case_is_decoded_alike_in_any_batch(decoding: Decoding) -> None:
    model = Random()
    together = model.decode([5, 6, 7, 8, 9], decoding)
    assert together == model.decode([5, 6, 7, 8, 9], decoding)
    alone = [model.decode([case], decoding)[0] for case in (5, 6, 7, 8, 9)]
    assert [[reply.tokens for reply in case] for case in together] == [[reply.tokens for reply in c] for c in alone]


def test_what_has_ended_costs_nothing() -> None:
    model = Random()
    replies = [reply for case in model.decode([1, 2, 3, 4], Decoding(n=2, longest=30)) for reply in case]
    going_on = [sum(len(reply.tokens) > place for reply in replies) for place in range(29)]
    assert model.rows == [rows for rows in going_on if rows]
    assert len(set(model.rows)) > 2


def test_another_seed_or_name_draws_otherwise() -> None:
    model = Random(0.1)
    one = model.decode([1], Decoding(top_k=None, longest=30, n=3))
    other = model.decode([1], Decoding(top_k=None, longest=30, n=3, seed=1))
    assert one != other
    assert len({tuple(reply.tokens) for reply in one[0]}) == 3


def test_a_longer_limit_only_goes_on() -> None:
    model = Random(0.5)
    short, long = (model.decode([2], Decoding(top_k=None, longest=longest))[0][0].tokens for longest in (3, 30))
    assert len(short) <= 3
    assert long[: len(short)] == short


@pytest.mark.parametrize("kind", ["sample", "greedy", "beam"])
def test_length_and_forbidden_tokens(kind: Any) -> None:
    decoding = Decoding(kind=kind, shortest=3, longest=5)
    replies = [reply.tokens for case in Random(5.0).decode(list(range(30)), decoding, (1, 2)) for reply in case]
    assert len(replies) == 30
    assert {len(tokens) for tokens in replies} <= {3, 4, 5}
    assert {token for tokens in replies for token in tokens} == {0, 3}


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(longest=12), Decoding(top_k=None, longest=12, seed=3)])
def test_streaming_gives_what_decoding_gives(decoding: Decoding) -> None:
    model = Random()
    for case in range(10):
        logits, state = model.told(Said(torch.tensor([[case]])))
        streamed = stream(logits, state, model, name=f"case {case}", end=END, forbidden=(), decoding=decoding)
        assert list(streamed) == model.decode([case], decoding)[0][0].tokens


def test_streaming_does_not_wait() -> None:
    model = Random()
    logits, state = model.told(Said(torch.tensor([[1]])))
    tokens = stream(logits, state, model, name="case 1", end=END, forbidden=(), decoding=replace(GREEDY, shortest=3))
    next(tokens)
    assert model.rows == []
    next(tokens)
    assert model.rows == [1]


@pytest.mark.parametrize("decoding", [Decoding(kind="beam"), Decoding(n=2)])
def test_many_replies_are_not_streamed(decoding: Decoding) -> None:
    logits, state = Random().told(Said(torch.tensor([[1]])))
    with pytest.raises(InputError, match="one reply"):
        next(stream(logits, state, Random(), name="a", end=END, forbidden=(), decoding=decoding))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("kind", {"kind": "best"}),
        ("top_k", {"top_k": 0}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": 1.1}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": math.nan}),
        ("beams", {"beams": 0}),
        ("n", {"n": 0}),
        ("n", {"kind": "greedy", "n": 2}),
        ("n", {"kind": "beam", "n": 5}),
        ("longest", {"longest": 0}),
        ("shortest", {"shortest": -1}),
        ("shortest", {"shortest": 41}),
        ("length_penalty", {"length_penalty": math.inf}),
    ],
)
def test_mistakes_are_named(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^decoding\.{field}: "):
        Decoding(**values)


def test_pieces_are_words_that_can_change_no_more() -> None:
    texts = ["it", "it '", "it's", "it's red", "it's red,", "it's red, no"]
    assert list(pieces(texts)) == ["it", "'s", " red,", " no"]
    assert list(pieces([])) == []
    assert list(pieces([""])) == []
    assert list(pieces(["so"])) == ["so"]


def test_the_least_temperature_is_greedy() -> None:
    model = Random()
    greedy = model.decode([7, 3], Decoding("greedy", longest=6))
    for top in ({}, {"top_k": None}, {"top_k": None, "top_p": 0.9}):
        found = model.decode([7, 3], Decoding(temperature=1e-40, longest=6, **top))  # type: ignore[arg-type]
        assert [[one.tokens for one in each] for each in found] == [[one.tokens for one in each] for each in greedy]
