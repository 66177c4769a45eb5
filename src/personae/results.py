"""Results: what a model answers, measured, kept in a folder, read back and compared.

Such a folder, a run's or an evaluation's, holds predictions.jsonl and metrics.json. A record is what remains of one
where every score and every text is not wanted: ranks.parquet, or replies.parquet and users.parquet, small enough to
be shipped, stand in place of predictions.jsonl.
"""

import functools
import hashlib
import json
import operator
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from personae import __version__, answers, catalogue, console, recipes
from personae.data import lines
from personae.data.candidates import Draw
from personae.data.read import locate
from personae.metrics import compare as comparison
from personae.metrics.calibration import expected_error, reliability
from personae.metrics.compare_spoken import Measures, compare_measures, compare_spoken, measures
from personae.metrics.text import ceiling, focused
from personae.names import hint
from personae.published import load, lookup, records
from personae.tasks.base import Task
from personae.types import Example, InputError, Paper, Row, Spoken

RANKS = "ranks.parquet"
RECORDED = (RANKS, answers.REPLIES)
"""What stands in place of predictions.jsonl in a record, of replies that were chosen and of those that were written."""

WEIGHTS = "model.safetensors"

SPENT = ("seed", "steps", "cpu_seconds", "stopped", "corpus.train")
"""What environment.json tells of a training."""

BESIDE = ("corpus.json", "scorers.json")
"""What may have been found out about a run since: how many users its corpus has, and their replies by other scorers."""

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Of Lightning's, those in which training is sound: weights and what is summed over time stay in single precision."""

Measured = Literal["32-true", "16-mixed", "bf16-mixed", "int8"]
"""Those in which a model may be measured."""


def predict(task: Task, cases: Sequence[Example], *, precision: Measured = "32-true") -> list[Any]:
    """The model's answers, in the order of `cases`; progress is shown on standard error."""
    task.eval()
    rows: dict[str, Any] = {}
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with (
        torch.no_grad(),  # not inference_mode, in which autocast would convert the weights at every use
        torch.autocast(task.device.type, half, enabled=precision.endswith("mixed")),
        console.progress("answering", len(cases)) as advance,
    ):
        for batch in task.held_out(cases):
            rows |= {row.id: row for row in task.rows_of(batch.to(task.device))}
            advance(len(batch.examples))
    if len(rows) < len(cases):
        raise InputError(
            f"{len(cases) - len(rows)} examples share the id of another: give every dialogue an id of its own"
        )
    return [rows[case.id] for case in cases]


def report(
    task: Task,
    cases: Sequence[Example],
    drawn: Draw | None,
    *,
    model: str,
    path: str | None,
    split: str,
    seed: int,
    out: Path | None = None,
    paper: Paper | None = None,
    precision: Measured = "32-true",
) -> dict[str, Any]:
    """Predicts and measures; writes predictions.jsonl and metrics.json to the folder `out`, if given. `paper` is where
    the system is published; the number stands beside, with the data that it was measured on, and so does what the task
    puts `beside`. Of a run folder `model`, the weights' digest is kept. Of a calibrated model the expected calibration
    error is told, and its bins, of which reliability.svg is drawn."""
    weights = catalogue.shipped().get(model, Path(model)) / WEIGHTS
    rows = predict(task, cases, precision=precision)
    result: dict[str, Any] = {
        "model": model,
        "persona": getattr(task.model, "persona", "none"),
        "data": {
            "path": path,
            "split": split,
            "sha256": sha256(locate(path)[0]) if path else None,
            "candidates": asdict(drawn) if drawn else None,
        },
        "n": len(rows),
        "seed": seed,
        "weights": sha256(weights) if weights.exists() else None,
        "metrics": {name: asdict(interval) for name, interval in task.measure(rows).items()},
        **task.beside(rows),
        "environment": {**environment(task.device), "precision": precision},
    }
    if task.calibration is not None:
        bins = reliability(rows, task.calibration)
        result["calibration"] = {"ece": expected_error(bins), "bins": [asdict(part) for part in bins]}
    if paper is not None:
        result["published"] = {**asdict(paper), "dataset": load(paper.name)["dataset"], "value": lookup(paper)}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        lines.save((json.dumps(asdict(row)) for row in rows), out / "predictions.jsonl")
        if task.calibration is not None:
            from personae import diagram

            diagram.save(out / "reliability.svg", bins)
        write_json(result, out / "metrics.json")
    return result


