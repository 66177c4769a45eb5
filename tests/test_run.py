import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

from personae import checkpoint, recipes, results, run
from personae.data import jsonl
from personae.data.candidates import examples
from personae.data.toy import Selection as Toy
from personae.tasks.base import Batch, Task
from personae.types import Dialogue, InputError, Persona

RECIPE = "selection/imn-toy-ra"
TINY = {
    "corpus.dialogues": "8",
    "task.batch_size": "4",
    "task.negatives": "{class_path: personae.tasks.negatives.Drawn, init_args: {candidates: 5}}",
    "task.model.hidden": "4",
    "task.model.features": "4",
    "task.model.words": "{class_path: personae.nn.words.Words, init_args: {glove_size: 0, task: 0, filters: 2}}",
    "task.optimization.warmup": "0",
    "task.optimization.cooldown": "0",
    "trainer.max_epochs": "2",
    "trainer.val_check_interval": "2",
    "trainer.enable_model_summary": "false",
    "save_every": "1",
}
TINY_MODEL = {key: value for key, value in TINY.items() if not key.startswith("corpus")}
STUCK = {"patience": "1", "task__optimization__learning_rate": "0.0", "task__optimization__muon": "0.0"}
FILES = ["config.json", "environment.json", "metrics.json", "model.safetensors", "predictions.jsonl", "recipe.yaml"]


def settings(**changes: str) -> dict[str, str]:
    """The tiny recipe's changes with others, "__" for a dot."""
    return {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}


def course(out: Path) -> list[dict[str, Any]]:
    """What was measured in training, without the time that it took."""
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]


