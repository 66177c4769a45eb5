"""Scores as probabilities: that a candidate is the right one, and that none of them is.

A candidate has the share that a softmax gives it among all of them and "none", whose score is a threshold (temperature
scaling: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599). Temperature
and threshold are those under which held-out cases are most likely, each with its true reply and, as one where none is
right, without it, and among few candidates as among many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from personae.types import Row

SIZES = (2, 5, 10, 20)
"""Among so many candidates a case is looked at, as far as it has them."""

BINS = 15
"""Of a reliability diagram, of equal width."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores are divided by the `temperature`; a candidate of the score `threshold` is as likely as that none fits."""

    temperature: float
    threshold: float

    def probabilities(self, scores: Sequence[float]) -> tuple[list[float], float]:
        """Of each candidate that it is the right one, and that none is; they sum to one."""
        logits = np.append(np.asarray(scores, dtype=float), self.threshold) / self.temperature
        *shares, none = np.exp(logits - logsumexp(logits)).tolist()
        return shares, none


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases in which the most likely answer has a probability within a range: how many these are, the mean of that
    probability, and how often the answer is right."""

    count: int
    probability: float
    right: float


def fit(rows: Sequence[Row]) -> Calibration:
    """The calibration under which rows of a part that was not trained on are most likely. ValueError where there is no
    row, or a score is no number."""
    cases = [case for row in rows for case in _cases(row)]
    if not cases:
        raise ValueError("there are no cases to calibrate on")
    most = max(len(scores) for scores, _ in cases)
    scores = np.full((len(cases), most), -np.inf)
    for place, (some, _) in enumerate(cases):
        scores[place, : len(some)] = some
    right = np.array([target for _, target in cases])
    if not (np.isfinite(scores) | np.isneginf(scores)).all():
        raise ValueError("a score is no number")
    known = right >= 0
    best = scores.max(1)
    middle, spread = float(np.median(best)), float(best.std()) or 1.0

    def surprise(parameters: np.ndarray) -> float:
        """The mean of minus the logarithm of what the right answer is given."""
        temperature, threshold = np.exp(parameters[0]), middle + spread * parameters[1]
        logits = np.column_stack([scores, np.full(len(scores), threshold)]) / temperature
        chosen = np.where(known, logits[np.arange(len(logits)), right], logits[:, -1])
        return float((logsumexp(logits, axis=1) - chosen).mean())

    start = np.array([np.log(spread), 0.0])
    found = minimize(surprise, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7}).x
    return Calibration(float(np.exp(found[0])), middle + spread * float(found[1]))


def _cases(row: Row) -> list[tuple[tuple[float, ...], int]]:
    """Scores and the place of the right one, -1 where none is: of the true reply and some of the others, and of these
    alone."""
    others = _others(row)
    found = []
    for size in sorted({min(size, len(row.scores)) for size in SIZES}):
        some = others[: size - 1]
        found.append(((row.scores[row.target], *some), 0))
        if some:
            found.append((some, -1))
    return found


def _others(row: Row) -> tuple[float, ...]:
    """The scores of all but the true reply."""
    return row.scores[: row.target] + row.scores[row.target + 1 :]


def reliability(rows: Sequence[Row], calibration: Calibration) -> list[Bin]:
    """Of all candidates and, as often, of all but the true one: how likely the most likely answer, "none" among them,
    is held to be, and how often it is right. Bins without a case are left out."""
    answered = []
    for row in rows:
        others = _others(row)
        for scores, target in ((row.scores, row.target), (others, len(others))):
            shares, none = calibration.probabilities(scores)
            answers = [*shares, none]
            place = int(np.argmax(answers))
            answered.append((answers[place], place == target))
    held, right = np.array(answered).T
    places = np.minimum((held * BINS).astype(int), BINS - 1)
    return [
        Bin(int(there.sum()), float(held[there].mean()), float(right[there].mean()))
        for place in range(BINS)
        if (there := places == place).any()
    ]


def expected_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: by how much probability and frequency differ, in the mean over cases (Naeini et
    al., AAAI 2015)."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.probability - part.right) for part in bins) / total