def read(folder: Path) -> tuple[dict[str, Any], list[Any] | Measures]:
    """What `report` or `record` wrote to a folder, its answers as `Row`s or what was `Spoken`, of which a record has
    `Measures`; or what is recorded of the run of that name in this version. InputError where there is nothing or it is
    damaged."""
    folder = _place(folder)
    metrics, predictions = folder / "metrics.json", folder / "predictions.jsonl"
    records = [folder / name for name in RECORDED if (folder / name).exists()]
    if not predictions.exists() and records:
        predictions = records[0]
    for file in (metrics, predictions):
        if not file.exists() and (folder / "checkpoints").exists():
            raise InputError(f"{folder}: no finished run, it has no {file.name}; resume its training, or name another")
        if not file.exists():
            raise InputError(f"{file}: there is none; give a run folder, or the --out of an evaluation")
    told = about(metrics)
    rows: list[Any] | Measures
    if predictions.name == RANKS:
        rows = answers.ranked(predictions)
    elif predictions.name == answers.REPLIES:
        rows = answers.kept(folder, tokens=_tokens(told))
    else:
        rows = [answers.parsed(line, f"{predictions}:{number}") for number, line in lines.numbered(predictions)]
    if told["n"] != len(rows):
        raise InputError(
            f"{predictions}: holds {len(rows)} examples, {metrics} tells of {told['n']}; copy both again, or evaluate "
            "anew"
        )
    return told, rows


def measured(folder: Path, *, most: int | None = None, real: bool = False) -> Measures:
    """What is measured of the replies that a folder or a record holds: of all, or of the `focused` set of those whose
    users are among the first `most` by what they really said; of what was really said in their place, if `real`.
    InputError where there is none, or the folder is damaged."""
    folder = _place(folder)
    told, rows = read(folder)
    if isinstance(rows, Measures):
        return answers.kept(folder, tokens=_tokens(told), most=most, real=real) if most is not None or real else rows
    some = rows if most is None else focused(rows, most)
    return measures(ceiling(some) if real else some, tokens=_tokens(told))


def _tokens(told: dict[str, Any]) -> str:
    """Whose tokens a model counts that writes replies."""
    return next((name.partition("/")[2] for name in told["metrics"] if name.startswith("perplexity/")), "")


def about(metrics: Path) -> dict[str, Any]:
    """What a metrics.json says. InputError where it is damaged."""
    data = ("path", "sha256", "candidates")
    return read_json(metrics, "model", "persona", "n", "metrics", *(f"data.{name}" for name in data))


def _place(folder: Path) -> Path:
    """A folder, or where there is none, the record of that name."""
    return folder if folder.exists() else _recorded(folder)


def _recorded(name: Path) -> Path:
    """The record of that name in this version: of a run, or of what else it was measured on ("dim/on-revised").
    InputError says which there are."""
    folder = records() / name
    if not name.is_absolute() and ".." not in name.parts and folder.is_dir():
        return folder if (folder / "metrics.json").exists() else folder / "on-original"  # of what is not trained
    names = sorted(path.name for path in records().iterdir() if path.name != "speed")
    beside = [str(file.parent) for file in name.parent.glob("*/metrics.json")]
    otherwise = (
        "give a run folder, or the --out of an evaluation, or the name of one of this version's runs: "
        f"{', '.join(names)}"
    )
    raise InputError(f"{name}: there is none; {hint(str(name), [*beside, *names], otherwise)}")


def record(folder: Path, out: Path) -> None:
    """Writes to `out` what the numbers in a folder rest on, without weights, single scores and what was written:
    metrics.json, the rank of each true reply, or what was measured of each written one, and, of a run, its
    environment.json and its recipe.yaml, in which other runs are named without their paths. InputError where something
    of the folder is missing or damaged."""
    told, rows = read(folder)
    recipe = recipes.read(str(folder / "recipe.yaml")) if (folder / "recipe.yaml").exists() else None
    spent = None if recipe is None else read_json(folder / "environment.json", *SPENT)
    beside = {name: read_json(folder / name) for name in BESIDE if (folder / name).exists()}
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, Measures):
        for name in (answers.REPLIES, answers.USERS):
            with lines.whole(out / name) as file:
                file.write((folder / name).read_bytes())
    elif all(isinstance(row, Spoken) for row in rows):
        answers.keep(rows, out)
    else:
        answers.keep_ranks(rows, out / RANKS)
    for name, content in beside.items():
        write_json(content, out / name)
    named = Path(told["model"])
    if recipe is not None:
        named = folder.resolve()  # it may have been moved since
        _unplace(recipe)
        lines.save([yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).rstrip("\n")], out / "recipe.yaml")
        write_json(spent, out / "environment.json")
    write_json({**told, "model": named.name}, out / "metrics.json")


