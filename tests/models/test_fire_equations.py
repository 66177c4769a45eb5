"""FIRE against the published algorithm, written out for one context and one reply at a time,
after the authors' code."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.dialogue_batch import Limits
from personae.nn.recurrent import BiLSTM
from personae.types import Example

Build = Callable[..., Any]


LIMITS = Limits(utterances=4, utterance_words=9, lines=3, line_words=4, reply_words=6)
"""Below what the cases hold, so that each is felt."""


def bilstm(layer: BiLSTM, sequence: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states (steps, 2H) of torch's LSTM with the layer's weights, and those in which it ends (2H,)."""
    hidden = layer.hidden
    lstm = nn.LSTM(sequence.shape[1], hidden, bidirectional=True).to(sequence.dtype)
    forward, reverse = slice(0, 4 * hidden), slice(4 * hidden, 8 * hidden)
    weights = {
        "weight_ih_l0": layer.input[forward],
        "weight_hh_l0": layer.recurrent[0],
        "bias_ih_l0": layer.bias[forward],
        "weight_ih_l0_reverse": layer.input[reverse],
        "weight_hh_l0_reverse": layer.recurrent[1],
        "bias_ih_l0_reverse": layer.bias[reverse],
    }
    zeros = {name: torch.zeros(4 * hidden).to(sequence) for name in ("bias_hh_l0", "bias_hh_l0_reverse")}
    states, (ends, _) = torch.func.functional_call(lstm, {**weights, **zeros}, (sequence,))
    return states, ends.flatten()


def embed(model: Any, text: str, most: int) -> Tensor:
    """The word representations (words, width) of one sentence."""
    sentences = model.words.sentences([(text, most)])
    vectors: Tensor = model.words(sentences)[sentences.words]
    return vectors


def compared(layer: Any, a: Tensor, attention: Tensor, b: Tensor) -> Tensor:
    """A rectified layer over [a; a~; a * a~; a - a~], with any weight of a - a~."""
    found = attention @ b
    difference = torch.linspace(-1, 1, layer.own.weight.numel()).view_as(layer.own.weight).to(a)
    weight = torch.cat(
        [layer.own.weight - difference, layer.other.weight + difference, layer.product.weight, difference], 1
    )
    return torch.relu(torch.cat([a, found, a * found, a - found], 1) @ weight.T + layer.own.bias)


def pool(words: Tensor) -> Tensor:
    return torch.cat([words.amax(0), words.mean(0)])


def filtered(model: Any, place: int, utterances: Sequence[Tensor], lines: Sequence[Tensor]) -> tuple[Any, ...]:
    """By a persona: what is added to the context's words, its own words, which lines are kept, and what their attention
    is the softmax of besides: zeros, that pass on the gradient of a weight."""
    said, told = ([bilstm(model.sentence, each) for each in some] for some in (utterances, lines))
    context, persona = (torch.cat([states for states, _ in some]) for some in (said, told))
    similarity = context @ persona.T
    seen = compared(model.filters[place], context, similarity.softmax(1), persona)
    own = persona + compared(model.filters[place], persona, similarity.T.softmax(1), context)
    relevance = torch.stack(
        [torch.stack([(model.relevance[place].weight @ line) @ end for _, end in said]).amax() for _, line in told]
    )
    kept = relevance.sigmoid() > model.threshold
    return seen, own, kept, F.logsigmoid(relevance) - F.logsigmoid(relevance).detach()


