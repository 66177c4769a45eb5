from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from personae.nn.decoding import Decoding
from personae.nn.encoder_decoder import END, START, EncoderDecoder, Sizes
from personae.text import joined
from personae.types import Dialogue, Example, InputError, Speaker, Turn

SIZES = Sizes(width=6, hidden=7, layers=2, dropout=0.0, min_count=1)
TEXTS = ["do you like cats ?", "i like cats .", "the sea", "i don't", "cold sea , cold"]


def made(sizes: Sizes = SIZES, **arguments: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(sizes=sizes, **arguments)
    model.prepare(TEXTS)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return model.eval()


def case(*said: str, reply: str = "", name: str = "d") -> Example:
    turns = tuple(Turn((len(said) - 1 - place) % 2, text) for place, text in enumerate(said))
    return Example(Dialogue(name, (Speaker("asker"), Speaker("user")), turns), Turn(1, reply))


def probability(
    model: EncoderDecoder, asked: str, reply: list[str], beside: Tensor | None, seen: Tensor | None
) -> float:
    """The log-probability of a reply's words and its end, word by word, written down once more: of one context, without
    padding, from PyTorch's cells."""

    def cell(part: Any, layer: int) -> torch.nn.LSTMCell:
        found = torch.nn.LSTMCell(part.inputs[layer].shape[1], part.hidden)
        weights = (part.inputs[layer], part.recurrents[layer], part.biases[layer], torch.zeros(4 * part.hidden))
        for name, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
            getattr(found, name).data = weight.detach()
        return found

    encoder, decoder = ([cell(part, layer) for layer in range(2)] for part in (model.encoder, model.decoder))
    states = [(torch.zeros(7), torch.zeros(7))] * 2
    upper = []
    for word in (*asked.split(), END):
        below = model.weight[model.vocabulary[word]]
        for layer in range(2):
            states[layer] = encoder[layer](below, states[layer])
            below = states[layer][0]
        upper.append(below)
    read, total = torch.stack(upper), 0.0
    for before, word in zip((START, *reply), (*reply, END), strict=True):
        below = model.weight[model.vocabulary[before]]
        below = below if beside is None else torch.cat([below, beside])
        for layer in range(2):
            states[layer] = decoder[layer](below, states[layer])
            below = states[layer][0]
        context = (read @ model.look.weight.t() @ below).softmax(0) @ read
        parts = [below, context]
        if seen is not None:
            assert model.remember is not None
            parts.append((seen @ (model.remember.weight @ below)).softmax(0) @ seen)
        features = torch.tanh(model.output.weight @ torch.cat(parts) + model.output.bias)
        logits = model.weight @ features + model.bias
        total += float(logits.log_softmax(0)[model.vocabulary[word]])
    return total


@torch.no_grad()
@pytest.mark.parametrize("beside", [0, 3])
@pytest.mark.parametrize("memories", [False, True])
def test_the_equations(beside: int, memories: bool) -> None:
    model = made(beside=beside, memories=memories)
    cases = [case("do you like cats ?", reply="i like cats ."), case("sea", reply="the cold unheard sea"), case("cats")]
    texts = model.collate(cases)
    vectors = torch.randn(3, beside) if beside else None
    seen = torch.randn(3, 2, 6) if memories else None
    place = model.place(texts.context, *model.read(texts.context), beside=vectors, memories=seen)
    each, whose = model.log_probabilities(texts, place)
    for row, one in enumerate(cases):
        own = [None if part is None else part[row] for part in (vectors, seen)]
        expected = probability(model, one.context.turns[0].text, one.target.text.split(), *own)
        assert float(each[whose == row].sum()) == pytest.approx(expected, abs=1e-4)
    assert whose.bincount().tolist() == [5, 5, 1]


@torch.no_grad()
def test_a_memory_that_is_not_there_is_not_looked_at() -> None:
    model = made(memories=True)
    texts = model.collate([case("cats", reply="sea")])
    found = []
    for memories in (
        torch.ones(1, 1, 6),
        torch.cat([torch.ones(1, 1, 6), torch.zeros(1, 2, 6)], 1),
        torch.zeros(1, 3, 6),
    ):
        place = model.place(texts.context, *model.read(texts.context), beside=None, memories=memories)
        found.append(model.log_probabilities(texts, place)[0])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert found[2].isfinite().all()


@torch.no_grad()
def test_greedy_replies_are_the_likeliest_words_one_by_one() -> None:
    model = made()
    texts = model.collate([case("do you like cats ?", name="a"), case("sea", name="b")])
    place = model.place(texts.context, *model.read(texts.context), beside=None, memories=None)
    replies = model.generate(texts, place, Decoding(kind="greedy", longest=5, shortest=2))
    for row, (reply,) in enumerate(replies):
        said: list[str] = []
        for _ in range(5):
            choices = [word for word in model.vocabulary.words[3:] if word != END or len(said) >= 2]
            said.append(max(choices, key=lambda word: _begun(model, texts, row, [*said, word])))
            if said[-1] == END:
                break
        assert reply == joined(word for word in said if word != END)


def _begun(model: EncoderDecoder, texts: Any, row: int, said: list[str]) -> float:
    """The log-probability of a beginning of a reply."""
    numbers = torch.tensor([[model.vocabulary[word] for word in said]], dtype=torch.long)
    alone = replace(texts, names=texts.names[:1], context=texts.context[row : row + 1], reply=numbers)
    place = model.place(alone.context, *model.read(alone.context), beside=None, memories=None)
    return float(model.log_probabilities(alone, place)[0].sum())


def test_what_is_read_and_written() -> None:
    model = made(replace(SIZES, utterances=2, words=3))
    known = model.vocabulary
    texts = model.collate([case("the sea", "do you like cats ?", "i like cats .", reply="the cold cold sea"), case()])
    end = known[END]
    assert texts.context.tolist() == [
        [known["do"], known["you"], known["like"], end, known["i"], known["like"], known["cats"], end],
        [0] * 7 + [end],  # where nothing was said, there is an end
    ]
    assert texts.reply.tolist() == [[known["the"], known["cold"], known["cold"], end], [end, 0, 0, 0]]
    assert texts.names == ("d#3", "d#0")
    assert model.size(case("the sea", "do you like cats ?", "i like", reply="sea")) == 3 + 2 + 1


def test_the_vocabulary_is_of_words_that_occur_often_enough() -> None:
    model = made(replace(SIZES, min_count=2))
    assert sorted(model.vocabulary.words[4:]) == ["cats", "cold", "i", "like", "sea"]
    assert model.vocabulary.words[:4] == ["<pad>", "<unk>", START, END]
    assert len(model.weight) == len(model.bias) == 9
    with pytest.raises(InputError, match=r"task\.model\.sizes\.min_count: no word .* occurs 9 times"):
        made(replace(SIZES, min_count=9))


def test_the_vocabulary_is_kept_with_the_weights() -> None:
    model = made()
    other = EncoderDecoder(sizes=SIZES)
    other.load_state_dict(model.state_dict())
    assert other.vocabulary.words == model.vocabulary.words
    assert torch.equal(other.weight, model.weight)


def test_marks_are_never_written() -> None:
    model = made()
    model.bias.data[[0, 1, model.vocabulary[START]]] = 100
    texts = model.collate([case("cats")])
    place = model.place(texts.context, *model.read(texts.context), beside=None, memories=None)
    for kind in ("greedy", "beam", "sample"):
        ((text, *_),) = model.generate(texts, place, Decoding(kind=kind, longest=8))
        assert "<" not in text


@pytest.mark.parametrize("name", ["width", "hidden", "layers", "min_count", "utterances", "words"])
def test_sizes_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=rf"task\.model\.sizes\.{name}: 0 is not at least 1"):
        Sizes(**{name: 0})
    for dropout in (-0.1, 1.0):
        with pytest.raises(
            InputError, match=rf"task\.model\.sizes\.dropout: {dropout} is not at least 0 and less than 1"
        ):
            Sizes(dropout=dropout)


def test_words_that_it_has_from_another_keep_their_vectors() -> None:
    trained, model = made(), EncoderDecoder(sizes=SIZES)
    model.inherit(trained)
    model.weight.data.copy_(trained.weight)
    model.bias.data.copy_(trained.bias.data.uniform_())
    model.prepare(["a walrus likes cats", "walrus"] * SIZES.min_count)
    before, after = trained.vocabulary, model.vocabulary
    assert "walrus" in after
    assert "walrus" not in before
    assert len(model.weight) == len(model.bias) == len(after)
    for word in before.words:
        assert torch.equal(model.weight[after[word]], trained.weight[before[word]])
        assert model.bias[after[word]] == trained.bias[before[word]]
