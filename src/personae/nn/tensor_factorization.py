"""Tensor factorization: what a user is likely to answer to a question, as a vector, by Tucker's decomposition.

Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 4.1
(https://aclanthology.org/2021.gem-1.5). The vectors p_ij of all questions i and users j are a tensor of which only
few fibres are ever seen; it is a core G (R1, R2, R3) times a matrix for each mode: Q of questions, U of users and R
(K, R3) of the vectors' features: p_ij = R G_(3) (u_j kron q_i).

U is (J, R2), where the paper's (K, R2) is a slip. Not stated in the paper: core and R are drawn from normal
distributions, and R is what is learnt times a constant, such that the features of p_ij have a standard deviation of
`spread`. With small weights instead, the steps of an optimizer such as Adam, which do not depend on how large a weight
is, would soon make them much larger, long before users are told apart.

Letters: B pairs, I questions, J users, K features of a vector.
"""

import torch
from torch import Tensor, nn

from personae.types import InputError

Ranks = tuple[int, int, int]


class TensorFactorization(nn.Module):
    """The vectors (B, `size`) of pairs, from the factors of their users and questions, whose features' standard
    deviations are `of_users` and 1. InputError where a size is not at least 1."""

    def __init__(self, *, size: int, ranks: Ranks = (50, 50, 50), spread: float = 0.1, of_users: float = 1.0) -> None:
        super().__init__()
        if size < 1 or min(ranks) < 1:
            raise InputError(f"size, ranks: {size} and {list(ranks)} are not all at least 1")
        self.core = nn.Parameter(torch.randn(ranks) * (ranks[0] * ranks[1]) ** -0.5 / of_users)
        self.features = nn.Parameter(torch.randn(size, ranks[2]) * ranks[2] ** -0.5)
        self.spread = spread

    def forward(self, of_users: Tensor, of_questions: Tensor) -> Tensor:
        """The vectors (B, K) of factors of users (B, R2) and of questions (B, R1)."""
        slices = (of_questions @ self.core.flatten(1)).view(-1, *self.core.shape[1:])  # (B, R2, R3)
        return (of_users[:, None] @ slices).squeeze(1) @ self.features.t() * self.spread
