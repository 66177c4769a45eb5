"""The shelf of runs that papers' tables are made of: which run a number needs, its folder, and what is there of it.

A run is a recipe with changes to it. Its folder is named by both, so that tables share it; what it was measured on
besides its own validation file is kept below it.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from personae import published, recipes, results, run
from personae.data.read import locate
from personae.home import below
from personae.published.plans import SPEED, Cell
from personae.results import Precision
from personae.types import InputError, Paper, Whose

BACKBONE = "task.init_args.model.init_args.backbone"

FACTORS = "task.init_args.model.init_args.speakers.init_args.factors"
"""Where a recipe names the run whose factors of users another's vectors begin as."""

BudgetName = Literal["cpu-small", "gpu-full"]

Say = Callable[[str], None]

PREPARING = 180
"""Seconds that reading a corpus and learning its vocabulary take at most."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is trained: the recipes whose names end with `variant`, each for at most so many minutes, on a device.
    `effort` says what they leave out of what the papers do."""

    name: BudgetName
    about: str
    effort: str
    variant: str
    minutes: int
    device: str

    @property
    def bound(self) -> str:
        """The minutes as Lightning's `max_time`: days, hours, minutes and seconds."""
        return f"00:{self.minutes // 60:02}:{self.minutes % 60:02}:00"

    def seconds(self, runs: int) -> int:
        """How long so many runs take at most."""
        return runs * (60 * self.minutes + PREPARING)

    def check(self) -> None:
        """InputError where its device is not here."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError(f"--budget {self.name}: needs a GPU, and there is none here; take cpu-small")


BUDGETS = {
    one.name: one
    for one in (
        Budget(
            name="cpu-small",
            about="the recipes as shipped, small enough for a processor",
            effort="""A system is trained for some ten minutes of one processor core (a bag of words for one, the
longest for eighteen: see *CPU s*), at most four times through the training replies. HRE, IMN, DIM, FIRE and DGMN have
64 units or fewer, where the papers have 200 or 300, and read the last five utterances of a chat, where the papers read
fifteen; word vectors from elsewhere have 50 dimensions, not 300. So nearly all numbers are lower than the paper's. That
says nothing about the systems.""",
            variant="",
            minutes=30,
            device="cpu",
        ),
        Budget(
            name="gpu-full",
            about="the recipes for a GPU, with the paper's sizes",
            effort="""Systems have the paper's sizes and are trained for as many epochs, once. Word vectors from
elsewhere have 50 dimensions, where the papers have 300.""",
            variant="-gpu",
            minutes=720,
            device="cuda",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is wanted: a recipe, changes to it, its folder, and the run that it starts from. A model that needs no
    training is named in place of the recipe, with the persona that it is to read."""

    folder: Path
    recipe: str
    persona: Whose | None = None
    changes: tuple[tuple[str, str], ...] = ()
    trained: bool = True
    first: "Job | None" = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return not self.trained or (self.folder / "metrics.json").exists()

    @property
    def speed(self) -> Path:
        """The file for how fast its model is."""
        return self.folder.parent / "speed" / f"{self.folder.name}.json"

    @property
    def precision(self) -> Precision:
        """Of the numbers that its model computes with."""
        named = self.arguments()["trainer"]["init_args"].get("precision") if self.trained else None
        return named or "32-true"

    @property
    def shared(self) -> bool:
        """Whether its model reads a context once for all candidates, where it might read it anew with each."""
        return self.trained and bool(self.arguments()["task"]["init_args"]["model"].get("init_args", {}).get("shared"))

    def arguments(self) -> dict[str, Any]:
        """The recipe with its changes, not yet checked; of a model that needs no training, its name as the task."""
        if not self.trained:
            return {"task": self.recipe}
        arguments = recipes.read(self.recipe)
        recipes.change(arguments, dict(self.changes))
        return arguments


