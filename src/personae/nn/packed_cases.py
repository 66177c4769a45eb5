"""Cases that share what they read: replies that are read behind contexts, each of which is read once.

A context has parts; a token sees its own part and those before it. Letters: B cases, N candidates, U distinct replies,
T tokens of all contexts, G parts of all.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from personae.nn.cross_encoder import Keys
from personae.nn.packed import Packed, Seen, pack, upto

SPAN = 512
"""So many tokens of replies are read at a time with a context."""


@dataclass(frozen=True)
class Cases:
    """B cases, of whose contexts those that are the beginning of another are read with it.

    `contexts` have the parts that are numbered in `parts` (T,), over all of them, and see what `seen` says. Of each
    case, `spans` is where its context begins and ends, `first` and `last` (B,) are its parts. Of U distinct `replies`,
    the texts `said`, `places` (B, N) are its candidates, -1 where there is none, and `target` (B,) is
    the place of the true one among them, -1 where it is not known.
    """

    contexts: Packed
    parts: Tensor
    seen: Seen
    spans: Sequence[tuple[int, int]]
    first: Tensor
    last: Tensor
    replies: Packed
    said: Sequence[str]
    places: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        names = ("contexts", "parts", "seen", "first", "last", "replies", "places", "target")
        return replace(self, **{name: getattr(self, name).to(torch.device(device)) for name in names})


class Readings:
    """What was read of the last `most` contexts: the queries, keys and values of each layer (T, 3H), and something of
    each part (G, ...). A context is a tuple of its parts, and they are tuples of tokens."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[tuple[tuple[Any, ...], ...], tuple[list[Tensor], Tensor]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def beginning(self, context: tuple[tuple[Any, ...], ...]) -> tuple[int, list[Tensor], Tensor]:
        """How many parts of a context were read before, and what was read of them."""
        for there in range(len(context), 0, -1):
            for before, (known, of_parts) in self._kept.items():
                if before[:there] == context[:there]:
                    count = sum(map(len, context[:there]))
                    return there, [each[:count] for each in known], of_parts[:there]
        return 0, [], torch.zeros(0)

    def keep(self, context: tuple[tuple[Any, ...], ...], known: list[Tensor], of_parts: Tensor) -> None:
        """Keeps what was read of a context in place of what was read of its beginning."""
        for before in [key for key in self._kept if context[: len(key)] == key]:
            del self._kept[before]
        self._kept[context] = known, of_parts
        while len(self._kept) > self.most:
            del self._kept[next(iter(self._kept))]


def cases(contexts: Sequence[tuple[Keys, ...]], replies: Mapping[str, Keys], places: Tensor, target: Tensor) -> Cases:
    """The input of so many cases with these contexts, each in parts, and the tokens of these texts as replies."""
    distinct: list[tuple[Keys, ...]] = []
    longer: dict[tuple[Keys, ...], int] = {}
    for context in sorted(set(contexts), reverse=True):  # what is longer comes first
        if not distinct or distinct[-1][: len(context)] != context:
            distinct.append(context)
        longer[context] = len(distinct) - 1
    packed = pack([_joined(parts) for parts in distinct])
    firsts = [0, *itertools.accumulate(map(len, distinct))]
    parts = torch.tensor(
        [
            first + number
            for first, context in zip(firsts, distinct, strict=False)
            for number, (tokens, _) in enumerate(context)
            for _ in tokens
        ]
    )
    begins = [packed.starts[longer[context]] for context in contexts]
    spans = [
        (begin, begin + sum(len(tokens) for tokens, _ in context))
        for begin, context in zip(begins, contexts, strict=True)
    ]
    first = [firsts[longer[context]] for context in contexts]
    last = [place + len(context) - 1 for place, context in zip(first, contexts, strict=True)]
    return Cases(
        packed,
        parts,
        Seen(packed.starts, parts),
        spans,
        torch.tensor(first),
        torch.tensor(last),
        pack(list(replies.values())),
        tuple(replies),
        places,
        target,
    )


def pairs(cases: Cases, places: Tensor) -> tuple[Packed, Seen]:
    """The replies at `places` (B, N), one after another, each behind the context of its row, and what they see."""
    there = places >= 0
    behind = torch.tensor([end - start for start, end in cases.spans], device=places.device)
    found = cases.replies.chosen(places[there], behind[there.nonzero()[:, 0]])
    bounds = [0, *itertools.accumulate(there.sum(1).tolist())]
    spans = []
    for (first, last), span in zip(itertools.pairwise(bounds), cases.spans, strict=True):
        start, end = found.starts[first], found.starts[last]
        spans += [(place, min(place + SPAN, end), *span) for place in range(start, end, SPAN)]
    return found, Seen(found.starts, spans=spans)


def rest(cases: Cases, count: int) -> tuple[Packed, Tensor, Seen]:
    """Of the one context of the cases, what comes behind the first `count` tokens, which it sees: the tokens, the parts
    that they are of, and what they see."""
    contexts, length = cases.contexts, len(cases.parts) - count
    behind = slice(count, count + upto(length))
    tokens, kinds, positions = (
        F.pad(each[behind], (0, upto(length) - len(each[behind])))
        for each in (contexts.tokens, contexts.kinds, contexts.positions)
    )
    parts, spans = cases.parts[count:], [(0, length, 0, count)] if count else []
    return Packed(tokens, kinds, positions, (0, length)), parts, Seen((0, length), parts, spans)


def _joined(parts: Sequence[Keys]) -> Keys:
    """The tokens and the kinds of all parts."""
    tokens, kinds = (tuple(itertools.chain(*each)) for each in zip(*parts, strict=True))
    return tokens, kinds
