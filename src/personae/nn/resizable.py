"""Modules whose weights are as large as their extra state says: a row for each word, or for each name."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import nn


class Resizable(nn.Module, ABC):
    """A module that, when it is loaded, takes its extra state first, so that its weights have the size of those that
    follow; PyTorch gives the same once more behind them, when making room anew would undo what was loaded."""

    def set_extra_state(self, state: Any) -> None:
        """Restores what `get_extra_state` gave."""
        if state != self.get_extra_state():
            self._resize(state)

    def inherit(self, other: Self) -> None:
        """Knows what another knows, which was trained, before its weights are copied."""
        self.set_extra_state(other.get_extra_state())

    @abstractmethod
    def _resize(self, state: Any) -> None:
        """Knows what an extra state tells of, with weights for it."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "_extra_state" in state_dict:
            self.set_extra_state(state_dict[prefix + "_extra_state"])
        super()._load_from_state_dict(state_dict, prefix, *rest)
