"""P5: which lines are chosen, how the sequence is laid out, and its scores by transformers' own module."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from personae.models.selection.p5 import P5
from personae.types import Example, InputError, Whose

Build = Callable[..., Any]
Case = Callable[..., Example]

FACTS = ("i like cats", "my dog swims", "i sing all day", "the river")
ABOUT = ("a bird sings", "my brothers sleep")


def read(model: Any, case: Example) -> list[str]:
    """What is read for each candidate, in words."""
    batch = model.collate([case])
    places = batch.places[0, 0].tolist()
    sequences = batch.sequences
    return [
        model.encoder.tokenizer.decode(
            sequences.distinct[sequences.tokens[place, : sequences.lengths[place]]], clean_up_tokenization_spaces=False
        )
        for place in places
    ]


def similar(model: Any, reply: str, lines: Sequence[str]) -> list[str]:
    """All lines, the most similar to the reply first."""
    encoder = model._similar[0]
    encoder.encode([reply, *lines])
    return sorted(lines, key=lambda line: -float(encoder.vectors[reply] @ encoder.vectors[line]))


@pytest.mark.parametrize("top", [1, 2, 9])
def test_the_most_similar_lines_answer_the_question(top: int, build: Build, case: Case) -> None:
    model = build("p5", top=top, question="who ?")
    replies = ["cats and dogs", "a song", "i sing all day"]
    found = read(model, case(said=["hi", "do you swim"], facts=FACTS, candidates=replies))
    for text, reply in zip(found, replies, strict=True):
        lines = " ".join(similar(model, reply, FACTS)[:top])
        expected = f"[CLS] who ? [SEP] {lines} [SEP] hi [SEP] do you swim [SEP] {reply} [SEP]"
        assert text.split() == model.encoder.tokenizer.decode(model.encoder.tokenizer(expected[5:-5]).input_ids).split()
    assert similar(model, replies[2], FACTS)[0] == replies[2]
    assert len(set(found)) == 3


def test_whose_lines_are_read(build: Build, case: Case) -> None:
    model = build("p5", top=1, question="who ?", partner_question="what ?")
    told = case(said=["hi"], facts=FACTS[:1], partner=ABOUT[:1], candidates=["no"])
    tokenizer = model.encoder.tokenizer
    expected: dict[Whose, str] = {
        "none": "hi [SEP] no",
        "self": "who ? [SEP] i like cats [SEP] hi [SEP] no",
        "partner": "what ? [SEP] a bird sings [SEP] hi [SEP] no",
        "both": "who ? [SEP] i like cats [SEP] what ? [SEP] a bird sings [SEP] hi [SEP] no",
    }
    for whose, text in expected.items():
        model.persona = whose
        assert read(model, told) == [tokenizer.decode(tokenizer(text).input_ids)]
    silent = case(said=[], candidates=["no"])
    assert read(model, silent) == [tokenizer.decode(tokenizer("[SEP] no").input_ids)]


def test_the_scores_are_those_of_transformers(build: Build, cases: Sequence[Example]) -> None:
    model = build("p5", longest=512)
    bert, tokenizer = model.encoder.backbone, model.encoder.tokenizer
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for row, case in zip(scores, cases, strict=True):
            for score, reply in zip(row, case.target.candidates, strict=True):
                lines = similar(model, reply, case.facts("self"))[: model.top]
                asked = [model.questions[0], " ".join(lines)] if lines else []
                before = " [SEP] ".join([*asked, *(turn.text for turn in case.context.turns)])
                inputs = tokenizer(before, reply, return_tensors="pt")
                expected = model.judge.output(bert(**inputs).pooler_output)[0, 0]
                torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
    assert scores.std() > 1e-3


def test_what_chooses_the_lines_is_neither_trained_nor_saved(build: Build) -> None:
    model = build("p5")
    assert {name.partition(".")[0] for name in model.state_dict()} == {"encoder", "judge"}
    model.train()
    assert not model._similar[0].transformer.training


def test_the_oldest_utterances_give_way(build: Build, case: Case) -> None:
    model = build("p5", question="who ?")
    replies, facts = ["a cat"], ["my dog"]
    last = case(said=["all day"], facts=facts, candidates=replies)
    short, length = read(model, last), model.collate([last]).sequences.lengths[0]
    whole = case(said=["the river sings"] * 5 + ["all day"], facts=facts, candidates=replies)
    assert read(model, whole) != short
    model.utterances = 1
    assert read(model, whole) == short
    model.utterances, model.encoder.longest = 0, length + 1
    assert read(model, whole) == short


def test_arguments_that_cannot_be_are_refused(backbone: str) -> None:
    for name in ("top", "utterances"):
        with pytest.raises(InputError, match=rf"task\.model\.{name}: 0 is not at least 1"):
            P5(backbone=backbone, sentence_encoder=backbone, **{name: 0})
