import json
import re
from pathlib import Path

import pytest

from personae.data import jsonl
from personae.types import Dialogue, InputError, Persona, Speaker, Turn

GOOD = {
    "id": "d1",
    "personas": [["i like cats ."], []],
    "turns": [{"speaker": 0, "text": "hi !"}, {"speaker": 1, "text": "hello .", "candidates": ["no .", "hello ."]}],
}


def written(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def changed(**fields: object) -> dict[str, object]:
    return {key: value for key, value in (GOOD | fields).items() if value is not ...}


def test_a_dialogue(tmp_path: Path) -> None:
    assert jsonl.read(written(tmp_path, GOOD)) == [
        Dialogue(
            "d1",
            (Speaker("d1/0", Persona(("i like cats .",))), Speaker("d1/1")),
            (Turn(0, "hi !"), Turn(1, "hello .", ("no .", "hello ."))),
        )
    ]


def test_optional_fields(tmp_path: Path) -> None:
    turns = [{"speaker": 1, "text": "hi", "candidates": None, "mood": 3, "candidate": 2, "speaker_id": "ann"}]
    extra = {"source": "x", "uid": 3, "persona": "x", "speaker_ids": []}
    records = [changed(id=..., turns=turns, **extra), changed(speakers=["ann", "bob"])]
    first, second = jsonl.read(written(tmp_path, *records))
    assert (first.id, first.turns) == ("own-1", (Turn(1, "hi"),))
    assert [speaker.id for speaker in second.speakers] == ["ann", "bob"]


def test_anything_that_is_text_survives(tmp_path: Path) -> None:
    odd = "\x00\x0b\x0c\x1c\x1e\x85\u2028\u2029\r\n\t😀 你好 \u202e|\\n\ufeff"
    dialogue = Dialogue(
        "d\u2028",
        (Speaker("ann", Persona(tuple(f"line {i} {odd}" for i in range(200)))), Speaker("bob")),
        (Turn(0, odd), Turn(0, "again"), Turn(1, "word " * 5000, ("word " * 5000, odd))),
    )
    jsonl.write([dialogue], tmp_path / "own.jsonl")
    assert jsonl.read(tmp_path / "own.jsonl") == [dialogue]
    assert [path.name for path in tmp_path.iterdir()] == ["own.jsonl"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([GOOD], "own.jsonl:2: a list where a JSON object is wanted"),
        (changed(id=7), "own.jsonl:2: field id: is a number: a text is wanted"),
        (changed(id="d0"), "own.jsonl:2: field id: 'd0' is taken"),
        (changed(personas=...), "own.jsonl:2: field personas: is missing"),
        (changed(personas=..., persona=[[], []]), "own.jsonl:2: field persona: is not known, personas is: rename it"),
        (changed(Speakers=["ann", "bob"]), "own.jsonl:2: field Speakers: is not known, speakers is"),
        (
            changed(turns=[{"speaker": 1, "text": "a", "candidate": ["a", "b"]}]),
            "own.jsonl:2: field turns[0].candidate: is not known, candidates is: rename it",
        ),
        (changed(personas=[[]]), "own.jsonl:2: field personas: there are 1: two are wanted"),
        (changed(personas=["cats", []]), "own.jsonl:2: field personas[0]: is a text: a list is wanted"),
        (changed(personas=[[], ["a", 3]]), "own.jsonl:2: field personas[1][1]: is a number: a text is wanted"),
        (changed(speakers=["ann"]), "own.jsonl:2: field speakers: there are 1"),
        (changed(turns=...), "own.jsonl:2: field turns: is missing"),
        (changed(turns={}), "own.jsonl:2: field turns: is an object: a list is wanted"),
        (changed(turns=[]), "own.jsonl:2: field turns: there are none"),
        (changed(turns=["hi"]), "own.jsonl:2: field turns[0]: is a text: an object is wanted"),
        (changed(turns=[{"text": "hi"}]), "own.jsonl:2: field turns[0].speaker: 0 or 1 is wanted, not null"),
        (changed(turns=[{"speaker": 2, "text": "hi"}]), "field turns[0].speaker: 0 or 1 is wanted, not 2"),
        (changed(turns=[{"speaker": True, "text": "hi"}]), "field turns[0].speaker: 0 or 1 is wanted, not true"),
        (changed(turns=[{"speaker": 0}]), "own.jsonl:2: field turns[0].text: is missing"),
        (changed(turns=[{"speaker": 0, "text": " "}]), "own.jsonl:2: field turns[0].text: is empty"),
        (changed(turns=[{"speaker": 0, "text": "\ud800"}]), "field turns[0].text: holds half a surrogate pair"),
        (changed(turns=[{"speaker": 1, "text": "a", "candidates": "a"}]), "field turns[0].candidates: is a text"),
        (
            changed(turns=[{"speaker": 1, "text": "a", "candidates": ["b", "c"]}]),
            "own.jsonl:2: field turns[0].candidates: the reply is not among its candidates",
        ),
        (
            changed(turns=[{"speaker": 1, "text": "a", "candidates": ["a"]}]),
            "own.jsonl:2: field turns[0].candidates: a single candidate is no choice",
        ),
    ],
)
def test_malformed_fields(tmp_path: Path, record: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        jsonl.read(written(tmp_path, changed(id="d0"), record))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "own.jsonl: the file is empty"),
        (b" \n\n", "own.jsonl: the file is empty"),
        (b"{}\nhello\n", "own.jsonl:1: field personas: is missing"),
        (b"hello\n", "own.jsonl:1: not JSON (column 1:"),
        (b"\n\n{'id': 1}\n", "own.jsonl:3: not JSON (column 2:"),
        (b"[" * 100_000 + b"\n", "own.jsonl:1: not JSON"),
        (b'{"id": ' + b"1" * 5000 + b"}\n", "own.jsonl:1: not JSON"),
        (b'{"id": "caf\xe9"}\n', "own.jsonl:1: byte 11 of the file is not UTF-8"),
    ],
)
def test_malformed_files(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "own.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=re.escape(message)):
        jsonl.read(tmp_path / "own.jsonl")


def test_a_file_cut_short(tmp_path: Path) -> None:
    whole = written(tmp_path, GOOD, changed(id="d2")).read_bytes()
    (tmp_path / "own.jsonl").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"own\.jsonl:2: the last line breaks off"):
        jsonl.read(tmp_path / "own.jsonl")
    (tmp_path / "own.jsonl").write_bytes(whole.rstrip(b"\n"))
    assert len(jsonl.read(tmp_path / "own.jsonl")) == 2


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    before = path.read_bytes()
    (dialogue,) = jsonl.read(path)
    surrogate = Dialogue("x", dialogue.speakers, (Turn(0, "\ud800"),))
    with pytest.raises(UnicodeEncodeError):
        jsonl.write([dialogue, surrogate], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written"):
        jsonl.write([dialogue], tmp_path / "nowhere" / "own.jsonl")


def test_messages_and_what_they_answer(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"user": "u1", "text": "i sail .", "context": ["hi !", "what do you do ?"]},
        {"user": "u2", "text": ""},
        {"user": "u1", "history": ["", "my boat is red ."]},
    )
    answers = [("u1", "i sail .", ("hi !", "what do you do ?")), ("u2", "", ()), ("u1", "", ())]
    assert list(jsonl.answers(path)) == [*answers, ("u1", "my boat is red .", ())]
    assert list(jsonl.messages(path)) == [(user, text) for user, text, _ in jsonl.answers(path)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"user": "u1", "history": ["hi"], "context": ["ho"]}, "field context: is of one message"),
        ({"user": "u1", "text": "hi", "context": "ho"}, "field context: is a text: a list is wanted"),
        ({"user": "u1", "text": "hi", "context": [""]}, r"field context\[0\]: is empty"),
        ({"user": "u1", "text": "hi", "contxt": ["ho"]}, "field contxt: is not known, context is: rename it"),
    ],
)
def test_mistakes_in_what_messages_answer(tmp_path: Path, record: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf":1: {message}"):
        list(jsonl.answers(written(tmp_path, record)))
