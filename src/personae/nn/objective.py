"""What training makes small: how the score of the true reply and those of the others become one number."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from personae.types import InputError, check

Kind = Literal["listwise", "pointwise", "pairwise"]


@dataclass(frozen=True)
class Objective:
    """The loss of cases with candidates, the mean over cases.

    `listwise` is the cross-entropy of the true reply among all candidates (equation 18 of "Partner Matters!", Gu et
    al., SIGIR 2021); `pointwise` the binary cross-entropy of each candidate by itself, as that paper trains BERT;
    `pairwise` the hinge of the true reply against each other one, which is to be beaten by `margin` (Zhang et al., ACL
    2018). Its mean is over all others, or with `violating` over those that are not beaten yet, as StarSpace takes its
    negatives (Wu et al., AAAI 2018).
    """

    kind: Kind = "listwise"
    margin: float = 1.0
    violating: bool = False

    def __post_init__(self) -> None:
        check("task.objective.kind", self.kind, Kind)
        if not self.margin > 0:
            raise InputError(f"task.objective.margin: {self.margin} is not above 0")

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor:
        """`scores` (B, N), -inf where a case has fewer candidates; `target` (B,) the places of the true replies."""
        scores = scores.float()
        if self.kind == "listwise":
            return F.cross_entropy(scores, target)
        there = scores > -torch.inf
        true = F.one_hot(target, scores.shape[1]).bool()
        if self.kind == "pointwise":
            losses = F.binary_cross_entropy_with_logits(scores.where(there, 0), true.float(), reduction="none")
        else:
            there = there & ~true
            losses = F.relu(self.margin - scores.gather(1, target[:, None]) + scores.where(there, 0))
            there = there & (losses > 0) if self.violating else there
        return ((losses * there).sum(1) / there.sum(1).clamp(min=1)).mean()
