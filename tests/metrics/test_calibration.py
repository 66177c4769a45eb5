"""Probabilities of scores."""

import math
import random

import pytest

from personae.metrics.calibration import BINS, Bin, Calibration, expected_error, fit, reliability
from personae.types import Row


def drawn(count: int, *, temperature: float, level: float, seed: int = 0) -> list[Row]:
    """Cases whose true reply's score lies `level` above that of nineteen others, all multiplied by `temperature`."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        scores = [rng.gauss(0, 1) for _ in range(20)]
        target = rng.randrange(20)
        scores[target] += level
        rows.append(Row(str(number), str(number), tuple(temperature * score for score in scores), target))
    return rows


def test_probabilities_sum_to_one() -> None:
    shares, none = Calibration(2.0, 1.0).probabilities([1.0, -3.0, -math.inf])
    assert sum(shares) + none == pytest.approx(1)
    assert shares[0] == pytest.approx(none)
    assert shares[1] == pytest.approx(shares[0] * math.exp(-2))
    assert shares[2] == 0


def test_scores_of_any_size_are_taken() -> None:
    assert Calibration(1.0, 0.0).probabilities([1e6, -1e6]) == ([1.0, 0.0], 0.0)


@pytest.mark.parametrize("temperature", [0.01, 1, 300])
def test_the_unit_of_the_scores_does_not_matter(temperature: float) -> None:
    usual = fit(drawn(300, temperature=1, level=4))
    found = fit(drawn(300, temperature=temperature, level=4))
    assert found.temperature == pytest.approx(usual.temperature * temperature, rel=0.02)
    assert found.threshold == pytest.approx(usual.threshold * temperature, rel=0.02)


def test_what_is_said_to_be_likely_is() -> None:
    calibration = fit(drawn(800, temperature=5, level=3))
    bins = reliability(drawn(800, temperature=5, level=3, seed=1), calibration)
    assert sum(part.count for part in bins) == 1600
    assert expected_error(bins) < 0.06
    sure = Calibration(calibration.temperature / 10, calibration.threshold)
    assert expected_error(reliability(drawn(800, temperature=5, level=3, seed=1), sure)) > 0.1


def test_none_is_likely_where_none_is_right() -> None:
    rows = drawn(800, temperature=1, level=6)
    calibration = fit(rows)
    without = [calibration.probabilities(row.scores[: row.target] + row.scores[row.target + 1 :])[1] for row in rows]
    with_all = [calibration.probabilities(row.scores)[1] for row in rows]
    assert sum(without) / len(rows) > 0.9
    assert sum(with_all) / len(rows) < 0.1


def test_the_expected_error() -> None:
    assert expected_error([Bin(3, 0.9, 0.6), Bin(1, 0.2, 0.2)]) == pytest.approx(0.225)


def test_bins_hold_every_case() -> None:
    bins = reliability([Row("1", "1", (100.0, 0.0), 0)], Calibration(1.0, 50.0))
    assert bins == [Bin(2, 1.0, 1.0)]
    assert BINS == 15


def test_without_cases_there_is_no_calibration() -> None:
    with pytest.raises(ValueError, match="no cases"):
        fit([])
    with pytest.raises(ValueError, match="no number"):
        fit([Row("1", "1", (math.nan, 0.0), 0)])
