from dataclasses import replace
from pathlib import Path

import pytest

from personae.tasks.variation import Variation
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn

LINES = tuple(f"i like {word} more than anything else" for word in ("tea", "ice", "dogs", "cars", "snow"))


def cases(count: int = 200) -> list[Example]:
    speakers = (Speaker("0", Persona(LINES[:3])), Speaker("1", Persona(LINES[3:])))
    turns = (Turn(0, "hi"), Turn(1, "ho"), Turn(0, "hm"))
    return [
        Example(Dialogue(f"d{number}", speakers, turns[:length]), replace(turns[length], speaker=length % 2))
        for number in range(count)
        for length in (1, 2)
    ]


def facts(example: Example) -> tuple[tuple[str, ...], ...]:
    return tuple(speaker.persona.facts for speaker in example.context.speakers)


def test_lines_come_in_another_order() -> None:
    variation = Variation(replier=0, partner=0, words=0)
    told = {facts(example) for example in variation.apply(cases(), seed="0")}
    assert len(told) == 12
    assert {tuple(map(frozenset, pair)) for pair in told} == {(frozenset(LINES[:3]), frozenset(LINES[3:]))}
    assert variation.apply(cases(), seed="0") == variation.apply(cases(), seed="0")
    assert variation.apply(cases(), seed="0") != variation.apply(cases(), seed="1")


def test_a_side_of_a_dialogue_is_told_the_same() -> None:
    examples = cases(1) + [replace(case, context=replace(case.context, turns=())) for case in cases(1)]
    told = Variation().apply(examples, seed="0")
    for side in (0, 1):
        assert len({facts(example) for example in told if example.target.speaker == side}) == 1


def test_personas_and_words_are_left_out() -> None:
    told = Variation(replier=0.1, partner=0.4, words=0.25).apply(cases(), seed="0")
    own, other = ([facts(example)[abs(side - example.target.speaker)] for example in told] for side in (0, 1))
    assert 0.05 < sum(not lines for lines in own) / len(own) < 0.15
    assert 0.3 < sum(not lines for lines in other) / len(other) < 0.5
    lengths = [len(line.split()) for lines in own + other for line in lines]
    assert 0.7 < sum(lengths) / len(lengths) / 7 < 0.8
    assert [example.target for example in told] == [example.target for example in cases()]


def test_lines_are_told_in_other_words(tmp_path: Path) -> None:
    path = tmp_path / "rewordings.tsv"
    path.write_text(f"{LINES[0]}\ta cup warms me\tmy kettle is never cold\n{LINES[1]}\tgive me a cone\n")
    variation = Variation(replier=0, partner=0, words=0, reworded=0.5, rewordings=str(path))
    told = [lines for case in variation.apply(cases(), seed="0") for lines in facts(case) if len(lines) == 3]
    new = [line for lines in told for line in lines if line not in LINES]
    assert set(new) == {"a cup warms me", "my kettle is never cold", "give me a cone"}
    assert 0.4 < len(new) / (2 * len(told)) < 0.6
    assert all(LINES[2] in lines for lines in told)


def test_words_of_what_was_said_are_left_out() -> None:
    long = tuple(Turn(place % 2, f"the {place} quick brown foxes and dogs") for place in range(4))
    examples = [
        Example(replace(case.context, turns=long[:length]), case.target) for case in cases() for length in (3, 4)
    ]
    told = Variation(said=0.25).apply(examples, seed="0")
    words = [len(turn.text.split()) for example in told for turn in example.context.turns]
    assert 0.7 < sum(words) / len(words) / 7 < 0.8
    sides: dict[tuple[str, int], list[tuple[Turn, ...]]] = {}
    for example in told:
        sides.setdefault((example.context.id, example.target.speaker), []).append(example.context.turns)
    assert all(longer[:3] == shorter for shorter, longer in sides.values())


@pytest.mark.parametrize("name", ["replier", "partner", "words", "said", "reworded"])
def test_shares(name: str) -> None:
    with pytest.raises(InputError, match=f"task.variation.{name}: 1.0 is not at least 0 and less than 1"):
        Variation(**{name: 1.0})
