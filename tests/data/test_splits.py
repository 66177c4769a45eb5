import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from personae.data.read import read
from personae.data.splits import keep_apart, opening, persona_disjoint
from personae.text import line_key
from personae.types import Dialogue, InputError, Persona, Turn

Make = Callable[..., Dialogue]


def persona_lines(dialogues: Iterable[Dialogue]) -> set[str]:
    return {line_key(line) for d in dialogues for speaker in d.speakers for line in speaker.persona.facts}


def personas(dialogues: Iterable[Dialogue]) -> set[frozenset[str]]:
    facts = (speaker.persona.facts for d in dialogues for speaker in d.speakers)
    return {frozenset(map(line_key, lines)) for lines in facts if lines}


def test_line_key() -> None:
    assert line_key("I'm  a Vegan!") == line_key("im a vegan .") != line_key("i am a vegan")
    assert line_key("🎸") == "🎸" != line_key("🎻")
    assert line_key("你好。") == "你好"


@pytest.fixture
def ring(make: Make) -> list[Dialogue]:
    """100 people on a ring, each with two lines, each talking with the next one, twice."""
    people = [(f"i am number {i}", f"I LIKE {i} cats.") for i in range(100)]
    return [
        make(f"d{i}-{k}", f"hi {i} {k}", f"hello {i} {k}", facts=(people[i], people[(i + 1) % 100]))
        for i in range(100)
        for k in range(2)
    ]


@pytest.mark.parametrize("by", ["line", "persona"])
def test_a_ring_is_cut_twice(ring: list[Dialogue], by: Literal["line", "persona"]) -> None:
    train, held = persona_disjoint(ring, share=0.1, by=by)
    assert (len(train), len(held)) == (176, 20)  # what is dropped is the two dialogues at either end
    assert not persona_lines(train) & persona_lines(held)
    assert held == [d for d in ring if d in held]
    assert train == [d for d in ring if d in train]


def test_the_seed_decides(ring: list[Dialogue]) -> None:
    assert persona_disjoint(ring, seed=1) == persona_disjoint(ring, seed=1) != persona_disjoint(ring, seed=2)


def test_single_lines_may_be_shared_by_persona_only(make: Make) -> None:
    # Everybody shares a line with the next person, so that no line can be held out.
    def person(i: int) -> tuple[str, ...]:
        return (f"i am {i}", f"i like {i}", f"link {i}", f"link {i + 1}")

    chain = [make(f"d{i}", f"hi {i}", f"yes {i}", facts=(person(i), person(i + 1))) for i in range(0, 80, 2)]
    with pytest.raises(
        InputError, match=r'line is shared.* or split by persona \(.*split_by: persona, .*by="persona"\)$'
    ):
        persona_disjoint(chain, share=0.1)
    unknown: Any = "bogus"
    with pytest.raises(InputError, match="by: 'bogus' is none of the choices line, persona"):
        persona_disjoint(chain, by=unknown)
    train, held = persona_disjoint(chain, share=0.1, by="persona")
    assert (len(train), len(held)) == (36, 4)
    assert not personas(train) & personas(held)


def test_a_persona_with_a_line_left_out_is_the_same_persona(make: Make) -> None:
    dialogues = []
    for i in range(40):
        lines = (f"a {i}", f"b {i}", f"c {i}")
        for k, facts in enumerate((lines, lines[:2], lines[1:])):
            dialogues.append(make(f"d{i}-{k}", f"hi {i} {k}", f"yes {i} {k}", facts=((), facts)))
    train, held = persona_disjoint(dialogues, share=0.1, by="persona")
    assert (len(train), len(held)) == (108, 12)
    assert not persona_lines(train) & persona_lines(held)


def test_a_dialogue_told_from_both_sides_stays_together(make: Make) -> None:
    dialogues = []
    for i in range(40):
        one = make(f"a{i}", *(f"turn {i} {k}" for k in range(5)), facts=((), (f"i am {i}",)))
        swapped = tuple(Turn(1 - turn.speaker, turn.text) for turn in one.turns[:4])
        mirror = make(f"b{i}", facts=((), (f"i am not {i}",)))
        dialogues += [one, replace(mirror, turns=swapped)]
    train, held = persona_disjoint(dialogues, share=0.1)
    assert (len(train), len(held)) == (72, 8)
    assert not {opening(d) for d in train} & {opening(d) for d in held}


