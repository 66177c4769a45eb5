import random
import statistics
import time

import ir_measures
import pytest

from personae.metrics.ranking import candidates, hits, metrics, ranks, reciprocal_rank
from personae.types import InputError, Row


def row(scores: tuple[float, ...], target: int, name: str = "d#1") -> Row:
    return Row(id=name, dialogue="d", scores=scores, target=target)


def random_rows(number: int, counts: tuple[int, ...] = (20,), seed: int = 0, distinct: int | None = None) -> list[Row]:
    """Rows of random scores, without ties unless only `distinct` different scores are drawn."""
    draw = random.Random(seed)
    rows = []
    for i in range(number):
        count = draw.choice(counts)
        scores = tuple(draw.random() if distinct is None else float(draw.randrange(distinct)) for _ in range(count))
        rows.append(Row(id=f"d{i // 8}#{i}", dialogue=f"d{i // 8}", scores=scores, target=draw.randrange(count)))
    return rows


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ((0.9, 0.5, 0.1), 0, 1.0),
        ((0.9, 0.5, 0.1), 2, 3.0),
        ((-3.0, -1.0, -2.0), 2, 2.0),
        ((0.5, 0.5, 0.1), 0, 1.5),  # ranks 1 or 2
        ((0.5, 0.5, 0.5, 0.9), 1, 3.0),  # ranks 2 to 4
        ((0.0,) * 20, 7, 10.5),
        ((float("-inf"), float("inf")), 0, 2.0),
        ((0.3,), 0, 1.0),
    ],
)
def test_rank_by_hand(scores: tuple[float, ...], target: int, expected: float) -> None:
    assert ranks([row(scores, target)]).tolist() == [expected]


def test_metrics_by_hand() -> None:
    scores = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    rows = [row(scores, 0), row(scores, 1), row(scores, 4), row(scores, 5), row((1.0, 1.0, 0.0, 0.0, 0.0, 0.0), 0)]
    assert metrics(rows) == {
        "hits@1/6": [1, 0, 0, 0, 0],
        "hits@5/6": [1, 1, 1, 0, 1],
        "mrr/6": pytest.approx([1, 1 / 2, 1 / 5, 1 / 6, 2 / 3]),
    }


def test_the_name_says_the_number_of_candidates() -> None:
    assert list(metrics(random_rows(5))) == ["hits@1/20", "hits@5/20", "mrr/20"]
    assert list(metrics([row((1.0, 2.0), 0), row((1.0, 2.0, 3.0), 0)])) == ["hits@1/2-3", "mrr/2-3"]
    assert candidates(random_rows(5, counts=(7,))) == "7"


def test_rows_of_different_lengths_rank_as_each_does_alone() -> None:
    rows = random_rows(200, counts=(1, 2, 5, 20), distinct=6)
    assert len({len(row.scores) for row in rows}) == 4
    alone = [float(ranks([row])[0]) for row in rows]
    assert ranks(rows).tolist() == alone
    for each, rank in zip(rows, alone, strict=True):
        true = each.scores[each.target]
        best = 1 + sum(score > true for score in each.scores)
        worst = sum(score >= true for score in each.scores)
        assert rank == (best + worst) / 2


def test_shuffling_candidates_with_their_scores_changes_nothing() -> None:
    draw = random.Random(1)
    rows = random_rows(100, distinct=8)
    shuffled = []
    for each in rows:
        order = draw.sample(range(20), 20)
        shuffled.append(row(tuple(each.scores[i] for i in order), order.index(each.target)))
    assert metrics(shuffled) == metrics(rows)


def test_only_the_order_of_scores_counts() -> None:
    rows = random_rows(100, distinct=8)
    stretched = [row(tuple(score**3 - 100 for score in each.scores), each.target) for each in rows]
    assert metrics(stretched) == metrics(rows)


def test_a_model_that_scores_all_alike_earns_nothing() -> None:
    alike = metrics([row((0.0,) * 20, target) for target in range(20)])
    assert set(alike["hits@1/20"]) == {0.0}
    assert set(alike["hits@5/20"]) == {0.0}
    assert alike["mrr/20"] == pytest.approx([1 / 10.5] * 20)


def test_ir_measures_agrees() -> None:
    rows = random_rows(300)
    relevant = {row.id: {str(row.target): 1} for row in rows}
    scored = {row.id: {str(i): score for i, score in enumerate(row.scores)} for row in rows}
    for name, measure in [
        ("hits@1/20", ir_measures.Success @ 1),
        ("hits@5/20", ir_measures.Success @ 5),
        ("mrr/20", ir_measures.RR),
    ]:
        theirs = {value.query_id: value.value for value in ir_measures.iter_calc([measure], relevant, scored)}
        assert metrics(rows)[name] == pytest.approx([theirs[row.id] for row in rows])
        assert 0 < statistics.mean(theirs.values()) < 1


def test_mistakes_are_named() -> None:
    good = row((1.0, 2.0), 0, "good#1")
    with pytest.raises(InputError, match=r"^bad#3: the score of candidate 2 is NaN"):
        ranks([good, row((1.0, 2.0, float("nan")), 0, "bad#3"), good])
    with pytest.raises(InputError, match=r"^bad#3: target 2 "):
        ranks([good, row((1.0, 2.0), 2, "bad#3")])
    with pytest.raises(InputError, match=r"^bad#3: target -1 "):
        ranks([good, row((1.0, 2.0), -1, "bad#3")])
    with pytest.raises(InputError, match=r"^bad#3: target 0 is not the place of one of its 0 scores"):
        ranks([row((), 0, "bad#3"), good])
    with pytest.raises(InputError, match="no scored example"):
        metrics([])
    with pytest.raises(InputError, match="hits@0"):
        hits(0)


def test_no_rows_have_no_numbers() -> None:
    assert list(hits(1)([])) == []
    assert reciprocal_rank([]) == []


def test_a_whole_validation_set_takes_well_under_a_second() -> None:
    rows = random_rows(7801)
    begin = time.process_time()
    measured = metrics(rows)
    assert time.process_time() - begin < 1
    assert statistics.mean(measured["hits@1/20"]) == pytest.approx(1 / 20, abs=0.01)
