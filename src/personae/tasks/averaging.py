"""The mean of weights over training, which does better than the last of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from personae.types import InputError


class Average:
    """An exponential moving average of weights (Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780):
    after each step it moves towards them by 1 - `decay`, in the first steps by more. `swapped` says whether the weights
    and their mean have changed places."""

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise InputError(f"task.average: {decay} is not at least 0 and less than 1")
        self.decay = decay
        self.steps, self.swapped = 0, False
        self._other: list[Tensor] = []

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], *, step: int) -> None:
        """Takes the weights after a step, once."""
        if step <= self.steps:
            return
        self.steps = step
        if not self._other:
            self._other = [weight.detach().clone() for weight in weights]
        share = max(1 - self.decay, 9 / (10 + step))
        torch._foreach_lerp_(self._other, list(weights), share)

    @torch.no_grad()
    def swap(self, weights: Sequence[Tensor]) -> None:
        """Lets weights and mean change places, where there is a mean."""
        if not self._other:
            return
        self.swapped = not self.swapped
        for weight, other in zip(weights, self._other, strict=True):
            kept = weight.clone()
            weight.copy_(other)
            other.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The mean, or the weights where these have changed places with it."""
        return {"other": list(self._other), "swapped": self.swapped, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a mean."""
        self._other, self.swapped, self.steps = list(state["other"]), state["swapped"], state["steps"]
