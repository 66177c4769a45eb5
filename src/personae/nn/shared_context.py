"""A BERT whose replies read persona and context, which do not read them, and so are read once for all replies.

Not in the papers. Positions, segments and subtypes are those of a sequence that attends to all, so that a model which
was trained in one way goes on in the other.

Letters: G distinct first parts of a sequence, [CLS] persona context [SEP], of P tokens at most; N replies at most that
go with one, each as [CLS] reply [SEP] of R tokens at most, T tokens in all; S = G * N; W distinct tokens, H hidden
units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from personae.nn.cross_encoder import CrossEncoder, Keys, attend, closed, told_apart


@dataclass(frozen=True)
class Shared:
    """First parts and their replies. Tokens are places in `distinct` (W,), which holds the vocabulary's numbers; kinds
    are twice the subtype plus the segment, -1 beyond the end. `cells` (T,) says where in (G, N, R), flattened, the
    tokens of the replies belong, whose positions are those in a sequence; `kinds_there` (G, N, R) are -1 elsewhere."""

    distinct: Tensor
    first: Tensor
    first_kinds: Tensor
    reply: Tensor
    reply_kinds: Tensor
    positions: Tensor
    cells: Tensor
    kinds_there: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


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
        firsts = torch.full((2, len(groups), max(len(tokens) for tokens, _ in groups)), -1)
        most = max(map(len, groups.values()))
        longest = max(len(tokens) for replies in groups.values() for _, (tokens, _) in replies)
        there = torch.full((2, len(groups), most, longest), -1)
        positions = torch.zeros_like(there[0])
        order = torch.empty(len(keys), dtype=torch.long)
        for group, (first, replies) in enumerate(groups.items()):
            firsts[:, group, : len(first[0])] = torch.tensor(first)
            for row, (place, reply) in enumerate(replies):
                end = len(reply[0])
                there[:, group, row, :end] = torch.tensor(reply)
                positions[group, row, 1:end] = torch.arange(len(first[0]), len(first[0]) + end - 1)
                order[place] = group * most + row
        cells = (there[1].flatten() >= 0).nonzero().squeeze(1)
        tokens, kinds, positions = (part.flatten()[cells] for part in (*there, positions))
        distinct, places = told_apart(torch.cat([firsts[0].clamp(min=0).flatten(), tokens]))
        first_tokens, tokens = places.split([firsts[0].numel(), len(tokens)])
        first_tokens = first_tokens.view_as(firsts[0])
        return Shared(distinct, first_tokens, firsts[1], tokens, kinds, positions, cells, there[1]), order

    def forward(self, sequences: Any) -> Tensor:
        """What the pooler makes of each reply's [CLS]: (S, H)."""
        embed = self.embed(sequences.distinct)
        steps = torch.arange(sequences.first.shape[1], device=sequences.first.device)
        first = embed(sequences.first, sequences.first_kinds, steps)  # (G, P, H)
        reply = embed(sequences.reply, sequences.reply_kinds, sequences.positions)  # (T, H)
        beyond = closed(sequences.first_kinds, first)[:, None, None]  # (G, 1, 1, P)
        own_beyond = closed(sequences.kinds_there, first)[:, None, :, None]  # (G, 1, N, 1, R)
        shape, cells = sequences.kinds_there.shape, sequences.cells

        def spread(states: Tensor) -> Tensor:
            """The replies' tokens (T, H), each where it belongs: (G, N, R, H)."""
            room = states.new_zeros(shape.numel(), states.shape[1])
            return room.index_copy(0, cells, states).view(*shape, -1)

        *_, last = self.backbone.encoder.layer
        for layer in self.backbone.encoder.layer:
            own = layer.attention.self
            rate = own.dropout.p if self.training else None
            key, value = (self._heads(project(first)) for project in (own.key, own.value))  # (G, h, P, d)
            own_key, own_value = (self._heads(spread(project(reply))) for project in (own.key, own.value))
            read = (key, value, beyond), (own_key, own_value, own_beyond)
            if layer is last:
                asking = spread(reply)[:, :, :1]  # (G, N, 1, H): nothing else is read of it
                found = _found(self._heads(own.query(asking)), *read, rate)
                break
            found = _found(self._heads(spread(own.query(reply))), *read, rate).flatten(0, 2)[cells]
            seen = attend(self._heads(own.query(first)), key, value, beyond, rate).transpose(1, 2).flatten(2)
            first, reply = self.after(layer, seen, first), self.after(layer, found, reply)
        pooled: Tensor = self.backbone.pooler(self.after(last, found, asking).flatten(0, 1))
        return pooled

    def _heads(self, states: Tensor) -> Tensor:
        """(G, ..., H) to (G, heads, ..., width)."""
        return states.unflatten(-1, (self.backbone.config.num_attention_heads, -1)).movedim(-2, 1)


_Read = tuple[Tensor, Tensor, Tensor]
"""The keys and values of tokens, and what is added to their similarity."""


def _found(query: Tensor, first: _Read, own: _Read, dropout: float | None) -> Tensor:
    """What tokens of replies, (G, heads, N, Q, width), find in the first part and in their own reply: (G, N, Q, H)."""
    (key, value, bias), (own_key, own_value, own_bias) = first, own
    scaled = query * query.shape[-1] ** -0.5
    with_first = (scaled.flatten(2, 3) @ key.transpose(-1, -2) + bias).unflatten(2, query.shape[2:4])
    with_own = scaled @ own_key.transpose(-1, -2) + own_bias
    weights = F.dropout(torch.cat([with_first, with_own], -1).softmax(-1), dropout or 0.0).to(value.dtype)
    of_first, of_own = weights.split([key.shape[-2], own_key.shape[-2]], -1)
    found = (of_first.flatten(2, 3) @ value).unflatten(2, query.shape[2:4]) + of_own @ own_value
    return found.movedim(1, -2).flatten(-2)
