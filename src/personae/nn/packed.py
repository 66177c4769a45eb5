"""Attention over sequences that lie one after another, so that nothing is padded between them.

What is read of a sequence by others is computed once: the queries of a block of replies attend to the keys of a span of
a context, which is shared, and each to its own reply. The softmax is taken apart: exponentials are multiplied with the
values and a column of ones in one product, and divided by what that column gives; nothing is subtracted before, but the
similarities are cut at `MOST`, far above those of a trained model.

Letters: T tokens of all sequences, L and C those of one and of its context, H hidden units, D of them a head.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

ROOM, MANY = 64, 1024
"""The tokens of all sequences together are filled up to a multiple of the first, where they are more than the second
to one four times as large. Each new shape of a matrix product costs a processor two thousandths of a second, more than
the product does."""

ROWS, COLUMNS = 32, 64
"""The queries and the keys of a sequence are filled up to multiples of these, for the same reason."""

MOST = 80.0
"""The exponential of a larger number may be too large for a sum."""


@dataclass(frozen=True)
class Packed:
    """Sequences: `tokens`, `kinds` and `positions` (T,), with some of no sequence at the end, and where each sequence
    begins and the last one ends (`starts`)."""

    tokens: Tensor
    kinds: Tensor
    positions: Tensor
    starts: tuple[int, ...]

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        tensors = ("tokens", "kinds", "positions")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def lengths(self) -> Tensor:
        """The tokens of each sequence."""
        starts = torch.tensor(self.starts, device=self.tokens.device)
        return starts[1:] - starts[:-1]

    def chosen(self, numbers: Tensor, behind: Tensor | None = None) -> tuple[Self, Tensor]:
        """The sequences with these numbers (S,), one after another, their positions so much higher (S,), and of each
        token, in which of them it is."""
        lengths = self.lengths()[numbers]
        ends = lengths.cumsum(0)
        owners = torch.repeat_interleave(lengths)  # (T,)
        within = torch.arange(len(owners), device=owners.device) - (ends - lengths)[owners]
        fill = (0, upto(len(owners)) - len(owners))
        source = F.pad(torch.tensor(self.starts, device=owners.device)[numbers][owners] + within, fill)
        positions = F.pad(within if behind is None else within + behind[owners], fill)
        return type(self)(self.tokens[source], self.kinds[source], positions, (0, *ends.tolist())), owners


@dataclass(frozen=True)
class Seen:
    """What queries attend to. They lie in blocks; `starts` is where each begins and the last one ends. `own` says which
    keys of its block each query sees, a matrix (L, L) of ones and zeros a block; all, if there is none. `spans` are the
    first and the last but one of the tokens of other sequences that all queries of a block see besides."""

    starts: Sequence[int]
    own: Sequence[Tensor] | None = None
    spans: Sequence[tuple[int, int]] | None = None

    def to(self, other: torch.device | torch.dtype) -> Self:
        """The same on another device, or in another precision."""
        return self if self.own is None else replace(self, own=[each.to(other) for each in self.own])


def pack(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Packed:
    """Sequences of tokens and of their kinds, one after another; positions count from 0 in each."""
    tokens, kinds = zip(*sequences, strict=True)
    starts = [0, *itertools.accumulate(map(len, tokens))]
    empty = (0,) * (upto(starts[-1]) - starts[-1])
    positions = [range(len(sequence)) for sequence in tokens]
    rows = (torch.tensor([*itertools.chain(*parts), *empty]) for parts in (tokens, kinds, positions))
    return Packed(next(rows), next(rows), next(rows), tuple(starts))


def upto(number: int, step: int = 0) -> int:
    """The next multiple of `step`; of `ROOM` or four times that, if it is 0."""
    step = step or (ROOM if number <= MANY else 4 * ROOM)
    return -(-number // step) * step


class Attention(torch.autograd.Function):
    """`Attention.apply(own, heads, seen, others)`: what tokens find, (T, H).

    `own` (T, 3H) are their queries, divided by the square root of D, keys and values; `others` (T', 3H) those of the
    sequences that the spans of `seen` are of, None where it has none.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, heads: int, seen: Seen, others: Tensor | None) -> Tensor:
        """See the class."""
        found = own.new_zeros(len(own), own.shape[1] // 3)
        sums = []
        for place, (start, end) in enumerate(itertools.pairwise(seen.starts)):
            similar, values, _, _ = _exponentials(own, heads, seen, place, others)
            both = similar @ values  # (heads, L, D + 1)
            length = end - start
            chosen = found[start:end].view(length, heads, -1)
            chosen.copy_((both[:, :length, :-1] / both[:, :length, -1:]).transpose(0, 1))
            sums.append(both[:, :length, -1:])
        ctx.arguments = heads, seen, sums
        ctx.save_for_backward(own, others, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients of `own` and `others`."""
        (gradient,) = gradients
        own, others, found = ctx.saved_tensors
        heads, seen, sums = ctx.arguments
        of_own = torch.zeros_like(own)
        of_others = None if others is None else torch.zeros_like(others)
        for place, (start, end) in enumerate(itertools.pairwise(seen.starts)):
            length = end - start
            similar, values, queries, keys = _exponentials(own, heads, seen, place, others)
            share = gradient[start:end].view(length, heads, -1) / sums[place].transpose(0, 1)
            back = own.new_zeros(heads, queries.shape[1], values.shape[2])
            back[:, :length, :-1].copy_(share.transpose(0, 1))
            back[:, :length, -1].copy_(-(share * found[start:end].view(length, heads, -1)).sum(-1).t())
            of_values = (similar.transpose(1, 2) @ back).transpose(0, 1)[..., :-1]
            similar = (back @ values.transpose(1, 2)).mul_(similar)
            of_keys = (similar.transpose(1, 2) @ queries).transpose(0, 1)
            first = 0
            if of_others is not None:
                there = slice(*seen.spans[place])
                first = there.stop - there.start
                of_context = of_others[there].view(first, 3, heads, -1)
                of_context[:, 1] += of_keys[:first]
                of_context[:, 2] += of_values[:first]
            parts = of_own[start:end].view(length, 3, heads, -1)
            parts[:, 0].copy_((similar @ keys)[:, :length].transpose(0, 1))
            parts[:, 1].copy_(of_keys[first : first + length])
            parts[:, 2].copy_(of_values[first : first + length])
        return of_own, None, None, of_others


def _exponentials(
    own: Tensor, heads: int, seen: Seen, place: int, others: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the queries of one block, the exponentials of their similarities (heads, L, C + L), and the values with a
    column of ones, the queries and the keys, each filled up with zeros."""
    start, end = seen.starts[place : place + 2]
    width = own.shape[1] // 3
    queries = _filled(own[start:end, :width], heads, ROWS)
    read, before = own[start:end, width:], 0
    if others is not None and seen.spans is not None:
        there = slice(*seen.spans[place])
        before = there.stop - there.start
        read = torch.cat([others[there, width:], read])
    keys = _filled(read[:, :width], heads, COLUMNS)
    similar = (queries @ keys.transpose(1, 2)).clamp_(max=MOST).exp_()
    if seen.own is not None:
        similar[:, : end - start, before : before + end - start].mul_(seen.own[place])
    return similar, _filled(read[:, width:], heads, COLUMNS, ones=1), queries, keys


def _filled(states: Tensor, heads: int, step: int, ones: int = 0) -> Tensor:
    """Tokens (L, H) by heads, filled up with zeros to a multiple of `step`, with so many columns of ones at the end of
    those that there are: (heads, L, D + ones)."""
    length, width = states.shape[0], states.shape[1] // heads
    filled = states.new_zeros(heads, upto(length, step), width + ones)
    filled[:, :length, :width].copy_(states.view(length, heads, width).transpose(0, 1))
    filled[:, :length, width:] = 1
    return filled
