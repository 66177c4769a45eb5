import json
import re
from pathlib import Path

import pytest

from personae.data import parlai, personachat
from personae.types import InputError, Turn


def entry(*cases: tuple[list[str], list[str]]) -> dict[str, object]:
    utterances = [{"history": history, "candidates": candidates} for history, candidates in cases]
    return {"personality": ["i like cats ."], "utterances": utterances}


def written(tmp_path: Path, record: object) -> Path:
    path = tmp_path / "pc.json"
    path.write_text(json.dumps(record))
    return path


GOOD = entry((["hi"], ["no", "hello"]), (["hi", "hello", "well ?"], ["yes", "fine"]))


def test_one_split(tmp_path: Path) -> None:
    (dialogue,) = personachat.read_json(written(tmp_path, {"valid": [GOOD]}))
    assert dialogue.id == "pc-valid-1"
    assert [speaker.persona.facts for speaker in dialogue.speakers] == [(), ("i like cats .",)]
    assert dialogue.turns == (
        Turn(0, "hi"),
        Turn(1, "hello", ("no", "hello")),
        Turn(0, "well ?"),
        Turn(1, "fine", ("yes", "fine")),
    )


def test_silence_is_no_turn(tmp_path: Path) -> None:
    path = written(tmp_path, {"valid": [entry((["__ SILENCE __"], ["no", "hello"]))]})
    assert personachat.read_json(path)[0].turns == (Turn(1, "hello", ("no", "hello")),)


def test_the_split_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    path = written(tmp_path, {"train": [GOOD, GOOD], "valid": [GOOD]})
    assert [d.id for d in personachat.read_json(path, "train")] == ["pc-train-1", "pc-train-2"]
    for split, what in ((None, r"which split\?"), ("test", "there is no split 'test':")):
        with pytest.raises(InputError, match=rf"{what} write .*pc\.json:train or .*pc\.json:valid"):
            personachat.read_json(path, split)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([GOOD], '{"train": [...], "valid": [...]} is wanted'),
        ({}, '{"train": [...], "valid": [...]} is wanted'),
        ({"valid": [{"utterances": []}]}, "pc.json: valid[0]: personality and utterances"),
        ({"valid": ["x"]}, "pc.json: valid[0]: personality and utterances"),
        ({"valid": [entry()]}, "pc.json: valid[0]: field utterances: there are none"),
        ({"valid": [GOOD | {"personality": ["a", " "]}]}, "valid[0]: field personality[1]: is empty"),
        ({"valid": [entry(([""], ["no", "a"]))]}, "valid[0]: field utterances[0].history[0]: is empty"),
        ({"valid": [entry((["hi"], ["", "a"]))]}, "valid[0]: field utterances[0].candidates[0]: is empty"),
        ({"valid": [entry((["hi"], ["a"]))]}, "valid[0]: field utterances[0].candidates: a single candidate is"),
        ({"valid": [entry((["hi"], []))]}, "valid[0].utterances[0]: history and last candidate"),
        ({"valid": [entry((["hi", "oh"], ["no", "a"]))]}, "valid[0].utterances[0]: history and last candidate"),
        (
            {"valid": [entry((["hi"], ["a", "b"]), (["hi", "a", "c"], ["x", "y"]))]},
            "valid[0].utterances[0]: history and last candidate",
        ),
    ],
)
def test_malformed(tmp_path: Path, record: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        personachat.read_json(written(tmp_path, record))


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "pc.json").write_text('{"id": 1}\n{"id": 2}\n')
    with pytest.raises(InputError, match=r"pc\.json: not JSON .* is called \.jsonl"):
        personachat.read_json(tmp_path / "pc.json")


def test_the_json_form_of_the_official_validation_is_the_same_dialogues(corpora: Path, tmp_path: Path) -> None:
    dialogues = parlai.read(corpora / "personachat/valid_self_original.txt")[:50]
    record = [
        {
            "personality": dialogue.speakers[1].persona.facts,
            "utterances": [
                {"history": [turn.text for turn in dialogue.turns[:i]], "candidates": dialogue.turns[i].candidates}
                for i in range(1, len(dialogue.turns), 2)
            ],
        }
        for dialogue in dialogues
    ]
    again = personachat.read_json(written(tmp_path, {"valid": record}))
    assert [d.turns for d in again] == [d.turns for d in dialogues]
    assert [d.speakers[1].persona for d in again] == [d.speakers[1].persona for d in dialogues]
