from dataclasses import replace

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


@pytest.mark.parametrize("name", ["replier", "partner", "words"])
def test_shares(name: str) -> None:
    with pytest.raises(InputError, match=f"task.variation.{name}: 1.0 is not at least 0 and less than 1"):
        Variation(**{name: 1.0})
