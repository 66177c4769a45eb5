"""Any paper's table or figure, made again by its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personae import reproduce as chosen
from personae import written_tables
from personae.published import plans, written
from personae.shelf import BudgetName, Say
from personae.types import InputError


def names() -> list[str]:
    """Those that there are plans for, "dim/table2" and so on."""
    return [*plans.names(), *written.names()]


def reproduce(
    table: str,
    *,
    budget: BudgetName,
    runs: Path | None,
    out: Path | None,
    only: Sequence[str],
    train: str | None,
    revised_train: str | None,
    shipped: bool,
    say: Say,
) -> dict[str, Any]:
    """What `personae.reproduce` or `personae.written_tables` finds. InputError where there is no such table, or an
    option is not for it."""
    if table not in names():
        raise InputError(f"there is no table {table!r} to reproduce; choose one of {', '.join(names())}")
    if table not in written.names():
        files = {"train": train, "revised_train": revised_train}
        plan = plans.read(table)
        return chosen.reproduce(plan, budget=budget, runs=runs, out=out, only=only, shipped=shipped, say=say, **files)
    if train or revised_train:
        raise InputError(f"--train, --revised_train: {table} is trained on what its recipes say; leave both out")
    read = written.read(table)
    return written_tables.reproduce(read, budget=budget, runs=runs, out=out, only=only, shipped=shipped, say=say)
