"""HRE and IMN against the published algorithm, written out for one context and one reply at a time.

Sections 4.1 and 4.2 of "Partner Matters!" (Gu et al., SIGIR 2021); its equations are named in brackets.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.dialogue_batch import Limits
from personae.nn.persona_fusion import Fusion
from personae.nn.recurrent import BiLSTM
from personae.types import Example

Build = Callable[..., Any]


LIMITS = Limits(utterances=4, utterance_words=9, lines=2, line_words=4, reply_words=6)
"""Below what the cases hold, so that each is felt."""


def bilstm(layer: BiLSTM, sequence: Tensor) -> Tensor:
    """The hidden states (steps, 2H) of torch's LSTM with the layer's weights."""
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
    states: Tensor = torch.func.functional_call(lstm, {**weights, **zeros}, (sequence,))[0]
    return states


def aggregate(states: Tensor) -> Tensor:
    """[max; last], where the reverse direction ends at the first step (4)-(6), (8)."""
    hidden = states.shape[1] // 2
    return torch.cat([states.amax(0), states[-1, :hidden], states[0, hidden:]])


def embed(model: Any, text: str, most: int) -> Tensor:
    """The word representations (words, width) of one sentence."""
    sentences = model.words.sentences([(text, most)])
    vectors: Tensor = model.words(sentences)[sentences.words]
    return vectors


def fuse(model: Any, lines: Sequence[Tensor], context: Tensor, response: Tensor) -> list[Tensor]:
    """The aggregated persona; none where the model has no fusion (9)-(16)."""
    if model.fusion is None:
        return []
    if not lines:
        return [torch.zeros_like(response)]
    kind, query = model.fusion.fusion, model.fusion.query
    if kind == "na":
        weights = [query(line)[0] for line in lines]
    elif kind == "ca":
        weights = [context @ line for line in lines]
    elif kind == "ra":
        weights = [response @ line for line in lines]
    else:
        weights = [query(torch.cat([context, response])) @ line for line in lines]
    attention = torch.stack(weights).softmax(0)
    return [(attention[:, None] * torch.stack(list(lines))).sum(0)]


def classify(
    classifier: Any, model: Any, lines: Sequence[Tensor], context: Tensor, encoded: Tensor, response: Tensor
) -> Tensor:
    """The matching feature (17) through the multi-layer perceptron; the persona is aware of the `encoded` response."""
    feature = torch.cat([context, *fuse(model, lines, context, encoded), response])
    score: Tensor = classifier.output(torch.relu(classifier.hidden(feature)))[0]
    return score


def hre(classifier: Any, model: Any, utterances: Sequence[Tensor], reply: Tensor, lines: Sequence[Tensor]) -> Tensor:
    said = torch.stack([aggregate(bilstm(model.sentence, utterance)) for utterance in utterances])  # (1), (4)
    profile = [aggregate(bilstm(model.sentence, line)) for line in lines]  # (2), (5)
    response = aggregate(bilstm(model.sentence, reply))  # (3), (6)
    context = aggregate(bilstm(model.utterances, said))  # (7), (8)
    return classify(classifier, model, profile, context, response, response)


def imn(model: Any, utterances: Sequence[Tensor], reply: Tensor, lines: Sequence[Tensor]) -> Tensor:
    encoded = [bilstm(model.sentence, utterance) for utterance in utterances]  # (1)
    context, response = torch.cat(encoded), bilstm(model.sentence, reply)  # (3)
    similarity = context @ response.T  # (19)
    seen_by_context = similarity.softmax(1) @ response
    seen_by_response = similarity.softmax(0).T @ context

    def enhance(a: Tensor, seen: Tensor) -> Tensor:
        return torch.cat([a, seen, a - seen, a * seen], 1)

    parted = enhance(context, seen_by_context).split([len(utterance) for utterance in encoded])
    matched = torch.stack([aggregate(bilstm(model.matching, utterance)) for utterance in parted])
    profile = [aggregate(bilstm(model.sentence, line)) for line in lines]  # (2), (5)
    told = aggregate(bilstm(model.utterances, matched))
    answer = aggregate(bilstm(model.matching, enhance(response, seen_by_response)))
    return classify(model.classifier, model, profile, told, aggregate(response), answer)


def variant(build: Build, name: str, fusion: Fusion) -> Any:
    kind, *more = name.split()
    return build(kind, fusion=fusion, limits=LIMITS, **({"with_hre": True} if more else {}))


def published(model: Any, name: str, case: Example) -> list[Tensor]:
    """The score of each candidate, (candidates,), by each of the model's classifiers."""
    limits = model.limits
    said = [turn.text for turn in case.context.turns][-limits.utterances :]
    utterances = [embed(model, text, limits.utterance_words) for text in said]
    lines = [embed(model, fact, limits.line_words) for fact in case.facts(model.persona)[: limits.lines]]
    replies = [embed(model, text, limits.reply_words) for text in case.target.candidates]
    by_hre = {"hre": model.classifier, "imn": None, "imn with hre": getattr(model, "beside", None)}[name]
    scores = [] if name == "hre" else [torch.stack([imn(model, utterances, reply, lines) for reply in replies])]
    if by_hre is not None:
        scores.append(torch.stack([hre(by_hre, model, utterances, reply, lines) for reply in replies]))
    return scores


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("name", ["hre", "imn", "imn with hre"])
def test_the_scores_are_those_of_the_published_algorithm(
    name: str, fusion: Fusion, precision: torch.dtype, tolerance: float, build: Build, cases: Sequence[Example]
) -> None:
    model = variant(build, name, fusion).to(precision)
    for layer in (model.sentence, model.utterances):
        nn.init.normal_(layer.bias)  # zero at first, which would hide a gate's bias in the wrong place
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for row, case in enumerate(cases[:4]):
            expected = torch.stack(published(model, name, case)).sum(0)
            torch.testing.assert_close(scores[row], expected, atol=tolerance, rtol=tolerance)
    assert scores.std() > 100 * tolerance


@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("name", ["hre", "imn", "imn with hre"])
def test_the_gradients_are_those_of_the_published_algorithm(
    name: str, fusion: Fusion, build: Build, cases: Sequence[Example]
) -> None:
    model = variant(build, name, fusion).double()
    batch = model.collate(cases[:4])
    scores = [published(model, name, case) for case in cases[:4]]
    losses = [F.cross_entropy(torch.stack(one), batch.target) for one in zip(*scores, strict=True)]
    assert len(losses) == len(name.split("with"))
    torch.testing.assert_close(model.loss(batch).double(), torch.stack(losses).sum(), atol=1e-6, rtol=1e-6)
    expected = torch.stack([torch.stack(one).sum(0) for one in scores])
    parameters = dict(model.named_parameters())
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(scores, batch.target), list(parameters.values()))
        for scores in (model.score(batch), expected)
    )
    for place in range(len(parameters)):
        torch.testing.assert_close(ours[place], theirs[place], atol=1e-12, rtol=1e-8)
    assert ours[list(parameters).index("sentence.recurrent")].abs().max() > 1e-6
