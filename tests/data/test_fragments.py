from collections.abc import Callable
from pathlib import Path

import pytest

from personae.data import fragments, jsonl
from personae.data.files import Files
from personae.types import Dialogue, InputError

Make = Callable[..., Dialogue]

ROWS = """Utterance:  i sail every summer . do you like boats ? mine is red . ok
Persona: i sail.

utterance: no , i am a cook who stays in the kitchen all day long
Persona: I cook!
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fragments.txt"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_a_row_is_what_one_speaker_said(file: Path) -> None:
    one, other = fragments.read(file, [])
    assert [(turn.speaker, turn.text) for turn in one.turns] == [
        (0, "i sail every summer . do you like boats ?"),
        (0, "mine is red . ok"),
    ]
    assert [turn.speaker for turn in other.turns] == [1]
    assert [speaker.persona.facts for speaker in one.speakers] == [("i sail.",), ("I cook!",)]
    assert [dialogue.id for dialogue in (one, other)] == ["fragments-1", "fragments-2"]


def test_two_lines_find_two_personas(file: Path, make: Make) -> None:
    whole = (("i cook .", "i am old ."), ("i sail .", "i am young ."))
    one, other = fragments.read(file, [make("d", "hi", facts=whole), make("e", "hi", facts=(whole[0], ("me",)))])
    for dialogue in (one, other):
        assert [speaker.persona.facts for speaker in dialogue.speakers] == [whole[1], whole[0]]
    twice = [make("d", "hi", facts=whole), make("e", "hi", facts=(("i cook",), ("i sail", "i read")))]
    assert fragments.read(file, twice)[0].speakers[0].persona.facts == ("i sail.",)


def test_rows_of_known_dialogues_are_left_out(file: Path, make: Make) -> None:
    rows = fragments.read(file, [])
    known = make("d", "hello", "I sail every summer, do you like boats? Mine is yellow.")
    assert fragments.apart(rows, [known]) == rows[1:]
    assert fragments.apart(rows, [make("e", "i sail every winter", "do you like boats ?")]) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Utterance: hi .\nPersona: i sail.\n", "1 rows are not two for each dialogue"),
        ("Utterance: hi .\nUtterance: ho .\n", r"f\.txt:2: a line that begins with 'persona:' is due"),
        ("Persona: i sail.\n", r"f\.txt:1: a line that begins with 'utterance:' is due"),
        ("Utterance: hi .\n", "the last row has no line 'persona:'"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        fragments.read(path, [])


def test_more_files_are_trained_on_and_tell_nothing_of_who_is_measured(
    file: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONAE_DATA", str(file.parent))
    known = "i sail every summer . do you like boats ?"
    jsonl.write([make("a", known, "yes", facts=(("i sail",), ("i cook", "i ski")))], file.parent / "train.jsonl")
    jsonl.write([make("b", "ho", "no", facts=(("i read",), ()))], file.parent / "dev.jsonl")
    jsonl.write([make("c", "hm", "so", facts=((), ("I swim!",)))], file.parent / "valid.jsonl")
    both = (("i swim", "i run"), ("i read .", "i walk"))
    jsonl.write([make("d", "hey", "you", facts=both)], file.parent / "more.jsonl")
    corpus = Files(train=["train.jsonl"], dev="dev.jsonl", valid="valid.jsonl", also=["fragments.txt", "more.jsonl"])
    found = {d.id: [speaker.persona.facts for speaker in d.speakers] for d in corpus.split("train")}
    assert found == {
        "a": [("i sail",), ("i cook", "i ski")],
        "d": [("i run",), ("i walk",)],
        "fragments-2": [("i sail",), ("i cook", "i ski")],
    }
    assert [d.id for d in corpus.split("dev")] == ["b"]
    jsonl.write([make("b", known, "no", facts=(("i read",), ()))], file.parent / "dev.jsonl")
    apart = Files(train=["more.jsonl"], dev="dev.jsonl", valid="valid.jsonl", also=["fragments.txt"])
    assert [d.id for d in apart.split("train")] == ["d", "fragments-2"]  # fragments-1 is of dev's dialogue
    twice = Files(train=["train.jsonl"], dev="dev.jsonl", valid="valid.jsonl", also=["train.jsonl"])
    with pytest.raises(InputError, match="'a' is in another training file too"):
        list(twice.split("train"))