class Shelf:
    """The run folders below `folder`, under a budget. `forms` has, for each wording of the personas, the "file" that is
    measured on and "why" there is none to train on, unless `training` has one. Where runs are `recorded`, the files
    need not be here: it is by their names that they are known."""

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        forms: Mapping[str, Mapping[str, str]],
        training: Mapping[str, str | None],
        *,
        recorded: bool = False,
    ) -> None:
        self.folder, self.budget, self.forms, self.training = folder, budget, forms, training
        self.recorded = recorded
        self.digest = cache(lambda form: results.sha256(locate(self.file(form))[0]))
        self.differences, self.spent = cache(differences), cache(spent)

    def file(self, form: str) -> str:
        """What is measured on, for a wording of the personas."""
        return self.forms[form]["file"]

    def cases(self, cell: Cell) -> int | None:
        """How many cases are timed for a cell, on a processor; a GPU, and None, takes all."""
        return cell.cases if self.budget.device == "cpu" else None

    def environment(self, job: Job) -> dict[str, Any]:
        """What a speed that is measured here and now depends on."""
        device = torch.device(self.budget.device if torch.cuda.is_available() else "cpu")
        return {**results.environment(device), "precision": job.precision}

    def why(self, cell: Cell) -> str:
        """Why there can be no number of ours; empty where there can."""
        needed = cell.recipe is not None and not self.training.get(cell.trained)
        return cell.why or (self.forms[cell.trained].get("why", "") if needed else "")

    def missing(self, cell: Cell) -> list[str]:
        """The recipes of a cell that are not there."""
        named = [f"{recipe}{self.budget.variant}" for recipe in (cell.recipe, cell.first) if recipe is not None]
        return [recipe for recipe in named if recipe not in recipes.shipped() and not Path(recipe).is_file()]

    def job(self, cell: Cell) -> Job:
        """The run that a cell is of. InputError where there is no such recipe."""
        if cell.model is not None:
            return Job(self.folder / f"{cell.model}-{cell.persona}", cell.model, cell.persona, trained=False)
        recipe = f"{cell.recipe}{self.budget.variant}"
        model = recipes.read(recipe)["task"]["init_args"]["model"].get("init_args", {})
        changes = {name: json.dumps(value) for name, value in cell.changes.items()}
        suffixes = [f"{name.rpartition('.')[2]}-{value}" for name, value in changes.items()]
        if cell.persona != ("none" if model.get("fusion") == "none" else model.get("persona", "self")):
            changes["task.model.persona"] = cell.persona
            suffixes.insert(0, cell.persona)
        if file := self.training.get(cell.trained):
            changes |= {"corpus.train": json.dumps([file]), "corpus.valid": self.file(cell.trained)}
            suffixes.append(cell.trained)
        first = None
        if cell.first is not None:
            stage = f"{cell.first}{self.budget.variant}"
            first = Job(self.folder / Path(stage).stem, stage)
            changes["init_from"] = str(first.folder)
        name = re.sub(r"[^\w-]+", "-", "-".join([Path(recipe).stem, *suffixes]))
        return Job(self.folder / name, recipe, changes=tuple(changes.items()), first=first)

    def result(self, cell: Cell) -> Path | None:
        """The file that holds what is measured for a cell, if it is there."""
        if self.why(cell) or self.missing(cell):
            return None
        job = self.job(cell)
        if cell.metric == SPEED:
            kept = results.read_json(job.speed, "task", "data.path", "data.sha256") if job.speed.exists() else {}
            same = kept.get("task") == job.arguments()["task"] and kept.get("cases") == self.cases(cell)
            here = self.recorded or kept.get("environment") == self.environment(job)
            return job.speed if same and here and self._on(kept, cell.measured) else None
        if not job.finished or self.differences(job):
            return None
        own, other = job.folder / "metrics.json", job.folder / f"on-{cell.measured}" / "metrics.json"
        found = {file: results.about(file) for file in (own, other) if file.exists()}
        weights = found.get(own, {}).get("weights")
        for file, about in found.items():
            same = about.get("weights") in (weights, None) or weights is None  # None: it was not said
            if same and self._on(about, cell.measured):
                return file
        return None

    def _on(self, about: Mapping[str, Any], form: str) -> bool:
        """Whether a result is of the file of this wording."""
        if self.recorded:
            return bool(about["data"]["path"] == self.file(form))
        return bool(about["data"]["sha256"] == self.digest(form))


def differences(job: Job) -> list[str]:
    """In what the run in a job's folder, if there is one, differs from the job. How long it may take does not count."""
    kept = job.folder / "recipe.yaml"
    if not job.trained or not job.folder.exists():
        return []
    if not kept.exists():
        return ["it has no recipe.yaml"] if any(job.folder.iterdir()) else []
    try:
        before, now = (
            run.resolved(recipe, changes) for recipe, changes in ((str(kept), {}), (job.recipe, dict(job.changes)))
        )
    except InputError as error:
        return [str(error)]
    first = before.get("init_from")
    if first and Path(first).name == first and now.get("init_from"):  # a record names it without its path
        now["init_from"] = Path(now["init_from"]).name
    for key in (BACKBONE, FACTORS):  # a folder of a hub's model; runs that were moved, or recorded
        if Path(str(before.get(key))).name == Path(str(now.get(key))).name:
            now[key] = before.get(key)
    decisive = ("task", "corpus", "trainer", "seed", "patience", "init_from")
    unlike = [
        f"{key.replace('.init_args', '')} is {before.get(key)!r}, not {now.get(key)!r}"
        for key in sorted({*before, *now})
        if key.partition(".")[0] in decisive and key != "trainer.init_args.max_time" and before.get(key) != now.get(key)
    ]
    return unlike[:3] + ([f"and {len(unlike) - 3} more"] if len(unlike) > 3 else [])