def assert_same_run(out: Path, other: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (out / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    assert course(out) == course(other)
    for file, key in (("metrics.json", "metrics"), ("environment.json", "best_step"), ("environment.json", "steps")):
        one, another = (json.loads((folder / file).read_text())[key] for folder in (out, other))
        assert one == another


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run.train(RECIPE, TINY, out=out)
    return out


def copy(folder: Path, to: Path) -> Path:
    """The files of a run, without its checkpoints."""
    to.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_run_folder(finished: Path) -> None:
    assert sorted(file.name for file in finished.iterdir()) == sorted([*FILES, "checkpoints", "training.jsonl"])
    assert sorted(file.name for file in (finished / "checkpoints").iterdir()) == ["best.safetensors", "last.ckpt"]
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    assert metrics["n"] == len(rows) > 0
    assert metrics["data"]["split"] == "valid"
    assert metrics["seed"] == 0
    assert set(metrics["metrics"]) == {"hits@1/20", "hits@5/20", "mrr/20"}
    for value in metrics["metrics"].values():
        assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
    assert metrics["environment"]["torch"] == torch.__version__
    environment = json.loads((finished / "environment.json").read_text())
    steps = course(finished)
    assert environment["best_step"] == max(steps, key=lambda line: (line["mrr"], -line["step"]))["step"]
    assert environment["steps"] > steps[0]["step"]
    assert environment["cpu_seconds"] > 0


def test_the_kept_weights_are_the_best(finished: Path) -> None:
    """Not the last: those of the validation with the highest mrr, measured again on the same examples."""
    task = run.load(str(finished))
    best = checkpoint.load(finished / "checkpoints" / "best.safetensors")
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(best[name], tensor) if isinstance(tensor, torch.Tensor) else best[name] == tensor
    dev = examples(Toy(dialogues=8).split("dev"))
    measured = task.metrics(results.predict(task, dev))["mrr/20"]
    assert sum(measured) / len(measured) == pytest.approx(max(line["mrr"] for line in course(finished)), abs=1e-5)


def test_a_run_starts_from_the_weights_that_it_shares_with_another(finished: Path, tmp_path: Path) -> None:
    hre = {"class_path": "personae.models.selection.hre.HRE", "init_args": {"hidden": 4, "features": 5}}
    changes = settings(**STUCK, init_from=str(finished))
    changes = {key: value for key, value in changes.items() if not key.startswith("task.model")}
    recipe = recipes.read(RECIPE)
    words = yaml.safe_load(TINY["task.model.words"])
    recipe["task"]["init_args"]["model"] = {**hre, "init_args": {**hre["init_args"], "words": words}}
    (tmp_path / "hre.yaml").write_text(yaml.safe_dump(recipe))
    run.train(str(tmp_path / "hre.yaml"), changes, out=tmp_path / "run")
    weights = dict(run.load(str(tmp_path / "run")).model.named_parameters())
    theirs = dict(run.load(str(finished)).model.named_parameters())
    shared = {name for name in weights if name in theirs and weights[name].shape == theirs[name].shape}
    assert {"words.spelling.weight", "sentence.input", "utterances.recurrent"} <= shared
    assert "classifier.hidden.weight" not in shared  # of another size
    for name in shared:
        assert torch.equal(weights[name], theirs[name])


def test_weights_of_nothing_in_common_are_no_start(finished: Path, tmp_path: Path) -> None:
    changes = settings(init_from="tfidf")
    with pytest.raises(InputError, match="init_from: tfidf: none of its weights has the name and the shape of one of"):
        run.train(RECIPE, changes, out=tmp_path / "run")
    with pytest.raises(InputError, match="no such model"):
        run.train(RECIPE, settings(init_from=str(tmp_path / "none")), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_of_equal_validations_the_first_is_kept(tmp_path: Path) -> None:
    run.train(RECIPE, settings(**STUCK), out=tmp_path / "run")
    assert len({line["mrr"] for line in course(tmp_path / "run")}) == 1
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["best_step"] == 2


def test_the_resolved_recipe_makes_the_same_run_and_another_seed_another(finished: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["task"]["init_args"]["optimization"]["decay_steps"] == 5000  # a default, written out
    again = tmp_path / "again"
    run.train(str(finished / "recipe.yaml"), {}, out=again)
    assert_same_run(again, finished)
    other = tmp_path / "other"
    run.train(RECIPE, settings(seed="1"), out=other)
    assert (other / "model.safetensors").read_bytes() != (finished / "model.safetensors").read_bytes()


def saved(changes: dict[str, str], out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Trains, and returns a copy of the run folder as it was after each time that the state was kept."""
    folders: list[Path] = []
    save = lightning.Trainer.save_checkpoint

    def spy(self: lightning.Trainer, path: Path, weights_only: bool) -> None:
        save(self, path, weights_only=weights_only)
        folders.append(copy(out, out.with_name(f"{out.name}-{len(folders)}")))
        (folders[-1] / "checkpoints").mkdir()
        for file in (out / "checkpoints").iterdir():
            (folders[-1] / "checkpoints" / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", spy)
    run.train(RECIPE, changes, out=out)
    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", save)
    return folders


@pytest.mark.parametrize(
    ("changes", "points", "steps"),
    [
        (settings(), 10, [2, 4, 7, 9]),
        (settings(trainer__val_check_interval="1.0", trainer__gradient_clip_val="0.1", save_every="3"), 5, [5, 10]),
        (settings(trainer__check_val_every_n_epoch="null", save_every="3"), 7, [2, 4, 6, 8, 10]),
        (settings(trainer__accumulate_grad_batches="2", save_every="2"), 5, [1, 2, 4, 5]),
        (settings(trainer__max_steps="7", save_every="3"), 5, [2, 4, 7]),
        (settings(task__optimization__cooldown="0.5"), 10, [2, 4, 7, 9]),
        (settings(task__optimization__muon="0.03"), 10, [2, 4, 7, 9]),
        (settings(task__average="0.9"), 10, [2, 4, 7, 9]),
        (settings(trainer__max_epochs="9", **STUCK), 4, [2, 4]),
        (settings(trainer__max_epochs="9", trainer__val_check_interval="1.0", save_every="3", **STUCK), 5, [5, 10]),
    ],
    ids=[
        "within epochs",
        "at their ends",
        "across epochs",
        "accumulated",
        "steps",
        "cooldown",
        "muon",
        "average",
        "patience",
        "patience at ends",
    ],
)
def test_a_run_resumed_from_any_point_is_one_that_was_never_interrupted(
    changes: dict[str, str], points: int, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = saved(changes, tmp_path / "run", monkeypatch)
    assert [line["step"] for line in course(tmp_path / "run")] == steps
    assert len(folders) == points
    for folder in folders:
        run.train(None, {}, out=folder, resume=True)
        assert_same_run(folder, tmp_path / "run")


def test_a_finished_run_can_be_made_longer(finished: Path, tmp_path: Path) -> None:
    run.train(RECIPE, settings(trainer__max_epochs="1"), out=tmp_path / "run")
    run.train(None, {"trainer.max_epochs": "2"}, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished)


def stopped(out: Path, changes: dict[str, str], *, renewed: int, by: signal.Signals) -> int:
    """The exit code of training in another process, sent a signal when its checkpoint has been renewed so often."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run.train(RECIPE, changes, out=out)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    seen: set[int] = set()
    while len(seen) <= renewed:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        with suppress(FileNotFoundError):
            seen.add((out / "checkpoints" / "last.ckpt").stat().st_mtime_ns)
        time.sleep(0.001)
    ended, status = 0, 0
    while not ended:  # more than once where Ctrl-C falls on a moment that cannot raise, such as a finalizer
        os.kill(child, by)
        time.sleep(0.02)
        ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a process that can be forked with its threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_run_that_is_killed_or_interrupted_goes_on(tmp_path: Path) -> None:
    changes = settings(trainer__max_epochs="4")
    run.train(RECIPE, changes, out=tmp_path / "whole")
    for name, renewed, by, code in (
        ("killed-0", 0, signal.SIGKILL, -signal.SIGKILL),
        ("killed-5", 5, signal.SIGKILL, -signal.SIGKILL),
        ("interrupted", 3, signal.SIGINT, 130),
    ):
        out = tmp_path / name
        assert stopped(out, changes, renewed=renewed, by=by) == code
        assert not (out / "metrics.json").exists()
        with pytest.raises(InputError, match=r"no finished run, config\.json and model\.safetensors missing; resume"):
            run.load(str(out))
        run.train(None, {}, out=out, resume=True)
        assert_same_run(out, tmp_path / "whole")


class _Swallows:
    """Ctrl-C falls on its finalizer, where an exception is only reported."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_falls_on_a_finalizer_stops_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Task, batch: Batch, batch_idx: int) -> None:
        started.append(batch_idx)
        if len(started) == 3:
            _Swallows()

    started: list[int] = []
    monkeypatch.setattr(Task, "on_train_batch_start", start)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.train(RECIPE, settings(), out=tmp_path / "run")
    assert len(started) == 3
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


def test_an_interrupted_run_keeps_the_very_batch_that_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Task, batch: Batch, batch_idx: int) -> None:
        begin(self, batch, batch_idx)
        started.append(batch_idx)
        if len(started) == at:
            signal.raise_signal(signal.SIGINT)

    begin = Task.on_train_batch_start
    changes = settings(save_every="1000", trainer__val_check_interval="4")
    run.train(RECIPE, changes, out=tmp_path / "whole")
    for at, kept in ((3, 3), (4, 4), (8, 8)):  # after the fourth batch of five comes a validation, which is waited for
        started, out = list[int](), tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_train_batch_start", start)
            with pytest.raises(KeyboardInterrupt):
                run.train(RECIPE, changes, out=out)
        assert checkpoint.load(out / "checkpoints" / "last.ckpt")["global_step"] == kept == len(started)
        run.train(None, {}, out=out, resume=True)
        assert_same_run(out, tmp_path / "whole")


def test_an_interrupt_between_validations_by_time_keeps_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Task, batch: Batch, batch_idx: int) -> None:
        if self.global_step == 2:
            signal.raise_signal(signal.SIGINT)

    changes = settings(save_every="1000", trainer__val_check_interval="00:01:00:00")
    monkeypatch.setattr(Task, "on_train_batch_start", start)
    with pytest.raises(KeyboardInterrupt):
        run.train(RECIPE, changes, out=tmp_path)
    assert checkpoint.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_precision_that_training_cannot_have_is_refused(precision: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"trainer\.precision: {precision} is none of 32-true, 16-mixed, bf16-mixed"):
        run.train(RECIPE, settings(trainer__precision=precision), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["features", "hidden"])
def test_a_layer_without_units_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"task\.model\.{key}: 0 is not at least 1"):
        run.train(RECIPE, settings(**{f"task__model__{key}": "0"}), out=tmp_path / "run")


def test_training_that_diverges_says_so(tmp_path: Path) -> None:
    changes = settings(task__optimization__learning_rate=".inf", task__optimization__muon="null")
    with pytest.raises(InputError, match="training diverged: the loss is nan at step 2; train anew, into another"):
        run.train(RECIPE, changes, out=tmp_path / "run")


def test_a_run_goes_on_only_with_the_corpus_that_it_began_with(finished: Path, tmp_path: Path) -> None:
    corpus = Toy(dialogues=8)
    for split in ("train", "dev", "valid"):
        jsonl.write(corpus.split(split), tmp_path / f"{split}.jsonl")
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    files = {"train": [str(tmp_path / "train.jsonl")], **{k: str(tmp_path / f"{k}.jsonl") for k in ("dev", "valid")}}
    recipe["corpus"] = {"class_path": "personae.data.files.Files", "init_args": files}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    run.train(str(tmp_path / "mine.yaml"), {}, out=out)
    learnt = json.loads((out / "environment.json").read_text())["corpus"]
    assert learnt["train"] == len(examples(corpus.split("train"), sides="both"))
    run.train(None, {"trainer.max_epochs": "3"}, out=out, resume=True)
    jsonl.write(corpus.split("dev"), tmp_path / "train.jsonl")
    with pytest.raises(InputError, match=r"last\.ckpt: the training or dev dialogues are not those with which"):
        run.train(None, {"trainer.max_epochs": "4"}, out=out, resume=True)


def test_a_corpus_without_the_persona_that_is_to_be_read_is_not_trained_on(tmp_path: Path) -> None:
    corpus, files = Toy(dialogues=8), {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "dev", "valid")}
    for name, file in files.items():
        bare = [
            replace(dialogue, speakers=tuple(replace(who, persona=Persona(())) for who in dialogue.speakers))
            for dialogue in corpus.split(name)
        ]
        jsonl.write(bare, file)
    recipe = recipes.read(RECIPE)
    recipe["corpus"] = {"class_path": "personae.data.files.Files", "init_args": {**files, "train": [files["train"]]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"corpus\.train: holds no line of the persona .*task\.model\.persona self"):
        run.train(str(tmp_path / "mine.yaml"), TINY_MODEL, out=tmp_path / "run")
    run.train(str(tmp_path / "mine.yaml"), {**TINY_MODEL, "task.model.persona": "none"}, out=tmp_path / "none")


def test_a_sanity_check_is_no_measurement(finished: Path, tmp_path: Path) -> None:
    run.train(RECIPE, settings(trainer__num_sanity_val_steps="2"), out=tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_a_run_whose_time_is_over_is_not_trained_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"trainer\.max_time: is over before dev was measured"):
        run.train(RECIPE, settings(trainer__max_time="00:00:00:00"), out=tmp_path / "none")
    run.train(RECIPE, settings(trainer__max_time="00:00:00:01", trainer__max_epochs="9999"), out=out)
    before = course(out)
    run.train(None, {}, out=out, resume=True)
    assert course(out) == before


def test_the_progress_bar_can_be_turned_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shown in ("true", "false"):
        run.train(RECIPE, settings(trainer__enable_progress_bar=shown), out=tmp_path / shown)
        assert ("Epoch" in capsys.readouterr().err) == (shown == "true")


def test_a_run_that_was_stopped_before_it_kept_anything_starts_again(finished: Path, tmp_path: Path) -> None:
    for name, resume in (("resumed", True), ("begun again", False)):
        out = tmp_path / name
        out.mkdir()
        (out / "recipe.yaml").write_bytes((finished / "recipe.yaml").read_bytes())
        run.train(str(finished / "recipe.yaml"), {}, out=out, resume=resume)
        assert_same_run(out, finished)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Any
) -> None:
    saved, count = checkpoint.save, [0]

    def save(content: Any, path: Path) -> None:
        count[0] += 1
        with full_disk(5000 if count[0] > 4 else 1 << 30):
            saved(content, path)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
        run.train(RECIPE, TINY, out=tmp_path / "run")
    monkeypatch.undo()
    assert sorted(file.name for file in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "best.safetensors",
        "last.ckpt",
    ]
    run.train(RECIPE, TINY, out=tmp_path / "whole")
    run.train(None, {}, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_folder_in_use_is_refused(finished: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="is not an empty folder; resume its run with --resume, or name another"):
        run.train(RECIPE, TINY, out=finished)
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is not an empty folder; name another"):
        run.train(RECIPE, TINY, out=tmp_path / "file")
    with pytest.raises(InputError, match=r"--out .*file: is a file; name a folder"):
        run.evaluate("tfidf", "nowhere.jsonl", out=tmp_path / "file")


def test_two_commands_do_not_train_the_same_run(finished: Path) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    lock = finished / ".lock"
    with (
        FileLock(lock, timeout=0),
        pytest.raises(InputError, match="another command is training this run; wait for it, or stop it"),
    ):
        run.train(None, {}, out=finished, resume=True)
    lock.unlink(missing_ok=True)
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


def test_only_a_run_is_resumed_and_as_what_it_was(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run to resume; leave --resume out"):
        run.train(RECIPE, TINY, out=tmp_path, resume=True)
    before = (finished / "recipe.yaml").read_bytes()
    for key, value in (
        ("task.model.hidden", "5"),
        ("corpus.dialogues", "9"),
        ("seed", "5"),
        ("patience", "5"),
        ("init_from", "runs/other"),
    ):
        with pytest.raises(
            InputError, match=rf"--resume: {key.partition('.')[0]} is not what it was in .*recipe\.yaml"
        ):
            run.train(None, {key: value}, out=finished, resume=True)
    with pytest.raises(InputError, match="limit_val_batches"):
        run.train(None, {"trainer.limit_val_batches": "0"}, out=finished, resume=True)
    assert (finished / "recipe.yaml").read_bytes() == before


def test_a_refused_run_leaves_an_empty_folder_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val_check_interval"):
        run.train(RECIPE, settings(trainer__val_check_interval="1000"), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_resuming_removes_what_was_killed_amid_a_write(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for name in ("recipe.yaml.123.part", "checkpoints/last.ckpt.123.part"):
        (out / name).write_text("")
    run.train(None, {}, out=out, resume=True)
    assert not list(out.rglob("*.part"))
    assert_same_run(out, finished)


def test_a_checkpoint_of_another_model_is_not_resumed(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    recipe = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(recipe.replace("hidden: 4\n", "hidden: 5\n"))
    with pytest.raises(InputError, match=r"(?s)last\.ckpt: was not kept by a run of this recipe: .*size mismatch"):
        run.train(None, {"trainer.max_epochs": "3"}, out=out, resume=True)


def test_a_damaged_checkpoint_is_not_resumed(finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "run")
    (out / "checkpoints").mkdir()
    whole = (finished / "checkpoints" / "last.ckpt").read_bytes()
    (out / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be read as a checkpoint, it is missing or damaged"):
        run.train(None, {}, out=out, resume=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, r"run: no finished run, model\.safetensors missing; resume"),
        ("config.json", None, r"run: no finished run, config\.json missing; resume"),
        ("recipe.yaml", None, r"run: is no run folder, it has no recipe\.yaml; give the --out of"),
        ("model.safetensors", b"", r"model\.safetensors or config\.json is damaged"),
        ("model.safetensors", 100, r"model\.safetensors or config\.json is damaged"),
        ("model.safetensors", -1, r"model\.safetensors or config\.json is damaged"),
        ("config.json", 20, r"model\.safetensors or config\.json is damaged"),
        ("config.json", b"{}", r"model\.safetensors or config\.json is damaged"),
        ("config.json", b'{"state": {}}', r"model\.safetensors or config\.json is damaged"),
        ("recipe.yaml", b"task: [", r"recipe\.yaml: cannot be read as YAML"),
        (
            "recipe.yaml",
            b"task:\n  class_path: personae.tasks.selection.Selection\n",
            r"recipe\.yaml: is cut off, copy the run again",
        ),
    ],
)
def test_a_damaged_run_is_refused(
    file: str, content: bytes | int | None, message: str, finished: Path, tmp_path: Path
) -> None:
    out = copy(finished, tmp_path / "run")
    whole = (out / file).read_bytes()
    if content is None:
        (out / file).unlink()
    else:
        (out / file).write_bytes(whole[:content] if isinstance(content, int) else content)
    with pytest.raises(InputError, match=message):
        run.load(str(out))


def test_weights_of_another_shape_are_refused(finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "run")
    recipe = (out / "recipe.yaml").read_text()
    assert recipe.count("hidden: 4\n") == 1
    (out / "recipe.yaml").write_text(recipe.replace("hidden: 4\n", "hidden: 5\n"))
    with pytest.raises(InputError, match=r"(?s)run: model\.safetensors or config\.json is damaged.*size mismatch"):
        run.load(str(out))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("imn", r"imn: must be trained first: personae fit --config selection/imn-\S+ --out RUN, .* then give RUN"),
        ("dmi", r"dmi: no such model; did you mean dim\?"),
        (RECIPE, rf"{RECIPE}: must be trained first: personae fit --config {RECIPE}"),
        ("nowhere", r"nowhere: no such model; give .* needs no training: .*minilm, tfidf"),
    ],
)
def test_what_is_no_trained_model_is_refused(model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run.load(model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "toy_valid.jsonl"
    jsonl.write(Toy(dialogues=8).split("valid"), path)
    return path


def test_an_evaluation_is_that_of_the_end_of_training(finished: Path, data: Path, tmp_path: Path) -> None:
    result = run.evaluate(str(finished), str(data), out=tmp_path / "evaluation")
    trained = json.loads((finished / "metrics.json").read_text())
    assert result["metrics"] == trained["metrics"]
    assert result["data"]["candidates"] == trained["data"]["candidates"]
    assert (result["data"]["split"], result["data"]["path"]) == ("valid", str(data))
    assert len(result["data"]["sha256"]) == 64
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == result
    compared = results.compare(finished, tmp_path / "evaluation")
    assert {row["difference"]["value"] for row in compared["metrics"].values()} == {0}


def test_an_evaluation_does_not_replace_a_runs_own_result(finished: Path, data: Path) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="is a run folder, whose own results would be lost; name another"):
        run.evaluate("tfidf", str(data), out=finished)
    assert before == {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}


def test_an_evaluation_does_not_replace_another(data: Path, tmp_path: Path) -> None:
    run.evaluate("tfidf", str(data), out=tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="holds the results of another evaluation, which would be lost; name another"):
        run.evaluate("tfidf", str(data), persona="none", out=tmp_path)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*")}


def test_a_file_that_is_trained_on_is_not_measured(data: Path, tmp_path: Path) -> None:
    jsonl.write(Toy(dialogues=8).split("dev"), tmp_path / "dev.jsonl")
    (tmp_path / "copy.jsonl").write_bytes(data.read_bytes())
    files = {"train": [str(data)], "dev": str(tmp_path / "dev.jsonl"), "valid": str(tmp_path / "copy.jsonl")}
    corpus = yaml.safe_dump({"class_path": "personae.data.files.Files", "init_args": files})
    with pytest.raises(InputError, match=r"corpus\.valid: \d+ of its \d+ dialogues are in corpus\.train too"):
        run.train(RECIPE, {**TINY_MODEL, "corpus": corpus}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_without_a_reply_is_not_measured(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(
        '{"id": "d1", "speakers": ["ada", "ben"], "personas": [[], []], "turns": [{"speaker": 0, "text": "Hello?"}]}\n'
    )
    with pytest.raises(InputError, match=r"one\.jsonl: holds no reply of speaker 1 .* give candidates to the turns"):
        run.evaluate("tfidf", str(tmp_path / "one.jsonl"))
    recipe = recipes.read(RECIPE)
    files = {"train": [str(data)], "dev": str(data), "valid": str(tmp_path / "one.jsonl")}
    recipe["corpus"] = {"class_path": "personae.data.files.Files", "init_args": files}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"corpus\.valid: holds no reply of speaker 1 .* the only ones that are mea"):
        run.train(str(tmp_path / "recipe.yaml"), TINY_MODEL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_is_what_the_file_says(data: Path, tmp_path: Path) -> None:
    renamed = {"restrained.jsonl": "all", "my_train-1.jsonl": "train", "valid.jsonl": "valid"}
    for name, label in renamed.items():
        (tmp_path / name).write_bytes(data.read_bytes())
        assert run.evaluate("tfidf", str(tmp_path / name))["data"]["split"] == label


def test_the_published_number_stands_beside_the_result(tmp_path: Path) -> None:
    paper = "{name: persona-fusion, table: table4, row: IMN-RA, column: self hits@1}"
    result = run.train(RECIPE, settings(paper=paper), out=tmp_path / "run")
    assert result["published"]["value"] == 66.3
    assert "test" in result["published"]["dataset"]
    with pytest.raises(InputError, match="there is no row of persona-fusion table4 called 'IMN-XA'"):
        run.train(RECIPE, settings(paper=paper.replace("RA", "XA")), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "IMN-RA"),
        ({"corpus.train": "[mine.jsonl]", "seed": "1", "task.batch_size": "8"}, "IMN-RA"),
        ({"task.model.persona": "partner"}, None),
        ({"corpus.valid": "mine.jsonl"}, None),
        ({"corpus": "{class_path: personae.data.toy.Selection}"}, None),
        ({"task.model.fusion": "ca", "paper.row": "IMN-CA"}, "IMN-CA"),
    ],
)
def test_a_published_number_is_of_the_model_and_what_it_is_measured_on(
    changes: dict[str, str], expected: str | None
) -> None:
    paper = run._settings(run._parser(), "selection/imn-personachat-ra", changes).paper
    assert (paper and paper.row) == expected


def test_what_is_reported_on_is_read_before_training(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "id": str(n),
                    "personas": [[f"a {n}"], [f"b {n}"]],
                    "turns": [{"speaker": k % 2, "text": f"{k} {n}"} for k in range(4)],
                }
            )
            + "\n"
            for n in range(600)
        )
    )
    corpus = (
        f"{{class_path: personae.data.files.Files, init_args: {{train: [{tmp_path}/train.jsonl], valid: typo.txt}}}}"
    )
    with pytest.raises(InputError, match=r"typo\.txt: there is nothing at .*typo\.txt or"):
        run.train(
            RECIPE,
            {**TINY_MODEL, "corpus": corpus},
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_an_evaluation_reads_the_persona_that_is_asked_for(finished: Path, data: Path, tmp_path: Path) -> None:
    rows = {}
    for persona in ("self", "none", "partner"):
        result = run.evaluate(str(finished), str(data), persona=persona, out=tmp_path / persona)
        assert result["persona"] == persona
        rows[persona] = (tmp_path / persona / "predictions.jsonl").read_text()
    assert len(set(rows.values())) == 3
    assert rows["self"] == (finished / "predictions.jsonl").read_text()


def test_a_model_made_without_persona_is_given_none(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipes.find(RECIPE).read_text().replace("fusion: ra", "fusion: none"))
    task = run.build(str(recipe))
    with pytest.raises(InputError, match=r"--persona self: this model was built without personas"):
        run.aim(task, "self")
    run.aim(task, "none")
    assert task.model.persona == "none"


def test_a_persona_that_the_file_lacks_is_not_measured(finished: Path, tmp_path: Path) -> None:
    def without(place: int, dialogue: Dialogue) -> Dialogue:
        first, second = (
            replace(speaker, persona=Persona()) if number == place else speaker
            for number, speaker in enumerate(dialogue.speakers)
        )
        return replace(dialogue, speakers=(first, second))

    no_partner, no_self = tmp_path / "no_partner.jsonl", tmp_path / "no_self.jsonl"
    for place, path in enumerate((no_partner, no_self)):
        jsonl.write((without(place, dialogue) for dialogue in Toy(dialogues=8).split("valid")), path)
    for model in ("tfidf", str(finished)):
        for path, persona, read in (
            (no_self, None, "self"),
            (no_self, "self", "self"),
            (no_partner, "partner", "partner"),
        ):
            with pytest.raises(
                InputError, match=rf"{path.name}: holds no line of the persona .*--persona {read}\); read none"
            ):
                run.evaluate(model, str(path), persona=persona)
        for path, persona, read in ((no_self, "none", "none"), (no_partner, None, "self")):
            assert run.evaluate(model, str(path), persona=persona)["persona"] == read
    assert run.evaluate("tfidf", str(no_self), persona="both")["persona"] == "both"
    with pytest.raises(InputError, match="--persona both: this model was built for one persona; train one with"):
        run.evaluate(str(finished), str(no_self), persona="both")


def test_candidates_are_asked_for_only_where_the_file_has_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--candidates 20: .*toy_valid\.jsonl has candidates of its own; leave"):
        run.evaluate("tfidf", str(data), candidates=20)
    bare = [
        replace(dialogue, turns=tuple(replace(turn, candidates=()) for turn in dialogue.turns))
        for dialogue in Toy(dialogues=100).split("valid")
    ]
    jsonl.write(bare, tmp_path / "bare.jsonl")
    for asked, name in ((None, "own20"), (5, "own5")):
        result = run.evaluate("tfidf", str(tmp_path / "bare.jsonl"), candidates=asked)
        assert result["data"]["candidates"]["name"] == name
    with pytest.raises(InputError, match="candidates: 0 are no choice"):
        run.evaluate("tfidf", str(tmp_path / "bare.jsonl"), candidates=0)


def test_predictions_keep_the_order_of_the_cases(finished: Path) -> None:
    task = run.load(str(finished))
    cases = examples(Toy(dialogues=8).split("train"))
    rows = results.predict(task, cases)
    assert [row.id for row in rows] == [case.id for case in cases]
    backwards = results.predict(task, cases[::-1])
    assert [row.id for row in backwards] == [case.id for case in cases[::-1]]
    for row, again in zip(rows, backwards[::-1], strict=True):
        assert row.scores == pytest.approx(again.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("metrics.json", "{", "", r"metrics\.json: is damaged \("),
        ("metrics.json", '"n"', '"m"', r"metrics\.json: is damaged \(it has no 'n'\)"),
        ("metrics.json", "(?s).*", "", r"metrics\.json: the file is empty: copy it again, or give another$"),
        ("predictions.jsonl", "(?s).*", "", r"predictions\.jsonl: the file is empty: copy it again, or give another$"),
        ("predictions.jsonl", "(?s).*", "[]", r"predictions\.jsonl:1: is damaged \("),
        ("predictions.jsonl", '"dialogue": "[^"]*", ', "", r"predictions\.jsonl:1: is damaged \(.*'dialogue'"),
        ("predictions.jsonl", '"id": "[^"]*"', '"id": 1', r"jsonl:1: is damaged \(id and dialogue must be texts"),
        ("predictions.jsonl", r"\[.*?,", '["high",', r"jsonl:1: is damaged \(scores must be numbers"),
        ("predictions.jsonl", r"\[.*?,", "[true,", r"jsonl:1: is damaged \(scores must be numbers"),
        ("predictions.jsonl", r"\[.*?,", f"[1{'0' * 400},", r"jsonl:1: is damaged \(int too large"),
        ("predictions.jsonl", r'"target": \d+', '"target": 0.5', r"jsonl:1: is damaged \(target must be the place"),
        ("predictions.jsonl", r'"target": \d+', '"target": true', r"jsonl:1: is damaged \(target must be the place"),
        ("predictions.jsonl", r'"target": \d+', '"target": 20', r"jsonl:1: is damaged \(target must be the place"),
        ("predictions.jsonl", r".*\n", "", r"jsonl: holds \d+ examples, .*metrics\.json tells of \d+"),
    ],
)
def test_damaged_results_are_refused(
    file: str, old: str, new: str, message: str, finished: Path, tmp_path: Path
) -> None:
    out = copy(finished, tmp_path / "run")
    (out / file).write_text(re.sub(old, new, (out / file).read_text(), count=1))
    with pytest.raises(InputError, match=message):
        results.compare(finished, out)
    with pytest.raises(InputError, match="give a run folder, or the --out of an evaluation"):
        results.compare(finished, tmp_path / "nowhere")


def test_results_on_other_candidates_are_not_compared(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    jsonl.write(Toy(dialogues=12, seed=3).split("valid"), other)
    run.evaluate(str(finished), str(other), out=tmp_path / "other")
    with pytest.raises(InputError, match="chose from different candidates"):
        results.compare(finished, tmp_path / "other")


def test_the_same_dialogues_with_other_personas_are_compared(finished: Path, tmp_path: Path) -> None:
    def reworded(dialogue: Dialogue) -> Dialogue:
        mute = (dialogue.speakers[0], replace(dialogue.speakers[1], persona=Persona(("i am another",))))
        return replace(dialogue, id=f"reworded-{dialogue.id}", speakers=mute)

    cases = list(Toy(dialogues=12).split("valid"))
    for name, dialogues in (("one", cases), ("other", map(reworded, cases)), ("fewer", map(reworded, cases[1:]))):
        jsonl.write(dialogues, tmp_path / f"{name}.jsonl")
        run.evaluate(str(finished), str(tmp_path / f"{name}.jsonl"), out=tmp_path / name)
    with pytest.raises(InputError, match="chose from different candidates"):
        results.compare(tmp_path / "one", tmp_path / "other")
    found = results.compare(tmp_path / "one", tmp_path / "other", reworded=True)
    first, second = (results.read(tmp_path / name)[0]["metrics"] for name in ("one", "other"))
    for name, compared in found["metrics"].items():
        assert compared["difference"]["value"] == pytest.approx(first[name]["value"] - second[name]["value"])
    with pytest.raises(InputError, match="are not of the same dialogues in the same order with the same candidates"):
        results.compare(tmp_path / "one", tmp_path / "fewer", reworded=True)


def test_a_gpu_that_is_not_there_is_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda: there is no GPU here that torch can use; take cpu"):
        run.evaluate(str(finished), "nowhere.jsonl", device="cuda", out=tmp_path / "out")


@pytest.mark.parametrize("argument", ["precision", "persona", "device"])
def test_a_choice_that_there_is_not_is_refused(argument: str, data: Path) -> None:
    choice: dict[str, Any] = {argument: "bogus"}
    with pytest.raises(InputError, match=rf"^{argument}: 'bogus' is none of the choices \w"):
        run.evaluate("tfidf", str(data), **choice)


def with_backbone(backbone: Path) -> dict[str, str]:
    """The changes that make a short run of BERT."""
    bert = {
        "class_path": "personae.models.selection.bert.BERT",
        "init_args": {"backbone": str(backbone), "longest": 64, "dropout": 0.0},
    }
    changes = {**TINY, "task.model": yaml.safe_dump(bert), "trainer.max_steps": "3"}
    return {key: value for key, value in changes.items() if "task.model." not in key}


def test_a_run_needs_its_backbone_no_longer(backbone: str, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(backbone, folder)
    run.train(RECIPE, with_backbone(folder), out=tmp_path / "run")
    valid = tmp_path / "valid.jsonl"
    jsonl.write(Toy(dialogues=12).split("valid"), valid)
    before = run.evaluate(str(tmp_path / "run"), str(valid))
    shutil.rmtree(folder)
    assert run.evaluate(str(tmp_path / "run"), str(valid))["metrics"] == before["metrics"]
    config = json.loads((tmp_path / "run" / "backbone" / "config.json").read_text())
    assert config["weights"] == "in the model.safetensors of the run"
    assert not list((tmp_path / "run" / "backbone").glob("*.safetensors"))


def test_a_run_whose_backbone_is_named_must_be_started_from(backbone: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    run.train(RECIPE, with_backbone(Path(backbone)), out=before)
    for named, message in (
        (before, rf"{before} is the folder of a run, no encoder; start from the run with --init_from {before}$"),
        (
            before / "backbone",
            rf"{before}/backbone is without weights, .*; start from the run with --init_from {before},",
        ),
    ):
        with pytest.raises(InputError, match=rf"^task\.model\.backbone: {message}"):
            run.train(RECIPE, with_backbone(named), out=after)
        assert not after.exists()
    run.train(RECIPE, {**with_backbone(before / "backbone"), "init_from": str(before)}, out=after)
    assert all(weight.isfinite().all() for weight in load_file(after / "model.safetensors").values())


def test_results_are_read_back(finished: Path) -> None:
    about, rows = results.read(finished)
    lines = (finished / "predictions.jsonl").read_text().splitlines()
    assert [json.dumps(asdict(row)) for row in rows] == lines
    assert about["n"] == len(rows)
