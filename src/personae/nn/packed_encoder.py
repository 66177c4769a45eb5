"""A BERT that reads packed sequences, and replies with the contexts that were read before them.

Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding. NAACL 2019. https://arxiv.org/abs/1810.04805

The weights are those of transformers' module, and so is the result. Half precision is bfloat16, whichever half is asked
for: the exponentials of attention have no room in the other.

Letters: S sequences, T tokens of all of them, H hidden units.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.cross_encoder import CrossEncoder, told_apart
from personae.nn.packed import Attention, Packed, Seen


class PackedEncoder(CrossEncoder):
    """Of a cross-encoder's backbone, which loses its pooler. Kinds are of `subtypes`, and all of the first segment. In
    training, features are left out where BERT leaves them out (`dropout`), but for the shares of attention."""

    def __init__(self, source: str | None, *, longest: int, dropout: float, subtypes: int) -> None:
        super().__init__(source, longest=longest, dropout=dropout, subtypes=subtypes)
        self.backbone.pooler = None
        self._cast: tuple[Any, list[tuple[Tensor, ...]]] = None, []

    def encode(
        self, packed: Packed, seen: Seen | None = None, others: Sequence[Tensor] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """The queries, keys and values of each layer (T, 3H), and the states of the last (T, H). Each sequence attends
        to itself, unless `seen` says otherwise; where that has spans, they are of what `encode` has given as queries,
        keys and values of `others` before."""
        distinct, tokens = told_apart(packed.tokens)
        device = packed.tokens.device.type
        half = torch.bfloat16 if torch.is_autocast_enabled(device) else None
        heads = self.backbone.config.num_attention_heads
        found = []
        with torch.autocast(device, enabled=False):
            states = self.embed(distinct)(tokens, 2 * packed.kinds, packed.positions)  # (T, H)
            states = states.to(half or states.dtype)
            seen = Seen(packed.starts) if seen is None else seen.to(states.dtype)
            for number, (project, bias, *rest) in enumerate(self._layers(states.dtype)):
                own = F.linear(states, project, bias)  # (T, 3H)
                found.append(own)
                attended: Tensor = Attention.apply(own, heads, seen, others[number] if others else None)  # type: ignore[no-untyped-call]
                states = self._after(attended, states, *rest)
        return found, states

    def _layers(self, precision: torch.dtype) -> list[tuple[Tensor, ...]]:
        """The weights of each layer in a precision. Where nothing is trained, they are kept until they change."""
        layers = self.backbone.encoder.layer
        now = None  # of weights that are trained
        if not torch.is_grad_enabled():
            now = precision, state(layers)
            if self._cast[0] == now:
                return self._cast[1]
        cast = [tuple(each.to(precision) for each in _weights(layer)) for layer in layers]
        if now is not None:
            self._cast = now, cast
        return cast

    def _after(self, found: Tensor, states: Tensor, *weights: Tensor) -> Tensor:
        """The rest of a layer, for tokens (T, H) that have `found` so much."""
        (dense, bias), normal, (up, up_bias), (down, down_bias), last = (
            weights[place : place + 2] for place in range(0, 10, 2)
        )
        attended = self._added(F.linear(found, dense, bias), states, *normal)
        return self._added(F.linear(F.gelu(F.linear(attended, up, up_bias)), down, down_bias), attended, *last)

    def _added(self, found: Tensor, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The normalised sum of states and of what was found, some of whose features are left out in training."""
        config = self.backbone.config
        kept = F.dropout(found, config.hidden_dropout_prob, self.training)
        return F.layer_norm(kept + states, states.shape[1:], weight, bias, config.layer_norm_eps)


def state(module: nn.Module) -> Any:
    """What differs where the same input gives another result: the precision, and which weights there are."""
    weights = [(weight.data_ptr(), weight._version) for weight in module.parameters()]
    return torch.is_autocast_enabled(next(module.parameters()).device.type), weights


def _weights(layer: Any) -> tuple[Tensor, ...]:
    """The weight (3H, H) and the bias of queries, keys and values, the queries' divided by the square root of a head's
    width, and the weights and biases of the rest of a layer."""
    own, output = layer.attention.self, layer.attention.output
    scale = own.attention_head_size**-0.5
    return (
        torch.cat([own.query.weight * scale, own.key.weight, own.value.weight]),
        torch.cat([own.query.bias * scale, own.key.bias, own.value.bias]),
        *(
            weight
            for part in (output.dense, output.LayerNorm, layer.intermediate.dense)
            for weight in (part.weight, part.bias)
        ),
        *(weight for part in (layer.output.dense, layer.output.LayerNorm) for weight in (part.weight, part.bias)),
    )


def means(states: Tensor, packed: Packed) -> Tensor:
    """The mean (S, H) of the tokens of each sequence."""
    lengths = packed.lengths()
    owners = torch.repeat_interleave(lengths)
    exact = states[: packed.starts[-1]].to(torch.promote_types(states.dtype, torch.float32))
    return exact.new_zeros(len(lengths), exact.shape[1]).index_add(0, owners, exact) / lengths[:, None]
