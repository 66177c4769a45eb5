"""Per-Hits@k: whether a response sounds like the user it was written for.

Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 5.3
(https://aclanthology.org/2021.gem-1.5): the perplexity of a response is taken under a language model of each of N
users; Per-Hits@k is the share of responses for which that of their own user is among the k lowest. A response that
says nothing of anybody has 1 chance in N / k; real responses of users, on which the models were not trained, show how
much there is to find. Users whose perplexities are equal, but for rounding, share their ranks, as in `ranking`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from personae.metrics.ranking import ranks
from personae.text import standard, words
from personae.types import InputError, Row

Floats = NDArray[np.float64]

Texts = list[Sequence[str]]
"""What a user said, each in words."""

MOST = 5
"""The paper's greatest k; it also averages over those up to it."""

DIGITS = 4
"""Digits after the point of a perplexity's logarithm, beyond which two are equal; KenLM's have not many more."""


HELD_OUT = 3
"""At most so many messages of a user are held out, and a tenth of them."""


def spoken(text: str) -> list[str]:
    """The words of a text by which users are told apart: of its standard form, lower-cased."""
    return words(standard(text))


def parted(said: Sequence[Sequence[Sequence[str]]]) -> tuple[list[Texts], list[Texts]]:
    """What each user said, but for the last messages that stand nowhere else in it; and these: at most a tenth of those
    that are not empty, and `HELD_OUT`. They are to the rest what real responses are to whole histories."""
    rest: list[Texts] = []
    held: list[Texts] = []
    for texts in said:
        times = Counter(tuple(text) for text in texts if text)
        once = [place for place, text in enumerate(texts) if times[tuple(text)] == 1]
        some = {*once[max(0, len(once) - min(HELD_OUT, times.total() // 10)) :]}
        rest.append([text for place, text in enumerate(texts) if place not in some])
        held.append([text for place, text in enumerate(texts) if place in some])
    return rest, held


def rows(perplexities: Floats, users: Sequence[str], owners: Sequence[str]) -> list[Row]:
    """What is measured of responses, from their `perplexities` (responses, N) under the models of `users`. The owner
    of each is the user that it was written for, and groups it for intervals. InputError names an owner who is no
    user."""
    places = {user: place for place, user in enumerate(users)}
    for owner in owners:
        if owner not in places:
            raise InputError(f"user {owner!r} has a response but no history: give one, or leave the response out")
    scores = np.round(-np.log(perplexities), DIGITS).tolist()
    return [
        Row(f"{owner}#{number}", owner, tuple(row), places[owner])
        for number, (owner, row) in enumerate(zip(owners, scores, strict=True))
    ]


def metrics(measured: Sequence[Row], *, most: int = MOST) -> dict[str, list[float]]:
    """{"per-hits@1/N", ..., "per-hits@`most`/N", "per-hits-avg/N"}, one number a response. InputError where `most` is
    more than N."""
    among = len(measured[0].scores) if measured else 0
    if not 1 <= most <= among:
        raise InputError(f"k: {most} is not between 1 and the number of users, {among}")
    return hits(ranks(measured), among, most=most)


def hits(ranks: Floats, among: int, *, most: int) -> dict[str, list[float]]:
    """The same of the ranks of the owners `among` so many users."""
    found = {f"per-hits@{k}/{among}": (ranks <= k).astype(float) for k in range(1, most + 1)}
    found[f"per-hits-avg/{among}"] = np.mean(list(found.values()), axis=0)
    return {name: values.tolist() for name, values in found.items()}


def chance(users: int, *, most: int = MOST) -> dict[str, float]:
    """The same of a random ranking."""
    shares = {f"per-hits@{k}/{users}": k / users for k in range(1, most + 1)}
    return {**shares, f"per-hits-avg/{users}": (most + 1) / 2 / users}
