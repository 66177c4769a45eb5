"""The attention between words: by `match`, whose scores tests/models/test_matching_equations.py compares with the
published algorithm, and as `attention` tells of it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personae.nn.dialogue_batch import Limits
from personae.nn.matching import attention, match, unpacked
from personae.nn.recurrent import BiLSTM, pack, pool
from personae.nn.words import Sentences, Words
from personae.types import Example

Build = Callable[..., Any]

TEXTS = ("my cat sleeps", "do you like cats and dogs ?", "no", "i sing near the river", "dogs swim !")
CHOSEN, CANDIDATES = torch.tensor([[0, 1, -1], [2, 1, 3]]), torch.tensor([[3, 4], [4, -1]])
HIDDEN = 3


@pytest.fixture
def sentences() -> Sentences:
    words = Words(glove_size=0, task=0)
    return words.sentences([(text, 4) for text in TEXTS])


@pytest.fixture
def tokens(sentences: Sentences) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(len(sentences.words), 2 * HIDDEN, dtype=torch.float64)


def of(tokens: Tensor, sentences: Sentences, number: int) -> Tensor:
    """The words of a sentence, (words, 2H)."""
    return tokens[sentences.starts[number] :][: sentences.lengths[number]]


def test_each_word_looks_at_all_words_by_the_softmax_of_dot_products(sentences: Sentences, tokens: Tensor) -> None:
    found = attention(tokens, sentences, CHOSEN, CANDIDATES, to="context")
    assert [len(case) for case in found] == [2, 1]
    for chosen, candidates, case in zip(((0, 1), (2, 1, 3)), ((3, 4), (4,)), found, strict=True):
        for candidate, one in zip(candidates, case, strict=True):
            assert one.to == "context"
            assert one.words == tuple(TEXTS[candidate].split()[:4])
            assert one.sentences == tuple(tuple(TEXTS[number].split()[:4]) for number in chosen)
            others = torch.cat([of(tokens, sentences, number) for number in chosen])
            for word, row in zip(of(tokens, sentences, candidate), one.weights, strict=True):
                shares = [float(torch.exp(word @ other)) for other in others]
                assert row == pytest.approx([share / sum(shares) for share in shares], rel=1e-12)
                assert sum(row) == pytest.approx(1, abs=1e-12)


def test_what_is_told_is_what_is_matched(sentences: Sentences, tokens: Tensor) -> None:
    """The candidates after matching, from the weights that are told."""
    layer = BiLSTM(width=8 * HIDDEN, hidden=HIDDEN).double()
    told = attention(tokens, sentences, CHOSEN, CANDIDATES, to="context")
    response = match(layer, tokens, sentences, CHOSEN, CANDIDATES, nn.Identity())[2]
    for row, (chosen, candidates) in enumerate(zip(CHOSEN, CANDIDATES, strict=True)):
        others = torch.cat([of(tokens, sentences, int(number)) for number in chosen[chosen >= 0]])
        for column, candidate in enumerate(candidates[candidates >= 0]):
            words = of(tokens, sentences, int(candidate))
            seen = torch.tensor(told[row][column].weights, dtype=torch.float64) @ others
            enhanced = torch.cat([words, seen, words - seen, words * seen], 1)
            packing = pack(torch.tensor([0]), torch.tensor([len(words)]))
            expected = pool(layer(layer.project(enhanced), packing), packing)[0]
            torch.testing.assert_close(response[row, column], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments", "reads"),
    [
        ("imn", {}, ["context"]),
        ("imn", {"fusion": "none", "context": False}, ["self"]),
        ("dim", {}, ["context", "self"]),
        ("dim", {"persona": "partner"}, ["context", "partner"]),
        ("dim", {"persona": "both"}, ["context", "self", "partner"]),
        ("dim", {"persona": "none"}, ["context"]),
        ("dim", {"context": False}, ["self"]),
    ],
)
def test_a_model_tells_where_the_words_of_each_candidate_look(
    name: str, arguments: dict[str, Any], reads: list[str], build: Build, cases: Sequence[Example]
) -> None:
    limits = Limits(utterances=3, utterance_words=6, lines=2, line_words=5, reply_words=4)
    model = build(name, limits=limits, **arguments).double()

    def encoded(text: str, most: int) -> Tensor:
        alone = model.words.sentences([(text, most)])
        packing = alone.packing()
        return unpacked(model.sentence(model.sentence.project(model.words(alone))[alone.words], packing), packing)

    with torch.no_grad():
        found = model.attention(model.collate(cases))
        for case, told in zip(cases[2:4], found[2:4], strict=True):
            read = {
                "context": [(turn.text, 6) for turn in case.context.turns[-3:]],
                "self": [(line, 5) for line in case.facts("self")[:2]],
                "partner": [(line, 5) for line in case.facts("partner")[:2]] or [("", 5)],
            }
            for text, parts in zip(case.target.candidates, told, strict=True):
                assert [part.to for part in parts] == reads
                for part in parts:
                    assert part.words == tuple(text.split()[:4])
                    assert part.sentences == tuple(tuple(model.words.split(t)[:most]) for t, most in read[part.to])
                    others = torch.cat([encoded(*one) for one in read[part.to]])
                    shares = (encoded(text, 4) @ others.T).exp()
                    expected = shares / shares.sum(1, keepdim=True)
                    torch.testing.assert_close(torch.tensor(part.weights).double(), expected, atol=1e-6, rtol=1e-6)
