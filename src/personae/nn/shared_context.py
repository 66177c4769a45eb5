"""A BERT whose replies read persona and context, which do not read them, and so are read once for all replies.

Not in the papers. Positions, segments and subtypes are those of a sequence that attends to all, so that a model which
was trained in one way goes on in the other.

Letters: G distinct first parts of a sequence, [CLS] persona context [SEP], of P tokens at most; S distinct sequences,
each of a first part and [CLS] reply [SEP], of R tokens at most; of a chunk, K blocks of N replies at most to one first
part, T tokens of its replies; W distinct tokens, H hidden units.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from personae.nn.cross_encoder import CrossEncoder, Keys, closed, padded, told_apart

CELLS = 2048
"""So many tokens, with padding, may the replies of a block have, if they are more than one."""


@dataclass(frozen=True)
class Block:
    """Replies to one first part: the place of that and its length, the first of their rows and how many there are, and
    the length of the longest."""

    first: int
    offset: int
    row: int
    count: int
    longest: int


@dataclass(frozen=True)
class Shared:
    """First parts (G, P) and replies (S, R). Tokens are places in `distinct` (W,), which holds the vocabulary's
    numbers; kinds are twice the subtype plus the segment, -1 beyond the end. The blocks have the rows of the replies
    in their order, those of like length side by side."""

    distinct: Tensor
    first: Tensor
    first_kinds: Tensor
    reply: Tensor
    reply_kinds: Tensor
    blocks: tuple[Block, ...]

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        tensors = ("distinct", "first", "first_kinds", "reply", "reply_kinds")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def chunks(self, most: int) -> Iterator[Sequence[Block]]:
        """Blocks that have so many tokens with padding, but at least one of them."""
        start, count = 0, 0
        for place, block in enumerate(self.blocks):
            count = max(count, block.count)
            if place > start and (place + 1 - start) * count * block.longest > most:
                yield self.blocks[start:place]
                start, count = place, block.count
        yield self.blocks[start:]


class SharedEncoder(CrossEncoder):
    """A cross-encoder of whose sequences the first segments do not attend to the second. Many replies to one context
    cost little more than their own tokens."""

    def arrange(self, keys: Sequence[Keys]) -> tuple[Shared, Tensor]:
        """What `forward` reads of distinct sequences, and where in its result each of them is (S,)."""
        groups: dict[Keys, list[tuple[int, Keys]]] = {}
        for place, (tokens, kinds) in enumerate(keys):
            start = next((at for at, kind in enumerate(kinds) if kind % 2), len(kinds))
            reply = (self.start, *tokens[start:]), (0, *kinds[start:])
            groups.setdefault((tokens[:start], kinds[:start]), []).append((place, reply))
        blocks = [
            (number, len(first[0]), block)
            for number, (first, replies) in enumerate(groups.items())
            for block in _blocks(replies)
        ]
        blocks.sort(key=lambda block: len(block[2][-1][1][0]))
        made, order, row = [], torch.empty(len(keys), dtype=torch.long), 0
        for number, offset, block in blocks:
            made.append(Block(number, offset, row, len(block), len(block[-1][1][0])))
            for place, _ in block:
                order[place] = row
                row += 1
        firsts, first_kinds = padded(list(groups))
        replies, reply_kinds = padded([reply for _, _, block in blocks for _, reply in block])
        distinct, places = told_apart(torch.cat([firsts.flatten(), replies.flatten()]).clamp(min=0))
        first, reply = places.split([firsts.numel(), replies.numel()])
        shared = Shared(distinct, first.view_as(firsts), first_kinds, reply.view_as(replies), reply_kinds, tuple(made))
        return shared, order

    def forward(self, sequences: Any) -> Tensor:
        """What the pooler makes of each reply's [CLS]: (S, H)."""
        embed = self.embed(sequences.distinct)
        steps = torch.arange(sequences.first.shape[1], device=sequences.first.device)
        first = embed(sequences.first, sequences.first_kinds, steps)  # (G, P, H)
        bias = closed(sequences.first_kinds, first)[:, None, None]  # (G, 1, 1, P)
        layers = self.backbone.encoder.layer
        read = [self.known(layers[0], first)]  # by each layer, of the first parts (G, heads, P, width)
        for layer, following in itertools.pairwise(layers):
            first = self.attending(layer, first, *read[-1], bias)
            read.append(self.known(following, first))
        most = 4 * CELLS if first.device.type == "cpu" else 128 * CELLS
        return torch.cat([self._chunk(embed, sequences, blocks, read, bias) for blocks in sequences.chunks(most)])

    def _chunk(
        self,
        embed: Any,
        sequences: Shared,
        blocks: Sequence[Block],
        read: Sequence[tuple[Tensor, Tensor]],
        bias: Tensor,
    ) -> Tensor:
        """What the pooler makes of the replies of some blocks, one below the other (..., H)."""
        device = bias.device
        number, offset, row, count = torch.tensor(
            [(block.first, block.offset, block.row, block.count) for block in blocks], device=device
        ).t()
        member = torch.arange(max(block.count for block in blocks), device=device)
        rows = (row[:, None] + member).masked_fill(member >= count[:, None], -1)  # (K, N)
        steps = torch.arange(max(block.longest for block in blocks), device=device)
        kinds = sequences.reply_kinds[rows, : len(steps)].masked_fill((rows < 0)[..., None], -1)  # (K, N, R)
        cells = (kinds >= 0).flatten().nonzero().squeeze(1)  # (T,)
        positions = (offset[:, None] - 1 + steps).masked_fill(steps == 0, 0)[:, None].expand_as(kinds)
        tokens = sequences.reply[rows, : len(steps)]
        reply = embed(*(each.flatten()[cells] for each in (tokens, kinds, positions)))  # (T, H)
        biases = bias[number], closed(kinds, reply)[:, None, :, None]  # (K, 1, 1, P) and (K, 1, N, 1, R)

        def spread(states: Tensor) -> Tensor:
            """The replies' tokens (T, H), each where it belongs: (K, N, R, H)."""
            room = states.new_zeros(kinds.numel(), states.shape[1])
            return room.index_copy(0, cells, states).view(*kinds.shape, -1)

        *_, last = self.backbone.encoder.layer
        for layer, (key, value) in zip(self.backbone.encoder.layer, read, strict=True):
            own = layer.attention.self
            rate = own.dropout.p if self.training else 0.0
            keys, values = (self.heads(spread(project(reply))) for project in (own.key, own.value))
            to = (key[number], value[number], biases[0]), (keys, values, biases[1])
            if layer is not last:
                found = _found(self.heads(spread(own.query(reply))), *to, rate)
                reply = self.after(layer, found.flatten(0, 2)[cells], reply)
        asking = spread(reply)[:, :, :1]  # (K, N, 1, H): of the last layer, nothing else is read
        found = self.after(last, _found(self.heads(last.attention.self.query(asking)), *to, rate), asking)
        pooled: Tensor = self.backbone.pooler(found.flatten(0, 1)[(rows >= 0).flatten()])
        return pooled


