import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from personae.data import ubuntu_irc
from personae.data.read import read
from personae.types import InputError


def message(number: int, nick: str, *answers: int, text: str | None = None) -> dict[str, Any]:
    return {"id": number, "nick": nick, "text": text or f"said by {nick.upper()} {number}", "re": list(answers)}


def write(path: Path, *turns: object) -> Path:
    path.write_text(json.dumps({"split": "train", "file": "x", "turns": list(turns)}) + "\n", encoding="utf-8")
    return path


def told(path: Path) -> list[list[tuple[str, str]]]:
    return [[(d.speakers[turn.speaker].id, turn.text) for turn in d.turns] for d in read(path)]


def test_a_dialogue_is_a_chain_of_answers_between_two(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        message(1, "ann"),
        message(2, "ann", 1),  # goes on
        message(3, "bob", 2),
        message(4, "cid", 2),  # another answers the same
        message(5, "ann", 3),
        message(6, "cid", 5),  # a third one in ann's and bob's chain
        message(7, "ann", 4),
        message(8, "dan"),  # whom nobody answers
    )
    first = ("ann", "said by ANN 1 said by ANN 2")
    assert told(path) == [
        [first, ("bob", "said by BOB 3"), ("ann", "said by ANN 5")],
        [first, ("cid", "said by CID 4"), ("ann", "said by ANN 7")],
        [("ann", "said by ANN 5"), ("cid", "said by CID 6")],
    ]


def test_whom_a_message_is_addressed_to_is_no_part_of_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        message(1, "ann", text="does the boy know ?"),
        message(2, "bob", 1, text="ann: ask cid , bobby or bob."),
        message(3, "ann", 2, text=" @bob, thanks"),
        message(4, "cid", 3, text="ann :"),
        message(5, "ann", 4, text="annual reports , cid"),
    )
    assert told(path) == [
        [("ann", "does the boy know ?"), ("bob", "ask nick , bobby or nick."), ("ann", "thanks")],
        [("ann", "thanks"), ("cid", "nick"), ("ann", "annual reports , nick")],
    ]


def test_each_answer_is_there_once(corpora: Path) -> None:
    dialogues = read(corpora / "ubuntu_irc" / "conversations.jsonl")
    answers = [(d.id.rpartition("/")[0], d.speakers[t.speaker].id, t.text) for d in dialogues for t in d.turns[1:]]
    with (corpora / "ubuntu_irc" / "conversations.jsonl").open(encoding="utf-8") as file:
        count = sum(len(json.loads(line)["turns"]) for line in file)
    assert 20_000 < len(answers) <= count
    assert all(one.speaker != other.speaker for d in dialogues for one, other in pairwise(d.turns))


@pytest.mark.parametrize(
    ("turns", "where"),
    [
        ([{"nick": "ann"}], "turns[0]: an object with nick and text is wanted"),
        ([message(1, "ann"), "hi"], "turns[1]: an object with nick and text is wanted"),
        (["nick"], "turns[0]: an object with nick and text is wanted"),
        ([{**message(1, "ann"), "re": 7}], "turns[0].re: a list of the ids of messages is wanted"),
        ([{**message(1, "ann"), "re": [[7]]}], "turns[0].re: a list of the ids of messages is wanted"),
        ([{**message(1, "ann"), "id": [7]}], "turns[0].id: a number or a text is wanted"),
    ],
)
def test_mistakes(tmp_path: Path, turns: list[object], where: str) -> None:
    with pytest.raises(InputError) as raised:
        ubuntu_irc.read(write(tmp_path / "c.jsonl", *turns))
    assert f"c.jsonl:1: field {where}" in str(raised.value)
