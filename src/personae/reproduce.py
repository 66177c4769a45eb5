"""A paper's table made again: what is missing is trained under a budget, all is measured on the same cases, and the
paper's numbers and ours are laid side by side."""

import random
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from personae import results, run, shelf
from personae.data import lines
from personae.data.candidates import examples, offered
from personae.data.read import locate, read
from personae.data.splits import keep_apart
from personae.metrics.compare import interval
from personae.published import page
from personae.published.plans import SPEED, UNITS, Cell, Claim, Plan
from personae.shelf import BUDGETS, BudgetName, Job, Say, Shelf, hours
from personae.tasks.base import Task
from personae.types import Example, InputError

SAMPLE = 64
"""Cases that a model scores before anything begins, to see how long all of them will take."""

TRAINING = {"--train": "original", "--revised_train": "revised"}
"""The options that name a file to train on, and how its personas are worded."""


def reproduce(
    plan: Plan,
    *,
    budget: BudgetName = "cpu-small",
    runs: Path | None = None,
    out: Path | None = None,
    only: Sequence[str] = (),
    train: str | None = None,
    revised_train: str | None = None,
    shipped: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Trains and measures what is missing, writes table.md, table.json and table.svg to a folder, and returns what
    table.json holds.

    Args:
        plan: the table.
        budget: how much is trained.
        runs: the folder of run folders; PERSONAE_HOME/runs if None.
        out: the folder; reproduced/PAPER-TABLE if None.
        only: labels of rows: nothing is trained or measured for others; all if there is none.
        train: a file of training dialogues, in place of the recipes'.
        revised_train: one whose personas are revised.
        shipped: train and measure nothing, and lay out what is recorded of this version's own runs.
        say: is told what is done, and before that, how long it takes at most.

    Raises InputError before anything is trained where a row, a recipe or a file is not there, where a file to train
    on has what is measured on, or where a folder holds another run or a damaged one.
    """
    labels = list(dict.fromkeys(cell.system for cell in plan.cells))
    folder, out = shelf.folders(plan.name, labels, runs=runs, out=out, only=only, shipped=shipped)
    files = dict(zip(TRAINING.values(), (train, revised_train), strict=True))
    if shipped and (runs or only or train or revised_train):
        raise InputError("--shipped: is of this version's own runs; leave --runs, --only, --train, --revised_train out")
    given = {"--budget": budget, "--runs": runs, "--out": out, "--train": train, "--revised_train": revised_train}
    options = [(name, str(value)) for name, value in given.items() if value is not None]
    options += [("--only", row) for row in only]
    kept = Shelf(folder, BUDGETS[budget], plan.forms, files, recorded=shipped)
    if not shipped:
        wanted = [cell for cell in plan.cells if cell.system in (only or labels) and not kept.why(cell)]
        _check(kept, wanted, plan.name)
        _check_finished(kept, plan, wanted)
        _make(kept, wanted, say)
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(kept, cell) for cell in plan.cells]
    compared = cache(results.compare)
    content = {
        "table": plan.name,
        "budget": {**asdict(kept.budget), "bound": kept.budget.bound},
        "command": shlex.join(
            ["personae", "reproduce", plan.name, *chain(*options), *(["--shipped"] if shipped else [])]
        ),
        "rows": rows,
        "claims": [_claim(kept, claim, compared) for claim in plan.claims],
    }
    results.write_json(content, out / "table.json")
    with lines.whole(out / "table.svg") as file:
        file.write(page.picture(plan, content))
    lines.save([page.markdown(plan, content)], out / "table.md")
    say(f"{out / 'table.md'}: the page; beside it table.json and table.svg")
    return content


def _check(kept: Shelf, cells: Sequence[Cell], table: str) -> None:
    """InputError where a recipe or a file is missing, what is trained on is measured on, or a folder holds another run
    than is wanted."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells:
        for recipe in kept.missing(cell):
            rows.setdefault(recipe, {})[cell.system] = None
    if rows:
        missing = "; ".join(f"{recipe} (for {', '.join(systems)})" for recipe, systems in rows.items())
        raise InputError(f"--budget {kept.budget.name}: no such recipe: {missing}; choose other rows with --only")
    for cell in cells:
        locate(kept.file(cell.measured))
    given = [(option, file) for option, form in TRAINING.items() if (file := kept.training[form])]
    trained_on = {f"{option} {file}": read(file) for option, file in given}
    if trained_on:
        for measured in dict.fromkeys(kept.file(cell.measured) for cell in cells):
            keep_apart(read(measured), measured, trained_on)
    digests = [results.sha256(locate(file)[0]) for _, file in given]
    if len(set(digests)) < len(digests):
        raise InputError("--train, --revised_train: are the same file; name one with other personas, or leave one out")
    for job in _jobs(kept, cells):
        shelf.refuse(job, kept.differences(job), table)


def _check_finished(kept: Shelf, plan: Plan, wanted: Sequence[Cell]) -> None:
    """InputError where something is damaged of what is finished and will be shown, or built on."""
    read_once = cache(results.read)
    for cell in (*plan.cells, *chain.from_iterable((claim.better, claim.worse) for claim in plan.claims)):
        file = kept.result(cell)
        if file is not None and cell.metric != SPEED:
            read_once(file.parent)
            if (job := kept.job(cell)).trained:
                kept.spent(job)
    unmeasured = {kept.job(cell) for cell in wanted if cell.metric != SPEED and not kept.result(cell)}
    for job in {*unmeasured, *(job.first for job in unmeasured if job.first and not job.finished)}:
        if job.trained and job.finished:
            run.load(str(job.folder))


def _jobs(kept: Shelf, cells: Sequence[Cell]) -> dict[Job, Cell]:
    """The runs of cells, each after the one that it starts from, and a cell of each."""
    last = [(kept.job(cell), cell) for cell in cells if cell.metric != SPEED]
    return {one: cell for job, cell in last for one in (job.first, job) if one is not None}


def _make(kept: Shelf, cells: Sequence[Cell], say: Say) -> None:
    """Trains and measures what these cells lack."""
    jobs = _jobs(kept, cells)
    training = {job: cell for job, cell in jobs.items() if not job.finished}
    lacking = {(kept.job(cell), cell.measured, cell.metric == SPEED): cell for cell in cells if not kept.result(cell)}
    computed = training or any(timed for _, _, timed in lacking)
    if computed:
        kept.budget.check()
    shelf.list_runs(jobs, kept.budget, kept.folder, say)
    own = [cell for cell in cells if cell.recipe is not None and cell.measured == cell.trained]
    papers = {kept.job(cell): cell.paper for cell in reversed(own)}  # of a run in several cells, the first one's
    scoring, learning = _scoring(kept, training, lacking.values()), shelf.took(training)
    most = hours(3 * scoring + kept.budget.seconds(len(training)))
    likely = "" if learning is None else f", about {hours(scoring + learning)} by what this version's own runs took"
    say(f"{len(training)} to train, {len(lacking)} to measure: at most {most}{likely}")
    shelf.train(list(training), kept.budget, papers, say)
    for (job, form, timed), cell in lacking.items():
        if timed:
            say(f"timing {job.folder.name}")
            _time(kept, cell)
        elif not kept.result(cell):
            say(f"measuring {job.folder.name}, personas {form}")
            model, persona = (str(job.folder), None) if job.trained else (job.recipe, job.persona)
            out = job.folder / f"on-{form}"
            (out / "metrics.json").unlink(missing_ok=True)  # of other weights, or of another file
            device = kept.budget.device if job.trained else "cpu"
            run.evaluate(model, kept.file(form), persona=persona, out=out, precision=job.precision, device=device)


def _scoring(kept: Shelf, training: Mapping[Job, Cell], scored: Iterable[Cell]) -> float:
    """The seconds that scoring takes. How long a model needs for a case is measured now; the most is three times that,
    since the machine may be busier later. A run whose time is over still measures dev, which is smaller than what is
    reported on."""
    cases = cache(lambda form: _cases(kept.file(form)))

    @cache
    def pace(job: Job, form: str) -> float:
        task, sample = _untrained(job).to(kept.budget.device), _sample(cases(form), SAMPLE)
        task.prepare([case.context for case in sample])
        results.predict(task, sample[:8], precision=job.precision)
        started = time.perf_counter()
        results.predict(task, sample, precision=job.precision)
        return (time.perf_counter() - started) / len(sample)

    def count(cell: Cell) -> int:
        whole = len(cases(cell.measured))
        return min(kept.cases(cell) or whole, whole) if cell.metric == SPEED else whole

    looks = [*training.items(), *((kept.job(cell), cell) for cell in scored)]
    return sum(count(cell) * pace(job, cell.measured) for job, cell in looks)


def _time(kept: Shelf, cell: Cell) -> None:
    """Writes down how many cases a second an untrained model of a cell's recipe scores, texts and all; the interval is
    over batches."""
    job, cases = kept.job(cell), _sample(_cases(kept.file(cell.measured)), kept.cases(cell))
    task = _untrained(job)
    task.prepare([case.context for case in cases])
    batches = task.to(kept.budget.device).eval().held_out(cases)
    seconds: list[float] = []
    groups: list[str] = []
    half = torch.float16 if job.precision == "16-mixed" else torch.bfloat16
    with torch.no_grad(), torch.autocast(task.device.type, half, enabled=job.precision != "32-true"):
        for batch in islice(batches, 2):  # to warm up
            task.rows_of(batch.to(task.device))
        started = time.perf_counter()
        for number, batch in enumerate(batches):
            task.rows_of(batch.to(task.device))
            ended = time.perf_counter()
            seconds += [(ended - started) / len(batch.examples)] * len(batch.examples)
            groups += [str(number)] * len(batch.examples)
            started = ended
    mean = interval(seconds, groups)
    low, high = (None if bound is None else 1 / bound for bound in (mean.high, mean.low))
    job.speed.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "task": job.arguments()["task"],
        "cases": kept.cases(cell),
        "data": {"path": kept.file(cell.measured), "sha256": kept.digest(cell.measured), "candidates": None},
        "batch": max(Counter(groups).values()),
        "metrics": {SPEED: {"value": 1 / mean.value, "low": low, "high": high, "n": len(cases)}},
        "environment": kept.environment(job),
    }
    results.write_json(content, job.speed)