_Read = tuple[Tensor, Tensor, Tensor]
"""The keys and values of tokens, and what is added to their similarity."""


def _found(query: Tensor, first: _Read, own: _Read, dropout: float) -> Tensor:
    """What tokens of replies, (K, heads, N, Q, width), find in the first part and in their own reply: (K, N, Q, H)."""
    (key, value, bias), (own_key, own_value, own_bias) = first, own
    scaled = query * query.shape[-1] ** -0.5
    bias, own_bias = bias.to(query.dtype), own_bias.to(query.dtype)
    with_first = (scaled.flatten(2, 3) @ key.transpose(-1, -2) + bias).unflatten(2, query.shape[2:4])
    with_own = scaled @ own_key.transpose(-1, -2) + own_bias
    weights = F.dropout(torch.cat([with_first, with_own], -1).softmax(-1), dropout).to(value.dtype)
    of_first, of_own = weights.split([key.shape[-2], own_key.shape[-2]], -1)
    found = (of_first.flatten(2, 3) @ value).unflatten(2, query.shape[2:4]) + of_own @ own_value
    return found.movedim(1, -2).flatten(-2)


def _blocks(replies: Sequence[tuple[int, Keys]]) -> list[list[tuple[int, Keys]]]:
    """Replies to one first part, the shortest first, in as few blocks as `CELLS` allows."""
    blocks: list[list[tuple[int, Keys]]] = [[]]
    for reply in sorted(replies, key=lambda reply: len(reply[1][0])):
        if blocks[-1] and (len(blocks[-1]) + 1) * len(reply[1][0]) > CELLS:
            blocks.append([])
        blocks[-1].append(reply)
    return blocks