def test_a_line_that_most_have_does_not_count(ring: list[Dialogue]) -> None:
    everyone = [
        replace(
            d,
            speakers=(d.speakers[0], replace(d.speakers[1], persona=Persona((*d.speakers[1].persona.facts, "i help")))),
        )
        for d in ring
    ]
    train, held = persona_disjoint(everyone, share=0.1)
    assert (len(train), len(held)) == (176, 20)
    assert persona_lines(train) & persona_lines(held) == {"ihelp"}


def test_no_personas_at_all(make: Make) -> None:
    train, held = persona_disjoint([make(f"d{i}", f"hi {i}", "yes") for i in range(40)], share=0.25)
    assert (len(train), len(held)) == (30, 10)


@pytest.mark.parametrize("by", ["line", "persona"])
def test_what_hangs_together_cannot_be_split(make: Make, by: Literal["line", "persona"]) -> None:
    dialogues = [
        make(f"d{i}{k}", f"hi {i} {k}", "yes", facts=((f"i am {i}",), (f"i am {k}",)))
        for i in range(4)
        for k in range(i)
    ]
    with pytest.raises(InputError, match="give a dev file of your own"):
        persona_disjoint(dialogues, by=by)


def test_what_is_reported_on_is_no_part_of_the_rest(make: Make) -> None:
    said = [[f"hi {n}", f"hello {n}", f"how are you {n}", f"well {n}", f"bye {n}"] for n in range(20)]
    train = [make(f"t{n}", *turns, facts=(("a",), ("b",))) for n, turns in enumerate(said)]
    other = [make(f"o{n}", f"so {n}", f"what {n}") for n in range(20)]
    fresh = [make(f"f{n}", f"and {n}", f"then {n}") for n in range(18)]
    copies = [make(f"c{n}", *(f"{turn.upper()}!" for turn in turns)) for n, turns in enumerate(said)]
    cut = [make(f"d{n}", *turns[1:4]) for n, turns in enumerate(said)]
    little = [make(f"l{n}", *turns[:2], f"oh {n}", f"no {n}") for n, turns in enumerate(said)]
    halves = [make(f"h{n}", *part) for n, turns in enumerate(said) for part in (turns[:3], turns[2:])]
    assert keep_apart([*copies[:5], *fresh[:15]], "valid", {"train": train, "dev": other}) == {"train": 5, "dev": 0}
    few = [*copies[:2], *fresh[:2]]  # which say nothing
    assert keep_apart(few, "valid", {"train": train, "dev": other}) == {"train": 2, "dev": 0}
    assert keep_apart(little, "valid", {"train": train, "dev": other}) == {"train": 0, "dev": 0}
    for reported, dev, told in (
        (copies, other, "20 of its 20 dialogues are in train too"),
        (other, other, "20 of its 20 dialogues are in dev too"),
        (cut, other, "20 of its 20 dialogues are in train too"),
        ([*copies[:6], *fresh[:14]], other, "6 of its 20 dialogues are in train too"),
    ):
        with pytest.raises(InputError, match=f"valid: {told}, whole or for the greater part"):
            keep_apart(reported, "valid", {"train": train, "dev": dev})
    with pytest.raises(InputError, match="20 of its 20 dialogues are in halves too"):
        keep_apart(copies, "valid", {"halves": halves})
    with pytest.raises(InputError, match="2 of its 2 dialogues are in train too"):
        keep_apart(copies[:2], "valid", {"train": train})


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_share(make: Make, share: float) -> None:
    with pytest.raises(InputError, match="is not between 0 and 1"):
        persona_disjoint([make("d", "hi", "yes")], share=share)


def test_every_process_splits_the_same() -> None:
    program = (
        "from personae.data.splits import *; from personae.types import *; import random; r = random.Random(0);"
        "p = lambda: Persona(tuple(f'line {r.randrange(300)}' for _ in range(2)));"
        "ds = [Dialogue(f'd{i}', (Speaker('a', p()), Speaker('b')), (Turn(0, f'{i}'),)) for i in range(100)];"
        "print([d.id for part in persona_disjoint(ds, share=0.2) for d in part])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(("by", "least"), [("line", 3600), ("persona", 3800)])
def test_persona_chat(corpora: Path, by: Literal["line", "persona"], least: int) -> None:
    train, held = persona_disjoint(read(corpora / "personachat/train_partial.jsonl"), by=by)
    assert 220 <= len(held) <= 240
    assert len(train) >= least
    assert not personas(train) & personas(held)
    assert bool(persona_lines(train) & persona_lines(held)) == (by == "persona")
