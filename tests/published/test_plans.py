"""The plans of all tables: nothing of a table is left out, and what they name is there."""

import json
from collections import defaultdict
from dataclasses import astuple
from pathlib import Path

import pytest

from personae import catalogue, published, recipes, run, written_tables
from personae.published import plans, written
from personae.published.plans import SPEED
from personae.reproduce import _untrained
from personae.shelf import BUDGETS, Job, Shelf, differences
from personae.types import Paper

CELLS = {
    "dim/table2": 10,
    "dim/table3": 64,
    "dim/table4": 6,
    "dim/table5": 4,
    "persona-fusion/table2": 12,
    "persona-fusion/table3": 14,
    "persona-fusion/table4": 48,
    "persona-fusion/table5": 104,
    "persona-fusion/table6": 12,
}


def test_the_tables() -> None:
    assert plans.names() == list(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_every_number_has_what_makes_it_or_a_reason(name: str) -> None:
    plan = plans.read(name)
    paper, _, table = name.partition("/")
    printed = published.tables(paper)[table]
    found = {(cell.system, cell.column): cell for cell in plan.cells}
    assert len(found) == len(plan.cells) == CELLS[name]
    assert set(found) == {(system, column) for system in printed.rows for column in printed.columns}
    for (system, column), cell in found.items():
        assert cell.published == printed.rows[system][printed.columns.index(column)]
        assert (cell.model is not None) + (cell.recipe is not None) <= 1
        assert cell.why or cell.model or cell.recipe
        assert cell.model is None or catalogue.untrained(cell.model)
        assert {cell.trained, cell.measured} <= set(plan.forms)
    for text in (plan.title, plan.asks, plan.words, plan.stands_in, plan.remarks):
        assert text


@pytest.mark.parametrize("name", CELLS)
def test_the_paper_has_the_orderings_that_it_is_said_to_have(name: str) -> None:
    plan = plans.read(name)
    assert plan.claims or name == "persona-fusion/table6"
    for claim in plan.claims:
        assert claim.better.published is not None
        assert claim.worse.published is not None
        assert claim.better.published > claim.worse.published
        assert claim.better.metric == claim.worse.metric != SPEED


@pytest.mark.parametrize("name", ["dim/table3", "persona-fusion/table5"])
def test_of_ones_own_persona_the_original_is_ahead_of_the_revised(name: str) -> None:
    """Of every system that has both; of the partner's, neither leads throughout, so that it is no ordering."""
    plan = plans.read(name)
    told = {claim.better.system for claim in plan.claims if claim.named == f"{claim.better.system} (self/revised)"}
    numbers = {(cell.system, cell.column): cell.published for cell in plan.cells}
    columns = ("self/original hits@1", "self/revised hits@1")
    assert told == {
        cell.system for cell in plan.cells if None not in {numbers[cell.system, column] for column in columns}
    }


@pytest.mark.parametrize("name", CELLS)
def test_what_a_plan_names_is_there(name: str, tmp_path: Path) -> None:
    """Each recipe takes its changes, and the model that comes of it reads the persona that the column says."""
    plan = plans.read(name)
    shelf = Shelf(tmp_path, BUDGETS["cpu-small"], plan.forms, {"revised": "revised.jsonl"})
    cells = [cell for cell in plan.cells if cell.recipe and not cell.why]
    for budget in BUDGETS.values():
        on = Shelf(tmp_path, budget, plan.forms, {})
        assert {recipe for cell in cells for recipe in on.missing(cell)} == set()
    jobs = {shelf.job(cell): cell for cell in cells}
    assert len({job.folder for job in jobs}) == len(jobs)
    for job, cell in jobs.items():
        run._settings(run._parser(), job.recipe, dict(job.changes))
        assert _untrained(job).model.persona == cell.persona


def test_a_record_stands_beside_the_number_of_a_cell_that_it_is_of() -> None:
    served = defaultdict[Path, list[tuple[str, str, str, str]]](list)
    for name in CELLS:
        plan = plans.read(name)
        shelf = Shelf(published.records(), BUDGETS["cpu-small"], plan.forms, {}, recorded=True)
        for cell in plan.cells:
            own = cell.measured == cell.trained == "original"
            if cell.recipe and cell.metric == "hits@1" and cell.published is not None and own:
                served[shelf.job(cell).folder / "metrics.json"].append(astuple(cell.paper))
    there = [file for file in served if file.exists()]
    assert len(there) >= 36
    for file in there:
        told = json.loads(file.read_text("utf-8"))["published"]
        assert (told["name"], told["table"], told["row"], told["column"]) in served[file], file
        assert told["value"] == published.lookup(Paper(*served[file][0])), file
        recipe = recipes.read(str(file.with_name("recipe.yaml")))
        assert recipe["paper"] == {key: told[key] for key in ("name", "table", "row", "column")}, file


@pytest.mark.parametrize("name", CELLS)
def test_the_documentation_says_how_much_of_a_table_is_recorded(name: str) -> None:
    plan = plans.read(name)
    shelf = Shelf(published.records(), BUDGETS["cpu-small"], plan.forms, {}, recorded=True)
    filled = 0
    for cell in plan.cells:
        if not shelf.why(cell):
            job = shelf.job(cell)
            own = job.trained and cell.measured == cell.trained
            measured = job.folder / ("." if own else f"on-{cell.measured}") / "metrics.json"
            filled += (job.speed if cell.metric == SPEED else measured).exists()
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {filled} of {CELLS[name]} |" in page


BESIDES: dict[str, tuple[str, dict[str, object]]] = {
    "hre-personachat-ra-both": ("selection/hre-personachat-ra", {"task.model.persona": "both"}),
    "hre-personachat-none-8-epochs": (
        "selection/hre-personachat-none",
        {"trainer.max_epochs": 8, "trainer.val_check_interval": 0.5},
    ),
    "dim-personachat-none-1000-steps": (
        "selection/dim-personachat",
        {"task.model.persona": "none", "trainer.max_steps": 1000},
    ),
    "dim-personachat-context-false-1000-steps": (
        "selection/dim-personachat",
        {"task.model.context": False, "trainer.max_steps": 1000},
    ),
}
"""What docs/results.md tells of besides: a recipe and changes to it."""


def test_every_record_is_of_a_recipe_as_it_is_now() -> None:
    """Of each shipped run: nothing that decides its result was changed since."""
    jobs = {}
    for name in CELLS:
        plan = plans.read(name)
        shelf = Shelf(published.records(), BUDGETS["cpu-small"], plan.forms, {}, recorded=True)
        for cell in plan.cells:
            if (cell.model or cell.recipe) and not shelf.why(cell):
                job = shelf.job(cell)
                jobs |= {one.folder.name: one for one in (job, job.first) if one is not None}
    for name in written.names():
        for job in written_tables.jobs(written.read(name), published.records(), BUDGETS["cpu-small"]).values():
            jobs |= {one.folder.name: one for one in (job, job.first) if one is not None}
    for title in recipes.shipped():
        folder = published.records() / Path(title).name
        jobs.setdefault(folder.name, Job(folder, title))
    for name, (title, changes) in BESIDES.items():
        jobs[name] = Job(
            published.records() / name, title, changes=tuple((key, str(to)) for key, to in changes.items())
        )
    recorded = {folder.name for folder in published.records().iterdir()} - {"speed", "minilm-self"}
    assert recorded <= set(jobs)
    for name in recorded:  # a stage that no table has was given a run to start from by hand
        assert [line for line in differences(jobs[name]) if not line.startswith("init_from")] == [], name
