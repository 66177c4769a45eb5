import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from personae import run
from personae.data import jsonl, toy
from personae.nn.recurrent import BiLSTM, pack

FOLDER = Path(__file__).parent.parent / "benchmarks"
KEYS = {"what", "ratio", "ours", "theirs", "unit", "runs", "equal", "machine"}


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


@pytest.fixture(scope="module")
def step() -> ModuleType:
    return importlib.import_module("selection_step")


@pytest.fixture(scope="module")
def cases() -> ModuleType:
    return importlib.import_module("selection_cases")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("benchmarks") / "toy.jsonl"
    jsonl.write(toy.Selection(dialogues=8).split("valid"), path)
    sizes = ["--hidden", "6", "--cases", "2", "--batches", "2", "--runs", "1"]
    return [*sizes, "--threads", str(torch.get_num_threads()), "--data", str(path)]


@pytest.mark.parametrize("fusion", ["none", "na", "ca", "ra", "cra"])
def test_one_json_object_and_equal_results(
    step: ModuleType, arguments: list[str], fusion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step.main([*arguments, "--fusion", fusion, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert set(result) >= KEYS
    assert result["equal"] is True
    assert result["ratio"] == pytest.approx(sum(result["ratios"]) / 2)
    assert len(result["ratios"]) == 2
    assert set(result["variants"]) == {"packed", "reversed"}
    assert fusion in result["what"]
    assert "run 1, batch 2" in printed.err


def test_a_readable_line(step: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "times as fast; the same scores and gradients" in printed


@pytest.mark.parametrize("reading", ["packed", "reversed"])
def test_both_ways_to_read_padding_give_our_states(reading: str) -> None:
    torch.manual_seed(0)
    ours, lengths = BiLSTM(width=3, hidden=4), torch.tensor([2, 5, 1])
    inputs = torch.randn(3, 5, 3)
    packing = pack(torch.tensor([0, 5, 10]), lengths)
    expected = ours(ours.project(inputs.flatten(0, 1)), packing)
    states = importlib.import_module("plain").PlainBiLSTM(ours, reading)(inputs, lengths).flatten(0, 1)[packing.rows]
    torch.testing.assert_close(states, expected)


def test_padding_that_leaks_is_not_equal(
    step: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = importlib.import_module("plain")
    right = plain.pooled

    def leaking(states: Tensor, lengths: Tensor) -> Tensor:
        pooled: Tensor = right(states, torch.full_like(lengths, states.shape[1]))
        return pooled

    monkeypatch.setattr(plain, "pooled", leaking)
    assert step.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is False


CASES = ("dim", "hre-ra", "imn-cra", "bert-cra", "bert-ra")


def scored(arguments: list[str], *more: str) -> list[str]:
    """The arguments of selection_cases.py that are like those of selection_step.py."""
    place = arguments.index("--batches")
    return [*arguments[:place], *arguments[place + 2 :], *more, "--json"]


@pytest.mark.parametrize("system", CASES)
def test_cases_are_scored_alike(
    system: str, cases: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cases.main(scored(arguments, "--system", system)) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert set(result) >= KEYS
    assert result["equal"] is True
    assert result["same_first"] == 1
    assert result["difference"] < 1e-3
    assert result["taken"] in result["variants"]
    assert system in result["what"]
    _, _, said = printed.err.partition("run 1, cases a second: ")
    ours, *others = ((name, float(speed)) for name, _, speed in (part.rpartition(" ") for part in said.split("; ")))
    assert ours[0] == "ours"
    assert others[0][0] == result["taken"]
    assert result["ratio"] == pytest.approx(ours[1] / others[0][1], rel=0.01)
    assert not others[-1][0].startswith("packed")  # the quickest of those that pad
    assert result["ratio_padded"] == pytest.approx(ours[1] / others[-1][1], rel=0.01)
    assert len(others) == 1 + result["taken"].startswith("packed")


def kept(folder: Path, model: str, **made_with: Any) -> list[str]:
    """The option that names a run of such a model, which is not trained."""
    made = {"class_path": f"personae.models.selection.{model}", "init_args": made_with}
    task = {"class_path": "personae.tasks.selection.Selection", "init_args": {"model": made}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"task": task, "seed": 0}))
    torch.manual_seed(18)  # the two best of a case are six times as far apart as half precision moves them
    untrained = run.build(str(folder / "recipe.yaml"))
    untrained.prepare(list(toy.Selection(dialogues=8).split("train")))
    run.save(untrained, folder)
    return ["--run", str(folder)]


def test_half_precision_may_not_change_what_is_chosen(
    cases: ModuleType,
    arguments: list[str],
    backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = scored(arguments, "--precision", "bf16-mixed")
    assert cases.main(half) == 2
    assert "seen of a trained model; name its --run" in capsys.readouterr().err
    half += kept(tmp_path, "bert.BERT", backbone=backbone)
    assert cases.main(half) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["equal"] is True
    assert set(result["variants"]) == {"32-true", "bf16-mixed"}
    shares = iter([0.0, 1.0])
    with monkeypatch.context() as patch:
        patch.setattr(cases, "right", lambda *_: next(shares))
        assert cases.main(half) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is False
    scoring = cases.scoring

    def rounded(score: Any, batches: Any, half: bool) -> Any:
        """Half precision turns the scores round."""
        return scoring((lambda *inputs: -score(*inputs)) if half else score, batches, half)

    monkeypatch.setattr(cases, "scoring", rounded)
    monkeypatch.setattr(cases, "right", lambda *_: 0.5)
    assert cases.main(half) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["same_first"] < 0.98
    assert result["equal"] is False


def test_a_trained_model_is_timed(
    cases: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"task.model.hidden": "4", "task.model.features": "4", "corpus.dialogues": "12", "trainer.max_epochs": "1"}
    run.train("selection/imn-toy-ra", {**sizes, "trainer.val_check_interval": "1.0"}, out=tmp_path / "mine")
    capsys.readouterr()
    assert cases.main(scored(arguments, "--run", str(tmp_path / "mine"))) == 0
    result = json.loads(capsys.readouterr().out)
    assert "mine" in result["what"]
    assert result["equal"] is True
    assert cases.main(scored(arguments, "--run", "tfidf")) == 2
    assert "error: --run tfidf: there is no plain version of its model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "made_with", "message"),
    [
        ("bert.BERT", {"shared": True}, "plain BERT reads the context for each candidate; name a run without `shared`"),
        ("imn.IMN", {"persona": "both"}, "plain HRE and IMN read one persona"),
        ("imn.IMN", {"fusion": "ctx"}, "plain IMN has no fusion ctx or utr"),
        ("imn.IMN", {"aggregation": "attention"}, "plain IMN has no fusion ctx or utr, no aggregation by attention"),
    ],
)
def test_what_the_plain_version_does_not_do_is_refused(
    cases: ModuleType,
    arguments: list[str],
    model: str,
    made_with: dict[str, Any],
    message: str,
    backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = {"backbone": backbone} if model == "bert.BERT" else {"hidden": 4}
    assert cases.main(scored(arguments, *kept(tmp_path, model, **small, **made_with))) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data", "no-such-file.txt"], "no-such-file.txt: there is nothing at"),
        (["--cases", "10000"], "--cases: 10000"),
    ],
)
def test_a_mistake_exits_2_with_one_message(
    step: ModuleType,
    cases: ModuleType,
    arguments: list[str],
    wrong: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cases.main([*scored(arguments), *wrong]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert step.main([*arguments, *wrong, "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1


def test_every_script_is_in_the_readme() -> None:
    scripts = sorted(path.name for path in FOLDER.glob("*.py"))
    assert "selection_step.py" in scripts
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in scripts if f"`{name}`" not in readme] == []


@pytest.mark.slow
def test_reranking_beside_sentence_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rerank = importlib.import_module("rerank")
    path = tmp_path / "toy.jsonl"
    jsonl.write(toy.Selection(dialogues=100).split("valid"), path)
    options = ["--cases", "3", "--single", "2", "--order", "dialogues", "--data", str(path), "--json"]
    assert rerank.main([*options, "--threads", str(torch.get_num_threads()), "--precision", "32-true"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= KEYS
    assert result["equal"] is True
    assert result["taken"].startswith("torch")  # its ONNX backend needs other libraries
    assert result["hits@1"]["ours"] == result["hits@1"]["torch, single precision"]
    assert set(result["milliseconds"]) == {*result["variants"], "ours, the next turn of a chat"}
    assert all(0 < taken["p50"] <= taken["p95"] for taken in result["milliseconds"].values())
    assert all(amount > 100 for amount in result["megabytes"].values())


@pytest.mark.parametrize("model", ["seq2seq", "speaker", "memory", "memory-speaker"])
def test_a_step_of_a_generator_beside_a_plain_one(
    model: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    step = importlib.import_module("generator_step")
    arguments = [*arguments, "--model", model]
    assert step.main([*arguments, "--width", "5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= KEYS
    assert result["equal"] is True
    assert set(result["variants"]) == {"packed", "padded"}
    assert result["taken"] in result["variants"]
    assert step.main([*arguments, "--cases", "1000"]) == 2


def test_per_hits_beside_nltk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    perhits = importlib.import_module("perhits")
    monkeypatch.delenv("PERSONAE_DATA", raising=False)  # users are generated
    assert perhits.main(["--users", "5", "--some", "2", "--runs", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= KEYS
    training, scoring = result["scaled"].pop("training"), result["scaled"].pop("scoring")
    assert result["scaled"] == {"users": [2, 5], "pairs": [12, 75]}
    assert min(training, scoring) > 0
    assert result["theirs"] == pytest.approx(training * 5 / 2 + scoring * 75 / 12)
    assert result["ratio"] > 10
    assert result["equal"] is (None if result["kenlm"] is None else True)
    assert perhits.main(["--users", "1", "--runs", "1"]) == 2
    assert "error: --users: there is one user" in capsys.readouterr().err


def test_what_is_learnt_of_users_is_told_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = importlib.import_module("told_apart")
    small = "{width: 32, hidden: 64, layers: 1, min_count: 1}"
    changes = {"task.model.sizes": small, "task.optimization.learning_rate": "0.01"}
    long = {"trainer.max_epochs": "9", "trainer.check_val_every_n_epoch": "9"}
    short = {"trainer.max_steps": "1", "trainer.val_check_interval": "1", "trainer.check_val_every_n_epoch": "null"}
    found = {}
    for name, more in {"learnt": long, "begun": short}.items():
        run.train("generation/seq2seq-planted-tf", {**changes, **more}, out=tmp_path / name)
        assert told.main([str(tmp_path / name), "--others", "3", "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["learnt"]["share"]["low"] > 0.8
    assert found["learnt"]["gap"]["low"] > 1
    assert found["begun"]["share"]["low"] < 0.5 < found["begun"]["share"]["high"]
    nats = found["learnt"]["nats a token"]
    gap = found["learnt"]["gap"]["value"] / found["learnt"]["tokens"]
    assert nats["others"] - nats["own"] == pytest.approx(gap, rel=1e-4)


def test_replies_that_are_drawn_several_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    redrawn = importlib.import_module("redrawn")
    changes = {"task.model.sizes": "{width: 32, hidden: 64, layers: 1, min_count: 1}"}
    short = {"trainer.max_steps": "60", "trainer.val_check_interval": "60", "trainer.check_val_every_n_epoch": "null"}
    for name, more in {"tensor": {"task.optimization.learning_rate": "0.01"}, "begun": {}}.items():
        run.train("generation/seq2seq-planted-tf", {**changes, **short, **more}, out=tmp_path / name)
    folders = [str(tmp_path / name) for name in ("tensor", "begun")]
    name, found = "per-hits-avg/100", {}
    for draws in ("1", "3"):
        assert redrawn.main([*folders, "--draws", draws, "--json"]) == 0
        found[draws] = json.loads(capsys.readouterr().out)
    for folder, one in zip(folders, found["1"]["runs"], strict=True):
        reported = json.loads((Path(folder) / "metrics.json").read_text())["metrics"][name]
        assert one[name] == pytest.approx(reported)
    told = found["3"]
    assert (told["draws"], told["users"], told["runs"][0][name]["n"]) == (3, 100, 300)
    values = [one[name]["value"] for one in told["runs"]]
    assert told["difference"][name]["value"] == pytest.approx(values[0] - values[1])
    assert values != [one[name]["value"] for one in found["1"]["runs"]]
    assert 0 <= told["difference"][name]["wilcoxon"] <= 1
    assert redrawn.main([folders[0], "--draws", "1"]) == 0
    assert "per-hits-avg/100" in capsys.readouterr().out
    assert redrawn.main([str(tmp_path / "none")]) == 2
    assert "error: " in capsys.readouterr().err
