"""What is exported is the model that was trained."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from personae import run
from personae.agent import Agent
from personae.cli import main
from personae.data import lines

FullDisk = Callable[[int], AbstractContextManager[None]]

CASE: dict[str, Any] = {
    "candidates": ["I feed my two cats.", "I repair old cars.", "The weather is fine."],
    "persona": ["I have two cats.", "I like to read."],
    "context": ["Hello!", "Hi.", "What are you doing today?"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the reranker, whose weights are those of MiniLM and a few that are drawn."""
    out = tmp_path_factory.mktemp("runs") / "run"
    out.mkdir()
    lightning.seed_everything(0, verbose=False)
    task = run.build("selection/persona_reranker-personachat")
    parser = run._parser()
    settings = run._settings(parser, "selection/persona_reranker-personachat", {})
    lines.save([parser.dump(settings, skip_unset=False).rstrip()], out / "recipe.yaml")
    run.save(task, out)
    return out


def test_a_small_run_is_the_run_rounded(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    assert main(["export", str(trained), "--to", "small", "--out", str(small)]) == 0
    size = sum(file.stat().st_size for file in small.iterdir())
    assert size < 16e6 < (trained / "model.safetensors").stat().st_size
    assert f"written to {small}: {size / 1e6:.1f} MB" in capsys.readouterr().out
    whole, rounded = (Agent.load(str(folder)).rank(**CASE) for folder in (trained, small))
    assert [one.text for one in rounded] == [one.text for one in whole]
    for one, other in zip(whole, rounded, strict=True):
        assert one.score == pytest.approx(other.score, abs=0.3)
    for one, other in zip(*(run.load(str(folder)).model.parameters() for folder in (trained, small)), strict=True):
        assert torch.allclose(one, other, atol=float(one.detach().abs().max()) / 127)


def test_a_full_folder_stays_as_it_is(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("here")
    assert main(["export", str(trained), "--to", "small", "--out", str(tmp_path)]) == 2
    assert "is not an empty folder; name another" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("to", ["small", "transformers"])
def test_what_cannot_be_written_leaves_nothing(
    to: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], full_disk: FullDisk
) -> None:
    out = tmp_path / "out"
    with full_disk(1_000_000):
        assert main(["export", str(trained), "--to", to, "--out", str(out)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_weights_of_its_own_or_with_damaged_ones(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", "tfidf", "--to", "small", "--out", str(tmp_path / "out")]) == 2
    assert "tfidf: needs no training, so that there is nothing to export" in capsys.readouterr().err
    damaged = run.load(str(trained))
    next(damaged.model.parameters()).data.fill_(torch.nan)
    monkeypatch.setattr(run, "load", lambda name: damaged)
    assert main(["export", str(trained), "--to", "small", "--out", str(tmp_path / "out")]) == 2
    assert "a weight is no number" in capsys.readouterr().err


def test_what_is_no_run_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "small", "--out", str(tmp_path / "out")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    tiny = {"task.model.hidden": "4", "task.model.features": "4", "corpus.dialogues": "40"}
    ends = {"trainer.max_epochs": "1", "trainer.val_check_interval": "1.0"}
    run.train("selection/imn-toy-ra", {**tiny, **ends}, out=tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--to", "small", "--out", str(tmp_path / "small")]) == 0
    whole, rounded = (Agent.load(str(tmp_path / name)).rank(**CASE) for name in ("run", "small"))
    scores = [{one.text: one.score for one in ranked} for ranked in (whole, rounded)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["state"]
