"""How the tables and figures of systems that write replies are made again: for each row, what is trained for it.

They stand under `written` in a paper's file in `plans/`, beside the tables of systems that choose replies, which
`personae.published.plans` reads. `columns` says which measure a column of the paper is here, and by what it is
multiplied to have the paper's unit; a row is what is said of its system and of the row, the later over the earlier.
`curves` are the runs of a figure, one for each value of an argument, and `shows` its columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from personae import published
from personae.published import Table, plans
from personae.types import InputError

Kind = Literal["run", "real", "chance"]
"""What a row is of: a system, the real replies, or a random ranking."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its label, the measure that ours is, and by what that is multiplied."""

    label: str
    metric: str
    scale: int = 100
    places: int = 2

    @property
    def unit(self) -> str:
        """That of both numbers."""
        return "%" if self.scale == 100 else ""


@dataclass(frozen=True, slots=True)
class Line:
    """A row: the paper's numbers by column, None for a dash, and what makes ours. `suffix` names a run whose recipe is
    changed, by the changes if it is empty; `factors` is the recipe of the run whose factors of users its vectors begin
    as. `most`: it is measured on the replies whose users are among so many by what they really said. In a figure, its
    `panel` and `place` there."""

    system: str
    published: Mapping[str, float | None]
    kind: Kind = "run"
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    factors: str | None = None
    most: int | None = None
    panel: str = ""
    place: float = 0.0


@dataclass(frozen=True, slots=True)
class Scoring:
    """Among so many `users` two scorers are compared; the `backbone` of the second, None for SmolLM2; `published` is
    the paper's correlation."""

    published: float
    users: int
    backbone: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A table or figure called PAPER/TABLE and how it is made again. `efforts` says by budget what is left out of what
    the paper does; `budgets`, which "changes" it makes to all runs, and their "suffix"; `pairs` are rows that are
    compared, the first with the second; `ratio` are two rows and the column in which one is divided by the other;
    `rows_are` says what their names name, where these do not; so many `cases` are shown with what the rows wrote."""

    name: str
    paper: str
    title: str
    asks: str
    words: str
    stands_in: str
    remarks: str
    efforts: Mapping[str, str]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()
    ratio: tuple[str, str, str] | None = None
    panels: tuple[str, ...] = ()
    scorers: Scoring | None = None
    rows_are: str = ""
    cases: int = 0

    def label(self, system: str) -> str:
        """What a row is called."""
        return f"{self.rows_are} {system}".strip()


def names() -> list[str]:
    """The tables and figures that there are plans for: "tensor-factorization/table1" and so on."""
    return [f"{paper}/{table}" for paper in published.papers() for table in _said(paper).get("tables", {})]


def read(name: str) -> Written:
    """The plan of one of these. InputError where `name` is none of them."""
    if name not in names():
        raise InputError(f"there is no table {name!r} of written replies; choose one of {', '.join(names())}")
    paper = name.partition("/")[0]
    return make(name, published.load(paper)["paper"], published.tables(paper), _said(paper))


def make(name: str, paper: str, printed: Mapping[str, Table], said: Mapping[str, Any]) -> Written:
    """The plan of a table that `paper` has `printed`, or of a figure; `said` is what stands under `written`. InputError
    where it names a row that is not there."""
    table = name.partition("/")[2]
    about = {**said, **said["tables"][table]}
    whose = about.get("rows_of", table)
    if whose in printed:
        lines = _rows(printed[whose], said["systems"], said["tables"][whose], runs_only="rows_of" in about)
        labels = printed[whose].columns
    else:
        lines, labels = _curves(about["curves"]), tuple(about["shows"])
    known = {line.system for line in lines}
    pairs = [(better, worse) for better, worse in about.get("pairs", []) if {better, worse} <= known]
    ratio = about.get("ratio")
    texts = {key: about[key] for key in ("title", "asks", "words", "stands_in", "remarks", "efforts")}
    return Written(
        name=name,
        paper=paper,
        columns=tuple(Column(label, **said["columns"][label]) for label in labels),
        lines=lines,
        budgets=about.get("budgets", {}),
        pairs=tuple(pairs),
        ratio=tuple(ratio) if ratio and set(ratio[:2]) <= known else None,
        panels=tuple(dict.fromkeys(line.panel for line in lines if line.panel)),
        scorers=Scoring(**about["scorers"]) if "scorers" in about else None,
        rows_are=about.get("rows_are", ""),
        cases=about.get("cases", 0),
        **texts,
    )


def _rows(
    table: Table, systems: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], *, runs_only: bool
) -> tuple[Line, ...]:
    """The rows of a table, or those of systems alone."""
    unknown = [row for row in about.get("rows", {}) if row not in table.rows]
    if unknown:
        raise InputError(f"rows: there is no row {unknown[0]!r}")
    common = {"most": about["most"]} if "most" in about else {}
    made = [
        Line(
            system,
            dict(zip(table.columns, numbers, strict=True)),
            **{**common, **systems.get(system, {}), **about.get("rows", {}).get(system, {})},
        )
        for system, numbers in table.rows.items()
    ]
    return tuple(line for line in made if line.kind == "run" or not runs_only)


def _curves(curves: Mapping[str, Mapping[str, Any]]) -> tuple[Line, ...]:
    """A run for each value of an argument, by the place on its axis; null is the recipe as it is."""
    return tuple(
        Line(
            f"{of} = {place}",
            {},
            recipe=curve["recipe"],
            changes={} if value is None else {curve["argument"]: value},
            suffix="" if value is None else f"{curve['argument'].rpartition('.')[2]}-{place}",
            panel=curve["axis"],
            place=float(place),
        )
        for of, curve in curves.items()
        for place, value in curve["values"].items()
    )


def _said(paper: str) -> dict[str, Any]:
    """What a paper's plans say of systems that write replies; nothing where they do not."""
    found: dict[str, Any] = plans.load(paper).get("written", {})
    return found
