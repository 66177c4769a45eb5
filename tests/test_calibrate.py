"""A run's scores become probabilities."""

import json
from pathlib import Path

import pytest

from personae import run
from personae.agent import Agent
from personae.cli import main
from personae.types import InputError

RECIPE = "selection/imn-toy-ra"
TINY = {
    "--task.model.hidden": "4",
    "--task.model.features": "4",
    "--corpus.dialogues": "40",
    "--trainer.max_epochs": "1",
    "--trainer.val_check_interval": "1.0",
}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--config", RECIPE, "--out", str(out), *(part for item in TINY.items() for part in item)]) == 0
    assert "calibration" not in json.loads((out / "config.json").read_text())
    assert main(["calibrate", str(out)]) == 0
    return out


def test_a_calibration_is_kept_with_the_run(calibrated: Path) -> None:
    kept = json.loads((calibrated / "config.json").read_text())["calibration"]
    calibration = run.load(str(calibrated)).calibration
    assert calibration is not None
    assert kept == {"temperature": calibration.temperature, "threshold": calibration.threshold}
    assert calibration.temperature > 0


def test_an_agent_tells_probabilities(calibrated: Path) -> None:
    agent = Agent.load(str(calibrated))
    ranked = agent.rank(candidates=["hi", "ho", "hey"], persona=["i like cats"], context=["hello"])
    likely = [one.probability or 0.0 for one in ranked]
    assert likely == sorted(likely, reverse=True)
    assert agent.none_fits(ranked) == pytest.approx(1 - sum(likely))
    assert 0 < sum(likely) < 1


def test_what_is_offered_twice_is_one_answer(calibrated: Path) -> None:
    agent = Agent.load(str(calibrated))
    about = {"persona": ["i like cats"], "context": ["hello"]}
    once, twice = (agent.rank(candidates=["hi", "ho", *["hey"] * count], **about) for count in (1, 5))
    assert {one.text: one.probability for one in twice} == {one.text: one.probability for one in once}
    assert agent.none_fits(twice) == agent.none_fits(once)


def test_bulk_tells_that_none_fits(calibrated: Path, tmp_path: Path) -> None:
    agent = Agent.load(str(calibrated))
    case = {"candidates": ["hi", "ho", "hey"], "persona": ["i like cats"], "context": ["hello"]}
    (tmp_path / "cases.jsonl").write_text(json.dumps(case))
    files = ["--input", str(tmp_path / "cases.jsonl"), "--output", str(tmp_path / "ranked.jsonl")]
    assert main(["rank", str(calibrated), *files, "--top", "1"]) == 0
    row = json.loads((tmp_path / "ranked.jsonl").read_text())
    assert row["none"] == pytest.approx(agent.none_fits(agent.rank(**case)))


def test_without_calibration_there_are_none() -> None:
    agent = Agent.load("tfidf")
    ranked = agent.rank(candidates=["hi", "ho"], persona=["i like cats"], context=["hello"])
    assert [one.probability for one in ranked] == [None, None]
    assert agent.none_fits(ranked) is None


def test_ranking_prints_them(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("persona", "context", "candidates"):
        (tmp_path / name).write_text("i like cats\nhello\n")
    options = [part for name in ("persona", "context", "candidates") for part in (f"--{name}", str(tmp_path / name))]
    assert main(["rank", str(calibrated), *options]) == 0
    printed = capsys.readouterr().out
    assert "probability" in printed
    assert "none of them fits: 0." in printed
    assert main(["rank", str(calibrated), *options, "--top", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (best,) = told["results"]
    assert 0 < told["none"] < 1 - best["probability"]


def test_an_evaluation_tells_how_well_they_hold(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [
        {"speaker": place % 2, "text": text} for place, text in enumerate(("hi", "hello you", "how are you", "fine"))
    ]
    records = [
        {"id": str(number), "personas": [[f"i am {number}"], ["i swim"]], "turns": [*said, *said[number % 2 :: 2]]}
        for number in range(4)
    ]
    for number, record in enumerate(records):
        record["turns"] = [{**turn, "text": f"{turn['text']} {number} {place}"} for place, turn in enumerate(said)]
    data = tmp_path / "d.jsonl"
    data.write_text("\n".join(map(json.dumps, records)))
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", str(calibrated), "--data", str(data), "--candidates", "3", *out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(part["count"] for part in told["calibration"]["bins"]) == 2 * told["n"]
    assert 0 <= told["calibration"]["ece"] <= 1
    picture = (tmp_path / "out" / "reliability.svg").read_text(encoding="utf-8")
    assert f"expected calibration error {told['calibration']['ece']:.3f}, {2 * told['n']} cases" in picture


def test_what_is_no_run_is_not_calibrated(tmp_path: Path) -> None:
    from personae.calibrate import calibrate

    with pytest.raises(InputError, match=r"is no run folder; give the --out"):
        calibrate(tmp_path / "nothing")