def referred(
    model: Any, place: int, start: Tensor, reply: Tensor, kept: Tensor, leaning: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The words of context (place 0) or persona, and of the reply, after each iteration; `kept` and `leaning` are of
    each word."""
    read, answer, states = start, reply, []
    for step, iteration in enumerate(model.iterations):
        similarity = read @ answer.T
        towards = torch.zeros_like(similarity.T)
        if kept.any():
            towards[:, kept] = (similarity.T + leaning)[:, kept].softmax(1)
        layer = iteration.compare[place]
        new_read, new_answer = (
            compared(layer, read, similarity.softmax(1), answer),
            compared(layer, answer, towards, read),
        )
        read, answer = new_read + read, new_answer + answer
        if step > 0:
            read, answer = read + start, answer + reply
        states.append((read, answer))
    return states


def published(model: Any, case: Example, discarded: list[bool]) -> Tensor:
    """The logit of each candidate by each iteration (iterations, candidates); whether lines were discarded is added to
    `discarded`."""
    limits = model.limits
    utterances = [embed(model, turn.text, limits.utterance_words) for turn in case.context.turns[-limits.utterances :]]
    owners = {"self": ["self"], "partner": ["partner"], "both": ["self", "partner"], "none": []}[model.persona]
    personas = [
        [embed(model, fact, limits.line_words) for fact in list(case.facts(owner)[: limits.lines]) or [""]]  # type: ignore[arg-type]
        for owner in owners
    ]
    context = torch.cat([bilstm(model.sentence, utterance)[0] for utterance in utterances])
    always = torch.ones(len(context), dtype=torch.bool)
    sources = [(context, utterances, torch.ones(len(utterances), dtype=torch.bool), always, 0 * always)]
    for place, lines in enumerate(personas):
        seen, own, kept, leaning = filtered(model, place, utterances, lines)
        discarded += (~kept).tolist()
        lengths = torch.tensor([len(line) for line in lines])
        words, *rest = sources[0]
        sources[0] = (words + seen, *rest)
        sources.append((own, lines, kept, kept.repeat_interleave(lengths), leaning.repeat_interleave(lengths)))

    scores = []
    for text in case.target.candidates:
        reply = bilstm(model.sentence, embed(model, text, limits.reply_words))[0]
        features: list[list[Tensor]] = [[] for _ in model.iterations]
        for place, (words, sentences, kept, of_words, leaning) in enumerate(sources):
            for step, (read, answer) in enumerate(referred(model, place, words, reply, of_words, leaning)):
                iteration = model.iterations[step]
                vectors = torch.stack([pool(each) for each in read.split([len(each) for each in sentences])])
                if place == 0:
                    states, ends = bilstm(iteration.utterances, vectors)
                    vector = torch.cat([states.amax(0), ends])
                else:
                    weight = torch.relu(iteration.lines[place - 1].weigh(vectors[kept]))
                    vector = (weight.softmax(0) * vectors[kept]).sum(0)
                features[step] += [vector, pool(answer)]
        scores.append(
            [
                iteration.classifier.output(torch.relu(iteration.classifier.hidden(torch.cat(each))))[0]
                for iteration, each in zip(model.iterations, features, strict=True)
            ]
        )
    return torch.stack([torch.stack(each) for each in zip(*scores, strict=True)])


def make(build: Build, persona: str, threshold: float = 0.502) -> Any:
    """A model with a threshold in the middle of what lines are found to be relevant."""
    return build("fire", persona=persona, limits=LIMITS, threshold=threshold)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("persona", ["none", "self", "partner", "both"])
def test_the_scores_are_those_of_the_published_algorithm(
    persona: str, precision: torch.dtype, tolerance: float, build: Build, cases: Sequence[Example]
) -> None:
    model = make(build, persona).to(precision)
    discarded: list[bool] = []
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)  # zero at first, which would hide one in the wrong place
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for row, case in enumerate(cases[:5]):
            expected = published(model, case, discarded).mean(0)
            torch.testing.assert_close(scores[row], expected, atol=tolerance, rtol=tolerance)
    assert scores.std() > 100 * tolerance
    assert set(discarded) == ({True, False} if persona != "none" else set())


@pytest.mark.parametrize("persona", ["none", "self", "both"])
def test_the_gradients_are_those_of_the_published_algorithm(
    persona: str, build: Build, cases: Sequence[Example]
) -> None:
    model = make(build, persona).double()
    batch = model.collate(cases[:4])
    expected = torch.stack([published(model, case, []) for case in cases[:4]], 1)  # (iterations, cases, candidates)
    losses = [F.cross_entropy(each, batch.target) for each in expected]
    torch.testing.assert_close(model.loss(batch).double(), torch.stack(losses).sum(), atol=1e-6, rtol=1e-6)
    parameters = dict(model.named_parameters())
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(scores, batch.target), list(parameters.values()))
        for scores in (model.score(batch), expected.mean(0))
    )
    for place, name in enumerate(parameters):
        torch.testing.assert_close(ours[place], theirs[place], atol=1e-12, rtol=1e-8, msg=name)
    assert ours[list(parameters).index("sentence.recurrent")].abs().max() > 1e-6


def test_a_case_whose_lines_are_all_discarded_finds_nothing_in_them(build: Build, cases: Sequence[Example]) -> None:
    model = make(build, "self", threshold=1.0).double()
    with torch.no_grad():
        scores = model.score(model.collate(cases[:3]))
        for row, case in enumerate(cases[:3]):
            discarded: list[bool] = []
            expected = published(model, case, discarded)
            assert all(discarded)
            torch.testing.assert_close(scores[row], expected.mean(0), atol=1e-9, rtol=1e-9)
