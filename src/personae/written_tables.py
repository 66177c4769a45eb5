"""A paper's table or figure of systems that write replies, made again: what is missing is trained under a budget, and
the paper's numbers and ours are laid side by side."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from personae import cases, recipes, results, run, shelf
from personae.data import lines
from personae.metrics.compare import Interval, ratio
from personae.metrics.compare_spoken import Measures, compare_measures
from personae.metrics.per_hits import MOST
from personae.published import written_page
from personae.published.written import Column, Line, Written
from personae.scorers import NAMES, Scorers, correlation, hits
from personae.shelf import BUDGETS, Budget, BudgetName, Job, Say, hours
from personae.types import Corpus, InputError

COUNTS = "corpus.json"
"""The file of a run that has its corpus' counts."""

EMPTY: dict[str, Any] = dict.fromkeys(("ours", "low", "high", "n"))


def reproduce(
    plan: Written,
    *,
    budget: BudgetName = "cpu-small",
    runs: Path | None = None,
    out: Path | None = None,
    only: Sequence[str] = (),
    shipped: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Trains what is missing, writes table.md, table.json and table.svg to a folder, and returns what table.json holds.

    Args:
        plan: the table or figure.
        budget: how much is trained.
        runs: the folder of run folders; PERSONAE_HOME/runs if None.
        out: the folder; reproduced/PAPER-TABLE if None.
        only: labels of rows: nothing is trained for others; all if there is none.
        shipped: train nothing, and lay out what is recorded of this version's own runs.
        say: is told what is done, and before that, how long it takes at most.

    Raises InputError before anything is trained where a row or a recipe is not there, or where a folder holds another
    run or a damaged one.
    """
    labels = [line.system for line in plan.lines]
    folder, out = shelf.folders(plan.name, labels, runs=runs, out=out, only=only, shipped=shipped)
    if shipped and (runs or only):
        raise InputError("--shipped: is of this version's own runs; leave --runs and --only out")
    given = {"--budget": budget, "--runs": runs, "--out": out}
    options = [(name, str(value)) for name, value in given.items() if value is not None]
    options += [("--only", row) for row in only]
    chosen = BUDGETS[budget]
    made = jobs(plan, folder, chosen)
    wanted = {system: job for system, job in made.items() if system in (only or labels)}
    if not shipped:
        _check(plan, wanted, chosen)
        _train(wanted, chosen, folder, say)
    there = {system: job for system, job in made.items() if _usable(job)}
    _same_corpus(there)
    out.mkdir(parents=True, exist_ok=True)
    found = _Found(plan, there, chosen, absent="not run for this version" if shipped else "left out by --only")
    content: dict[str, Any] = {
        "table": plan.name,
        "budget": {**asdict(chosen), "bound": chosen.bound, "effort": plan.efforts[budget]},
        "command": shlex.join(
            ["personae", "reproduce", plan.name, *chain(*options), *(["--shipped"] if shipped else [])]
        ),
        **found.beside(),
    }
    if plan.scorers is None:
        rows = [found.row(line, column) for line in plan.lines for column in plan.columns]
        content |= {"rows": rows, "pairs": found.pairs(), "ratio": found.ratio()}
        content["cases"] = cases.drawn({system: job.folder for system, job in there.items()}, plan.cases)
    else:
        content |= _correlated(plan, there, set() if shipped else set(wanted), found, say)
    results.write_json(content, out / "table.json")
    with lines.whole(out / "table.svg") as file:
        file.write(written_page.picture(plan, content))
    lines.save([written_page.markdown(plan, content)], out / "table.md")
    say(f"{out / 'table.md'}: the page; beside it table.json and table.svg")
    return content


def jobs(plan: Written, folder: Path, budget: Budget) -> dict[str, Job]:
    """The run of each row that is of a system, below a folder."""
    return {line.system: _job(line, plan, folder, budget) for line in plan.lines if line.recipe is not None}


def _job(line: Line, plan: Written, folder: Path, budget: Budget) -> Job:
    of_all = plan.budgets.get(budget.name, {})
    recipe = f"{line.recipe}{budget.variant}"
    suffixes = (_suffix(line.suffix, line.changes), _suffix(of_all.get("suffix", ""), of_all.get("changes", {})))
    changes = {name: json.dumps(value) for name, value in {**line.changes, **of_all.get("changes", {})}.items()}
    first, named = None, "-".join(filter(None, (Path(recipe).stem, *suffixes)))
    if line.factors is not None:
        stage = f"{line.factors}{budget.variant}"
        first = Job(folder / Path(stage).stem, stage)
        changes["task.model.speakers.factors"] = json.dumps(str(first.folder))
    return Job(folder / re.sub(r"[^\w-]+", "-", named), recipe, changes=tuple(changes.items()), first=first)


def _suffix(named: str, changes: Mapping[str, Any]) -> str:
    """What a run is called by that is changed."""
    return named or "-".join(f"{name.rpartition('.')[2]}-{json.dumps(value)}" for name, value in changes.items())


def _stages(made: Mapping[str, Job]) -> list[Job]:
    """The runs of rows, each once and after the one that it needs."""
    return list(dict.fromkeys(one for job in made.values() for one in (job.first, job) if one is not None))


def _missing(job: Job) -> list[str]:
    """Those of its recipes that are not there."""
    named = [one.recipe for one in (job.first, job) if one is not None]
    return [recipe for recipe in named if recipe not in recipes.shipped() and not Path(recipe).is_file()]


def _check(plan: Written, wanted: Mapping[str, Job], budget: Budget) -> None:
    """InputError where a recipe is not there, or a folder holds another run than is wanted or a damaged one."""
    rows: dict[str, list[str]] = {}
    for system, job in wanted.items():
        for recipe in _missing(job):
            rows.setdefault(recipe, []).append(system)
    if rows:
        missing = "; ".join(f"{recipe} (for {', '.join(systems)})" for recipe, systems in rows.items())
        raise InputError(f"--budget {budget.name}: no such recipe: {missing}; choose other rows with --only")
    for job in _stages(wanted):
        shelf.refuse(job, shelf.differences(job), plan.name)
        if job.finished:
            results.read(job.folder)
            shelf.spent(job)


def _train(wanted: Mapping[str, Job], budget: Budget, folder: Path, say: Say) -> None:
    """Trains what is not there, and counts what the corpora hold."""
    stages = _stages(wanted)
    training = [job for job in stages if not job.finished]
    if training:
        budget.check()
    shelf.list_runs(stages, budget, folder, say)
    took = shelf.took(training)
    likely = "" if took is None else f", about {hours(took)} by what this version's own runs took"
    most = hours(budget.seconds(len(training)))
    say(f"{len(training)} to train: at most {most}, besides writing what is measured{likely}")
    shelf.train(training, budget, {}, say)

    @cache
    def counts(recipe: str) -> Any:
        corpus: Any = run.part(recipe, "corpus", Corpus)
        return corpus.counts() if hasattr(corpus, "counts") else {}

    known: dict[str, Path] = {}
    for job in stages:
        recipe = str(job.folder / "recipe.yaml")
        first = known.setdefault(json.dumps(recipes.read(recipe)["corpus"], sort_keys=True), Path(recipe))
        if not (job.folder / COUNTS).exists():
            results.write_json(counts(str(first)), job.folder / COUNTS)


def _usable(job: Job) -> bool:
    return not _missing(job) and job.finished and not shelf.differences(job)


def _same_corpus(there: Mapping[str, Job]) -> None:
    """InputError where runs were trained on other dialogues, though on files of the same names."""
    digests = {
        system: results.read_json(job.folder / "environment.json", "corpus.train")["corpus"].get("sha256")
        for system, job in there.items()
    }
    for system, digest in digests.items():
        first, expected = next(iter(digests.items()))
        if None not in (digest, expected) and digest != expected:
            raise InputError(
                f"{there[system].folder} and {there[first].folder}: were trained on other dialogues, the corpus has "
                "changed in between; move those away that are not of the corpus as it is now"
            )


class _Found:
    """What is there of a table: of each system its run, and what is measured of its replies."""

    def __init__(self, plan: Written, there: Mapping[str, Job], budget: Budget, *, absent: str) -> None:
        self.plan, self.there, self.budget, self.absent = plan, there, budget, absent
        self.lines = {line.system: line for line in plan.lines}
        self.measured, self.told = cache(results.measured), cache(results.about)
        self.intervals = cache(lambda system: self.measures(self.lines[system]).intervals())

    def beside(self) -> dict[str, Any]:
        """What the corpus holds, and Per-Hits of real replies and by chance, of any run; empty where there is none."""
        for job in self.there.values():
            told, counts = self.told(job.folder / "metrics.json"), job.folder / COUNTS
            return {
                "corpus": results.read_json(counts) if counts.exists() else {},
                "real": told.get("real", {}),
                "chance": told.get("chance", {}),
            }
        return {"corpus": {}, "real": {}, "chance": {}}

    def why(self, line: Line, column: Column) -> str:
        """Why there is no number of ours; empty where there is."""
        if line.kind == "run":
            return "" if line.system in self.there else self.absent
        if line.published[column.label] is None:
            return "the paper has no number here"
        return "" if self.there else "no run is there to tell it of"

    def measures(self, line: Line) -> Measures:
        """What is measured of a row's replies; of real ones, as any run has them."""
        job = self.there[line.system] if line.kind == "run" else next(iter(self.there.values()))
        return self.measured(job.folder, most=line.most, real=line.kind == "real")

    def row(self, line: Line, column: Column) -> dict[str, Any]:
        """The paper's number and ours, in one unit, and what ours came about by, or why there is none."""
        row = {
            "system": line.system,
            "column": column.label,
            "published": line.published.get(column.label),
            **EMPTY,
            "budget": self.budget.name,
            "unit": column.unit,
            "places": column.places,
        }
        if why := self.why(line, column):
            return {**row, "why": why}
        try:
            value = self._value(line, column)
        except InputError as error:  # no reply is in the set
            return {**row, "why": str(error)}
        if value is None:
            return {**row, "why": f"{column.metric} is not known of these replies"}
        return {**row, **_scaled(value, column.scale), "n": value.n, "most": line.most, **self._training(line)}

    def _value(self, line: Line, column: Column) -> Interval | None:
        if line.kind == "chance":
            chance = _named(self.beside()["chance"], column.metric)
            return None if chance is None else Interval(chance[1], None, None, len(self.measures(line)))
        found = _named(self.intervals(line.system), column.metric)
        return None if found is None else found[1]

    def _training(self, line: Line) -> dict[str, Any]:
        if line.kind != "run":
            return {}
        job = self.there[line.system]
        spent, bound = shelf.spent(job), self.budget.bound
        longer = spent["bound"] != bound and spent["cpu_seconds"] > 60 * self.budget.minutes
        told = self.told(job.folder / "metrics.json")
        return {
            "budget": "by hand" if longer else self.budget.name,
            "run": job.folder.name,
            **{name: spent[name] for name in ("seed", "cpu_seconds", "bound", "stopped", "replies", "epochs")},
            "environment": told["environment"],
        }

    def pairs(self) -> list[dict[str, Any]]:
        """The rows that are compared, in each column: the difference with its interval, and a test."""
        return [each for better, worse in self.plan.pairs for each in self._pair(better, worse)]

    def _pair(self, better: str, worse: str) -> list[dict[str, Any]]:
        a, b = self.lines[better], self.lines[worse]
        absent = [name for name in (better, worse) if name not in self.there]
        why, compared = f"not run: {' and '.join(absent)}" if absent else "", {}
        if not absent:
            try:
                compared = compare_measures(self.measures(a), self.measures(b))["metrics"]
            except InputError as error:
                why = str(error)
        told = []
        for column in self.plan.columns:
            numbers = [line.published.get(column.label) for line in (a, b)]
            lead = None if None in numbers else round(numbers[0] - numbers[1], 4)  # type: ignore[operator]
            row = {"column": column.label, "better": better, "worse": worse, "published": lead, **EMPTY}
            row |= dict.fromkeys(("test", "p", "found"))
            found = _named(compared, column.metric)
            if found is None:
                told.append({**row, "why": why or f"{column.metric} of the two cannot be compared"})
                continue
            difference = found[1]["difference"]
            test = "wilcoxon" if "wilcoxon" in found[1] else "t_test"
            value = Interval(*(difference[name] for name in ("value", "low", "high", "n")))
            row |= {**_scaled(value, column.scale), "n": value.n, "p": found[1][test]["p"]}
            row["test"] = {"wilcoxon": "Wilcoxon", "t_test": "paired t"}[test]
            told.append({**row, "found": _outcome(lead, value)})
        return told

    def ratio(self) -> dict[str, Any] | None:
        """How many times one row's number is another's, beside the paper's; None where the table asks for none."""
        if self.plan.ratio is None:
            return None
        better, worse, label = self.plan.ratio
        a, b = self.lines[better], self.lines[worse]
        above, below = a.published[label], b.published[label]
        assert above is not None
        assert below is not None
        told = {"column": label, "better": better, "worse": worse, "published": round(above / below, 2), **EMPTY}
        if absent := [name for name in (better, worse) if name not in self.there]:
            return {**told, "why": f"not run: {' and '.join(absent)}"}
        metric = next(column.metric for column in self.plan.columns if column.label == label)
        try:
            one, other = self.measures(a), self.measures(b)
            name = next(name for name in one.replies[0].values if f"{name}/".startswith(f"{metric}/"))
            values = {reply.id: reply.values[name] for reply in other.replies}
            found = ratio(one.each(name), [values[reply.id] for reply in one.replies], one.users)
        except InputError as error:
            return {**told, "why": str(error)}
        if found is None:
            return {**told, "why": f"{label} of {worse} is 0"}
        return {**told, **_scaled(found, 1), "n": found.n}


def _correlated(plan: Written, there: Mapping[str, Job], wanted: set[str], found: _Found, say: Say) -> dict[str, Any]:
    """Per-Hits@k of all runs by two scorers, and how these correlate. What is kept of a run is used; the rest is scored
    where its row is wanted."""
    assert plan.scorers is not None
    scored: dict[str, dict[str, Any]] = {}
    scorers: Scorers | None = None
    for system, job in there.items():
        recipe = str(job.folder / "recipe.yaml")
        scorers = scorers or Scorers(recipe, most=plan.scorers.users, backbone=plan.scorers.backbone)
        one = scorers.kept(job.folder)
        if one is None and system in wanted:
            say(f"scoring the replies of {job.folder.name} by two scorers (users' adapters take seconds each, once)")
            one = scorers.score(job.folder)
        if one is not None:
            scored[system] = one
    every = range(1, MOST + 1)
    points = [
        {"system": system, "k": k, **{name: 100 * fmean(hits(one, name, k)) for name in NAMES}}
        for system, one in scored.items()
        for k in every
    ]
    ceiling = [
        {"system": "real replies", "k": k, **{name: 100 * fmean(hits(one, name, k, real=True)) for name in NAMES}}
        for one in list(scored.values())[:1]
        for k in every
    ]
    first = [{"users": one["users"], "n": len(one["owners"]), "lm": one["lm"]} for one in scored.values()]
    common = {"column": "Pearson's r", **EMPTY, "budget": found.budget.name, "unit": "", "places": 3}
    of = list(scored.values())
    rows = [_correlation({"system": "all runs and k", "published": plan.scorers.published, **common}, of, every)]
    rows += [_correlation({"system": f"all runs, k = {k}", "published": None, **common}, of, [k]) for k in every]
    runs = [{"system": line.system, **found._training(line)} for line in plan.lines if line.system in there]
    told = first[0] if first else {}
    return {"rows": rows, "points": points, "ceiling": ceiling, "scorers": told, "runs": runs}


def _correlation(row: dict[str, Any], scored: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, Any]:
    try:
        value = correlation(scored, ks)
    except InputError as error:
        return {**row, "why": str(error)}
    return {**row, **_scaled(value, 1), "n": value.n}


def _outcome(lead: float | None, value: Interval) -> str | None:
    """Whether a lead of the paper's is found here; None where the paper has none, or one interval is not known."""
    if not lead or value.low is None or value.high is None:
        return None
    if value.low > 0 or value.high < 0:
        return "yes" if (value.value > 0) == (lead > 0) else "no, the reverse"
    return "not shown"


def _named(metrics: Mapping[str, Any], metric: str) -> tuple[str, Any] | None:
    """The name of a metric, which may tell its number of users or whose tokens it counts besides, and its value."""
    return next(((name, value) for name, value in metrics.items() if f"{name}/".startswith(f"{metric}/")), None)


def _scaled(value: Interval, scale: int) -> dict[str, float | None]:
    bounds = {"ours": value.value, "low": value.low, "high": value.high}
    return {name: None if bound is None else scale * bound for name, bound in bounds.items()}
