"""Where the true reply comes among its candidates: ranks, hits@k and reciprocal ranks, one number an example.

Ties: a target that ties with others has the mean of the best and the worst rank it could be given. So a model that
scores 20 candidates alike ranks every target 10.5 and has no hit at 1 or 5, whatever the order of the candidates; a
target that ties for the first place has rank 1.5, no hit at 1 and a reciprocal rank of 2/3.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from personae.types import InputError, Row

Metric = Callable[[Sequence[Row]], Sequence[float]]
"""One number an example, in the order of the rows, so that two models can be compared example by example."""


def ranks(rows: Sequence[Row]) -> NDArray[np.float64]:
    """The 1-based rank of each row's target, (rows,); ties count as the mean of best and worst rank. Rows may differ in
    their numbers of candidates. InputError names the row where a score is NaN or the target is no candidate."""
    if not rows:
        return np.empty(0)
    counts = np.array([len(row.scores) for row in rows])
    targets = np.array([row.target for row in rows])
    for i in np.flatnonzero((targets < 0) | (targets >= counts)).tolist():
        raise InputError(
            f"{rows[i].id}: target {targets[i]} is not the place of one of its {counts[i]} scores; places count from 0"
        )
    scores = np.fromiter(chain.from_iterable(row.scores for row in rows), np.float64, counts.sum())
    starts = counts.cumsum() - counts
    for i in np.flatnonzero(np.isnan(scores)).tolist():
        row = int(np.searchsorted(starts, i, side="right")) - 1
        raise InputError(f"{rows[row].id}: the score of candidate {i - starts[row]} is NaN; a rank needs numbers")
    true = np.repeat(scores[starts + targets], counts)
    above = np.add.reduceat(scores > true, starts, dtype=np.float64)
    level = np.add.reduceat(scores == true, starts, dtype=np.float64)  # counts the target itself
    return np.asarray(above + (level + 1) / 2)


def hits(k: int) -> Metric:
    """hits@k: 1 where the target's rank is at most k, else 0."""
    if k < 1:
        raise InputError(f"hits@{k}: k must be at least 1")
    return lambda rows: (ranks(rows) <= k).astype(float).tolist()


def reciprocal_rank(rows: Sequence[Row]) -> list[float]:
    """1 / rank of the target; its mean over examples is the MRR."""
    reciprocal: list[float] = (1 / ranks(rows)).tolist()
    return reciprocal


def candidates(rows: Sequence[Row]) -> str:
    """The number of candidates as metric names say it: "20", or "2-20" where the rows have from 2 to 20."""
    if not rows:
        raise InputError("there is no scored example to measure")
    fewest, most = min(len(row.scores) for row in rows), max(len(row.scores) for row in rows)
    return str(most) if fewest == most else f"{fewest}-{most}"


def metrics(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Every ranking metric, one number an example: {"hits@1/20", "hits@5/20", "mrr/20"}, where 20 is the number of
    candidates, or "2-20" for rows that have from 2 to 20 of them; hits@5 only where there are more than 5, of which it
    says something. Ties count as the mean of best and worst rank."""
    among, most = candidates(rows), max(len(row.scores) for row in rows)
    measured: dict[str, Metric] = {f"hits@{k}": hits(k) for k in (1, 5) if k < most or k == 1}
    measured["mrr"] = reciprocal_rank
    return {f"{name}/{among}": list(metric(rows)) for name, metric in measured.items()}
