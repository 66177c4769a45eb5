"""Two generators compared by what they said to the same users."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from personae.metrics.compare import Difference, interval, matched, paired, t_test, wilcoxon
from personae.metrics.text import Statistic, corpus, per_reply
from personae.types import InputError, Spoken


def compare_spoken(
    replies_a: Sequence[Spoken], replies_b: Sequence[Spoken], *, tokens: str, seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """Two systems' replies, matched by `Spoken.id` in any order: for every metric of `text` that both have, both values
    with their 95 % intervals over users, the difference a - b, and a test: Wilcoxon's for Per-Hits, the paired t-test
    for the rest, of replies for a mean, and of users' pseudo-values for a number of all replies, where it is the
    difference's p as well. `tokens` says whose tokens the models count; where they count different numbers of them,
    their perplexities say nothing of each other, and are left out. InputError where the two are not replies to the same
    examples, with the same users and references."""
    replies_b = matched(replies_a, replies_b)
    pairs = list(zip(replies_a, replies_b, strict=True))
    unlike = [x.id for x, y in pairs if (x.user, x.reference) != (y.user, y.reference)]
    if unlike:
        raise InputError(
            f"{len(unlike)} examples differ in their user or reference (first: {unlike[0]}); "
            "let both systems reply to one file"
        )
    users = [reply.user for reply in replies_a]
    compared: dict[str, Any] = {}
    whole_a, whole_b = corpus(replies_a, tokens=tokens), corpus(replies_b, tokens=tokens)
    if any(x.tokens != y.tokens for x, y in pairs):
        whole_a.pop(f"perplexity/{tokens}", None)
    for name in (name for name in whole_a if name in whole_b):
        difference = _difference(whole_a[name], whole_b[name])
        compared[name] = {
            "a": asdict(whole_a[name].interval()),
            "b": asdict(whole_b[name].interval()),
            "difference": asdict(difference),
            "t_test": {"p": difference.p},
        }
    means_a, means_b = per_reply(replies_a), per_reply(replies_b)
    for name in (name for name in means_a if name in means_b):
        a, b = means_a[name], means_b[name]
        compared[name] = {
            "a": asdict(interval(a, users, seed=seed, resamples=resamples)),
            "b": asdict(interval(b, users, seed=seed, resamples=resamples)),
            "difference": asdict(paired(a, b, users, seed=seed, resamples=resamples)),
            **({"wilcoxon": {"p": wilcoxon(a, b)}} if name.startswith("per-hits") else {"t_test": {"p": t_test(a, b)}}),
        }
    return {
        "n": len(users),
        "users": len(set(users)),
        "level": 0.95,
        "resamples": resamples,
        "seed": seed,
        "metrics": compared,
    }


def _difference(a: Statistic, b: Statistic) -> Difference:
    less = replace(
        a,
        value=a.value - b.value,
        pseudo={user: value - b.pseudo[user] for user, value in a.pseudo.items()},
        least=-float("inf"),
        most=float("inf"),
    ).interval()
    p = t_test(list(a.pseudo.values()), [b.pseudo[user] for user in a.pseudo])
    return Difference(value=less.value, low=less.low, high=less.high, p=p, n=less.n)
