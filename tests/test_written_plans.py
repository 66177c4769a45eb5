"""The plans of tables and figures of systems that write replies, as they are shipped."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from personae import published, run, shelf, tables, written_tables
from personae.cli import main
from personae.published import plans, written

ROWS = {
    "persona-fusion/table7": 3,
    "tensor-factorization/table1": 12,
    "tensor-factorization/table2": 11,
    "tensor-factorization/table3": 4,
    "tensor-factorization/table4": 6,
    "tensor-factorization/figure3": 21,
    "tensor-factorization/figure4": 10,
}


def test_the_tables() -> None:
    assert written.names() == list(ROWS)
    assert tables.names() == [*plans.names(), *ROWS]


@pytest.mark.parametrize("name", ROWS)
def test_what_a_plan_names_is_there(name: str, tmp_path: Path) -> None:
    """Each recipe takes its changes, and different runs have different folders."""
    told = written.read(name)
    assert len(told.lines) == ROWS[name]
    assert all((line.recipe is not None) == (line.kind == "run") for line in told.lines)
    assert set(told.efforts) == set(shelf.BUDGETS)
    for pair in told.pairs:
        assert set(pair) <= {line.system for line in told.lines}
    for budget in shelf.BUDGETS.values():
        made = written_tables.jobs(told, tmp_path, budget)
        assert len({job.folder for job in made.values()}) == len({(job.recipe, job.changes) for job in made.values()})
        for job in made.values():
            assert written_tables._missing(job) == []
            run.resolved(job.recipe, dict(job.changes))


@pytest.mark.parametrize("name", ROWS)
def test_the_command_lays_out_what_is_recorded(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", name, "--shipped", "--json", "--out", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    rows = {(row["system"], row["column"]): row for row in content["rows"]}
    paper, _, table = name.partition("/")
    if table in (printed := published.tables(paper)):
        numbers = {
            (system, column): number
            for system, row in printed[table].rows.items()
            for column, number in zip(printed[table].columns, row, strict=True)
        }
        assert {key: row["published"] for key, row in rows.items()} == numbers
    for row in rows.values():
        assert set(row) >= {"system", "column", "published", "ours", "low", "high", "n", "budget"}
        assert ("why" in row) == (row["ours"] is None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["table.json", "table.md", "table.svg"]
    page = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    filled = sum(row["ours"] is not None for row in rows.values())
    assert f"| `{name}` | {filled} of {len(rows)} |" in page


def test_the_paper_finds_what_its_tables_are_asked_for() -> None:
    told = written.read("tensor-factorization/table1")
    by_name = {line.system: line.published for line in told.lines}
    for better, worse in told.pairs:
        assert (by_name[better]["per-hits avg"] or 0) > (by_name[worse]["per-hits avg"] or 0)
    assert [asdict(column)["metric"] for column in told.columns][-1] == "per-hits-avg"
    assert written.read("tensor-factorization/table3").lines[2].factors == "generation/seq2seq-ubuntu-tf"
    assert [line.most for line in written.read("tensor-factorization/table4").lines] == [1, 2, 3, 4, 5, None]
