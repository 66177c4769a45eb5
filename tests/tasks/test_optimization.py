from typing import Any

import pytest
import torch
from torch import nn

from personae.tasks.optimization import Optimization
from personae.types import InputError


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def rates(made: dict[str, Any], steps: int) -> list[float]:
    """The rate of the first group at each step."""
    found = []
    for _ in range(steps):
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return found


def test_the_rate_decays_continuously() -> None:
    made = Optimization(learning_rate=0.1, decay=0.5, decay_steps=10).start(layer().parameters(), steps=float("inf"))
    found = rates(made, 21)
    assert made["lr_scheduler"]["interval"] == "step"
    assert [found[0], found[5], found[10], found[20]] == pytest.approx([0.1, 0.1 * 0.5**0.5, 0.05, 0.025])


def test_the_rate_cools_down_at_the_end() -> None:
    found = rates(Optimization(learning_rate=0.1, decay=1, cooldown=0.5).start(layer().parameters(), steps=8), 9)
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025, 0])


@pytest.mark.parametrize("cooldown", [-0.1, 1.1])
def test_a_cooldown_that_cannot_be_is_refused(cooldown: float) -> None:
    with pytest.raises(InputError, match=r"task\.optimization\.cooldown: .* is not between 0 and 1"):
        Optimization(cooldown=cooldown)


def test_a_cooldown_needs_an_end() -> None:
    with pytest.raises(InputError, match=r"cooldown: needs trainer\.max_steps or trainer\.max_epochs"):
        Optimization(cooldown=0.5).start(layer().parameters(), steps=float("inf"))


def test_frozen_parameters_are_not_optimized() -> None:
    frozen = layer()
    frozen.weight.requires_grad_(False)
    (group,) = Optimization().start(frozen.parameters(), steps=1)["optimizer"].param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(frozen.bias)]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learning_rate": -1.0}, "learning_rate: -1.0 is not at least 0"), ({"decay_steps": 0}, "decay_steps: 0 is not")],
)
def test_what_cannot_be_a_rate_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Optimization(**change)
