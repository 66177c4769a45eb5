"""BERT against the published architecture, written out with transformers' own module for one candidate at a time.

Section 4.3 of "Partner Matters!" (Gu et al., SIGIR 2021).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from personae.models.selection.bert import BERT
from personae.nn.objective import Objective
from personae.nn.persona_fusion import Fusion
from personae.nn.shared_context import SharedEncoder
from personae.types import Example, InputError, Whose

Build = Callable[..., Any]
Case = Callable[..., Example]


def feature(model: Any, first: Sequence[tuple[str, int]], second: Sequence[tuple[str, int]] | None) -> Tensor:
    """[CLS] first [SEP] second [SEP] through BERT: texts, and the subtype of each."""
    tokenizer, bert = model.encoder.tokenizer, model.encoder.backbone
    rows = 0 if model.encoder.subtypes is None else model.encoder.subtypes.num_embeddings
    texts = [("[CLS]", 0), *first, ("[SEP]", rows - 2)] + ([] if second is None else [*second, ("[SEP]", rows - 1)])
    split = [(tokenizer.tokenize(text) or [], row) for text, row in texts]
    tokens = torch.tensor([tokenizer.convert_tokens_to_ids([token for part, _ in split for token in part])])
    length = sum(len(part) for part, _ in split[: len(first) + 2])
    segments = (torch.arange(tokens.shape[1]) >= length).long()[None]
    embedded = bert.embeddings.word_embeddings(tokens)
    if rows:
        embedded = embedded + model.encoder.subtypes(torch.tensor([[row for part, row in split for _ in part]]))
    if isinstance(model.encoder, SharedEncoder):
        return _apart(bert, embedded, segments, length)
    state: Tensor = bert(inputs_embeds=embedded, token_type_ids=segments).pooler_output[0]
    return state


def _apart(bert: Any, embedded: Tensor, segments: Tensor, length: int) -> Tensor:
    """The same where the first `length` tokens are attended to, and only a second [CLS] and what is behind attend to
    that."""
    order = torch.tensor([*range(length), 0, *range(length, embedded.shape[1])])
    behind = torch.arange(len(order)) >= length
    allowed = behind[:, None] | ~behind
    found = bert(
        inputs_embeds=embedded[:, order],
        token_type_ids=segments[:, order],
        position_ids=order[None],
        attention_mask=torch.zeros(allowed.shape, dtype=embedded.dtype).masked_fill(~allowed, -torch.inf)[None, None],
    ).last_hidden_state
    state: Tensor = bert.pooler(found[:, length:])[0]
    return state


def published(model: Any, case: Example, personas: Sequence[Sequence[str]], reply: str) -> Tensor:
    """The logit of one candidate; the context is wholly read."""
    kinds = {2: (0, 1, 2, 3), 1: (0, 0, 1, 2)}[len(personas)]  # self, partner, context, response
    lines = [[(line, kinds[place]) for line in persona] for place, persona in enumerate(personas)]
    said = [(turn.text, kinds[2]) for turn in case.context.turns]
    answer = [(reply, kinds[3])]
    if model.fusion == "cra":
        features = [feature(model, [*(line for persona in lines for line in persona), *said], answer)]
    elif not model.context:
        features = [feature(model, lines[0], answer)]
    else:
        seconds = {"none": {}, "na": {"": None}, "ca": {"": said}, "ra": {"": answer}}[model.fusion].values()
        features = [feature(model, said, answer)]
        features += [feature(model, persona, second) for persona in lines for second in seconds]
    logit: Tensor = model.judge.output(torch.cat(features))[0]
    return logit


def scores(model: Any, cases: Sequence[Example], whose: Whose) -> Tensor:
    both = ("self", "partner") if whose == "both" else (whose,)
    return torch.stack(
        [
            torch.stack(
                [
                    published(model, case, [case.facts(one) for one in both], reply)  # type: ignore[arg-type]
                    for reply in case.target.candidates
                ]
            )
            for case in cases
        ]
    )


@pytest.mark.parametrize("shared", [False, True], ids=["", "shared"])
@pytest.mark.parametrize("whose", ["self", "partner", "both"])
@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_the_scores_are_those_of_the_published_architecture(
    fusion: Fusion, whose: Whose, shared: bool, build: Build, cases: Sequence[Example]
) -> None:
    model = build("bert", fusion=fusion, persona=whose, longest=512, shared=shared)
    with torch.no_grad():
        ours, theirs = model.score(model.collate(cases)), scores(model, cases, whose)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours.std() > 1e-3


@pytest.mark.parametrize("shared", [False, True], ids=["", "shared"])
@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_the_gradients_are_those_of_the_published_architecture(
    fusion: Fusion, shared: bool, build: Build, cases: Sequence[Example]
) -> None:
    model = build("bert", fusion=fusion, persona="both", longest=512, shared=shared).double()
    batch = model.collate(cases[:4])
    expected = scores(model, cases[:4], "both")
    weights = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(found, batch.target), weights) for found in (model.score(batch), expected)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-7)
    assert max(float(weight.abs().max()) for weight in ours) > 1e-4


@pytest.mark.parametrize("whose", ["self", "both"])
def test_without_context_persona_and_reply_are_matched(whose: Whose, build: Build, cases: Sequence[Example]) -> None:
    model = build("bert", fusion="none", persona=whose, context=False)
    told = [replace(case, context=replace(case.context, turns=case.context.turns[-1:])) for case in cases]
    with torch.no_grad():
        found = model.score(model.collate(cases))
        assert torch.equal(found, model.score(model.collate(told)))
        for row, case in zip(found, cases, strict=True):
            expected = [published(model, case, [case.facts(whose)], reply) for reply in case.target.candidates]
            torch.testing.assert_close(row, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_subtypes_are_for_one_sequence_and_can_be_left_out(build: Build, cases: Sequence[Example]) -> None:
    rows = {fusion: build("bert", fusion=fusion).encoder.subtypes for fusion in get_args(Fusion)}
    assert {fusion for fusion, subtypes in rows.items() if subtypes is not None} == {"cra"}
    assert rows["cra"].num_embeddings == 3
    assert 0.01 < rows["cra"].weight.std() < 0.02
    assert build("bert", fusion="cra", persona="both").encoder.subtypes.num_embeddings == 4
    model = build("bert", fusion="cra", subtype=False, longest=512)
    assert model.encoder.subtypes is None
    with torch.no_grad():
        found = model.score(model.collate(cases))
        torch.testing.assert_close(found, scores(model, cases, "self"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fusion", "passes"), [("none", 4), ("na", 5), ("ca", 5), ("ra", 8), ("cra", 4)])
def test_what_does_not_depend_on_the_candidate_is_read_once(
    fusion: Fusion, passes: int, build: Build, cases: Sequence[Example]
) -> None:
    batch = build("bert", fusion=fusion).collate(cases[:1])
    assert len(batch.sequences.lengths) == passes


@pytest.mark.parametrize(("fusion", "first"), [("none", 1), ("na", 2), ("ca", 2), ("ra", 2), ("cra", 1)])
def test_a_shared_context_is_read_once(fusion: Fusion, first: int, build: Build, cases: Sequence[Example]) -> None:
    batch = build("bert", fusion=fusion, shared=True).collate(cases[:1])
    assert len(batch.sequences.first) == first


def test_a_shared_context_starts_from_the_same_weights(build: Build, cases: Sequence[Example]) -> None:
    shared, whole = build("bert", shared=True), build("bert")
    whole.load_state_dict(shared.state_dict())
    with torch.no_grad():
        ours, others = (model.score(model.collate(cases)) for model in (shared, whole))
    assert not torch.allclose(ours, others, atol=1e-3)


def test_the_oldest_utterances_give_way(build: Build, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    said, facts, replies = ["all day", "my cat sings", "a dog sleeps"], ["i like birds"], ["the river", "a cat"]
    shortened = case(said=said[1:], facts=facts, candidates=replies)
    model = build("bert")
    lengths = model.collate([shortened]).sequences.lengths
    whole = case(said=said, facts=facts, candidates=replies)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        expected = model.score(model.collate([shortened]))
        model.encoder.longest = max(lengths)
        assert torch.equal(model.score(model.collate([whole])), expected)
        assert "the oldest utterances do not fit in" in caplog.text
        model.encoder.longest = 512
        assert not torch.allclose(model.score(model.collate([whole])), expected)
        model.utterances = 2
        assert torch.equal(model.score(model.collate([whole])), expected)


def test_a_longer_context_is_more_work(build: Build, case: Case) -> None:
    sizes = [build("bert").size(case(said=["a cat"] * turns, candidates=["no"])) for turns in (0, 1, 5)]
    assert sizes == [0, 2, 10]
    assert build("bert").size(case(said=["a cat"], facts=["my dog"], candidates=["no"])) == 4


def test_each_objective_trains_it(build: Build, cases: Sequence[Example]) -> None:
    model = build("bert")
    batch = model.collate(cases)
    expected = {kind: Objective(kind)(model.score(batch), batch.target) for kind in ("listwise", "pointwise")}
    assert {kind: model.loss(batch, Objective(kind)) for kind in expected} == expected


def test_arguments_that_cannot_be_are_refused(backbone: str) -> None:
    with pytest.raises(InputError, match=r"task\.model\.utterances: 0 is not at least 1"):
        BERT(backbone=backbone, utterances=0)
    with pytest.raises(InputError, match=r"task\.model\.context: without it the persona takes its place"):
        BERT(backbone=backbone, context=False)
    with pytest.raises(InputError, match=r"reads 512 tokens at most; set task\.model\.longest to that"):
        BERT(backbone=backbone, longest=513)
    with pytest.raises(InputError, match=r"task\.model\.longest: 3 is not at least 8"):
        BERT(backbone=backbone, longest=3)
