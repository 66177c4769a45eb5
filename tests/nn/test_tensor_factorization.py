import numpy as np
import pytest
import tensorly
import torch
from torch import Tensor

from personae.nn.tensor_factorization import TensorFactorization
from personae.types import InputError


def whole(model: TensorFactorization) -> np.ndarray:
    """The tensor (I, J, K) as tensorly makes it."""
    factors = [model.questions.weight, model.users, model.features]
    made: np.ndarray = tensorly.tucker_to_tensor(
        (model.core.detach().numpy(), [each.detach().numpy() for each in factors])
    )
    return made


def pairs(model: TensorFactorization, questions: int, users: int) -> Tensor:
    grid = torch.cartesian_prod(torch.arange(questions), torch.arange(users))
    return model(grid[:, 1], grid[:, 0]).view(questions, users, -1)


def test_it_is_tuckers_decomposition() -> None:
    model = TensorFactorization(size=7, users=4, questions=6, ranks=(5, 3, 2))
    assert np.allclose(pairs(model, 6, 4).detach().numpy(), whole(model), atol=1e-6)


def test_it_is_the_papers_equation() -> None:
    model = TensorFactorization(size=7, users=4, questions=6, ranks=(5, 3, 2))
    unfolded = model.core.permute(2, 1, 0).flatten(1)  # G_(3), whose columns follow u kron q
    product = torch.kron(model.users[1], model.questions.weight[2])
    expected = model.features @ unfolded @ product
    assert torch.allclose(model(torch.tensor([1]), torch.tensor([2]))[0], expected, atol=1e-6)


def test_what_a_tensor_of_this_rank_holds_can_be_learnt() -> None:
    torch.manual_seed(0)
    sizes = {"size": 6, "users": 8, "questions": 9, "ranks": (2, 2, 2)}
    wanted = torch.from_numpy(whole(TensorFactorization(**sizes, spread=1))).float()
    model = TensorFactorization(**sizes, spread=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        error = (pairs(model, 9, 8) - wanted).square().mean()
        error.backward()
        optimizer.step()
    assert float(error.detach()) < 1e-3 * float(wanted.square().mean())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_features_begin_as_large_as_asked_for() -> None:
    torch.manual_seed(0)
    model = TensorFactorization(size=200, users=60, questions=60, spread=0.1)
    assert 0.08 < float(pairs(model, 60, 60).std().detach()) < 0.12


def test_questions_that_are_encoded_and_users_without_a_row() -> None:
    model = TensorFactorization(size=7, users=4, encoded=10, ranks=(5, 3, 2))
    questions = torch.randn(2, 10)
    users = torch.tensor([3, 0])
    assert torch.allclose(model(users, questions), model(model.users[users], questions))
    assert model(users, questions).shape == (2, 7)


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match="questions, encoded: one of the two is wanted"):
        TensorFactorization(size=7, users=4)
    with pytest.raises(InputError, match="users: 0 is not at least 1"):
        TensorFactorization(size=7, users=0, questions=3)
    with pytest.raises(InputError, match=r"ranks: \[5, 0, 2\] are not all at least 1"):
        TensorFactorization(size=7, users=4, questions=3, ranks=(5, 0, 2))
