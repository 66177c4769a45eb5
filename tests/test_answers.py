import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from personae import answers, results
from personae.metrics.ranking import ranks
from personae.types import InputError, Row, Spoken

ROW = Row("d#1", "d", (0.5, -1.0, 0.25), 2)
SPOKEN = Spoken("d#1", "ann", "hello", "hi there", 3.5, 4, 2.0, 1.5, 9)


@pytest.mark.parametrize("answer", [ROW, SPOKEN, Spoken("d#2", "bob", "", "", 0.0, 1)])
def test_what_is_written_is_read(answer: Row | Spoken) -> None:
    read = answers.parsed(json.dumps(asdict(answer)), "here:1")
    assert read == answer
    assert type(read) is type(answer)


@pytest.mark.parametrize("field", ["id", "user", "text", "reference", "nll", "tokens", "rank", "real", "users"])
def test_a_damaged_reply_is_named(field: str) -> None:
    wrong: dict[str, Any] = asdict(SPOKEN)
    wrong[field] = ["?"]
    with pytest.raises(InputError, match=r"^here:3: is damaged \(.*\); copy it again, or evaluate anew"):
        answers.parsed(json.dumps(wrong), "here:3")
    if field not in ("rank", "real", "users"):
        del wrong[field]
        with pytest.raises(InputError, match="here:3: is damaged"):
            answers.parsed(json.dumps(wrong), "here:3")


@pytest.mark.parametrize(
    "changes",
    [{"id": 1}, {"dialogue": None}, {"scores": ["a"]}, {"scores": 1}, {"target": 3}, {"target": 1.0}, {"more": 1}],
)
def test_a_damaged_row_of_scores_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^here:3: is damaged"):
        answers.parsed(json.dumps({**asdict(ROW), **changes}), "here:3")


@pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", "[" * 100_000])
def test_what_is_no_answer_is_refused(line: str) -> None:
    with pytest.raises(InputError, match=r"^here:1: is damaged"):
        answers.parsed(line, "here:1")


def test_a_record_keeps_ranks(tmp_path: Path) -> None:
    rows = [ROW, Row("d#3", "d", (1.0, 1.0, 0.0), 0), Row("e#1", "e", (3.0, 2.0, 1.0, 0.0), 3)]
    metrics = {"n": 3, "model": "m", "persona": "none", "metrics": {}}
    data = {"path": None, "sha256": None, "candidates": None}
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    results.write_json({**metrics, "data": data}, tmp_path / "metrics.json")
    results.record(tmp_path, tmp_path / "record")
    read = answers.ranked(tmp_path / "record" / results.RANKS)
    assert ranks(read).tolist() == ranks(rows).tolist() == [2, 1.5, 4]
    assert [(row.id, row.dialogue, row.target, len(row.scores)) for row in read] == [
        (row.id, row.dialogue, row.target, len(row.scores)) for row in rows
    ]


def test_of_replies_there_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text(json.dumps(asdict(SPOKEN)) + "\n")
    data = {"path": None, "sha256": None, "candidates": None}
    results.write_json(
        {"n": 1, "model": "m", "persona": "none", "metrics": {}, "data": data}, tmp_path / "metrics.json"
    )
    assert results.read(tmp_path)[1] == [SPOKEN]
    with pytest.raises(InputError, match="holds generated replies, of which there are no records"):
        results.record(tmp_path, tmp_path / "record")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "ranks.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"ranks\.parquet: is damaged \(.*\); copy it again"):
        answers.ranked(tmp_path / "ranks.parquet")
