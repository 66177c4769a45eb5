import pytest

from personae.published import load, lookup, measured, papers, tables
from personae.types import InputError, Paper


def test_the_five_papers() -> None:
    assert papers() == ["ccrs", "dim", "persona-fusion", "persona-wae", "tensor-factorization"]


@pytest.mark.parametrize(
    ("paper", "count", "cells"),
    [
        ("ccrs", 2, 109),
        ("dim", 4, 84),
        ("persona-fusion", 6, 202),
        ("persona-wae", 3, 104),
        ("tensor-factorization", 4, 333),
    ],
)
def test_every_row_has_as_many_numbers_as_columns(paper: str, count: int, cells: int) -> None:
    found = tables(paper)
    assert len(found) == count
    for table in found.values():
        assert len(set(table.columns)) == len(table.columns)
        assert {len(numbers) for numbers in table.rows.values()} == {len(table.columns)}
    assert sum(len(table.columns) * len(table.rows) for table in found.values()) == cells


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        (Paper("persona-fusion", "table4", "IMN-RA", "self hits@1"), 66.3),
        (Paper("persona-fusion", "table4", "BERT-CRA", "partner mrr"), 80.9),
        (Paper("persona-fusion", "table5", "BERT-CRA", "self/revised hits@1"), 79.4),
        (Paper("persona-fusion", "table3", "HRE"), 42.7),
        (Paper("persona-fusion", "table3", "Starspace", "mrr"), None),
        (Paper("persona-fusion", "table6", "BERT-CRA", "cases/second"), 92.67),
        (Paper("dim", "table3", "DIM", "self/original hits@1"), 78.8),
        (Paper("dim", "table4", "DIM - context"), 48.8),
        (Paper("ccrs", "table1", "CCRS", "ndcg@50"), 0.1618),
        (Paper("persona-wae", "table3", "5", "bleu-f1"), 0.2480),
        (Paper("tensor-factorization", "table2", "Ground truth", "per-hits@1"), 100.0),
        (Paper("tensor-factorization", "table4", "500", "per-hits avg"), 4.20),
    ],
)
def test_numbers_are_the_papers(paper: Paper, expected: float | None) -> None:
    found = lookup(paper)
    assert found == expected
    assert found is None or isinstance(found, float)


def test_a_table_keeps_the_papers_order() -> None:
    table = tables("dim")["table2"]
    assert table.columns == ("hits@1", "mrr")
    assert list(table.rows) == ["IR baseline", "Starspace", "Profile", "KV Profile", "IMN"]
    assert table.rows["IMN"] == (63.8, 75.8)


def test_load_says_which_paper_and_data() -> None:
    for paper in papers():
        recorded = load(paper)
        assert recorded["paper"].endswith((" 2019)", " 2021)", " 2022)"))
        assert recorded["dataset"]


def test_what_was_measured_says_on_what() -> None:
    assert {"starspace-personachat", "hre-personachat-ra", "tfidf-self"} <= set(measured())
    assert "tfidf-partner" not in measured()
    assert len({result["data"]["sha256"] for result in measured().values()}) == 1
    for name, result in measured().items():
        data = result["data"]
        assert data["candidates"]["name"] == "official", name
        assert (result["cpu_seconds"] is None) == name.endswith("-self")
        for metric in ("hits@1/20", "mrr/20"):
            value = result["metrics"][metric]
            assert value["n"] == 7801
            assert 0 < value["low"] < value["value"] < value["high"] < 1


def test_a_change_of_what_was_loaded_stays_with_its_owner() -> None:
    load("dim")["tables"].clear()
    assert len(tables("dim")) == 4


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        (Paper("imn", "table4", "IMN-RA"), r"no paper called 'imn'; choose one of 'ccrs', 'dim', 'persona-fusion'"),
        (Paper("../types", "table4", "IMN-RA"), r"no paper called"),
        (Paper("dim", "table9", "DIM"), r"no table of dim called 'table9'; choose one of 'table2', 'table3'"),
        (Paper("dim", "table4", "IMN"), r"no row of dim table4 called 'IMN'; choose one of 'DIM', 'DIM - persona'"),
        (
            Paper("dim", "table3", "DIM"),
            r"no column of dim table3 called 'hits@1'; choose one of 'self/original",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_those_there_are(paper: Paper, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lookup(paper)
