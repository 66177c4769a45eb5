"""How the weights of a model are updated: Adam, or Muon for its matrices, and the course of the rate."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from personae.types import InputError


@dataclass(frozen=True)
class Optimization:
    """Adam at `learning_rate`. Where `muon` is a rate, weight matrices are trained at that rate by Muon (Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon), which needs far fewer steps, and only the rest by Adam. Of what is
    trained by Adam, all but biases and the weights of normalisation shrinks by `weight_decay` times its rate (AdamW,
    Loshchilov and Hutter, ICLR 2019). All rates are multiplied by `decay` every `decay_steps` steps, continuously; over
    the first share `warmup` of training (0 to 1) they also rise from zero, linearly, and over the last share `cooldown`
    fall to zero: BERT is trained with a `decay` of 1, and a `warmup` and a `cooldown` that add up to 1. The defaults
    are the persona-fusion paper's (section 5.3)."""

    learning_rate: float = 1e-3
    muon: float | None = None
    decay: float = 0.96
    decay_steps: int = 5000
    warmup: float = 0.0
    cooldown: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate >= 0:
            raise InputError(f"task.optimization.learning_rate: {self.learning_rate} is not at least 0")
        if self.muon is not None and not self.muon >= 0:
            raise InputError(f"task.optimization.muon: {self.muon} is not at least 0")
        if not self.decay > 0:
            raise InputError(f"task.optimization.decay: {self.decay} is not above 0")
        if self.decay_steps < 1:
            raise InputError(f"task.optimization.decay_steps: {self.decay_steps} is not at least 1")
        for name, share in (("warmup", self.warmup), ("cooldown", self.cooldown)):
            if not 0 <= share <= 1:
                raise InputError(f"task.optimization.{name}: {share} is not between 0 and 1")
        if self.warmup + self.cooldown > 1 + 1e-9:
            raise InputError(f"task.optimization: warmup {self.warmup} and cooldown {self.cooldown} are more than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"task.optimization.weight_decay: {self.weight_decay} is not at least 0")

    def start(self, parameters: Iterable[nn.Parameter], *, steps: float) -> dict[str, Any]:
        """The optimizer and the schedule of its rate, as Lightning takes them. `steps` is how long training will take,
        infinite where it is not known, which is an InputError where there is a warmup or a cooldown."""
        for name, share in (("warmup", self.warmup), ("cooldown", self.cooldown)):
            if share and steps == float("inf"):
                raise InputError(f"task.optimization.{name}: needs trainer.max_steps or trainer.max_epochs, to end at")
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        matrices = [weight for weight in trained if self.muon is not None and _is_matrix(weight)]
        others = [weight for weight in trained if self.muon is None or not _is_matrix(weight)]
        optimizers: list[torch.optim.Optimizer] = []
        if self.muon is not None and matrices:
            optimizers.append(torch.optim.Muon(matrices, lr=self.muon, weight_decay=0.0))
        if others:
            optimizers.append(self._adam(others))
        optimizer = optimizers[0] if len(optimizers) == 1 else Together(optimizers)

        def rate(step: int) -> float:
            risen = step / (self.warmup * steps) if self.warmup else 1.0
            left = (steps - step) / (self.cooldown * steps) if self.cooldown else 1.0
            return float(self.decay ** (step / self.decay_steps) * min(max(left, 0.0), risen, 1.0))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def _adam(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, or AdamW with two groups: the weights that shrink, and biases and the weights of normalisation."""
        fused = parameters[0].device.type == "cpu"  # a fifth of the time
        if not self.weight_decay:
            return torch.optim.Adam(parameters, lr=self.learning_rate, fused=fused)
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in parameters if weight.ndim > 1]},
            {"params": [weight for weight in parameters if weight.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)


def _is_matrix(weight: nn.Parameter) -> bool:
    """A matrix of more than one row: Muon is not for vectors."""
    return weight.ndim == 2 and len(weight) > 1


class Together(torch.optim.Optimizer):
    """Several optimizers as one. Its groups are theirs."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([group for one in optimizers for group in one.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.optimizers:
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of all."""
        return {"optimizers": [one.state_dict() for one in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the states of all."""
        for one, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]
