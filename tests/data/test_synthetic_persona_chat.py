from pathlib import Path

import pytest

from personae.data import synthetic_persona_chat
from personae.types import InputError, Turn

CSV = """\
user 1 personas,user 2 personas,Best Generated Conversation
"I sail.
I bake.",I run.,"User 1: Hi!
User 2: Hello, ""you""!
How are you?
User 2: Well?
User 1: Fine."
I sail.,I run.,I cannot help with that.
"""


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    first, empty = synthetic_persona_chat.rows(tmp_path / "a.csv")
    assert [speaker.persona.facts for speaker in first.speakers] == [("I sail.", "I bake."), ("I run.",)]
    assert first.turns == (
        Turn(0, "Hi!"),
        Turn(1, 'Hello, "you"!\nHow are you?'),
        Turn(1, "Well?"),
        Turn(0, "Fine."),
    )
    assert empty.turns == ()
    assert synthetic_persona_chat.read(tmp_path / "a.csv") == [first]


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "7", "user1_personas": ["I sail."], "user2_personas": [], '
        '"utterances": [[1, "Hi!"], [2, " "], [2, "Oh"]]}\n'
        '{"id": "8", "user1_personas": [], "user2_personas": [], "utterances": []}\n'
    )
    (dialogue,) = synthetic_persona_chat.read(tmp_path / "a.jsonl")
    assert (dialogue.id, dialogue.turns) == ("a-7", (Turn(0, "Hi!"), Turn(1, "Oh")))
    assert dialogue.speakers[0].persona.facts == ("I sail.",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "user 1 personas,user 2 personas\na,b\n", r"a\.csv:1: there is no column 'best generated"),
        ("a.csv", CSV + "a,b\n", r"a\.csv:9: 2 fields where 3 are due"),
        ("a.csv", CSV + '"a\nb",b\n', r"a\.csv:9: 2 fields where 3 are due"),
        ("a.csv", CSV + '"a', r"a\.csv:9: not CSV"),
        ("a.jsonl", '{"user1_personas": [], "utterances": []}\n', r"a\.jsonl:1: fields user1_personas"),
        (
            "a.jsonl",
            '{"user1_personas": [], "user2_personas": [], "utterances": [[3, "a"]]}\n',
            r"a\.jsonl:1: field utterances",
        ),
    ],
)
def test_malformed(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        synthetic_persona_chat.read(tmp_path / name)


@pytest.mark.parametrize(("name", "rows", "empty"), [("train", 8938, 36), ("valid", 1000, 3), ("new", 11001, 0)])
def test_documented_counts(corpora: Path, name: str, rows: int, empty: int) -> None:
    dialogues = synthetic_persona_chat.rows(corpora / f"spc/spc_{name}.jsonl")
    assert len(dialogues) == rows
    assert sum(not dialogue.turns for dialogue in dialogues) == empty
    assert len({dialogue.id for dialogue in dialogues}) == rows
