"""What the papers report: every number of their results tables, one YAML file a paper.

Transcribed by hand from the papers. Percentages stay percentages, null is a dash in the paper, a row's name is the
paper's own label, and marks of significance are left out. `dataset` says on what the numbers were measured: numbers of
different data sets never belong in one column.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from personae.types import InputError, Paper


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


def measured() -> dict[str, dict[str, Any]]:
    """What the shipped recipes reached, and the models that need no training, by name: the data, whose persona, seed,
    processor seconds of training (None without), and metrics with intervals and n, as in a run's metrics.json."""
    found: dict[str, dict[str, Any]] = json.loads(
        resources.files(__name__).joinpath("measured.json").read_text("utf-8")
    )
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
