"""How the weights of a model are updated: Adam, and the course of its rate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from personae.types import InputError


@dataclass(frozen=True)
class Optimization:
    """Adam at `learning_rate`, which is multiplied by `decay` every `decay_steps` steps, continuously; over the last
    share `cooldown` of training (0 to 1) it also falls to zero, linearly. The defaults are the persona-fusion paper's
    (section 5.3)."""

    learning_rate: float = 1e-3
    decay: float = 0.96
    decay_steps: int = 5000
    cooldown: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate >= 0:
            raise InputError(f"task.optimization.learning_rate: {self.learning_rate} is not at least 0")
        if self.decay_steps < 1:
            raise InputError(f"task.optimization.decay_steps: {self.decay_steps} is not at least 1")
        if not 0 <= self.cooldown <= 1:
            raise InputError(f"task.optimization.cooldown: {self.cooldown} is not between 0 and 1")

    def start(self, parameters: Iterable[nn.Parameter], *, steps: float) -> dict[str, Any]:
        """The optimizer and the schedule of its rate, as Lightning takes them. `steps` is how long training will take,
        infinite where it is not known, which is an InputError where there is a cooldown."""
        if self.cooldown and steps == float("inf"):
            raise InputError("task.optimization.cooldown: needs trainer.max_steps or trainer.max_epochs, to end at")
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.learning_rate)

        def rate(step: int) -> float:
            left = (steps - step) / (self.cooldown * steps) if self.cooldown else 1.0
            return float(self.decay ** (step / self.decay_steps) * min(max(left, 0.0), 1.0))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}
