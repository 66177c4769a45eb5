"""A vector for each of some names: of users, of questions.

Letters: J names, R features, B pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from personae.nn.resizable import Resizable
from personae.types import InputError


class NameTable(Resizable):
    """Vectors of `width` features, which, where they are not given, are drawn from a normal distribution of standard
    deviation `spread`, around a vector that they have in `common`, drawn from one of that standard deviation. A name
    that is not known has the mean of all, but for those that were added. They are kept with the weights, the names
    beside them."""

    def __init__(self, *, width: int, spread: float = 1.0, common: float = 0.0) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width: {width} is not at least 1")
        self.width, self.spread, self.common = width, spread, common
        self.names: dict[str, int] = {}
        self.learnt = 0
        self.weight = nn.Parameter(torch.empty(0, width))

    def prepare(self, names: Sequence[str], vectors: Tensor | None = None) -> None:
        """Takes these names, in their order, with their vectors (J, R); without these, those that it has already, from
        another, keep theirs."""
        before, weight = self.names, self.weight.detach()
        self._know(list(dict.fromkeys(names)))
        for name in self.names.keys() & before.keys():
            self.weight.data[self.names[name]] = weight[before[name]]
        if vectors is not None:
            self.weight.data.copy_(vectors)

    def numbers(self, names: Sequence[str | None]) -> Tensor:
        """The number of each name, -1 for one that is not known: (B,)."""
        return torch.tensor([-1 if name is None else self.names.get(name, -1) for name in names], dtype=torch.long)

    def add(self, name: str, vector: Tensor) -> int:
        """Takes one more name, or another vector (R,) for one that it has; its number."""
        if name not in self.names:
            self.names[name] = len(self.names)
            self.weight = nn.Parameter(torch.cat([self.weight.detach(), vector.detach()[None].to(self.weight)]))
        self.weight.data[self.names[name]] = vector.detach()
        return self.names[name]

    def forward(self, numbers: Tensor) -> Tensor:
        """The vectors (B, R) of numbers (B,)."""
        known = self.weight[numbers.clamp(min=0)] if len(self.weight) else self.weight.new_zeros(1, self.width)
        if bool((numbers >= 0).all()):
            return known
        return torch.where((numbers >= 0)[:, None], known, self.mean())

    def mean(self) -> Tensor:
        """The vector (R,) of a name that is not known: the mean of all that were not added, zeros where there are
        none."""
        return self.weight[: self.learnt].mean(0) if self.learnt else self.weight.new_zeros(self.width)

    def get_extra_state(self) -> dict[str, Any]:
        """The names, and how many of them were not added, saved as JSON beside the weights."""
        return {"names": list(self.names), "learnt": self.learnt}

    def _resize(self, state: Mapping[str, Any]) -> None:
        self._know(state["names"])
        self.learnt = state["learnt"]

    def _know(self, names: Sequence[str]) -> None:
        self.names = {name: number for number, name in enumerate(names)}
        self.learnt = len(names)
        drawn = torch.randn(self.width) * self.common + torch.randn(len(names), self.width) * self.spread
        self.weight = nn.Parameter(drawn.to(self.weight))
