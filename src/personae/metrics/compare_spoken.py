"""Two generators compared by what they said to the same users."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from personae.metrics.compare import Difference, Interval, interval, matched, paired, t_test, wilcoxon
from personae.metrics.text import Statistic, corpus, per_reply
from personae.types import InputError, Spoken


@dataclass(frozen=True, slots=True)
class Reply:
    """What is measured of one reply, without its text: `values` by metric, and how many `tokens` the model counted in
    what was really said."""

    id: str
    user: str
    tokens: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of a system: of each of its replies, and of all together."""

    replies: tuple[Reply, ...]
    whole: Mapping[str, Statistic]

    def __len__(self) -> int:
        return len(self.replies)

    @property
    def users(self) -> list[str]:
        """The user of each reply."""
        return [reply.user for reply in self.replies]

    def each(self, name: str) -> list[float]:
        """A metric of each reply."""
        return [reply.values[name] for reply in self.replies]

    def intervals(self, *, seed: int = 0, resamples: int = 2000) -> dict[str, Interval]:
        """Every metric with its 95 % interval over users; that of a mean is bootstrapped."""
        means = {
            name: interval(self.each(name), self.users, seed=seed, resamples=resamples)
            for name in self.replies[0].values
        }
        return {**{name: statistic.interval() for name, statistic in self.whole.items()}, **means}


def measures(replies: Sequence[Spoken], *, tokens: str) -> Measures:
    """All that `text` measures of replies. `tokens` says whose tokens the model counts. InputError where there is no
    reply."""
    means = per_reply(replies)
    kept = (
        Reply(reply.id, reply.user, reply.tokens, {name: values[place] for name, values in means.items()})
        for place, reply in enumerate(replies)
    )
    return Measures(tuple(kept), corpus(replies, tokens=tokens))


def compare_spoken(
    replies_a: Sequence[Spoken], replies_b: Sequence[Spoken], *, tokens: str, seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """Two systems' replies, matched by `Spoken.id` in any order, compared as `compare_measures` says. `tokens` says
    whose tokens the models count. InputError where the two are not replies to the same examples, with the same users
    and references."""
    replies_b = matched(replies_a, replies_b)
    pairs = list(zip(replies_a, replies_b, strict=True))
    _alike([x.id for x, y in pairs if (x.user, x.reference) != (y.user, y.reference)])
    a, b = (measures(replies, tokens=tokens) for replies in (replies_a, replies_b))
    return compare_measures(a, b, seed=seed, resamples=resamples)


def compare_measures(a: Measures, b: Measures, *, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """Two systems, their replies matched by id: for every metric that both have, both values with their 95 % intervals
    over users, the difference a - b, and a test: Wilcoxon's for Per-Hits, the paired t-test for the rest, of replies
    for a mean, and of users' pseudo-values for a number of all replies, whose difference has no p of a bootstrap. Where
    the models count different numbers of tokens, their perplexities say nothing of each other, and are left out.
    InputError where the two did not reply to the same examples, or not as the same users."""
    b = replace(b, replies=tuple(matched(a.replies, b.replies)))
    pairs = list(zip(a.replies, b.replies, strict=True))
    _alike([x.id for x, y in pairs if x.user != y.user])
    alike = all(x.tokens == y.tokens for x, y in pairs)
    intervals_a, intervals_b = (each.intervals(seed=seed, resamples=resamples) for each in (a, b))
    compared: dict[str, Any] = {}
    for name in (name for name in intervals_a if name in intervals_b):
        if name.startswith("perplexity/") and not alike:
            continue
        if name in a.whole:
            whole_a, whole_b = a.whole[name], b.whole[name]
            difference = _difference(whole_a, whole_b)
            p = t_test(list(whole_a.pseudo.values()), [whole_b.pseudo[user] for user in whole_a.pseudo])
            test = {"t_test": {"p": p}}
        else:
            of_a, of_b = a.each(name), b.each(name)
            difference = paired(of_a, of_b, a.users, seed=seed, resamples=resamples)
            hits = name.startswith("per-hits")
            test = {"wilcoxon": {"p": wilcoxon(of_a, of_b)}} if hits else {"t_test": {"p": t_test(of_a, of_b)}}
        sides = {"a": asdict(intervals_a[name]), "b": asdict(intervals_b[name])}
        compared[name] = {**sides, "difference": asdict(difference), **test}
    return {
        "n": len(a),
        "users": len(set(a.users)),
        "level": 0.95,
        "resamples": resamples,
        "seed": seed,
        "metrics": compared,
    }


def _alike(unlike: Sequence[str]) -> None:
    if unlike:
        raise InputError(
            f"{len(unlike)} examples differ in their user or reference (first: {unlike[0]}); "
            "let both systems reply to one file"
        )


def _difference(a: Statistic, b: Statistic) -> Difference:
    """The difference of a number of all replies, with its jackknife interval."""
    less = replace(
        a,
        value=a.value - b.value,
        pseudo={user: value - b.pseudo[user] for user, value in a.pseudo.items()},
        least=-float("inf"),
        most=float("inf"),
    ).interval()
    return Difference(value=less.value, low=less.low, high=less.high, p=None, n=less.n)
