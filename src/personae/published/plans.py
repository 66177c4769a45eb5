"""How a paper's tables are made again: for each number, what is trained, on what, and measured on what.

`plans/` has one YAML file a paper; what papers on the same corpus have in common is in a file that they share. A cell
is what these say of the table, the column, the system and the row, the later over the earlier. `claims` are the
orderings that a paper sees in its table: by column, named without its metric ("*": each), a row and those that it
surpasses; "ROW @ COLUMN" stands in another column, "TABLE/ROW" in another table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from itertools import product
from typing import Any

import yaml

from personae import published
from personae.published import Table
from personae.types import InputError, Paper, Whose

SPEED = "cases/second"

UNITS = {"hits@1": "%", "mrr": "%", SPEED: "cases/s"}
"""The metrics of columns, and the units that both the papers' numbers and ours have."""

_FILES = resources.files(published) / "plans"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table, and what makes ours: a `model` that needs no training, or a `recipe` with `changes`.

    `table` is PAPER/TABLE, `group` the column's name without its metric; `trained` and `measured` are wordings of the
    personas; `first` is the recipe of a stage that is trained before; `cases`, how many are timed (None: all); `why`,
    why ours is not made.
    """

    table: str
    system: str
    column: str
    group: str
    metric: str
    published: float | None
    persona: Whose
    trained: str = "original"
    measured: str = "original"
    model: str | None = None
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    first: str | None = None
    cases: int | None = None
    why: str = ""

    @property
    def paper(self) -> Paper:
        """Where its number is published."""
        name, _, table = self.table.partition("/")
        return Paper(name, table, self.system, self.column)


@dataclass(frozen=True, slots=True)
class Claim:
    """An ordering that the paper sees: `better` is ahead of `worse`. `named` is what the latter is called, with the
    column or the table that it stands in where that is another."""

    better: Cell
    worse: Cell
    named: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A table called PAPER/TABLE and how it is made again. `forms` has, for each wording of the personas, the "file"
    that is measured on, and "why" there is none to train on; `rows_are` and `columns_are` say what their names name,
    where these do not."""

    name: str
    paper: str
    title: str
    asks: str
    words: str
    stands_in: str
    remarks: str
    forms: Mapping[str, Mapping[str, str]]
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]
    rows_are: str = "system"
    columns_are: str = ""


def load(paper: str) -> dict[str, Any]:
    """What a paper's file says; nothing where there is none."""
    file = _FILES.joinpath(f"{paper}.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def names() -> list[str]:
    """The tables that there are plans for: "dim/table2" and so on."""
    return [f"{paper}/{table}" for paper in published.papers() for table in load(paper).get("tables", {})]


def read(name: str) -> Plan:
    """The plan of a table. InputError says which there are where `name` is none of them."""
    if name not in names():
        raise InputError(f"there is no table {name!r} to reproduce; choose one of {', '.join(names())}")
    paper = name.partition("/")[0]
    return make(name, published.load(paper)["paper"], published.tables(paper), _load(paper))


def make(name: str, paper: str, printed: Mapping[str, Table], said: Mapping[str, Any]) -> Plan:
    """The plan of one of the tables that `paper` has `printed`; `said` is the paper's file with what it shares."""
    of, _, table = name.partition("/")
    about = said["tables"][table]
    cells = _cells(name, printed, said)
    axes = {key: about[key] for key in ("rows_are", "columns_are") if key in about}
    elsewhere = axes.get("columns_are", "")
    claims = _claims(about.get("claims", {}), cells, lambda other: _cells(f"{of}/{other}", printed, said), elsewhere)
    texts = {key: {**said, **about}[key] for key in ("title", "asks", "words", "stands_in", "remarks")}
    return Plan(name=name, paper=paper, forms=said["forms"], cells=cells, claims=tuple(claims), **texts, **axes)


def _load(paper: str) -> dict[str, Any]:
    own = load(paper)
    shared = yaml.safe_load(_FILES.joinpath(f"{own['shared']}.yaml").read_text(encoding="utf-8"))
    return {**shared, **own, "systems": {**shared["systems"], **own["systems"]}}


def _cells(name: str, printed: Mapping[str, Table], said: Mapping[str, Any]) -> tuple[Cell, ...]:
    table = name.partition("/")[2]
    about = said["tables"][table]
    common = {key: about[key] for key in ("persona", "trained", "measured") if key in about}
    columns = [_parts(column) for column in printed[table].columns]
    cells = []
    for system, numbers in printed[table].rows.items():
        known = {group for (group, _), number in zip(columns, numbers, strict=True) if number is not None}
        makes = {**said["systems"].get(system, {}), **about.get("rows", {}).get(system, {})}
        for column, (group, metric), number in zip(printed[table].columns, columns, numbers, strict=True):
            entry = {**common, **said["columns"].get(group, {}), **makes}
            if group not in known:
                entry["why"] = makes.get("why", "the paper has no number here")
            cells.append(Cell(name, system, column, group, metric, number, **entry))
    return tuple(cells)


def _parts(column: str) -> tuple[str, str]:
    """A column's name without its metric, and the metric, which is hits@1 if none is named."""
    group, _, metric = column.rpartition(" ")
    return (group, metric) if metric in UNITS else (column, "hits@1")


def _claims(
    claims: Mapping[str, Mapping[str, list[str]]],
    cells: tuple[Cell, ...],
    others: Callable[[str], tuple[Cell, ...]],
    columns_are: str,
) -> Iterator[Claim]:
    for where, orders in claims.items():
        for row, labels in orders.items():
            betters = [cell for cell in cells if cell.system == row and where in ("*", cell.group)]
            if not betters:
                raise InputError(f"claims: there is no row {row!r} in a column {where!r}")
            for better, label in product(betters, labels):
                name, _, group = label.partition(" @ ")
                table, _, other = name.rpartition("/")
                rows = [
                    cell
                    for cell in (others(table) if table else cells)
                    if cell.system == other and (cell.group == (group or better.group) or (table and not group))
                ]
                if not rows:
                    raise InputError(f"claims: there is no row {label!r}")
                column = f"{columns_are} {group}".strip() if group else ""
                place = ", ".join(filter(None, (table, column or (table and f"persona {rows[0].persona}"))))
                for worse in rows:
                    if worse.metric == better.metric and None not in (better.published, worse.published):
                        yield Claim(better, worse, f"{other} ({place})" if place else other)
