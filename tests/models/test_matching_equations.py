"""HRE, IMN and DIM against the published algorithm, written out for one context and one reply at a time.

Sections 4.1 and 4.2 of "Partner Matters!" (Gu et al., SIGIR 2021), whose equations are named in brackets; section 4 and
5 of "Dually Interactive Matching Network" (Gu et al., EMNLP 2019), whose equations are named with "DIM".
"""

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


Personas = Sequence[Sequence[Tensor]]
"""The pooled lines of each persona that is read."""


def attention(weights: Sequence[Tensor], lines: Sequence[Tensor]) -> Tensor:
    return (torch.stack(list(weights)).softmax(0)[:, None] * torch.stack(list(lines))).sum(0)


def fuse(model: Any, personas: Personas, context: Tensor, response: Tensor) -> list[Tensor]:
    """The aggregated personas; none where the model has no fusion (9)-(16)."""
    fused = []
    for place, lines in enumerate(personas if model.fusion is not None else []):
        kind = model.fusion.fusion
        if not lines:
            fused.append(torch.zeros_like(response))
        elif kind == "na":
            fused.append(attention([model.fusion.pooling[place].weigh(line)[0] for line in lines], lines))
        else:
            both = torch.cat([context, response])
            query = {"ca": context, "ra": response}[kind] if kind != "cra" else model.fusion.query[place](both)
            fused.append(attention([query @ line for line in lines], lines))
    return fused


def added(model: Any, query: Tensor, personas: Personas) -> Tensor:
    """The query with what it finds in the personas (DIM 1), (DIM 2); the partner's goes through a layer of ours."""
    found = [attention([query @ line for line in lines], lines) if lines else 0 * query for lines in personas]
    return query + sum(model.of_partner(one) if place else one for place, one in enumerate(found))


def classify(
    classifier: Any, model: Any, personas: Personas, context: Tensor, encoded: Tensor, response: Tensor
) -> Tensor:
    """The matching feature (17) through the multi-layer perceptron; the persona is aware of the `encoded` response."""
    feature = torch.cat([context, *fuse(model, personas, context, encoded), response])
    score: Tensor = classifier.output(torch.relu(classifier.hidden(feature)))[0]
    return score


Encoded = Sequence[Sequence[Tensor]]
"""The words (words, width) of the lines of each persona that is read."""


def pooled(model: Any, personas: Encoded) -> Personas:
    return [[aggregate(bilstm(model.sentence, line)) for line in lines] for lines in personas]  # (2), (5)


def hre(classifier: Any, model: Any, utterances: Sequence[Tensor], reply: Tensor, personas: Encoded) -> Tensor:
    said = torch.stack([aggregate(bilstm(model.sentence, utterance)) for utterance in utterances])  # (1), (4)
    response = aggregate(bilstm(model.sentence, reply))  # (3), (6)
    context = aggregate(bilstm(model.utterances, said))  # (7), (8)
    return classify(classifier, model, pooled(model, personas), context, response, response)


def cross(model: Any, sentences: Sequence[Tensor], reply: Tensor) -> tuple[list[Tensor], Tensor]:
    """Sentences and reply after matching, pooled (19), (DIM 7)-(DIM 19)."""
    encoded = [bilstm(model.sentence, sentence) for sentence in sentences]  # (1)
    whole, response = torch.cat(encoded), bilstm(model.sentence, reply)  # (3)
    similarity = whole @ response.T
    seen_by_whole = similarity.softmax(1) @ response
    seen_by_response = similarity.softmax(0).T @ whole

    def enhance(a: Tensor, seen: Tensor) -> Tensor:
        return torch.cat([a, seen, a - seen, a * seen], 1)

    parted = enhance(whole, seen_by_whole).split([len(sentence) for sentence in encoded])
    matched = [aggregate(bilstm(model.matching, sentence)) for sentence in parted]
    return matched, aggregate(bilstm(model.matching, enhance(response, seen_by_response)))


def imn(model: Any, utterances: Sequence[Tensor], reply: Tensor, personas: Encoded) -> Tensor:
    matched, answer = cross(model, utterances, reply)
    profiles = pooled(model, personas)
    if model.added == "utr":
        matched = [added(model, utterance, profiles) for utterance in matched]
    if model.aggregation is None:
        told = aggregate(bilstm(model.utterances, torch.stack(matched)))
    else:  # as (DIM 22) and (DIM 23)
        told = attention([torch.relu(model.aggregation.weigh(one)[0]) for one in matched], matched)
    if model.added == "ctx":
        told = added(model, told, profiles)
    return classify(model.classifier, model, profiles, told, aggregate(bilstm(model.sentence, reply)), answer)


