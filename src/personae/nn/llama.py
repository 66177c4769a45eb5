"""A Llama that decodes: what transformers' module computes, with less done beside the products.

Touvron et al. 2023, https://arxiv.org/abs/2302.13971. The weights of query, key and value are one matrix here, and so
are those of gate and up; adapters are merged into them; keys and values have their room from the beginning; nothing is
masked where no row is shorter than another; and a processor has the weights in oneDNN's own order, in which they are
multiplied up to twice as fast.

Letters: N rows, T new tokens, S tokens with those before, H hidden units, D features of an attention head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from personae.nn.lora import plain
from personae.nn.processor import fastest


def fits(backbone: Any) -> bool:
    """Whether a transformer of transformers is one that `Llama` computes."""
    config = backbone.config
    kind = (config.model_type, getattr(config, "hidden_act", ""), getattr(config, "attention_bias", True))
    return kind == ("llama", "silu", False) and not config.mlp_bias


class Llama:
    """The weights of transformers' module `backbone` and those (V, H) of its output, copied where they are not in the
    type that is computed in. That is always the same, whatever `torch.autocast` says."""

    def __init__(self, backbone: Any, output: Tensor, dtype: torch.dtype) -> None:
        self.backbone, self.dtype = backbone, dtype
        config = backbone.config
        self.heads, self.groups, self.eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
        self.width: int = backbone.layers[0].self_attn.head_dim
        self.layers = [
            [
                layer.input_layernorm.weight.detach().to(dtype),
                _ordered(torch.cat([plain(part) for part in (own.q_proj, own.k_proj, own.v_proj)]), dtype),
                _ordered(plain(own.o_proj), dtype),
                layer.post_attention_layernorm.weight.detach().to(dtype),
                _ordered(torch.cat([plain(layer.mlp.gate_proj), plain(layer.mlp.up_proj)]), dtype),
                _ordered(plain(layer.mlp.down_proj), dtype),
            ]
            for layer in backbone.layers
            for own in [layer.self_attn]
        ]
        self.norm, self.output = backbone.norm.weight.detach().to(dtype), _ordered(output, dtype)

    def room(self, rows: int, tokens: int) -> Tensor:
        """Where the keys and values of so many rows and tokens are kept: (layers, 2, N, groups, S, D)."""
        shape = (len(self.layers), 2, rows, self.groups, tokens, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=self.norm.device)

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """By what rotary embeddings turn the tokens at positions (N, T): (N, 1, T, D) each."""
        cos, sin = self.backbone.rotary_emb(self.norm.float(), positions)
        half = self.width // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        return cos[:, None].to(self.dtype), signed[:, None].to(self.dtype)

    def __call__(
        self,
        states: Tensor,
        positions: Tensor,
        kept: Tensor,
        start: int = 0,
        *,
        there: Tensor | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """What the last layer makes (N, T, H) of embedded tokens (N, T, H) at positions (N, T), whose keys and values
        are put into what is `kept`, from `start` on. `there` (N, S) says where rows have tokens to look at, None where
        they have them everywhere. Several tokens look at those before them only, and start at 0; where these are in
        `read` (N, T), nothing is computed of others, which are zero."""
        with torch.autocast(states.device.type, enabled=False):
            return self._through(states.to(self.dtype), positions, kept, start, there, read)

    def _through(
        self, states: Tensor, positions: Tensor, kept: Tensor, start: int, there: Tensor | None, read: Tensor | None
    ) -> Tensor:
        rows, new, _ = states.shape
        real = None if read is None else read.flatten().nonzero().squeeze(1)  # (M,): of all N T tokens
        end = start + new
        cos, sin = self.turns(positions)
        bias = None if there is None else there[:, None, None, :end]
        states = states.flatten(0, 1)  # (M, H)
        states = states if real is None else states[real]
        for (norm, inward, outward, after, widen, narrow), (keys, values) in zip(self.layers, kept, strict=True):
            found = _spread(_product(self._normal(states, norm), inward), real, rows, new)
            found = found.view(rows, new, -1, self.width).transpose(1, 2)  # (N, heads + 2 groups, T, D)
            turned, value = found[:, : -self.groups], found[:, -self.groups :]
            turned = turned * cos + turned.roll(self.width // 2, -1) * sin
            keys[:, :, start:end], values[:, :, start:end] = turned[:, self.heads :], value
            seen = self._seen(turned[:, : self.heads], keys[:, :, :end], values[:, :, :end], bias).flatten(0, 1)
            states = states + _product(seen if real is None else seen[real], outward)
            gate, up = _product(self._normal(states, after), widen).chunk(2, -1)
            states = states + _product(F.silu(gate) * up, narrow)
        return _spread(self._normal(states, self.norm), real, rows, new)

    def logits(self, states: Tensor) -> Tensor:
        """Those (N, V) of what comes after states (N, H)."""
        with torch.autocast(states.device.type, enabled=False):
            return _product(states, self.output)

    def _seen(self, asking: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """What each token (N, heads, T, D) sees in what is kept (N, groups, S, D): (N, T, heads * D)."""
        if asking.shape[2] == 1:  # the heads of a group as tokens: its keys need not be copied for each of them
            grouped = asking.unflatten(1, (self.groups, -1)).squeeze(3)  # (N, groups, heads / groups, D)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias).flatten(1)[:, None]
        seen = F.scaled_dot_product_attention(asking, keys, values, attn_mask=bias, is_causal=True, enable_gqa=True)
        return seen.transpose(1, 2).flatten(2)

    def _normal(self, states: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(states, (states.shape[-1],), weight, self.eps)


def _spread(states: Tensor, real: Tensor | None, rows: int, new: int) -> Tensor:
    """(N, T, ...) of the states (M, ...) of the `real` ones of N T tokens, or of all."""
    if real is not None:
        states = states.new_zeros(rows * new, states.shape[1]).index_copy(0, real, states)
    return states.view(rows, new, -1)


def _ordered(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights (O, I) of a product in a type, in oneDNN's order where that can compute in it."""
    weight = weight.detach().to(dtype)
    able = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not able or not (dtype == torch.float32 or (dtype == torch.bfloat16 and fastest() == "bf16-mixed")):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def _product(states: Tensor, weight: Tensor) -> Tensor:
    """(..., O) of states (..., I) and weights (O, I)."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
    return F.linear(states, weight)
