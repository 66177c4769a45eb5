import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personae.tasks.optimization import Optimization
from personae.tasks.selection import Selection
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


def test_the_rate_warms_up_at_the_beginning() -> None:
    how = Optimization(learning_rate=0.1, decay=1, warmup=0.25, cooldown=0.75)
    found = rates(how.start(layer().parameters(), steps=8), 9)
    assert found == pytest.approx([0, 0.05, 0.1, 0.5 / 6, 0.4 / 6, 0.3 / 6, 0.2 / 6, 0.1 / 6, 0])


@pytest.mark.parametrize("name", ["warmup", "cooldown"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_training_that_cannot_be_is_refused(name: str, share: float) -> None:
    with pytest.raises(InputError, match=rf"task\.optimization\.{name}: .* is not between 0 and 1"):
        Optimization(**{name: share})


def test_training_has_room_for_warmup_and_cooldown() -> None:
    Optimization(warmup=0.9, cooldown=0.1)
    Optimization(warmup=0.1, cooldown=0.9)
    with pytest.raises(InputError, match=r"task\.optimization: warmup 0\.5 and cooldown 0\.6 are more than 1"):
        Optimization(warmup=0.5, cooldown=0.6)


@pytest.mark.parametrize("name", ["warmup", "cooldown"])
def test_a_share_of_training_needs_an_end(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: needs trainer\.max_steps or trainer\.max_epochs"):
        Optimization(**{name: 0.5}).start(layer().parameters(), steps=float("inf"))


@pytest.mark.parametrize("muon", [None, 0.0])
def test_weights_decay_but_not_biases_and_those_of_normalisation(muon: float | None) -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.LayerNorm(2))
    before = [weight.clone() for weight in model.parameters()]
    made = Optimization(learning_rate=0.1, muon=muon, weight_decay=0.5).start(model.parameters(), steps=1)["optimizer"]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    made.step()
    assert isinstance(made, torch.optim.AdamW)
    for weight, was, factor in zip(model.parameters(), before, (0.95, 1, 1, 1), strict=True):
        torch.testing.assert_close(weight, factor * was)


def test_frozen_parameters_are_not_optimized() -> None:
    frozen = layer()
    frozen.weight.requires_grad_(False)
    for muon in (None, 0.1):
        (group,) = Optimization(muon=muon).start(frozen.parameters(), steps=1)["optimizer"].param_groups
        assert [id(parameter) for parameter in group["params"]] == [id(frozen.bias)]


def test_muon_is_for_matrices() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1), nn.Conv1d(1, 2, 3))
    made = Optimization(learning_rate=0.2, muon=0.1).start(model.parameters(), steps=1)["optimizer"]
    groups = [(group["lr"], {id(weight) for weight in group["params"]}) for group in made.param_groups]
    weights = {id(weight) for weight in model.parameters()}
    matrix = id(model[0].weight)
    assert groups == [(0.1, {matrix}), (0.2, weights - {matrix})]
    still = Optimization(learning_rate=0.2, muon=0.0).start(model.parameters(), steps=1)["optimizer"]
    assert [group["lr"] for group in still.param_groups] == [0.0, 0.2]
    only = Optimization(muon=0.1).start([nn.Parameter(torch.ones(2, 2))], steps=1)["optimizer"]
    assert isinstance(only, torch.optim.Muon)


def fall(made: dict[str, Any], model: nn.Linear, steps: int) -> Tensor:
    """The loss after some steps."""
    inputs, outputs = torch.eye(3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for _ in range(steps):
        made["optimizer"].zero_grad()
        loss = (model(inputs) - outputs).square().mean()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return loss.detach()


def test_both_optimizers_learn_together() -> None:
    model = layer()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    made = Optimization(learning_rate=0.03, muon=0.03).start(model.parameters(), steps=100)
    assert fall(made, model, 100) < 0.1 * fall(made, layer(), 1)
    assert not any(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_optimizers_go_on_together_from_a_state() -> None:
    model = layer()
    how = Optimization(muon=0.03, cooldown=1)
    made = how.start(model.parameters(), steps=20)
    fall(made, model, 10)
    other = copy.deepcopy(model)
    again = how.start(other.parameters(), steps=20)
    again["optimizer"].load_state_dict(copy.deepcopy(made["optimizer"].state_dict()))
    again["lr_scheduler"]["scheduler"].load_state_dict(made["lr_scheduler"]["scheduler"].state_dict())
    assert torch.equal(fall(made, model, 5), fall(again, other, 5))
    assert [group["lr"] for group in again["optimizer"].param_groups] == pytest.approx([0.03 / 4, 1e-3 / 4], rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate: -1.0 is not at least 0"),
        ({"muon": -1.0}, "muon: -1.0 is not at least 0"),
        ({"decay": -1.0}, "decay: -1.0 is not above 0"),
        ({"decay_steps": 0}, "decay_steps: 0 is not"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0 is not at least 0"),
    ],
)
def test_what_cannot_be_a_rate_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Optimization(**change)


@pytest.mark.parametrize(("algorithm", "wanted"), [(None, [0.6, 0.8]), ("norm", [0.6, 0.8]), ("value", [1.0, 1.0])])
def test_gradients_are_clipped_as_the_trainer_says(algorithm: str | None, wanted: list[float]) -> None:
    model: Any = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    task = Selection(model=model)
    task.configure_gradient_clipping(torch.optim.SGD(model.parameters()), 1.0, algorithm)
    torch.testing.assert_close(model.weight.grad, torch.tensor([wanted]))
