import numpy as np
import pytest
import tensorly
import torch
from torch import Tensor, nn

from personae.nn.tensor_factorization import Ranks, TensorFactorization
from personae.types import InputError


class Tensors(nn.Module):
    """All of a tensor's parts, with factors that are drawn from the standard normal distribution."""

    def __init__(
        self, *, size: int, users: int, questions: int, ranks: Ranks = (50, 50, 50), spread: float = 0.1
    ) -> None:
        super().__init__()
        self.questions = nn.Parameter(torch.randn(questions, ranks[0]))
        self.users = nn.Parameter(torch.randn(users, ranks[1]))
        self.tensor = TensorFactorization(size=size, ranks=ranks, spread=spread)

    def forward(self) -> Tensor:
        """The whole tensor (I, J, K)."""
        grid = torch.cartesian_prod(torch.arange(len(self.questions)), torch.arange(len(self.users)))
        made = self.tensor(self.users[grid[:, 1]], self.questions[grid[:, 0]])
        return made.view(len(self.questions), len(self.users), -1)


def whole(model: Tensors) -> np.ndarray:
    """The tensor (I, J, K) as tensorly makes it."""
    factors = [model.questions, model.users, model.tensor.features * model.tensor.spread]
    made: np.ndarray = tensorly.tucker_to_tensor(
        (model.tensor.core.detach().numpy(), [each.detach().numpy() for each in factors])
    )
    return made


def test_it_is_tuckers_decomposition() -> None:
    model = Tensors(size=7, users=4, questions=6, ranks=(5, 3, 2))
    assert np.allclose(model().detach().numpy(), whole(model), atol=1e-6)


def test_it_is_the_papers_equation() -> None:
    model = Tensors(size=7, users=4, questions=6, ranks=(5, 3, 2))
    unfolded = model.tensor.core.permute(2, 1, 0).flatten(1)  # G_(3), whose columns follow u kron q
    product = torch.kron(model.users[1], model.questions[2])
    assert torch.allclose(model()[2, 1], model.tensor.spread * model.tensor.features @ unfolded @ product, atol=1e-6)


def test_what_a_tensor_of_this_rank_holds_can_be_learnt() -> None:
    torch.manual_seed(0)
    sizes = {"size": 6, "users": 8, "questions": 9, "ranks": (2, 2, 2)}
    wanted = torch.from_numpy(whole(Tensors(**sizes, spread=1))).float()
    model = Tensors(**sizes, spread=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        error = (model() - wanted).square().mean()
        error.backward()
        optimizer.step()
    assert float(error.detach()) < 1e-3 * float(wanted.square().mean())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_features_begin_as_large_as_asked_for() -> None:
    torch.manual_seed(0)
    model = Tensors(size=200, users=60, questions=60, spread=0.1)
    assert 0.08 < float(model().std().detach()) < 0.12


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match=r"size, ranks: 0 and \[5, 3, 2\] are not all at least 1"):
        TensorFactorization(size=0, ranks=(5, 3, 2))
    with pytest.raises(InputError, match=r"size, ranks: 7 and \[5, 0, 2\] are not all at least 1"):
        TensorFactorization(size=7, ranks=(5, 0, 2))
