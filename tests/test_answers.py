import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from personae import answers, console, results
from personae.metrics.compare_spoken import Measures, measures
from personae.metrics.ranking import ranks
from personae.metrics.text import ceiling, focused
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


WRITTEN = [
    Spoken("d#1", "ann", "i keep three hens", "i have two hens and a goat", 9.5, 8, 2.0, 1.0, 6),
    Spoken("d#3", "ann", "", "no idea", 4.25, 3, 4.5, 3.0, 6),
    Spoken("e#1", "bob", "three hens three hens", "trains are late again", 7.0, 5, 1.0, 1.0, 6),
    Spoken("f#1", "eve", "the trains are late", "the trains are always late , eve", 6.125, 8, 6.0, 2.5, 6),
]


def same(found: Measures, expected: Measures) -> None:
    assert [(reply.id, reply.user, reply.tokens) for reply in found.replies] == [
        (reply.id, reply.user, reply.tokens) for reply in expected.replies
    ]
    assert found.replies[0].values.keys() == expected.replies[0].values.keys()
    for name in found.replies[0].values:
        assert found.each(name) == pytest.approx(expected.each(name))
    assert found.whole.keys() == expected.whole.keys()
    for name, statistic in expected.whole.items():
        assert asdict(found.whole[name].interval()) == pytest.approx(asdict(statistic.interval()), rel=1e-5, abs=1e-6)
        assert found.whole[name].pseudo == pytest.approx(statistic.pseudo, rel=1e-5, abs=1e-6)


def test_of_written_replies_what_was_measured_is_kept_and_no_text(tmp_path: Path) -> None:
    answers.keep(WRITTEN, tmp_path)
    same(answers.kept(tmp_path, tokens="word"), measures(WRITTEN, tokens="word"))
    same(answers.kept(tmp_path, tokens="word", most=1), measures(focused(WRITTEN, 1), tokens="word"))
    real = answers.kept(tmp_path, tokens="word", real=True)
    expected = measures(ceiling(WRITTEN), tokens="word")
    assert real.whole["distinct-2/corpus"].value == pytest.approx(expected.whole["distinct-2/corpus"].value)
    assert real.each("per-hits@1/6") == expected.each("per-hits@1/6") == [1, 0, 1, 0]
    three = answers.kept(tmp_path, tokens="word", most=3)
    assert list(three.whole) == ["perplexity/word"]  # the others are kept of two sets alone
    assert len(three) == 4
    for file in tmp_path.iterdir():
        content = b" ".join(file.read_bytes().split())
        assert not any(word in content for word in (b"hens", b"trains", b"goat", b"idea"))


def test_replies_whose_users_were_not_ranked_are_kept_too(tmp_path: Path) -> None:
    some = [replace(reply, rank=None, real=None, users=0) for reply in WRITTEN]
    answers.keep(some, tmp_path)
    same(answers.kept(tmp_path, tokens="word"), measures(some, tokens="word"))


@pytest.mark.parametrize("name", [answers.REPLIES, answers.USERS])
def test_a_damaged_record_of_replies_is_named(tmp_path: Path, name: str) -> None:
    answers.keep(WRITTEN, tmp_path)
    (tmp_path / name).write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"replies\.parquet or users\.parquet: is damaged"):
        answers.kept(tmp_path, tokens="word")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "ranks.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"ranks\.parquet: is damaged \(.*\); copy it again"):
        answers.ranked(tmp_path / "ranks.parquet")


def test_recorded_runs_that_write_are_compared_by_their_names() -> None:
    found = results.compare(Path("seq2seq-ubuntu-tf"), Path("seq2seq-ubuntu"))["metrics"]["per-hits-avg/150"]
    assert found["difference"]["value"] == pytest.approx(found["a"]["value"] - found["b"]["value"])
    assert found["difference"]["low"] > 0
    assert found["wilcoxon"]["p"] < 0.001


def test_what_is_of_all_replies_has_no_p_of_a_bootstrap(capsys: pytest.CaptureFixture[str]) -> None:
    result = results.compare(Path("seq2seq-ubuntu-tf"), Path("seq2seq-ubuntu"))
    found = result["metrics"]["perplexity/word"]
    assert found["difference"]["p"] is None
    assert found["t_test"]["p"] < 0.001
    console.comparison(result, "one against another")
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if "perplexity/word" in line)
    assert shown.split("│")[5].strip() == "-"
    console.comparison({**result, "n": 1, "users": 1}, "one against another")
    assert "1 example of 1 user" in capsys.readouterr().out.splitlines()[0]


def test_rewordings_are_of_models_that_choose() -> None:
    with pytest.raises(InputError, match="--reworded: is for models that choose replies, and these write them"):
        results.compare(Path("seq2seq-ubuntu-tf"), Path("seq2seq-ubuntu"), reworded=True)
    with pytest.raises(InputError, match="of two models that write replies, or two that choose them"):
        results.compare(Path("seq2seq-ubuntu-tf"), Path("dim-personachat"), reworded=True)