def _unplace(recipe: dict[str, Any]) -> None:
    """Leaves of the runs that a recipe names, to start from or for the factors of users, their names alone."""
    first = recipe.get("init_from")
    recipe["init_from"] = first and Path(first).name
    speakers: Any = recipe
    for name in ("task", "init_args", "model", "init_args", "speakers", "init_args"):
        speakers = speakers.get(name) or {}
    if speakers.get("factors"):
        speakers["factors"] = Path(speakers["factors"]).name


def compare(run_a: Path, run_b: Path, *, reworded: bool = False, seed: int = 0) -> dict[str, Any]:
    """Compares two results on the same examples, see `metrics.compare.compare`; where `b` was measured on the same
    dialogues `reworded`, in another file, examples are matched by their place. InputError where the candidates were not
    the same, by their digests."""
    if seed < 0:
        raise InputError(f"seed: {seed} is not at least 0")
    (about_a, rows_a), (about_b, rows_b) = read(run_a), read(run_b)
    draws = [about["data"]["candidates"] for about in (about_a, about_b)]
    sides = [
        {"persona": about["persona"], "path": about["data"]["path"], "split": about["data"].get("split")}
        for about in (about_a, about_b)
    ]
    told = {"of": dict(zip("ab", sides, strict=True)), "candidates": draws[0]}
    if None in draws:
        if draws != [None, None]:
            raise InputError(
                f"{run_a} and {run_b}: of two models that write replies, or two that choose them, give the runs"
            )
        if reworded:
            raise InputError("--reworded: is for models that choose replies, and these write them; leave it out")
        if isinstance(rows_a, list) and isinstance(rows_b, list):
            return {**told, **compare_spoken(rows_a, rows_b, tokens=_tokens(about_a), seed=seed)}
        return {**told, **compare_measures(measured(run_a), measured(run_b), seed=seed)}
    assert isinstance(rows_a, list)
    assert isinstance(rows_b, list)
    alike = [_shape(row) for row in rows_a] == [_shape(row) for row in rows_b]
    if reworded:
        if not alike:
            raise InputError(
                f"{run_a} and {run_b} are not of the same dialogues in the same order with the same candidates; "
                "evaluate both on files that differ in the personas alone"
            )
        rows_b = [replace(b, id=a.id, dialogue=a.dialogue) for a, b in zip(rows_a, rows_b, strict=True)]
    elif draws[0]["sha256"] != draws[1]["sha256"]:
        otherwise = "; if their files differ in the personas alone, compare with --reworded" if alike else ""
        raise InputError(
            f"{run_a} and {run_b} chose from different candidates ({draws[0]['name']} {draws[0]['sha256'][:12]}, "
            f"{draws[1]['name']} {draws[1]['sha256'][:12]}); evaluate both on the same file with the same seed"
            f"{otherwise}"
        )
    return {**told, **comparison.compare(rows_a, rows_b, seed=seed)}


def _shape(row: Row) -> tuple[str, int, int]:
    """What an example is where its file is not known: its place in its dialogue, and that of its true reply."""
    return row.id.rpartition("#")[2], len(row.scores), row.target


def environment(device: torch.device) -> dict[str, Any]:
    """What a result that was computed on `device` depends on besides its inputs."""
    return {
        "personae": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "lightning", "transformers", "numpy", "gensim")},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON object of a file, which has values of these dotted names. InputError where it is damaged."""
    try:
        content: dict[str, Any] = json.loads(lines.text(path))
        for name in needed:
            functools.reduce(operator.getitem, name.split("."), content)
        if not isinstance(content, dict):
            raise TypeError("no object")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: is damaged ({what}); copy it again, or delete it and measure anew") from None
    return content


def write_json(content: Any, path: Path) -> None:
    """Writes JSON; the file is complete or untouched."""
    lines.save([json.dumps(content, indent=2, ensure_ascii=False)], path)


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