def spent(job: Job) -> dict[str, Any]:
    """What a finished run was trained with and on, and how many times through it; whether its time was over first. The
    run that it starts from is included, but for its replies."""
    about = results.read_json(job.folder / "environment.json", *results.SPENT)
    recipe = recipes.read(str(job.folder / "recipe.yaml"))
    corpus, trainer, replies = recipe["corpus"], recipe["trainer"]["init_args"], about["corpus"]["train"]
    seen = about["steps"] * trainer.get("accumulate_grad_batches", 1) * recipe["task"]["init_args"]["batch_size"]
    own = {
        "seed": about["seed"],
        "cpu_seconds": about["cpu_seconds"],
        "bound": trainer.get("max_time"),
        "stopped": about["stopped"],
        "trained": corpus.get("init_args", {}).get("train", [corpus["class_path"]]),
        "replies": replies,
        "epochs": round(seen / replies, 2),
    }
    if job.first is None:
        return own
    before = spent(job.first)
    return {
        **own,
        "cpu_seconds": before["cpu_seconds"] + own["cpu_seconds"],
        "stopped": before["stopped"] or own["stopped"],
        "trained": [*before["trained"], *own["trained"]],
    }


def folders(
    table: str, rows: Sequence[str], *, runs: Path | None, out: Path | None, only: Sequence[str], shipped: bool
) -> tuple[Path, Path]:
    """Where the runs of a table are, or their records if it is `shipped`, and where its page goes. InputError where a
    file is there, or `only` names something that is none of its `rows`."""
    if runs is not None and runs.exists() and not runs.is_dir():
        raise InputError(f"--runs {runs}: is a file; name a folder")
    if unknown := [label for label in only if label not in rows]:
        raise InputError(f"--only: {table} has no row {unknown[0]!r}; choose of: {', '.join(rows)}")
    out = out or Path("reproduced", table.replace("/", "-"))
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    return published.records() if shipped else (runs or below("runs")).resolve(), out


def refuse(job: Job, unlike: Sequence[str], table: str) -> None:
    """InputError where a job's folder holds another run than the table is made of."""
    if unlike:
        raise InputError(
            f"{job.folder}: is not the run that {table} is made of ({'; '.join(unlike)}); move it away, or name "
            "another folder with --runs"
        )


def list_runs(jobs: Iterable[Job], budget: Budget, folder: Path, say: Say) -> None:
    """Says what is there of each run."""
    say(f"budget {budget.name}, runs in {folder}")
    for job in jobs:
        begun = (job.folder / "recipe.yaml").exists()
        todo = "finished before" if job.finished else "to be resumed" if begun else "to be trained"
        say(f"  {job.folder.name}: {todo if job.trained else 'needs no training'}")


def train(jobs: Sequence[Job], budget: Budget, papers: Mapping[Job, Paper], say: Say) -> None:
    """Trains runs, or goes on with them, each for as long as the budget allows. Where a recipe names what is published
    of it, that is what `papers` has for its run."""
    for place, job in enumerate(jobs, 1):
        say(f"training {job.folder.name} ({place} of {len(jobs)}), at most {budget.minutes} minutes")
        changes = {**dict(job.changes), "trainer.max_time": budget.bound}
        if job in papers and "paper" in recipes.read(job.recipe):
            changes["paper"] = json.dumps(asdict(papers[job]))
        run.train(job.recipe, changes, out=job.folder, resume=(job.folder / "recipe.yaml").exists())


def hours(seconds: float) -> str:
    """As hours and minutes."""
    minutes = int(seconds / 60) + 1
    return f"{minutes // 60} h {minutes % 60} min"


def took(training: Iterable[Job]) -> float | None:
    """The seconds that training takes as this version's own runs took, on one processor core; a run that is not
    recorded counts as the mean of the others. None where none is."""
    jobs = [replace(job, folder=published.records() / job.folder.name, first=None) for job in training]
    known = [spent(job)["cpu_seconds"] for job in jobs if job.folder.exists() and not differences(job)]
    return sum(known) / len(known) * len(jobs) if known else None


def record(runs: Path, out: Path) -> list[str]:
    """Writes to `out` a record of each finished run in the folder `runs`, of what else it was measured on, and of the
    speeds that were measured; returns their names. Records of other runs that are there stay. InputError where there
    is none, or where `out` is no other folder."""
    if not runs.is_dir():
        raise InputError(f"{runs}: is no folder; give one that holds run folders")
    if (runs / "metrics.json").exists() or (runs / "recipe.yaml").exists():
        raise InputError(f"{runs}: is a run folder itself; give the folder that it lies in")
    if out.resolve() == runs.resolve() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out {out}: is what is recorded, or a file; name another folder")
    found = [file.parent for place in ("*", "*/on-*") for file in sorted(runs.glob(f"{place}/metrics.json"))]
    speeds = sorted(runs.glob("speed/*.json"))
    if not found and not speeds:
        raise InputError(f"{runs}: holds no finished run; train one into a folder below it")
    for folder in found:
        results.record(folder, out / folder.relative_to(runs))
    for file in speeds:
        (out / "speed").mkdir(parents=True, exist_ok=True)
        results.write_json(results.read_json(file), out / "speed" / file.name)
    return [str(path.relative_to(runs)) for path in (*found, *(file.with_suffix("") for file in speeds))]
