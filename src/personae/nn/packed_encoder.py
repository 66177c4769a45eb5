"""A BERT that reads packed sequences, and replies with the contexts that were read before them.

Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding. NAACL 2019. https://arxiv.org/abs/1810.04805

The weights are those of transformers' module, and so is the result. Half precision is bfloat16, whichever half is asked
for: the exponentials of attention have no room in the other.

Letters: S sequences, T tokens of all of them, H hidden units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.cross_encoder import CrossEncoder, told_apart
from personae.nn.packed import Attention, Packed, Seen, groups
from personae.nn.processor import eight_bits

Linear = Callable[[Tensor], Tensor]
"""Makes other features of those of tokens (T, ...)."""


@dataclass(frozen=True)
class _Layer:
    """`look` gives queries, the similarity of whose products with keys is theirs by the square root of a head's width,
    keys and values (T, 3H); the norms are weights and biases."""

    look: Linear
    dense: Linear
    up: Linear
    down: Linear
    inner_norm: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]


class PackedEncoder(CrossEncoder):
    """Of a cross-encoder's backbone, which loses its pooler. Kinds are of `subtypes`, and all of the first segment. In
    training, features are left out where BERT leaves them out (`dropout`), but for the shares of attention. Where it
    `rounds` and nothing is trained, matrices are multiplied in eight bits, those of a processor alone."""

    def __init__(self, source: str | None, *, longest: int, dropout: float, subtypes: int) -> None:
        super().__init__(source, longest=longest, dropout=dropout, subtypes=subtypes)
        self.backbone.pooler = None
        self.rounds = False
        self._kept: tuple[Any, list[_Layer]] = None, []

    def train(self, mode: bool = True) -> Self:
        """Forgets what it keeps of its weights: fused Adam changes them, and does not count it as a change."""
        self._kept = None, []
        return super().train(mode)

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
            seen = seen or Seen(packed.starts)
            among = groups(seen, states)
            for number, layer in enumerate(self._layers(states.dtype)):
                own = layer.look(states)  # (T, 3H)
                found.append(own)
                attended: Tensor = Attention.apply(  # type: ignore[no-untyped-call]
                    own, heads, among, seen.spans, others[number] if seen.spans else None
                )
                states = self._added(layer.dense(attended), states, layer.inner_norm)
                states = self._added(layer.down(F.gelu(layer.up(states))), states, layer.norm)
        return found, states

    def state(self, module: nn.Module) -> Any:
        """What differs where a `module` that holds this encoder, or is part of it, gives another result for the same:
        the precision, and which weights there are. Between two changes of mode (`train`), they are told apart by what
        torch counts as a change."""
        weights = [(weight.data_ptr(), weight._version) for weight in module.parameters()]
        return self.rounds, torch.is_autocast_enabled(next(module.parameters()).device.type), weights

    def _layers(self, precision: torch.dtype) -> list[_Layer]:
        """The layers in a precision. Where nothing is trained, they are kept until their weights change."""
        layers = self.backbone.encoder.layer
        if torch.is_grad_enabled():
            return [_layer(layer, precision, _exact(precision)) for layer in layers]
        if self._kept[0] != (now := (precision, self.state(layers))):
            linear = _eight_bits if self.rounds and precision == torch.float32 else _exact(precision)
            self._kept = now, [_layer(layer, precision, linear) for layer in layers]
        return self._kept[1]

    def _added(self, found: Tensor, states: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        """The normalised sum of states and of what was found, some of whose features are left out in training."""
        config = self.backbone.config
        kept = F.dropout(found, config.hidden_dropout_prob, self.training)
        return F.layer_norm(kept + states, states.shape[1:], *norm, config.layer_norm_eps)


def _layer(layer: Any, precision: torch.dtype, linear: Callable[[Tensor, Tensor], Linear]) -> _Layer:
    """A layer of transformers' module, whose matrices become `linear`."""
    own, output = layer.attention.self, layer.attention.output
    scale = own.attention_head_size**-0.5
    look = (
        torch.cat([own.query.weight * scale, own.key.weight, own.value.weight]),
        torch.cat([own.query.bias * scale, own.key.bias, own.value.bias]),
    )
    dense, up, down = (
        linear(part.weight, part.bias) for part in (output.dense, layer.intermediate.dense, layer.output.dense)
    )
    inner, norm = (
        (part.weight.to(precision), part.bias.to(precision)) for part in (output.LayerNorm, layer.output.LayerNorm)
    )
    return _Layer(linear(*look), dense, up, down, inner, norm)


def _exact(precision: torch.dtype) -> Callable[[Tensor, Tensor], Linear]:
    """Makes of a weight and a bias a function of their precision."""

    def linear(weight: Tensor, bias: Tensor) -> Linear:
        return partial(F.linear, weight=weight.to(precision), bias=bias.to(precision))

    return linear


def _eight_bits(weight: Tensor, bias: Tensor) -> Linear:
    """A function that multiplies in eight bits, with a scale for each row of the weight and one for each token."""
    rounded, scales = eight_bits(weight.detach())
    rounded, scales, bias = rounded.t().contiguous(), scales.t(), bias.detach()

    def linear(states: Tensor) -> Tensor:
        tokens, sizes = eight_bits(states)
        found: Tensor = torch._int_mm(tokens, rounded).to(states.dtype)
        return torch.addcmul(bias, found.mul_(sizes), scales)

    return linear


def means(states: Tensor, packed: Packed) -> Tensor:
    """The mean (S, H) of the tokens of each sequence."""
    lengths = packed.lengths()
    owners = torch.repeat_interleave(lengths)
    exact = states[: packed.starts[-1]].to(torch.promote_types(states.dtype, torch.float32))
    return exact.new_zeros(len(lengths), exact.shape[1]).index_add(0, owners, exact) / lengths[:, None]
