"""Attention over a few vectors, such as the lines of a persona."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(query: Tensor, lines: Tensor, there: Tensor) -> Tensor:
    """What each query finds among the lines, by the raw dot product: (..., Q, D) and (..., P, D), with `there` (..., P)
    true where a line is, to (..., Q, D); zeros where there is no line."""
    return weighted(query @ lines.transpose(-1, -2), lines, there)


def weighted(similarity: Tensor, lines: Tensor, there: Tensor) -> Tensor:
    """The mean of the lines (..., P, D), weighted by the softmax of their `similarity` (..., Q, P) to each query."""
    return weights(similarity, there).to(lines.dtype) @ lines


def weights(similarity: Tensor, there: Tensor) -> Tensor:
    """The softmax over the lines, (..., Q, P), zeros where there is none."""
    there = there[..., None, :]
    return similarity.masked_fill(~there, torch.finfo(similarity.dtype).min).softmax(-1) * there


class AttentionPooling(nn.Module):
    """Vectors of `width` features, weighted by what a layer makes of each (equations 22 and 23 of DIM, Gu et al., EMNLP
    2019; without the rectifier, equations 9 and 10 of "Partner Matters!", Gu et al., SIGIR 2021)."""

    def __init__(self, *, width: int, rectified: bool) -> None:
        super().__init__()
        self.weigh = nn.Linear(width, 1)
        self.rectified = rectified

    def forward(self, lines: Tensor, there: Tensor) -> Tensor:
        """(..., P, width), with `there` (..., P) true where a line is, to (..., width); zeros where there is none."""
        return weighted(self.similarity(lines), lines, there).squeeze(-2)

    def similarity(self, lines: Tensor) -> Tensor:
        """What the softmax is taken of: (..., P, width) to (..., 1, P)."""
        similarity: Tensor = self.weigh(lines).transpose(-1, -2)
        return F.relu(similarity) if self.rectified else similarity
