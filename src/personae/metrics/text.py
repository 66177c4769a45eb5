"""What generated replies are like: near to what was really said, diverse, likely, long, and like the user.

Some measures are one number a reply, and their mean is the result: `per_reply`. Others are of all replies together:
`corpus`. Their intervals come from the jackknife that leaves out one user at a time (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 11), since a bootstrap, which draws users twice, would find fewer distinct
words than there are; of distinct n-grams it gives an interval that is rather too wide than too narrow. Words are those
of `personae.text.words`, lower-cased, every mark a word of its own, but for F1 and BLEU, which have tokens of their
own. A reply without a word is measured like any other.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from scipy import special

from personae.metrics.compare import Interval, interval
from personae.metrics.per_hits import MOST, hits
from personae.text import words
from personae.types import InputError, Spoken

Floats = NDArray[np.float64]

_MARKS = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number that is of all `n` replies together, between `least` and `most`. The `pseudo`-values say what each user
    adds to it: with g users, a user's is value + (g - 1) (mean - without), where `without` is the number without the
    user's replies and `mean` the mean of these over users. Their mean is the value, and they are nearly independent, so
    two systems can be compared by a paired t-test of theirs. (Tukey's are g value - (g - 1) without, whose mean would
    answer another question: the number for infinitely many users, far less in the case of distinct n-grams.)"""

    value: float
    pseudo: dict[str, float]
    n: int
    least: float
    most: float

    @property
    def error(self) -> float | None:
        """The standard error; None where there is one user."""
        if len(self.pseudo) == 1:
            return None
        return float(np.std(list(self.pseudo.values()), ddof=1)) / math.sqrt(len(self.pseudo))

    def interval(self, *, level: float = 0.95) -> Interval:
        """The value and its normal interval, 1.96 standard errors to either side, within what the number can be."""
        if self.error is None:
            return Interval(value=self.value, low=None, high=None, n=self.n)
        around = float(special.ndtri((1 + level) / 2)) * self.error
        low, high = max(self.least, self.value - around), min(self.most, self.value + around)
        return Interval(value=self.value, low=low, high=high, n=self.n)


def measure(replies: Sequence[Spoken], *, tokens: str, seed: int = 0, resamples: int = 2000) -> dict[str, Interval]:
    """All that `corpus` and `per_reply` measure, with 95 % intervals over users; those of means are bootstrapped.
    `tokens` says whose tokens the model counts. InputError where there is no reply."""
    users = [reply.user for reply in replies]
    whole = {name: statistic.interval() for name, statistic in corpus(replies, tokens=tokens).items()}
    means = {
        name: interval(values, users, seed=seed, resamples=resamples) for name, values in per_reply(replies).items()
    }
    return {**whole, **means}


def per_reply(replies: Sequence[Spoken]) -> dict[str, list[float]]:
    """One number a reply, in the order of `replies`:

    - "f1": of its tokens and those of the reference, lower-cased, without punctuation and without a, an and the, as
      ParlAI has it (Dinan et al., The Second Conversational Intelligence Challenge, 2019,
      https://arxiv.org/abs/1902.00098); 0 where either has none.
    - "distinct-1/reply", "distinct-2/reply": the share of its words, of its pairs of words, that are distinct; 0 where
      it has none, so that nothing is gained by saying nothing.
    - "length": its words.
    - "per-hits@1/N" ... "per-hits@5/N" and their mean "per-hits-avg/N", as in `per_hits`: 1 where `rank` is at most k,
      else 0, with N users (k up to N, where these are fewer than 5); only where every reply has a rank.

    InputError where there is no reply, or a rank is none among the number of users that all share."""
    spoken = [words(reply.text) for reply in _some(replies)]
    return {
        "f1": [_f1(reply) for reply in replies],
        **{f"distinct-{n}/reply": [_distinct(_ngrams(each, n)) for each in spoken] for n in (1, 2)},
        "length": [float(len(each)) for each in spoken],
        **_hits(replies),
    }


def corpus(replies: Sequence[Spoken], *, tokens: str) -> dict[str, Statistic]:
    """A number of all replies together, and what each user adds to it:

    - "bleu-4/corpus": between 0 and 1, of lower-cased text in sacrebleu's 13a tokens with its default smoothing
      (lowercase|tok:13a|smooth:exp; Post, WMT 2018, https://aclanthology.org/W18-6319).
    - "distinct-1/corpus", "distinct-2/corpus": the share of all words, of all pairs of words, that are distinct (Li et
      al., NAACL 2016, https://aclanthology.org/N16-1014); 0 where there are none. It falls with the number of words:
      compare systems on the same examples.
    - "perplexity/`tokens`": exp(sum of `nll` / sum of `tokens`) of the references, teacher-forced; only where the
      tokens of every reply were counted. Models with other tokens cannot be compared by it.

    InputError where there is no reply, or an nll is not finite."""
    texts: dict[str, list[list[str]]] = {}
    for reply in _some(replies):
        texts.setdefault(reply.user, []).append(words(reply.text))
    likely = _by_user(replies, _nll) if all(reply.tokens > 0 for reply in replies) else {}
    found = {
        "bleu-4/corpus": (_by_user(replies, _matches), _bleu, 0.0, 1.0),
        "distinct-1/corpus": (*_variety(texts, 1), 0.0, 1.0),
        "distinct-2/corpus": (*_variety(texts, 2), 0.0, 1.0),
        **({f"perplexity/{tokens}": (likely, _perplexity, 1.0, math.inf)} if likely else {}),
    }
    return {
        name: _jackknife(sums, statistic, n=len(replies), least=least, most=most)
        for name, (sums, statistic, least, most) in found.items()
    }


