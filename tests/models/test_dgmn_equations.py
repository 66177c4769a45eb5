"""DGMN written out for one context and one reply at a time, after the code that its docstring names."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.dialogue_batch import Limits
from personae.types import Example

Build = Callable[..., Any]


LIMITS = Limits(utterances=4, utterance_words=9, lines=2, line_words=4, reply_words=11)
"""Below what the cases hold, so that each is felt; more reply words than one cell holds after both poolings."""


def embed(model: Any, text: str, most: int) -> Tensor:
    """The word representations (words, width) of one sentence."""
    sentences = model.words.sentences([(text, most)])
    vectors: Tensor = model.words(sentences)[sentences.words]
    return vectors


def attended(block: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """Scaled attention, a residual, a normalization, two layers, a residual, a normalization."""
    found = (queries @ keys.T / queries.shape[1] ** 0.5).softmax(1) @ keys
    states = block.attended(queries + found)
    normal: Tensor = block.normal(states + block.outer(torch.relu(block.inner(states))))
    return normal


def additive(model: Any, word: Tensor, utterance: Tensor) -> Tensor:
    """What a reply word finds in the bare utterance."""
    layer = model.additive
    scores = [layer.score(torch.tanh(layer.of_reply(word) + layer.of_word(other)))[0] for other in utterance]
    return torch.stack(scores).softmax(0) @ utterance


def hierarchical(word: Tensor, versions: Sequence[Tensor]) -> Tensor:
    """What a reply word finds among what it finds in each of the versions."""
    found = torch.stack([(version @ word).softmax(0) @ version for version in versions])
    return (found @ word).softmax(0) @ found


def matched(model: Any, kind: str, room: int, found: Sequence[Sequence[Tensor]], reply: Tensor) -> Tensor:
    """The features of a cube of reply words compared with what they found in each utterance or line, the last of which
    are the last of the cube."""
    layer = model.compare[kind]
    cube = torch.zeros(room, model.limits.reply_words, layer.out_features).to(reply)
    for row, words in enumerate(found, room - len(found)):
        for place, (one, word) in enumerate(zip(words, reply, strict=True)):
            cube[row, place] = torch.relu(layer(torch.cat([one * word, (one - word) ** 2])))
    cube = cube[None, None]
    for convolution in (model.convolve[kind].first, model.convolve[kind].second):
        cube = torch.relu(F.conv3d(cube, convolution.weight, convolution.bias, padding=1))
        cube = F.max_pool3d(cube, 3, ceil_mode=True)
    return cube.flatten()


def published(model: Any, case: Example) -> Tensor:
    """The logit of each candidate (candidates,)."""
    limits = model.limits

    def encoded(text: str, most: int) -> Tensor:
        words = model.narrow(embed(model, text, most))
        return attended(model.encode, words, words)

    said = [encoded(turn.text, limits.utterance_words) for turn in case.context.turns[-limits.utterances :]]
    owners = {"self": ["self"], "partner": ["partner"], "both": ["self", "partner"], "none": []}[model.persona]
    personas = [
        [encoded(fact, limits.line_words) for fact in list(case.facts(owner)[: limits.lines]) or [""]]  # type: ignore[arg-type]
        for owner in owners
    ]
    logits = []
    for text in case.target.candidates:
        reply = encoded(text, limits.reply_words)
        bare = [[additive(model, word, utterance) for word in reply] for utterance in said]
        features = [matched(model, "bare", limits.utterances, bare, reply)]
        for lines in personas:
            grounded = [[one, *(attended(model.ground["grounded"], one, line) for line in lines)] for one in said]
            informed = [[attended(model.ground["lines"], line, one) for one in said] for line in lines]
            for kind, room, parts in (
                ("grounded", limits.utterances, grounded),
                ("lines", limits.lines, informed),
            ):
                found = [[hierarchical(word, versions) for word in reply] for versions in parts]
                features.append(matched(model, kind, room, found, reply))
        logits.append(model.output(torch.cat(features))[0])
    return torch.stack(logits)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("persona", ["none", "self", "partner", "both"])
def test_the_scores_are_those_of_the_published_algorithm(
    persona: str, precision: torch.dtype, tolerance: float, build: Build, cases: Sequence[Example]
) -> None:
    model = build("dgmn", persona=persona, features=10, filters=4, limits=LIMITS).to(precision)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)  # many are zero at first, which would hide one in the wrong place
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for row, case in enumerate(cases[:4]):
            torch.testing.assert_close(scores[row], published(model, case), atol=tolerance, rtol=tolerance)
    assert scores.std() > 100 * tolerance


@pytest.mark.parametrize("persona", ["none", "self", "both"])
def test_the_gradients_are_those_of_the_published_algorithm(
    persona: str, build: Build, cases: Sequence[Example]
) -> None:
    model = build("dgmn", persona=persona, features=10, filters=4, limits=LIMITS).double()
    batch = model.collate(cases[:3])
    expected = torch.stack([published(model, case) for case in cases[:3]])
    torch.testing.assert_close(
        model.loss(batch).double(), F.cross_entropy(expected, batch.target), atol=1e-6, rtol=1e-6
    )
    parameters = dict(model.named_parameters())
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(scores, batch.target), list(parameters.values()))
        for scores in (model.score(batch), expected)
    )
    for place, name in enumerate(parameters):
        torch.testing.assert_close(ours[place], theirs[place], atol=1e-12, rtol=1e-8, msg=name)
    assert ours[list(parameters).index("narrow.weight")].abs().max() > 1e-6
