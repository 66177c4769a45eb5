"""`personae data users`: a split is counted, and written for other systems."""

import json
from pathlib import Path
from typing import Any

import pytest

from personae.cli import main
from personae.data.candidates import examples
from personae.data.planted import Planted
from personae.data.users import Users


@pytest.fixture
def path(tmp_path: Path) -> str:
    """What eight users answer, each in a dialogue of its own."""
    rows = []
    for place, dialogue in enumerate(Planted(users=8, topics=6, answers=12, held_out=1).split("train")):
        turns = [{"speaker": turn.speaker, "text": turn.text} for turn in dialogue.turns]
        names = [f"asker-{place}", dialogue.speakers[1].id]
        rows.append(json.dumps({"id": f"d{place}", "speakers": names, "personas": [[], []], "turns": turns}))
    (tmp_path / "users.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return str(tmp_path / "users.jsonl")


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_split_is_written_and_replies_of_others_are_measured_on_it(
    capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "split"
    assert main(["data", "users", path, "--most", "6", "--out", str(out), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    corpus = Users(files=[path], most=6)
    histories, asked = (told(out / name) for name in ("histories.jsonl", "asked.jsonl"))
    assert sorted(file.name for file in out.iterdir()) == ["asked.jsonl", "histories.jsonl"]
    assert (len(histories), len(asked)) == (counts["answers"]["train"], counts["answers"]["valid"])
    for split, rows in (("train", histories), ("valid", asked)):
        wanted = [
            {
                "id": one.id,
                "user": one.user.id,
                "context": [turn.text for turn in one.context.turns],
                "text": one.target.text,
            }
            for one in examples(corpus.split(split))
        ]
        assert rows == wanted
    known = {dialogue.speakers[1].id: dialogue.speakers[1].history for dialogue in corpus.split("valid")}
    for user, history in known.items():
        assert [row["text"] for row in histories if row["user"] == user] == list(history)
    replies = tmp_path / "replies.jsonl"
    replies.write_text("".join(json.dumps({"user": row["user"], "text": row["text"]}) + "\n" for row in asked))
    files = ("--histories", str(out / "histories.jsonl"), "--real", str(out / "asked.jsonl"))
    assert main(["perhits", "--responses", str(replies), *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["users"]) == (18, 6)
    assert found["metrics"] == found["real"]
    assert found["metrics"]["per-hits@1/6"]["value"] > 0.5


def test_a_folder_that_has_a_split_is_refused(capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path) -> None:
    for name in ("histories.jsonl", "asked.jsonl"):
        out = tmp_path / name.removesuffix(".jsonl")
        out.mkdir()
        (out / name).touch()
        assert main(["data", "users", path, "--out", str(out)]) == 2
        assert f"--out {out}: has {name} already; name another folder" in capsys.readouterr().err
        assert [file.name for file in out.iterdir()] == [name]
    assert main(["data", "users", path, "--out", path]) == 2
    assert "is a file; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fewest 6", "personae: --fewest: 6 leaves nothing to train on with 6 held out"),
        (
            "--fewest 99",
            "personae: PATH: no user has 99 different answers (--fewest) to questions that 1 or more",
        ),
        ("--answered_by 9", "that 9 or more answered (--answered_by), the most that anyone has are 0"),
        ("--near 2", "personae: --near: 2.0 is not above 0"),
    ],
)
def test_mistakes_name_the_options(
    capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path, options: str, message: str
) -> None:
    assert main(["data", "users", path, *options.split(), "--out", str(tmp_path / "out")]) == 2
    assert message.replace("PATH", path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
