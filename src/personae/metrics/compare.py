"""Intervals around a mean and comparisons of two models on the same examples.

The replies of one dialogue resemble one another, so the bootstrap draws whole dialogues (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 13 and 16). McNemar's test, the paired t-test and Wilcoxon's take every
example as independent, so their p-values come out too small where examples share dialogues; they are here because
papers print them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from personae.metrics.ranking import metrics
from personae.types import InputError, Row

Floats = NDArray[np.float64]


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_Answer = TypeVar("_Answer", bound=_Named)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` examples, or another number that is of all of them, and its interval; `low` and `high` are None
    where all examples are of one group, which says nothing about others."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The value of `a` less that of `b` over the same `n` examples, its interval and the two-sided p-value of no
    difference; `low`, `high` and `p` are None where all examples are of one group, and `p` where another test tells."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """The numbers of examples that only `a` and only `b` got right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def interval(
    values: Sequence[float], groups: Sequence[str], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `values` with a percentile bootstrap interval that draws whole groups (dialogues) with replacement.
    With fewer than some twenty groups, or where all values are alike, it is narrower than it should be."""
    numbers = _finite(values)
    means = _resampled(numbers, groups, seed, resamples)
    low, high = _bounds(means, level)
    return Interval(value=float(numbers.mean()), low=low, high=high, n=len(numbers))


def paired(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """The mean of a - b with a percentile bootstrap interval that draws whole groups (dialogues) with replacement, both
    models on the same draw. The p-value is twice the share of draws on the other side of 0, (count + 1) / (resamples +
    1), so it falls below 1 - level where the interval leaves 0 out, and never below 2 / (resamples + 1)."""
    differences = _differences(a, b)
    means = _resampled(differences, groups, seed, resamples)
    low, high = _bounds(means, level)
    p = None
    if means is not None:
        beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
        p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return Difference(value=float(differences.mean()), low=low, high=high, p=p, n=len(differences))


def ratio(
    a: Sequence[float], b: Sequence[float], groups: Sequence[str], *, seed: int = 0, resamples: int = 2000
) -> Interval | None:
    """How many times the mean of `b` that of `a` is, on the same examples, with a 95 % percentile bootstrap interval
    that draws whole groups; None where the mean of `b` is 0. Draws in which it is 0 count as infinite, and `high` is
    None where more than one in forty does."""
    if len(a) != len(b):
        raise InputError(f"{len(a)} values cannot be paired with {len(b)}; give both models' values of each example")
    above, below = _finite(a), _finite(b)
    if below.mean() == 0:
        return None
    value, n = float(above.mean() / below.mean()), len(above)
    of_a, of_b = (_resampled(values, groups, seed, resamples) for values in (above, below))  # the same draws of groups
    if of_a is None or of_b is None:
        return Interval(value=value, low=None, high=None, n=n)
    drawn = np.divide(of_a, of_b, out=np.full(len(of_a), np.inf), where=of_b > 0)
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975], method="inverted_cdf"))
    return Interval(value=value, low=low, high=high if np.isfinite(high) else None, n=n)


def mcnemar(a: Sequence[float], b: Sequence[float]) -> McNemar:
    """McNemar's exact test of two lists of 0 and 1: a two-sided binomial test of the examples that only one of the two
    got right. It takes the examples as independent, which replies of one dialogue are not: compare `paired`."""
    differences = _differences(a, b)
    if not set(a) | set(b) <= {0, 1}:
        raise InputError("McNemar's test needs values of 0 and 1, such as hits; use t_test for other values")
    only_a, only_b = int((differences > 0).sum()), int((differences < 0).sum())
    p = 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, p=min(1.0, p))


def t_test(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The two-sided p-value of the paired t-test; None for a single example, which has no spread. It takes the examples
    as independent, which replies of one dialogue are not: compare `paired`."""
    differences = _differences(a, b)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return 2 * float(special.stdtr(len(differences) - 1, -abs(differences.mean()) / error))


def wilcoxon(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The two-sided p-value of Wilcoxon's signed-rank test; None for a single example. Examples without a difference
    are left out, as Wilcoxon does (scipy's zero method "wilcox"), and where none is left it is 1. Up to thirteen
    differences (fifty, if no two are of one size) are tested exactly, more by the normal approximation with its
    correction for ties. Differences are rounded to twelve places, so that 0.6 - 0.4 ties with 0.4 - 0.2. It takes the
    examples as independent, which replies of one dialogue or user are not: compare `paired`."""
    from scipy import stats  # slow to load

    differences = _differences(a, b).round(12)
    if len(differences) < 2:
        return None
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def pearson(
    x: Sequence[Sequence[float]], y: Sequence[Sequence[float]], groups: Sequence[str], *, level: float = 0.95
) -> Interval:
    """How far the means of two measures, each of several things on the same examples, such as Per-Hits@k of systems by
    two scorers, rise and fall together in a straight line; `n` is the number of pairs of means. The interval is of the
    same things on other examples: the jackknife's, of so many standard errors to either side, that leaves out a group
    at a time (Efron and Tibshirani, chapter 11). So pairs may depend on one another, as they may not for Fisher's. A
    bootstrap would have the noise of the means twice, which weakens a correlation: its interval is too low, and may not
    hold the value. `low` and `high` are None where all examples but those of one group have no correlation. InputError
    where all have none, because a measure is everywhere the same."""
    if len(x) != len(y):
        raise InputError(f"{len(x)} values cannot be paired with {len(y)}; give both measures of each")
    means = [_finite([_finite(values).mean() for values in measure]).round(12) for measure in (x, y)]
    for which, values in zip(("first", "second"), means, strict=True):
        if np.ptp(values) == 0:
            raise InputError(f"the {which} measure is {values[0]:g} everywhere; a correlation needs values that differ")
    for each in (*x, *y):
        if len(each) != len(groups):
            raise InputError(f"{len(each)} values have {len(groups)} groups; give each value its group")
    _check_level(level)
    names, group = np.unique(groups, return_inverse=True)
    sums = [np.asarray(measure) @ np.eye(len(names))[group] for measure in (x, y)]  # (pairs, groups)
    without = [(own.sum(axis=1, keepdims=True) - own).round(12) for own in sums]  # as good as means
    value, low, high = float(_straight(*means)), None, None
    if all((np.ptp(each, axis=0) > 0).all() for each in without):
        error = (len(names) - 1) * _straight(*without).std(ddof=1) / np.sqrt(len(names))
        around = float(special.ndtri((1 + level) / 2) * error)
        low, high = max(-1.0, value - around), min(1.0, value + around)
    return Interval(value=value, low=low, high=high, n=len(x))


def compare(
    rows_a: Sequence[Row], rows_b: Sequence[Row], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """Two models on the same examples, matched by `Row.id` in any order: for every ranking metric both values with
    their intervals, the difference a - b, and McNemar's test (hits) or the paired t-test (reciprocal rank).
    InputError where the two are not the same examples with the same numbers of candidates and the same targets."""
    rows_b = matched(rows_a, rows_b)
    unlike = [
        f"{x.id}: target {x.target} of {len(x.scores)} against target {y.target} of {len(y.scores)}"
        for x, y in zip(rows_a, rows_b, strict=True)
        if (x.target, len(x.scores)) != (y.target, len(y.scores))
    ]
    if unlike:
        raise InputError(
            f"{len(unlike)} examples differ in their target or number of candidates (first: {unlike[0]}); "
            "evaluate both with the same candidates in the same order"
        )
    dialogues = [row.dialogue for row in rows_a]
    measured_a, measured_b = metrics(rows_a), metrics(rows_b)
    compared: dict[str, Any] = {}
    for name, a in measured_a.items():
        b = measured_b[name]
        compared[name] = {
            "a": asdict(interval(a, dialogues, seed=seed, resamples=resamples, level=level)),
            "b": asdict(interval(b, dialogues, seed=seed, resamples=resamples, level=level)),
            "difference": asdict(paired(a, b, dialogues, seed=seed, resamples=resamples, level=level)),
            **({"mcnemar": asdict(mcnemar(a, b))} if name.startswith("hits") else {"t_test": {"p": t_test(a, b)}}),
        }
    return {
        "n": len(rows_a),
        "dialogues": len(set(dialogues)),
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "metrics": compared,
    }


def matched(of_a: Sequence[_Answer], of_b: Sequence[_Answer]) -> list[_Answer]:
    """What `of_b` has of the examples of `of_a`, in that order. InputError where the two are not of the same examples,
    by their ids, or an example is there twice."""
    a, b = {each.id: each for each in of_a}, {each.id: each for each in of_b}
    for which, given, distinct in (("first", of_a, a), ("second", of_b, b)):
        if repeated := len(given) - len(distinct):
            raise InputError(f"the {which} results repeat {repeated} example ids; give each example once")
    absent = {"second": [key for key in a if key not in b], "first": [key for key in b if key not in a]}
    missing = [f"{len(ids)} are missing from the {which} (first: {ids[0]})" for which, ids in absent.items() if ids]
    if missing:
        raise InputError(f"the results are not of the same examples: {'; '.join(missing)}; evaluate both on one file")
    return [b[key] for key in a]


def _finite(values: Sequence[float] | Floats) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        raise InputError("there is no value to average")
    for i in np.flatnonzero(~np.isfinite(numbers)).tolist():
        raise InputError(f"value {i}, counted from 0, is {numbers[i]}; an average needs finite numbers")
    return numbers


def _differences(a: Sequence[float], b: Sequence[float]) -> Floats:
    if len(a) != len(b):
        raise InputError(f"{len(a)} values cannot be paired with {len(b)}; give both models' values of each example")
    return _finite(a) - _finite(b)


def _resampled(values: Floats, groups: Sequence[str], seed: int, resamples: int) -> Floats | None:
    """The means of `resamples` draws of as many groups as there are, (resamples,); None for one group."""
    if len(values) != len(groups):
        raise InputError(f"{len(values)} values have {len(groups)} groups; give each value its group")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; it must be at least 1")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        return None
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    generator = np.random.default_rng(seed)
    at_once = max(1, 1_000_000 // len(names))  # bounds memory at some 25 MB
    means = []
    for start in range(0, resamples, at_once):
        drawn = generator.integers(len(names), size=(min(at_once, resamples - start), len(names)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def _straight(x: Floats, y: Floats) -> Floats:
    """Pearson's coefficient along the first axis."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cosine = (x * y).sum(axis=0) / np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return np.asarray(cosine.clip(-1, 1))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must be between 0 and 1, such as 0.95")


def _bounds(means: Floats | None, level: float) -> tuple[float, float] | tuple[None, None]:
    _check_level(level)
    if means is None:
        return None, None
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
