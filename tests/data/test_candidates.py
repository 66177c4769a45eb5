import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from personae.data.candidates import Sides, draw, examples, fingerprint, offered
from personae.types import Dialogue, InputError, Turn

Make = Callable[..., Dialogue]


@pytest.fixture
def dialogues(make: Make) -> list[Dialogue]:
    return [make(f"d{i}", f"hi {i}", f"first {i}", f"and {i} ?", "same") for i in range(30)]


@pytest.mark.parametrize(("sides", "places"), [("second", [1, 3]), ("both", [1, 2, 3])])
def test_examples_without_candidates(make: Make, sides: Sides, places: list[int]) -> None:
    dialogue = make("d", "a", "b", "c", "d")
    found = examples([dialogue], sides=sides)
    assert [example.id for example in found] == [f"d#{i}" for i in places]
    assert [example.target for example in found] == [dialogue.turns[i] for i in places]
    assert found[-1].context.turns == dialogue.turns[:3]


def test_the_first_turn_is_no_example_whoever_says_it(make: Make) -> None:
    dialogue = replace(make("d"), turns=(Turn(1, "a"), Turn(0, "b"), Turn(1, "c")))
    assert [example.target.text for example in examples([dialogue])] == ["c"]


@pytest.mark.parametrize("sides", ["second", "both"])
def test_only_turns_with_candidates_are_examples_where_there_are_any(make: Make, sides: Sides) -> None:
    dialogue = replace(
        make("d"), turns=(Turn(1, "a", ("a", "x")), Turn(0, "b"), Turn(1, "c"), Turn(0, "e", ("e", "y")))
    )
    assert [example.id for example in examples([dialogue], sides=sides)] == ["d#0", "d#3"]


@pytest.mark.parametrize("sides", ["second", "both"])
def test_what_is_drawn(dialogues: list[Dialogue], sides: Sides) -> None:
    drawn = draw(dialogues, n=20, sides=sides)
    found = examples(drawn, sides=sides)
    assert len(found) == {"second": 60, "both": 90}[sides]
    replies = {example.target.text: example.context.id for example in found}
    for example in found:
        candidates = example.target.candidates
        assert len(candidates) == len(set(candidates)) == 20
        assert example.target.text in candidates
        own = {turn.text for d in dialogues if d.id == example.context.id for turn in d.turns} - {"same"}
        assert not own & (set(candidates) - {example.target.text})
        assert set(candidates) <= replies.keys()
    places = Counter(example.target.candidates.index(example.target.text) for example in found)
    assert len(places) > 12
    assert [[turn.text for turn in d.turns] for d in drawn] == [[turn.text for turn in d.turns] for d in dialogues]


def test_the_smallest_list_that_is_enough(make: Make) -> None:
    dialogues = [make(f"d{i}", "hi", f"reply {i}") for i in range(20)]
    for example in examples(draw(dialogues, n=20)):
        assert set(example.target.candidates) == {f"reply {i}" for i in range(20)}
    few = "d0#1: 20 candidates cannot be drawn: other dialogues have only 18 other replies"
    with pytest.raises(InputError, match=f"{few} of speaker 1, and only these count: give more"):
        draw(dialogues[:19], n=20)
    with pytest.raises(InputError, match=f"{few}: give more"):
        draw(dialogues[:19], n=20, sides="both")
    with pytest.raises(InputError, match="1 are no choice"):
        draw(dialogues, n=1)


def test_a_draw_replaces_the_candidates_that_are_there(dialogues: list[Dialogue]) -> None:
    assert draw(draw(dialogues, n=5, seed=3, sides="both"), n=4) == draw(dialogues, n=4)


def test_the_seed_and_nothing_else_decides(dialogues: list[Dialogue]) -> None:
    assert draw(dialogues, n=5) == draw(dialogues, n=5, seed=0)
    assert draw(dialogues, n=5) != draw(dialogues, n=5, seed=1)
    assert draw(dialogues[::-1], n=5) == draw(dialogues, n=5)[::-1]


def test_every_process_draws_the_same() -> None:
    program = (
        "from personae.data.candidates import *; from personae.types import *;"
        "s = (Speaker('a'), Speaker('b'));"
        "ds = [Dialogue(f'd{i}', s, (Turn(0, 'hi'), Turn(1, f'reply {i}'))) for i in range(50)];"
        "print(fingerprint(examples(draw(ds)), n=20).sha256, draw(ds)[0].turns[1].candidates[:3])"
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
    (line,) = outputs
    assert line.split()[0] == "eced60effb394d8b792351e3ae667833fd62e47c1d79112e8ad70c4bba701ca9"


def test_the_fingerprint_is_of_what_is_offered_not_of_its_order(dialogues: list[Dialogue]) -> None:
    found = examples(draw(dialogues, n=5))
    moved = [replace(e, target=replace(e.target, candidates=e.target.candidates[::-1])) for e in found]
    assert moved != found
    assert fingerprint(moved) == fingerprint(found)
    target = found[0].target
    other = replace(found[0], target=replace(target, candidates=(*target.candidates[1:], "something else")))
    assert fingerprint([other, *found[1:]]).sha256 != fingerprint(found).sha256
    assert fingerprint(found[1:]).sha256 != fingerprint(found).sha256


def test_names_of_draws(dialogues: list[Dialogue]) -> None:
    drawn, own = offered(dialogues, n=5)
    assert own.name == "own5"
    assert drawn == draw(dialogues, n=5)
    assert offered(dialogues, n=5, seed=3)[1].name == "own5-seed3"
    given, official = offered(drawn, n=7)
    assert given == drawn
    assert (official.name, official.sha256) == ("official", own.sha256)


def test_candidates_for_some_dialogues_only(dialogues: list[Dialogue]) -> None:
    mixed = [*draw(dialogues, n=5)[:10], *dialogues[10:]]
    with pytest.raises(InputError, match="d10#1: has no candidates, other dialogues have"):
        offered(mixed)
