import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from personae.data import parlai
from personae.data.candidates import draw
from personae.data.sources import sources
from personae.types import Dialogue, InputError, Turn, Whose

BOTH = """\
1 your persona: i like cats .
2 partner's persona: i sail .
3 hello !\thi , do you sail ?\t\tno .|hi , do you sail ?
4 yes\\nevery day\tlovely|really
1 __SILENCE__\tgood morning
2 morning\tany plans ?
3 none
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sample.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_both_personas_and_candidates(tmp_path: Path) -> None:
    first, second = parlai.read(written(tmp_path, BOTH))
    assert [first.id, second.id] == ["sample-1", "sample-2"]
    assert [speaker.persona.facts for speaker in first.speakers] == [("i sail .",), ("i like cats .",)]
    assert first.turns == (
        Turn(0, "hello !"),
        Turn(1, "hi , do you sail ?", ("no .", "hi , do you sail ?")),
        Turn(0, "yes\nevery day"),
        Turn(1, "lovely|really"),
    )


def test_silence_is_no_turn(tmp_path: Path) -> None:
    second = parlai.read(written(tmp_path, BOTH))[1]
    assert [(turn.speaker, turn.text) for turn in second.turns] == [
        (1, "good morning"),
        (0, "morning"),
        (1, "any plans ?"),
        (0, "none"),
    ]


def test_the_true_reply_may_stand_anywhere_among_the_candidates(tmp_path: Path) -> None:
    (dialogue,) = parlai.read(written(tmp_path, "1 hello\tyes\t\tno|yes|maybe\n"))
    assert dialogue.turns[1] == Turn(1, "yes", ("no", "yes", "maybe"))
    parlai.write([dialogue], tmp_path / "out.txt", persona="none", candidates=True)
    assert (tmp_path / "out.txt").read_text() == "1 hello\tyes\t\tno|maybe|yes\n"


@pytest.mark.parametrize("cut", ["\t\tno .|hi , do you sail ?\n", "\thi , do you sail ?\t\tno .|hi , do you sail ?\n"])
def test_a_file_that_ends_amid_a_line_is_refused(tmp_path: Path, cut: str) -> None:
    text = BOTH[: BOTH.index("4 yes")] + "4 no\thi , do you sail ?\t\tno .|hi , do you sail ?\n"
    assert len(parlai.read(written(tmp_path, text))[0].turns) == 4
    with pytest.raises(InputError, match=r"sample\.txt:4: the file ends amid a line: copy it again"):
        parlai.read(written(tmp_path, text.removesuffix(cut)))
    with pytest.raises(InputError, match=r"sample\.txt:2: the file ends amid a line"):
        parlai.read(written(tmp_path, "1 your persona: i sail .\n2 your per"))


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    assert parlai.read(written(tmp_path, "\ufeff" + BOTH.replace("\n", "\r\n"))) == parlai.read(written(tmp_path, BOTH))


@pytest.mark.parametrize("persona", get_args(Whose))
def test_what_is_written_is_read_back(tmp_path: Path, persona: Whose) -> None:
    dialogues = parlai.read(written(tmp_path, BOTH))
    parlai.write(dialogues, tmp_path / "sample.txt", persona=persona, candidates=False)
    again = parlai.read(tmp_path / "sample.txt")
    assert [[turn.text for turn in d.turns] for d in again] == [[turn.text for turn in d.turns] for d in dialogues]
    facts = [speaker.persona.facts for speaker in again[0].speakers]
    assert facts == [
        ("i sail .",) if persona in ("partner", "both") else (),
        ("i like cats .",) if persona in ("self", "both") else (),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 hi\tyes\t\tno|maybe\n", r"sample\.txt:1: the reply is not among its candidates"),
        ("1 hi\tyes\t\tyes\n", r"sample\.txt:1: a single candidate is no choice"),
        ("1" * 5000 + " hi\tyes\n", r"sample\.txt:1: number 1{20} where 1 is due"),
        ("1 hi\tyes\n3 and ?\tno\n", r"sample\.txt:2: number 3 where 2 is due"),
        ("2 hi\tyes\n", r"sample\.txt:1: number 2 where 1 is due"),
        ("hi\tyes\n", r"sample\.txt:1: a line begins with its number"),
        ("1\n", r"sample\.txt:1: a line begins with its number"),
        ("1 hi\t\t\tno|yes\n", r"sample\.txt:1: there is no reply after the tab"),
        ("1  \tyes\n", r"sample\.txt:1: 'heard<tab>reply"),
        ("1 hi\t\\n\n", r"sample\.txt:1: there is no reply after the tab"),
        ("1 hi\ta\tb\tc\td\n", r"sample\.txt:1: 'heard<tab>reply"),
        ("1 hi\t \t\tno|yes\n", r"sample\.txt:1: there is no reply after the tab"),
        ("1 hi\tyes\t\tno||yes\n", r"sample\.txt:1: a candidate is empty"),
        ("1 your persona:i sail .\n2 hi\tyes\n", r"sample\.txt:1: a persona line is 'your persona: ' or"),
        ("1 Your persona: i sail .\n2 hi\tyes\n", r"sample\.txt:1: a persona line is 'your persona: ' or"),
        ("1 your persona:  \n2 hi\tyes\n", r"sample\.txt:1: a persona line is 'your persona: ' or"),
        ("1 your persona: i sail .\n1 hi\tyes\n", r"sample\.txt:1: a dialogue without a turn"),
        ("", r"sample\.txt: the file is empty"),
    ],
)
def test_malformed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parlai.read(written(tmp_path, text))


def test_what_the_form_cannot_hold(tmp_path: Path, make: Callable[..., Dialogue]) -> None:
    def write(*turns: Turn, candidates: bool = False) -> None:
        parlai.write([replace(make("d"), turns=turns)], tmp_path / "out.txt", persona="none", candidates=candidates)

    with pytest.raises(InputError, match="d: turn 1: the same speaker twice"):
        write(Turn(0, "hi"), Turn(0, "hello"))
    with pytest.raises(InputError, match="d: turn 2: the same speaker twice"):
        write(Turn(0, "hi"), Turn(1, "hello"), Turn(1, "well"))
    with pytest.raises(InputError, match="d: a text holds a tab"):
        write(Turn(0, "a\tb"))
    with pytest.raises(InputError, match="d: a reply has no candidates"):
        write(Turn(0, "hi"), Turn(1, "hello"), candidates=True)
    with pytest.raises(InputError, match="d: a candidate holds"):
        write(Turn(0, "hi"), Turn(1, "a", ("a", "b|c")), candidates=True)
    assert not list(tmp_path.iterdir())


def test_drawn_candidates_are_written_and_read_back(tmp_path: Path, make: Callable[..., Dialogue]) -> None:
    drawn = draw([make(f"out-{i}", f"hi {i}", f"reply {i}") for i in range(1, 6)], n=3)
    parlai.write(drawn, tmp_path / "out.txt", persona="none", candidates=True)
    for before, after in zip(drawn, parlai.read(tmp_path / "out.txt"), strict=True):
        assert after.turns[1].candidates[-1] == after.turns[1].text
        assert sorted(after.turns[1].candidates) == sorted(before.turns[1].candidates)


@pytest.mark.parametrize("revised", [False, True])
@pytest.mark.parametrize("persona", get_args(Whose))
@pytest.mark.parametrize("candidates", [False, True])
def test_every_official_mode_follows_from_both(
    corpora: Path, tmp_path: Path, persona: Whose, revised: bool, candidates: bool
) -> None:
    version = "revised" if revised else "original"
    both = corpora / f"personachat/valid_both_{version}.txt"
    whose = "other" if persona == "partner" else persona
    name = f"valid_{whose}_{'original' if persona == 'none' else version}{'' if candidates else '_no_cands'}.txt"
    parlai.write(parlai.read(both), tmp_path / name, persona=persona, candidates=candidates)
    (md5,) = (
        file.md5 for source in sources() for file in source.files if (source.name, file.name) == ("convai2", name)
    )
    assert hashlib.md5((tmp_path / name).read_bytes()).hexdigest() == md5


def test_self_from_both_is_the_official_file_byte_for_byte(corpora: Path, tmp_path: Path) -> None:
    both = parlai.read(corpora / "personachat/valid_both_original.txt")
    parlai.write(both, tmp_path / "self.txt", persona="self", candidates=True)
    official = (corpora / "personachat/valid_self_original.txt").read_bytes()
    assert len(official) == 9_100_907
    assert (tmp_path / "self.txt").read_bytes() == official


def test_official_validation(corpora: Path) -> None:
    start = time.perf_counter()
    dialogues = parlai.read(corpora / "personachat/valid_both_original.txt")
    assert time.perf_counter() - start < 3
    replies = [turn for dialogue in dialogues for turn in dialogue.turns if turn.speaker == 1]
    assert (len(dialogues), len(replies)) == (1000, 7801)
    assert {len(turn.candidates) for turn in replies} == {20}
    first = dialogues[0].speakers[1].persona.facts[0]
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == "1cdd4daf90d77e48"
    assert dialogues[999].turns[-1].text == replies[-1].candidates[-1]
