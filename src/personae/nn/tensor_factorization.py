"""Tensor factorization: what a user is likely to answer to a question, as a vector, by Tucker's decomposition.

Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 4.1
(https://aclanthology.org/2021.gem-1.5). The vectors p_ij of all questions i and users j are a tensor of which only
few fibres are ever seen; it is a core G (R1, R2, R3) times a matrix for each mode: Q of questions, U of users and R
(K, R3) of the vectors' features: p_ij = R G_(3) (u_j kron q_i).

Differs from the paper: a question may also be what an encoder makes of it, mapped to R1 features, so that one that was
never seen has a vector; U is (J, R2), where the paper's (K, R2) is a slip. Not stated in the paper: all four are drawn
from normal distributions such that the features of p_ij have a standard deviation of `spread`.

Letters: B pairs, I questions, J users, K features of a vector.
"""

import torch
from torch import Tensor, nn

from personae.types import InputError

Ranks = tuple[int, int, int]


class TensorFactorization(nn.Module):
    """The vectors (B, `size`) of pairs. `questions` is how many there are in the table, or None where each comes as
    `encoded` features. InputError where a size is not at least 1."""

    def __init__(
        self,
        *,
        size: int,
        users: int,
        questions: int | None = None,
        encoded: int | None = None,
        ranks: Ranks = (50, 50, 50),
        spread: float = 0.1,
    ) -> None:
        super().__init__()
        if (questions is None) == (encoded is None):
            raise InputError("questions, encoded: one of the two is wanted, a table of questions or encoded ones")
        for name, value in {"size": size, "users": users, "questions": questions, "encoded": encoded}.items():
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} is not at least 1")
        if min(ranks) < 1:
            raise InputError(f"ranks: {list(ranks)} are not all at least 1")
        of_questions, of_users, of_features = ranks
        self.users = nn.Parameter(torch.randn(users, of_users))
        self.questions: nn.Module
        if questions is not None:
            self.questions = nn.Embedding(questions, of_questions)
        else:
            assert encoded is not None
            self.questions = nn.Linear(encoded, of_questions)
        self.core = nn.Parameter(torch.randn(ranks) * (of_questions * of_users) ** -0.5)
        self.features = nn.Parameter(torch.randn(size, of_features) * spread * of_features**-0.5)

    def forward(self, users: Tensor, questions: Tensor) -> Tensor:
        """The vectors (B, K) of users (B,), numbers or, for users that are in no table, factors (B, R2), and of
        questions: numbers (B,), or what an encoder made of them (B, `encoded`)."""
        of_users = users if users.is_floating_point() else self.users[users]  # (B, R2)
        of_questions = self.questions(questions)  # (B, R1)
        slices = (of_questions @ self.core.flatten(1)).view(-1, *self.core.shape[1:])  # (B, R2, R3)
        return (of_users[:, None] @ slices).squeeze(1) @ self.features.t()
