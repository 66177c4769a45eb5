import math
from typing import Any, Literal

import pytest
import torch

from personae.nn.objective import Objective
from personae.types import InputError

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -torch.inf]])
TARGET = torch.tensor([2, 0])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "listwise",
            (math.log(sum(map(math.exp, (2, -1, 0.5)))) - 0.5 + math.log(math.exp(0.3) + math.exp(0.1)) - 0.3) / 2,
        ),
        ("pointwise", ((softplus(2) + softplus(-1) + softplus(-0.5)) / 3 + (softplus(-0.3) + softplus(0.1)) / 2) / 2),
        ("pairwise", ((0.2 - 0.5 + 2 + 0) / 2 + max(0, 0.2 - 0.3 + 0.1)) / 2),
    ],
)
def test_the_losses(kind: Literal["listwise", "pointwise", "pairwise"], expected: float) -> None:
    scores = SCORES.clone().requires_grad_()
    loss = Objective(kind, margin=0.2)(scores, TARGET)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad[1, 2] == 0
    assert scores.grad[0, 2] < 0 < scores.grad[0, 0]


def test_only_what_violates_the_margin_may_count() -> None:
    scores = torch.cat([SCORES, torch.tensor([[0.1, 0.9, 0.3]])])
    loss = Objective("pairwise", margin=0.2, violating=True)(scores, torch.tensor([2, 0, 1]))
    assert loss.item() == pytest.approx(((0.2 - 0.5 + 2) / 1 + 0 + 0) / 3)


def test_a_kind_and_a_margin_that_cannot_be_are_refused() -> None:
    unknown: Any = "bogus"
    with pytest.raises(InputError, match=r"kind: 'bogus' is none of the choices listwise, pointwise, pairwise$"):
        Objective(unknown)
    with pytest.raises(InputError, match=r"task\.objective\.margin: 0 is not above 0"):
        Objective("pairwise", margin=0)