def _untrained(job: Job) -> Task:
    """The task of a job, its model untrained."""
    return run.build(job.recipe, dict(job.changes)) if job.trained else run.load(job.recipe)


def _cases(file: str) -> list[Example]:
    return examples(offered(read(file))[0])


def _sample(cases: Sequence[Example], n: int | None) -> Sequence[Example]:
    """So many of the cases, always the same ones; all of them if None."""
    return cases if n is None or n >= len(cases) else random.Random(0).sample(cases, n)


def _row(kept: Shelf, cell: Cell) -> dict[str, Any]:
    """The paper's number of a cell and ours, in one unit, and what ours came about by, or why there is none."""
    row = {
        "system": cell.system,
        "column": cell.column,
        "published": cell.published,
        **dict.fromkeys(("ours", "low", "high", "n", "guessed")),
        "budget": kept.budget.name,
        "unit": UNITS[cell.metric],
        "persona": cell.persona,
    }
    file = kept.result(cell)
    if file is None:
        absent = "not measured for this version" if kept.recorded else "left out by --only"
        if kept.recorded and cell.metric == SPEED:
            absent = "a speed is one of a machine; leave --shipped out to measure that of yours"
        return {**row, "why": kept.why(cell) or absent}
    about, job = results.read_json(file), kept.job(cell)
    _, value = _named(about["metrics"], cell.metric)
    training = {"wording": cell.trained, **kept.spent(job)} if job.trained and cell.metric != SPEED else {}
    longer = training and training["bound"] != kept.budget.bound and training["cpu_seconds"] > 60 * kept.budget.minutes
    return {
        **row,
        "budget": "by hand" if longer else kept.budget.name,
        **_scaled(value, 100 if row["unit"] == "%" else 1),
        "n": value["n"],
        "guessed": _guessed(about["metrics"], cell.metric),
        "run": job.folder.name,
        "shared": job.shared,
        **training,
        "measured": about["data"],
        "batch": about.get("batch"),
        "environment": about["environment"],
    }


