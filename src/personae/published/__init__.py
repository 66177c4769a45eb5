"""What the papers report: every number of their results tables, one YAML file a paper.

Transcribed by hand from the papers. Percentages stay percentages, null is a dash in the paper, a row's name is the
paper's own label, and marks of significance are left out. `dataset` says on what the numbers were measured: numbers of
different data sets never belong in one column.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from personae.types import InputError, Paper

MEASURED_ON = "personachat/valid_both_original.txt"
"""The file that results are listed of."""


@dataclass(frozen=True, slots=True)
class Table:
    """A results table: the columns' labels and, for each row's label, a number a column (None for a dash)."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]


def papers() -> list[str]:
    """The names of the papers, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(paper: str) -> dict[str, Any]:
    """All that is recorded of a paper: "paper" (title, venue and year), "dataset", "tables", and remarks on figures."""
    _known("paper", paper, papers())
    recorded: dict[str, Any] = yaml.safe_load(resources.files(__name__).joinpath(f"{paper}.yaml").read_text("utf-8"))
    return recorded


def tables(paper: str) -> dict[str, Table]:
    """The results tables of a paper, by name."""
    return {
        name: Table(
            columns=tuple(table["columns"]),
            rows={
                label: tuple(None if number is None else float(number) for number in numbers)
                for label, numbers in table["rows"].items()
            },
        )
        for name, table in load(paper)["tables"].items()
    }


def records() -> Path:
    """The folder of what the shipped recipes reached, a record a run (see `personae.results.record`)."""
    return Path(str(resources.files(__name__))) / "records"


def measured() -> dict[str, dict[str, Any]]:
    """By the name of each recorded run that chooses replies, what it reached on Persona-Chat's validation split with
    original personas: its metrics.json, and under "cpu_seconds" the processor seconds of its training, None where it
    needs none."""
    found = {}
    for file in sorted((*records().glob("*/metrics.json"), *records().glob("*-self/on-original/metrics.json"))):
        folder, spent = file.relative_to(records()).parts[0], file.with_name("environment.json")
        seconds = json.loads(spent.read_text("utf-8"))["cpu_seconds"] if spent.exists() else None
        about = json.loads(file.read_text("utf-8"))
        if about["data"]["path"] == MEASURED_ON and "hits@1/20" in about["metrics"]:
            found[folder] = {**about, "cpu_seconds": seconds}
    return found


def lookup(paper: Paper) -> float | None:
    """The published number, as printed (82.1 for a percentage); None for a dash. InputError says what there is where
    the paper, table, row or column is not known."""
    known = tables(paper.name)
    _known(f"table of {paper.name}", paper.table, known)
    table = known[paper.table]
    _known(f"row of {paper.name} {paper.table}", paper.row, table.rows)
    _known(f"column of {paper.name} {paper.table}", paper.column, table.columns)
    return table.rows[paper.row][table.columns.index(paper.column)]


def _known(what: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise InputError(f"there is no {what} called {name!r}; choose one of {', '.join(map(repr, names))}")
