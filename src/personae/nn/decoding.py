"""Decoding: the tokens of replies, chosen one by one from what a model expects next.

Greedy decoding, beam search (Graves, Sequence Transduction with Recurrent Neural Networks, 2012,
https://arxiv.org/abs/1211.3711, with the scores' length penalty of Wu et al. 2016, https://arxiv.org/abs/1609.08144,
section 7, as a power of the length), and sampling: of the k most probable tokens (Fan, Lewis and Dauphin, ACL 2018,
https://aclanthology.org/P18-1082), of the nucleus (Holtzman et al., ICLR 2020, https://arxiv.org/abs/1904.09751), or of
all, with a temperature. A model gives the first logits, a state (of whatever it remembers) and a step.

A reply's log-probability is the model's own, in nats, of its tokens and the end if it came, whatever the temperature
and the choices that are forbidden.

Letters: B examples, N rows that are decoded (`n` or `beams` an example), V tokens.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from operator import add
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from personae.types import InputError, check

Kind = Literal["sample", "greedy", "beam"]


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; by default by sampling the two most probable ones (Wu et al. 2021).

    `top_k` and `top_p` (None: all tokens; where both are given, the nucleus is of the k most probable ones) and
    `temperature` are of sampling, `beams` and `length_penalty` of beam
    search: hypotheses are ranked by log-probability / tokens ** length_penalty, the end among the tokens. `n` replies
    are decoded of each example: the best ones of beam search, or so many samples; greedy decoding has but one. A reply
    has `shortest` to `longest` tokens, the end not among them; one of the longest length was cut short. InputError
    where a value is none of those allowed."""

    kind: Kind = "sample"
    top_k: int | None = 2
    top_p: float | None = None
    temperature: float = 1.0
    beams: int = 4
    n: int = 1
    longest: int = 40
    shortest: int = 1
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check("decoding.kind", self.kind, Kind)
        for name, least in {"top_k": 1, "beams": 1, "n": 1, "longest": 1, "shortest": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"decoding.{name}: {value} is not at least {least}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"decoding.top_p: {self.top_p} is not above 0 and at most 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"decoding.temperature: {self.temperature} is not above 0")
        if not math.isfinite(self.length_penalty):
            raise InputError(f"decoding.length_penalty: {self.length_penalty} is no finite number")
        if self.shortest > self.longest:
            raise InputError(f"decoding.shortest: {self.shortest} is more than the longest, {self.longest}")
        if self.kind == "greedy" and self.n > 1:
            raise InputError(f"decoding.n: greedy decoding gives one reply, not {self.n}; sample, or search with beams")
        if self.kind == "beam" and self.n > self.beams:
            raise InputError(f"decoding.n: {self.n} replies want as many beams, not {self.beams} (decoding.beams)")


class State(Protocol):
    """What a model remembers of each row, all that was said before and the tokens chosen so far."""

    def select(self, rows: Tensor) -> Self:
        """The state of these `rows` (N,), in this order; rows may be there more than once, or not at all."""
        ...


S = TypeVar("S", bound=State)
Step = Callable[[Tensor, S], tuple[Tensor, S]]
"""Of the tokens just chosen (N,) and the state before them, the logits (N, V) of the next ones and the state after."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A reply's tokens, without the end, and its log-probability."""

    tokens: list[int]
    log_probability: float


@torch.no_grad()
def decode(
    logits: Tensor,
    state: S,
    step: Step[S],
    *,
    names: Sequence[str],
    end: int,
    forbidden: Sequence[int],
    decoding: Decoding,
) -> list[list[Decoded]]:
    """Of each example `decoding.n` replies, the best or most probable one first (of beam search fewer where there are
    no more). `logits` (B, V) are of the first tokens; `names` (B,) are the examples' ids, by which sampling is seeded,
    so that what is drawn for an example does not depend on which others are in its batch. Tokens that are `forbidden`
    are never chosen. Rows that have ended are left out of the state, no work is spent on them."""
    if decoding.kind == "beam":
        return _search(logits, state, step, end, forbidden, decoding)
    n = decoding.n
    if n > 1:
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(n)
        logits, state = logits[rows], state.select(rows)
    numbers = np.stack([_numbers(name, sample, decoding) for name in names for sample in range(n)])
    tokens: list[list[int]] = [[] for _ in numbers]
    sums = [0.0] * len(numbers)
    for rows_left, chosen, gained in _chosen(logits, state, step, numbers, end, forbidden, decoding):
        for row, token, gain in zip(rows_left, chosen, gained, strict=True):
            sums[row] += gain
            if token != end:
                tokens[row].append(token)
    replies = [Decoded(*reply) for reply in zip(tokens, sums, strict=True)]
    cases = [replies[first : first + n] for first in range(0, len(replies), n)]
    return [sorted(case, key=lambda reply: -reply.log_probability) for case in cases]