def _claim(kept: Shelf, claim: Claim, compared: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Whether an ordering that the paper sees is found here: whether the interval of the difference leaves 0 out. A
    test as papers print it stands beside."""
    better, worse = claim.better, claim.worse
    assert better.published is not None
    assert worse.published is not None
    told = {
        "column": better.column,
        "better": better.system,
        "worse": claim.named,
        "published": round(better.published - worse.published, 4),
        **dict.fromkeys(("ours", "low", "high", "n", "test", "p", "found", "guessed", "cpu_seconds")),
    }
    files = {better.system: kept.result(better), claim.named: kept.result(worse)}
    if absent := [name for name, file in files.items() if file is None]:
        return {**told, "why": f"not run: {' and '.join(absent)}"}
    one, other = (file.parent for file in files.values() if file is not None)
    _, row = _named(compared(one, other, reworded=better.measured != worse.measured)["metrics"], better.metric)
    test, p = ("McNemar", row["mcnemar"]["p"]) if "mcnemar" in row else ("paired t", row["t_test"]["p"])
    difference = _scaled(row["difference"], 100)
    low, high = difference["low"] or 0, difference["high"] or 0
    found = "yes" if low > 0 else "no, the reverse" if high < 0 else "not shown"
    jobs = dict.fromkeys((kept.job(better), kept.job(worse)))  # one, where it is measured on two files
    seconds = [kept.spent(job)["cpu_seconds"] if job.trained else None for job in jobs]
    n, guessed = row["difference"]["n"], _guessed(results.about(other / "metrics.json")["metrics"], worse.metric)
    return {
        **told,
        **difference,
        "n": n,
        "test": test,
        "p": p,
        "found": found,
        "guessed": guessed,
        "cpu_seconds": seconds,
    }


def _named(metrics: Mapping[str, Any], metric: str) -> tuple[str, dict[str, Any]]:
    """The name of a metric, which may tell its number of candidates besides, "hits@1/20", and its value."""
    return next((name, row) for name, row in metrics.items() if f"{name}/".startswith(f"{metric}/"))


def _guessed(metrics: Mapping[str, Any], metric: str) -> bool:
    """Whether a system is not above who guesses, as far as the interval tells: it has learnt nothing. It is not said of
    a speed, nor where cases differ in their numbers of candidates."""
    name, value = _named(metrics, metric)
    among = name.partition("/")[2]
    if not among.isdecimal() or value["low"] is None:
        return False
    ranks = range(1, int(among) + 1)
    guess = {"hits@1": 1 / len(ranks), "mrr": sum(1 / rank for rank in ranks) / len(ranks)}[metric]
    return bool(value["low"] <= guess)


def _scaled(value: Mapping[str, float | None], scale: int) -> dict[str, float | None]:
    """A value and its interval, times `scale`."""
    bounds = {"ours": value["value"], "low": value["low"], "high": value["high"]}
    return {name: None if bound is None else scale * bound for name, bound in bounds.items()}