def ceiling(replies: Sequence[Spoken]) -> list[Spoken]:
    """The references in place of what was generated, with their own ranks: what is measured of these is what real users
    are like, and their Per-Hits@k the most that can be expected. Their likelihood is not known, so there is no
    perplexity."""
    return [replace(reply, text=reply.reference, rank=reply.real, nll=0.0, tokens=0) for reply in replies]


def focused(replies: Sequence[Spoken], most: int) -> list[Spoken]:
    """Those to whose reference the user's own language model gives one of the lowest `most` perplexities: the top-m
    focused set of Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 5.5
    (https://aclanthology.org/2021.gem-1.5), whose real replies tell who they are. InputError where the rank of a
    reference is not known."""
    if most < 1:
        raise InputError(f"most: {most} is not a rank; ranks count from 1")
    found = []
    for reply in replies:
        if reply.real is None:
            raise InputError(f"{reply.id}: the rank of its reference is not known; measure Per-Hits of the references")
        if reply.real <= most:
            found.append(reply)
    return found


def _some(replies: Sequence[Spoken]) -> Sequence[Spoken]:
    if not replies:
        raise InputError("there is no reply to measure")
    return replies


def _f1(reply: Spoken) -> float:
    said, real = (_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split() for text in (reply.text, reply.reference))
    both = (Counter(said) & Counter(real)).total()
    return 2 * both / (len(said) + len(real)) if both else 0.0


def _ngrams(spoken: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(spoken[start:] for start in range(n)), strict=False))  # the last words start none


def _distinct(grams: list[tuple[str, ...]]) -> float:
    return len(set(grams)) / len(grams) if grams else 0.0


def _hits(replies: Sequence[Spoken]) -> dict[str, list[float]]:
    among = replies[0].users
    ranks = [reply.rank for reply in replies if reply.rank is not None]
    if len(ranks) < len(replies):
        return {}
    for reply, rank in zip(replies, ranks, strict=True):
        if reply.users != among or not 1 <= rank <= among:
            raise InputError(
                f"{reply.id}: rank {rank:g} among {reply.users} users, where {replies[0].id} is ranked among {among}; "
                "rank all replies among the same users, from 1"
            )
    return hits(np.array(ranks), among, most=min(MOST, among))


def _by_user(replies: Sequence[Spoken], of: Callable[[Spoken], Sequence[float]]) -> dict[str, Floats]:
    """The sums over each user's replies of what `of` gives."""
    sums: dict[str, Floats] = {}
    for reply in replies:
        sums[reply.user] = sums.get(reply.user, 0.0) + np.array(of(reply), dtype=np.float64)
    return sums


_SENTENCES = BLEU(lowercase=True, effective_order=True)
"""The effective order changes a sentence's score, which is not used, and nothing of its counts."""


def _matches(reply: Spoken) -> list[float]:
    score = _SENTENCES.sentence_score(reply.text, [reply.reference])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def _bleu(sums: Floats) -> float:
    said, real, *counts = map(int, sums)
    order = len(counts) // 2
    return BLEU.compute_bleu(counts[:order], counts[order:], said, real, smooth_method="exp").score / 100


def _nll(reply: Spoken) -> list[float]:
    if not math.isfinite(reply.nll):
        raise InputError(f"{reply.id}: nll is {reply.nll}; the likelihood of a reference must be a finite number")
    return [reply.nll, reply.tokens]


def _perplexity(sums: Floats) -> float:
    return math.exp(sums[0] / sums[1])


def _variety(texts: Mapping[str, list[list[str]]], n: int) -> tuple[dict[str, Floats], Callable[[Floats], float]]:
    """By user the number of distinct n-grams that nobody else has, and of all their n-grams; and how the share of
    distinct ones follows from the sums of these, whoever is left out."""
    owners: dict[tuple[str, ...], str | None] = {}  # None of several
    said: Counter[str] = Counter()
    for user, spoken in texts.items():
        for each in spoken:
            grams = _ngrams(each, n)
            said[user] += len(grams)
            for gram in grams:
                if owners.setdefault(gram, user) != user:
                    owners[gram] = None
    own = Counter(owners.values())
    shared = own[None]
    sums = {user: np.array([own[user], said[user]], dtype=np.float64) for user in texts}
    return sums, lambda total: float((shared + total[0]) / total[1]) if total[1] else 0.0


def _jackknife(
    sums: Mapping[str, Floats], statistic: Callable[[Floats], float], *, n: int, least: float, most: float
) -> Statistic:
    total = np.sum(list(sums.values()), axis=0)
    value = statistic(total)
    without = np.array([statistic(total - own) if len(sums) > 1 else value for own in sums.values()])
    pseudo = value + (len(sums) - 1) * (without.mean() - without)
    return Statistic(value, dict(zip(sums, pseudo.tolist(), strict=True)), n, least, most)
