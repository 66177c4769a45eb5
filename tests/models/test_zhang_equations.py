"""Starspace and the memory networks against the published equations, written out for one context and one reply at a
time.

Sections 4.1 to 4.3 of "Personalizing Dialogue Agents" (Zhang et al., ACL 2018).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from personae import run
from personae.data.candidates import examples
from personae.data.toy import Selection as Toy
from personae.nn.dialogue_batch import Limits
from personae.nn.objective import Objective
from personae.types import Example, Whose

Build = Callable[..., Any]

NAMES = ("starspace", "profile_memory", "kv_profile_memory")
LIMITS = Limits(utterances=3, utterance_words=9, lines=2, line_words=4, reply_words=6)
"""Below what the cases hold, so that each is felt."""


def words_of(model: Any, text: str, most: int) -> Tensor:
    """The vectors (words, H) of a text, word by word, those that recur as well."""
    sentences = model.words.sentences([(text, most)])
    vectors: Tensor = model.words(sentences)[sentences.words]
    return vectors


def context_of(model: Any, case: Example) -> Tensor:
    """The words (words, H) of all utterances."""
    said = [turn.text for turn in case.context.turns][-LIMITS.utterances :]
    return torch.cat([words_of(model, text, LIMITS.utterance_words) for text in said])


def lines_of(model: Any, case: Example) -> list[list[Tensor]]:
    """The words (words, H) of the lines of each persona that is read."""
    read: dict[str, tuple[Whose, ...]] = {"none": (), "both": ("self", "partner")}
    return [
        [words_of(model, fact, LIMITS.line_words) for fact in case.facts(whose)[: LIMITS.lines]]
        for whose in read.get(model.persona, (model.persona,))
    ]


def sim(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other) / (one.norm() * other.norm())


def attend(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """sum_i s_i v_i with s_i = Softmax(sim(q, k_i)); nothing where there is no key."""
    if not keys:
        return torch.zeros_like(query)
    shares = torch.stack([sim(query, key) for key in keys]).softmax(0)
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)


def starspace(model: Any, case: Example) -> Tensor:
    told = [line.sum(0) for lines in lines_of(model, case) for line in lines]
    return torch.stack([context_of(model, case).sum(0), *told]).sum(0)


def profile_memory(model: Any, case: Example) -> Tensor:
    """q+"""
    query = context_of(model, case).mean(0)
    found = [attend(query, *[[line.mean(0) for line in lines]] * 2) for lines in lines_of(model, case)]
    return torch.stack([query, *found]).sum(0)


def kv_profile_memory(model: Any, case: Example, remembered: Sequence[Example]) -> Tensor:
    """q++"""
    query = profile_memory(model, case)
    pairs = [
        (context_of(model, one).mean(0), words_of(model, one.target.text, LIMITS.reply_words).mean(0))
        for one in remembered
    ]
    return query + attend(query, [key for key, _ in pairs], [value for _, value in pairs])


def ranked(model: Any, case: Example, query: Tensor) -> Tensor:
    """sim(q, c') of each candidate."""
    replies = [words_of(model, text, LIMITS.reply_words) for text in case.target.candidates]
    return torch.stack([sim(query, reply.sum(0)) for reply in replies])


@pytest.mark.parametrize("whose", get_args(Whose))
@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_those_of_the_published_equations(
    name: str, whose: Whose, build: Build, cases: Sequence[Example]
) -> None:
    model = build(name, persona=whose, limits=LIMITS).double()
    queries: dict[str, Callable[[Example], Tensor]] = {
        "starspace": lambda case: starspace(model, case),
        "profile_memory": lambda case: profile_memory(model, case),
        "kv_profile_memory": lambda case: kv_profile_memory(model, case, cases),
    }
    with torch.no_grad():
        if name == "kv_profile_memory":
            model.remember(cases)
        scores = model.score(model.collate(cases))
        expected = torch.stack([ranked(model, case, queries[name](case)) for case in cases])
    tolerance = 2e-3 if name == "kv_profile_memory" else 1e-9  # the memory is of half precision
    torch.testing.assert_close(scores, expected, atol=tolerance, rtol=tolerance)
    assert scores.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_margin_ranking_loss(name: str, build: Build, cases: Sequence[Example]) -> None:
    model, margin = build(name), 0.3
    scores = model.score(model.collate(cases))
    hinges = [F.relu(margin - row[0] + wrong) for row in scores for wrong in row[1:]]  # the first one is true
    loss = model.loss(model.collate(cases), Objective("pairwise", margin))
    torch.testing.assert_close(loss, torch.stack(hinges).mean())


def test_without_the_profile_the_models_are_identical(build: Build, cases: Sequence[Example]) -> None:
    scores = [(model := build(name, persona="none")).score(model.collate(cases)) for name in NAMES]
    for others in scores[1:]:
        torch.testing.assert_close(others, scores[0])


def test_the_reply_that_followed_the_same_history_gains(build: Build, cases: Sequence[Example]) -> None:
    model = build("kv_profile_memory", persona="none", hidden=64)
    with torch.no_grad():
        before = model.score(model.collate(cases))
        for place, case in enumerate(cases):
            for reply, text in enumerate(case.target.candidates):
                model.remember([replace(case, target=replace(case.target, text=text, candidates=()))])
                after = model.score(model.collate([case]))[0]
                assert after[reply] > before[place, reply]
                assert (after - before[place]).argmax() == reply


def test_a_trained_model_remembers_what_it_was_trained_on(tmp_path: Path) -> None:
    path = "personae.models.selection.kv_profile_memory.KVProfileMemory"
    changes = {
        "task.model": {"class_path": path, "init_args": {"hidden": 4}},
        "corpus.dialogues": 12,
        "trainer.max_epochs": 1,
        "trainer.val_check_interval": 1.0,
    }
    run.train("selection/imn-toy-ra", {key: yaml.safe_dump(value) for key, value in changes.items()}, out=tmp_path)
    model = run.load(str(tmp_path)).model
    learnt = examples(Toy(dialogues=12).split("train"), sides="both")
    learnt = examples(Toy(dialogues=12).split("train"), sides="both")
    assert len(model.histories) == len(model.replies) == len(learnt) > 0
    assert model.remembered.dtype == torch.half
    kept = model.remembered, model.score(model.collate(learnt))
    model.remember(learnt)
    assert torch.equal(model.remembered, kept[0])
    assert torch.equal(model.score(model.collate(learnt)), kept[1])
