"""Attention over sequences that lie one after another, so that nothing is padded between them.

What is read of a sequence by others is computed once: the queries of a block of replies attend to the keys of a span of
a context, which is shared, and each to its own reply. The softmax is taken apart: exponentials are multiplied with the
values and a column of ones in one product, and divided by what that column gives. What is subtracted before is the same
`MIDDLE` for all, and what is left is cut at `MOST`: so similarities of up to 110 are told apart, and a rare word's to
itself is 90 in MiniLM.

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
"""The queries of a block and the keys of a span are filled up to multiples of these, for the same reason."""

SHORT, LONG = 16, 64
"""Sequences are read together with those that have as many tokens, filled up to a multiple of the first, of more than
`LONG` tokens to one of this."""

TOGETHER = 8
"""So many sequences of one length are read together, or a multiple of it."""

MIDDLE, MOST = 30.0, 80.0
"""What is taken from similarities, and the number whose exponential is not too large for a sum."""


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

    def chosen(self, numbers: Tensor, behind: Tensor | None = None) -> Self:
        """The sequences with these numbers (S,), one after another, their positions so much higher (S,)."""
        lengths = self.lengths()[numbers]
        ends = lengths.cumsum(0)
        owners = torch.repeat_interleave(lengths)  # (T,)
        within = torch.arange(len(owners), device=owners.device) - (ends - lengths)[owners]
        fill = (0, upto(len(owners)) - len(owners))
        source = F.pad(torch.tensor(self.starts, device=owners.device)[numbers][owners] + within, fill)
        positions = F.pad(within if behind is None else within + behind[owners], fill)
        return type(self)(self.tokens[source], self.kinds[source], positions, (0, *ends.tolist()))


@dataclass(frozen=True)
class Seen:
    """What tokens attend to: those of their sequence, whose `starts` are where each begins and the last one ends. Where
    `parts` (T,) are given, only to those of a part that is not greater than their own. A span (from, to, first, last)
    says that the tokens from one place to another attend besides to tokens first to last of other sequences; no token
    is in two of them. Ends are excluded."""

    starts: Sequence[int]
    parts: Tensor | None = None
    spans: Sequence[tuple[int, int, int, int]] = ()

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self if self.parts is None else replace(self, parts=self.parts.to(device))


@dataclass(frozen=True)
class Group:
    """S sequences that are filled up to L tokens. `index` (S, L) are their tokens, any where there is none; `sees`
    (S, 1, L, L) has ones where a token attends to another, else zeros. Their tokens are `tokens` (N,), at the `places`
    (N,) of the index."""

    index: Tensor
    sees: Tensor
    tokens: Tensor
    places: Tensor


def groups(seen: Seen, like: Tensor) -> list[Group]:
    """The sequences by length, with numbers `like` those that attention is computed with."""
    lengths: dict[int, list[int]] = {}
    for place, (start, end) in enumerate(itertools.pairwise(seen.starts)):
        if end > start:
            length = end - start
            lengths.setdefault(upto(length, SHORT if length <= LONG else LONG), []).append(place)
    starts = torch.tensor(seen.starts, device=like.device)
    found = []
    for length, numbers in sorted(lengths.items()):
        empty = upto(len(numbers), TOGETHER) - len(numbers) if length <= LONG else 0
        chosen = torch.tensor([*numbers, *[numbers[0]] * empty], device=like.device)
        within = torch.arange(length, device=like.device)
        there = within < (starts[chosen + 1] - starts[chosen])[:, None]  # (S, L)
        there[len(numbers) :] = False
        index = (starts[chosen][:, None] + within).where(there, starts[chosen][:, None])
        sees = there[:, :, None] & there[:, None, :]
        if seen.parts is not None:
            parts = seen.parts[index.clamp(max=len(seen.parts) - 1)]
            sees &= parts[:, :, None] >= parts[:, None, :]
        found.append(Group(index, sees[:, None].to(like.dtype), index[there], there.flatten().nonzero()[:, 0]))
    return found


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
    """`Attention.apply(own, heads, groups, spans, others)`: what tokens find, (T, H); zeros for those of no sequence.

    `own` (T, 3H) are their queries, divided by the square root of D, keys and values; `groups` and `spans` are those of
    `Seen`, `others` (T', 3H) those of the sequences that the spans are of, None where there are none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        heads: int,
        groups: Sequence[Group],
        spans: Sequence[tuple[int, int, int, int]],
        others: Tensor | None,
    ) -> Tensor:
        """See the class."""
        total = own.new_zeros(len(own), heads, own.shape[1] // 3 // heads + 1)
        for group in groups:
            similar, values, _, _ = _among(own, heads, group)
            both = (similar @ values).transpose(1, 2).flatten(0, 1)  # (S * L, heads, D + 1)
            total[group.tokens] = both[group.places]
        for span in spans:
            similar, values, _, _ = _across(own, heads, span, others)
            there = slice(*span[:2])
            total[there] += (similar @ values)[:, : there.stop - there.start].transpose(0, 1)
        sums = total[..., -1:]
        found = total[..., :-1] / sums.where(sums > 0, 1)
        ctx.arguments = heads, groups, spans, sums
        ctx.save_for_backward(own, others, found)
        return found.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients of `own` and `others`."""
        (gradient,) = gradients
        own, others, found = ctx.saved_tensors
        heads, groups, spans, sums = ctx.arguments
        share = gradient.view_as(found) / sums.where(sums > 0, 1)
        share = torch.cat([share, -(share * found).sum(-1, keepdim=True)], -1)  # (T, heads, D + 1)
        of_own = torch.zeros_like(own)
        parts = of_own.view(len(own), 3, heads, -1)
        of_others = None if others is None else torch.zeros_like(others)
        for group in groups:
            found_by = _gradients(share[group.index].transpose(1, 2), *_among(own, heads, group))
            for part, each in enumerate(found_by):
                parts[group.tokens, part] = each.transpose(1, 2).flatten(0, 1)[group.places]
        for span in spans:
            start, end, first, last = span
            similar, values, queries, keys = _across(own, heads, span, others)
            back = _filled(share[start:end].flatten(1), heads, ROWS)
            of_queries, *rest = _gradients(back, similar, values, queries, keys)
            parts[start:end, 0] += of_queries[:, : end - start].transpose(0, 1)
            assert of_others is not None
            read = of_others[first:last].view(last - first, 3, heads, found.shape[2])
            for part, each in enumerate(rest, 1):
                read[:, part] += each[:, : last - first].transpose(0, 1)
        return of_own, None, None, None, of_others


def _gradients(
    back: Tensor, similar: Tensor, values: Tensor, queries: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values, where those of what is found and of its sum are `back` (..., L, D + 1)."""
    of_values = (similar.transpose(-1, -2) @ back)[..., :-1]
    of_similar = (back @ values.transpose(-1, -2)).mul_(similar)
    return of_similar @ keys, of_similar.transpose(-1, -2) @ queries, of_values


def _among(own: Tensor, heads: int, group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the sequences of a group, the exponentials of their similarities (S, heads, L, L), and their values with a
    column of ones, queries and keys (S, heads, L, ...)."""
    states = own[group.index].unflatten(2, (3, heads, -1))  # (S, L, 3, heads, D)
    queries, keys, values = states.permute(2, 0, 3, 1, 4).contiguous()
    similar = (queries @ keys.transpose(-1, -2)).sub_(MIDDLE).clamp_(max=MOST).exp_().mul_(group.sees)
    return similar, F.pad(values, (0, 1), value=1.0), queries, keys


def _across(
    own: Tensor, heads: int, span: tuple[int, int, int, int], others: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the queries of a span, the exponentials of their similarities to its other tokens (heads, L, C), and the
    values of these with a column of ones, the queries and the keys, each filled up with zeros."""
    assert others is not None
    start, end, first, last = span
    width = own.shape[1] // 3
    queries = _filled(own[start:end, :width], heads, ROWS)
    keys = _filled(others[first:last, width : 2 * width], heads, COLUMNS)
    similar = (queries @ keys.transpose(1, 2)).sub_(MIDDLE).clamp_(max=MOST).exp_()
    return similar, _filled(others[first:last, 2 * width :], heads, COLUMNS, ones=1), queries, keys


def _filled(states: Tensor, heads: int, step: int, ones: int = 0) -> Tensor:
    """Tokens (L, H) by heads, filled up with zeros to a multiple of `step`, with so many columns of ones at the end of
    those that there are: (heads, L, D + ones)."""
    length, width = states.shape[0], states.shape[1] // heads
    filled = states.new_zeros(heads, upto(length, step), width + ones)
    filled[:, :length, :width].copy_(states.reshape(length, heads, width).transpose(0, 1))
    filled[:, :length, width:] = 1
    return filled