@torch.no_grad()
def stream(
    logits: Tensor, state: S, step: Step[S], *, name: str, end: int, forbidden: Sequence[int], decoding: Decoding
) -> Iterator[int]:
    """The tokens of one example's reply, as they are chosen, the same as `decode` gives; `logits` is (1, V). InputError
    where there is more than one reply or a search with beams, in which nothing is chosen before the end."""
    if decoding.kind == "beam" or decoding.n > 1:
        name, value = ("kind", "beam") if decoding.kind == "beam" else ("n", str(decoding.n))
        raise InputError(f"decoding.{name}: {value} is not for a stream, which is one reply, sampled or greedy")
    numbers = _numbers(name, 0, decoding)[None]
    for _, (token,), _ in _chosen(logits, state, step, numbers, end, forbidden, decoding):
        if token != end:
            yield token


def spelled(tokens: Iterable[int], text: Callable[[list[int]], str]) -> Iterator[str]:
    """The pieces of what tokens say, as they come; `text` is what all of them so far say."""
    return pieces(map(text, accumulate(([token] for token in tokens), add)))


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What each of these texts, of which every one says a token more, adds to the one before. The last word is kept
    back until the next begins or all are through, since it may yet grow, or a mark be joined to it."""
    told, text = 0, ""
    for text in texts:
        sure = max(told, text.rfind(" "))
        if sure > told:
            yield text[told:sure]
            told = sure
    if text[told:]:
        yield text[told:]


def _numbers(name: str, sample: int, decoding: Decoding) -> np.ndarray:
    """The uniform random numbers (longest,) by which the tokens of an example's sample are drawn."""
    key = f"{decoding.seed} {sample} {name}".encode(errors="backslashreplace")
    seed = int.from_bytes(blake2b(key, digest_size=8).digest())
    return np.random.default_rng(seed).random(decoding.longest, dtype=np.float32)


def _chosen(
    logits: Tensor,
    state: S,
    step: Step[S],
    numbers: np.ndarray,
    end: int,
    forbidden: Sequence[int],
    decoding: Decoding,
) -> Iterator[tuple[list[int], list[int], list[float]]]:
    """Step by step the rows that have not ended, the token of each, and its log-probability. `numbers` is (N,
    longest)."""
    uniform = torch.from_numpy(numbers).to(logits.device)
    rows = list(range(len(logits)))
    for place in range(decoding.longest):
        logits = logits.float()
        open_to = _open(logits, end, forbidden, place < decoding.shortest)
        greedy = decoding.kind == "greedy"
        tokens = open_to.argmax(1) if greedy else _drawn(open_to, uniform[:, place], decoding)
        gained = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)
        told = tokens.tolist()
        yield rows, told, gained.tolist()
        left = [row for row, token in enumerate(told) if token != end]
        if not left or place + 1 == decoding.longest:
            return
        if len(left) < len(rows):
            kept = torch.tensor(left, device=logits.device)
            rows = [rows[row] for row in left]
            tokens, uniform, state = tokens[kept], uniform[kept], state.select(kept)
        logits, state = step(tokens, state)


def _open(logits: Tensor, end: int, forbidden: Sequence[int], unended: bool) -> Tensor:
    """The logits (N, V), -inf where a token is forbidden, the end among them where the reply is `unended`."""
    closed = [*forbidden, end] if unended else list(forbidden)
    return logits.index_fill(1, torch.tensor(closed, device=logits.device), -torch.inf) if closed else logits


