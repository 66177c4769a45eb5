"""From what a selector knows of context, persona and reply to one number: what stands behind equation 17 of "Partner
Matters!" (Gu et al., SIGIR 2021)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.types import InputError


class Classifier(nn.Module):
    """One hidden layer of `features` rectified units over `width` inputs, and a logit. The hidden layer's first weights
    are a fifth of Xavier's, with which word-level selectors learn sooner to match."""

    def __init__(self, *, width: int, features: int, dropout: float) -> None:
        super().__init__()
        if features < 1:
            raise InputError(f"task.model.features: {features} is not at least 1")
        self.hidden = nn.Linear(width, features)
        self.output = nn.Linear(features, 1)
        self.dropout = nn.Dropout(dropout)
        for layer, gain in ((self.hidden, 0.2), (self.output, 1.0)):
            nn.init.xavier_uniform_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, parts: list[Tensor], there: Tensor) -> Tensor:
        """Logits (B, N) of the `parts` (B, N, ...), whose last dimensions add up to `width`; -inf where a candidate is
        not `there` (B, N)."""
        logits: Tensor = self.output(self.dropout(F.relu(self.hidden(torch.cat(parts, 2))))).squeeze(2)
        return logits.masked_fill(~there, -torch.inf)
