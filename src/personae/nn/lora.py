"""Low-rank adapters: a linear layer stays as it is, and two small matrices are trained to add to it.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, https://arxiv.org/abs/2106.09685

As there, one matrix is drawn at random and the other is zero, so that nothing changes at first; what they add is
multiplied by `alpha` / rank. There may be many adapters, one for each row of a batch, which are trained at once.

Letters: U adapters, B rows of a batch, L tokens, I features that go in, O that come out.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from personae.types import InputError


class LowRank(nn.Linear):
    """A linear layer and its adapter of a `rank`, or `many` of them. Of many, `rows` (B,) names the adapter of each row
    of a batch (B, L, I); if None, every row has its own, in their order."""

    def __init__(self, linear: nn.Linear | Conv1D, *, rank: int, alpha: float, many: int | None = None) -> None:
        weight = linear.weight.t() if isinstance(linear, Conv1D) else linear.weight  # (O, I)
        features = weight.shape[1]
        super().__init__(features, len(weight), device="meta")
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        each = () if many is None else (many,)
        self.down = nn.Parameter(torch.randn(*each, rank, features, device=weight.device) * features**-0.5)
        self.up = nn.Parameter(torch.zeros(*each, len(weight), rank, device=weight.device))
        self.scale = alpha / rank
        self.rows: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        chosen = slice(None) if self.rows is None else self.rows
        down, up = self.down[chosen], self.up[chosen]
        added: Tensor = states @ down.mT @ up.mT
        return F.linear(states, self.weight, self.bias) + added * self.scale

    def merged(self) -> Tensor:
        """The weights (O, I), or (U, O, I), of a linear layer that does the same."""
        return self.weight + self.up @ self.down * self.scale


def adapt(part: nn.Module, *, rank: int = 8, alpha: float = 16.0, many: int | None = None) -> None:
    """Freezes a part of a model, and gives each linear layer in it an adapter, or `many`. InputError where the rank is
    not at least 1."""
    if rank < 1:
        raise InputError(f"task.model.rank: {rank} is not at least 1")
    part.requires_grad_(False)
    for owner in list(part.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, nn.Linear | Conv1D):
                setattr(owner, name, LowRank(layer, rank=rank, alpha=alpha, many=many))


def adapters(part: nn.Module) -> Iterator[LowRank]:
    """The adapted layers of a part."""
    return (layer for layer in part.modules() if isinstance(layer, LowRank))


def choose(part: nn.Module, rows: Tensor | None) -> None:
    """Says which of many adapters each row of what comes next has (B,); None: each its own."""
    for layer in adapters(part):
        layer.rows = rows


def plain(layer: nn.Linear) -> Tensor:
    """The weights (O, I) of a linear layer, its adapter merged into them."""
    return layer.merged() if isinstance(layer, LowRank) else layer.weight