def _drawn(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Tokens (N,) drawn from the probabilities that are kept, by inverting their distribution at `uniform` (N,)."""
    if decoding.top_k is not None:
        values, tokens = logits.topk(min(decoding.top_k, logits.shape[1]))
    else:
        values, tokens = logits.sort(descending=True, stable=True)
    kept = ((values - values[:, :1]) / decoding.temperature).softmax(1)  # the first is the greatest
    if decoding.top_p is not None:
        kept = kept * (kept.cumsum(1) - kept < decoding.top_p)
    sums = kept.cumsum(1)
    places = (sums <= uniform[:, None] * sums[:, -1:]).sum(1, keepdim=True)
    return tokens.gather(1, places.minimum((kept > 0).sum(1, keepdim=True) - 1)).squeeze(1)


@dataclass
class _Beams:
    """What beam search knows of one example: the tokens of each beam, and the replies that have ended, the best first,
    each with its score."""

    alive: list[list[int]]
    ended: list[tuple[float, Decoded]]


def _search(
    logits: Tensor, state: S, step: Step[S], end: int, forbidden: Sequence[int], decoding: Decoding
) -> list[list[Decoded]]:
    """Beam search: in each step the most probable continuations of all beams of an example, of which those that end are
    its hypotheses. It is over when none that is alive could still be among the `n` best, however it went on."""
    cases = [_Beams([[]], []) for _ in logits]
    left = list(cases)
    sums = logits.new_zeros(len(logits), 1, dtype=torch.float32)  # (cases left, beams)
    for length in range(1, decoding.longest + 1):
        logits = logits.float()
        gains = _open(logits.log_softmax(1), end, forbidden, length <= decoding.shortest)
        totals = (sums[..., None] + gains.view(*sums.shape, -1)).flatten(1)  # (cases left, beams * V)
        values, places = totals.topk(min(2 * decoding.beams, totals.shape[1]))
        tokens = places % gains.shape[1]
        values_alive, order = values.masked_fill(tokens == end, -torch.inf).sort(descending=True, stable=True)
        sources = places // gains.shape[1]  # (cases left, 2 beams)
        found = zip(left, values.tolist(), sources.tolist(), tokens.tolist(), strict=True)
        for case, *continuations in found:
            for score, source, token in list(zip(*continuations, strict=True))[: decoding.beams]:
                if token == end and score > -math.inf:
                    _end(case, case.alive[source], score, length, decoding)
        sums, order = values_alive[:, : decoding.beams], order[:, : decoding.beams]
        tokens, sources = tokens.gather(1, order), sources.gather(1, order)
        kept = []
        chosen = zip(left, sources.tolist(), tokens.tolist(), sums.tolist(), strict=True)
        for row, (case, whence, what, scores) in enumerate(chosen):
            case.alive = [[*case.alive[source], token] for source, token in zip(whence, what, strict=True)]
            if length == decoding.longest:
                for beam, score in zip(case.alive, scores, strict=True):
                    if score > -math.inf:
                        _end(case, beam, score, length, decoding)
            elif _could_gain(case, scores[0], length, decoding):
                kept.append(row)
        if not kept:
            break
        chosen_rows = torch.tensor(kept, device=logits.device)
        first = chosen_rows[:, None] * (len(logits) // len(left))  # the first row of each case that is left
        rows = (first + sources[chosen_rows]).flatten()
        left, sums = [left[row] for row in kept], sums[chosen_rows]
        logits, state = step(tokens[chosen_rows].flatten(), state.select(rows))
    return [[reply for _, reply in case.ended] for case in cases]


def _end(case: _Beams, tokens: list[int], log_probability: float, length: int, decoding: Decoding) -> None:
    """Enters a reply of so many tokens, the end among them, where it is one of the `n` best."""
    case.ended.append((log_probability / length**decoding.length_penalty, Decoded(list(tokens), log_probability)))
    case.ended.sort(key=lambda scored: -scored[0])
    del case.ended[decoding.n :]


def _could_gain(case: _Beams, best: float, length: int, decoding: Decoding) -> bool:
    """Whether a beam of log-probability `best`, which no token can raise, could become one of the `n` best replies."""
    if len(case.ended) < decoding.n:
        return best > -math.inf
    longest = decoding.longest if decoding.length_penalty > 0 else length + 1
    return best / longest**decoding.length_penalty > case.ended[-1][0]