def dim(model: Any, utterances: Sequence[Tensor], reply: Tensor, personas: Encoded) -> Tensor:
    parts = []
    if model.utterances is not None:
        matched, answer = cross(model, utterances, reply)
        parts += [aggregate(bilstm(model.utterances, torch.stack(matched))), answer]  # (DIM 20), (DIM 21)
    for pooling, lines in zip(model.lines, personas, strict=True):
        matched, answer = cross(model, lines, reply)
        parts += [attention([torch.relu(pooling.weigh(line)[0]) for line in matched], matched), answer]
    score: Tensor = model.classifier.output(torch.relu(model.classifier.hidden(torch.cat(parts))))[0]  # (DIM 24)
    return score


FUSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"hre {fusion}": ("hre", {"fusion": fusion}) for fusion in ("none", "na", "ca", "ra", "cra")},
    **{f"imn {fusion}": ("imn", {"fusion": fusion}) for fusion in ("none", "na", "ca", "ra", "cra", "ctx", "utr")},
    **{f"imn {fusion} with hre": ("imn", {"fusion": fusion, "with_hre": True}) for fusion in ("none", "ra", "cra")},
    "imn utr, attention": ("imn", {"fusion": "utr", "aggregation": "attention"}),
    "imn na, attention, with hre": ("imn", {"fusion": "na", "aggregation": "attention", "with_hre": True}),
    **{f"hre {fusion} both": ("hre", {"fusion": fusion, "persona": "both"}) for fusion in ("na", "ra", "cra")},
    **{f"imn {fusion} both": ("imn", {"fusion": fusion, "persona": "both"}) for fusion in ("cra", "ctx", "utr")},
    **{f"{name} without context": (name, {"fusion": "none", "context": False}) for name in ("hre", "imn")},
    **{f"dim {persona}": ("dim", {"persona": persona}) for persona in ("none", "self", "partner", "both")},
    "dim without context": ("dim", {"context": False}),
}
"""How the models can be made."""


def published(model: Any, name: str, case: Example) -> list[Tensor]:
    """The score of each candidate, (candidates,), by each of the model's classifiers."""
    limits = model.limits
    turns = [turn.text for turn in case.context.turns][-limits.utterances :]
    blank = name == "dim"  # a persona without lines is one empty line
    owners = {"self": ["self"], "partner": ["partner"], "both": ["self", "partner"], "none": []}[model.persona]
    facts = [list(case.facts(owner)[: limits.lines]) or [""] * blank for owner in owners]  # type: ignore[arg-type]
    personas = [[embed(model, fact, limits.line_words) for fact in some] for some in facts]
    if model.context:
        utterances = [embed(model, text, limits.utterance_words) for text in turns]
    else:
        utterances = [line for lines in personas for line in lines] or [embed(model, "", limits.line_words)]
    replies = [embed(model, text, limits.reply_words) for text in case.target.candidates]
    scores = {
        "hre": lambda reply: [hre(model.classifier, model, utterances, reply, personas)],
        "imn": lambda reply: [imn(model, utterances, reply, personas)],
        "dim": lambda reply: [dim(model, utterances, reply, personas)],
    }[name]
    beside = getattr(model, "beside", None)
    each = [
        scores(reply) + ([hre(beside, model, utterances, reply, personas)] if beside is not None else [])
        for reply in replies
    ]
    return [torch.stack(one) for one in zip(*each, strict=True)]


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("variant", FUSIONS)
def test_the_scores_are_those_of_the_published_algorithm(
    variant: str, precision: torch.dtype, tolerance: float, build: Build, cases: Sequence[Example]
) -> None:
    name, arguments = FUSIONS[variant]
    model = build(name, limits=LIMITS, **arguments).to(precision)
    for layer in (model.sentence, model.matching if name != "hre" else model.utterances):
        nn.init.normal_(layer.bias)  # zero at first, which would hide a gate's bias in the wrong place
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for row, case in enumerate(cases[:4]):
            expected = torch.stack(published(model, name, case)).sum(0)
            torch.testing.assert_close(scores[row], expected, atol=tolerance, rtol=tolerance)
    assert scores.std() > 100 * tolerance


@pytest.mark.parametrize("variant", FUSIONS)
def test_the_gradients_are_those_of_the_published_algorithm(
    variant: str, build: Build, cases: Sequence[Example]
) -> None:
    name, arguments = FUSIONS[variant]
    model = build(name, limits=LIMITS, **arguments).double()
    batch = model.collate(cases[:4])
    scores = [published(model, name, case) for case in cases[:4]]
    losses = [F.cross_entropy(torch.stack(one), batch.target) for one in zip(*scores, strict=True)]
    assert len(losses) == 1 + ("with_hre" in arguments)
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
