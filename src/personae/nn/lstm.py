"""An LSTM of several layers over padded sequences, whose states are those of each sequence alone.

`torch.nn.LSTM` reads padding as input, unless sequences are packed, for which a processor's fast kernels are not made.
Here padding stands before a sequence and shuts the input gate, so that the cell and the state stay exactly zero until
the first token.

Letters: B sequences, T tokens, W features of an input, H hidden units, L layers.
"""

import torch
from torch import Tensor, nn

from personae.types import InputError

States = tuple[Tensor, Tensor]
"""The hidden and the cell states (L, B, H)."""

SHUT = -1e4


class LSTM(nn.Module):
    """`layers` of `hidden` units, with `dropout` before each but the first. Input weights are Xavier's, recurrent ones
    orthogonal, and forget gates start open; gates are in the order of `torch.nn.LSTM`: input, forget, cell, output."""

    def __init__(self, *, width: int, hidden: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        for name, value in {"hidden": hidden, "layers": layers}.items():
            if value < 1:
                raise InputError(f"task.model.sizes.{name}: {value} is not at least 1")
        self.hidden = hidden
        widths = [width, *[hidden] * (layers - 1)]
        self.inputs = nn.ParameterList(torch.empty(4 * hidden, each) for each in widths)
        self.recurrents = nn.ParameterList(torch.empty(4 * hidden, hidden) for _ in widths)
        self.biases = nn.ParameterList(torch.zeros(4 * hidden) for _ in widths)
        for weights, start in ((self.inputs, nn.init.xavier_uniform_), (self.recurrents, nn.init.orthogonal_)):
            for weight in weights:
                for gate in weight.data.chunk(4):
                    start(gate)
        for bias in self.biases:
            bias.data[hidden : 2 * hidden] = 1
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, inputs: Tensor, states: States | None = None, absent: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """The upper layer's states (B, T, H) and the last of all layers, from inputs (B, T, W). The layers go on from
        `states`, or begin at zero; only then may tokens at the front be `absent` (B, T)."""
        zeros = inputs.new_zeros(1, len(inputs), self.hidden)
        last = []
        for layer, (weight, recurrent, bias) in enumerate(zip(self.inputs, self.recurrents, self.biases, strict=True)):
            inputs = self.dropout(inputs) if layer else inputs
            start = (zeros, zeros) if states is None else (states[0][layer : layer + 1], states[1][layer : layer + 1])
            if absent is not None:
                inputs = torch.cat([inputs, absent[..., None].to(inputs)], 2)
                gate = torch.zeros_like(bias)
                gate[: self.hidden] = SHUT
                weight = torch.cat([weight, gate[:, None]], 1)
            weights = [weight, recurrent, bias, torch.zeros_like(bias)]
            inputs, *after = torch.lstm(inputs, start, weights, True, 1, 0.0, self.training, False, True)
            last.append(after)
        return inputs, (torch.cat([h for h, _ in last]), torch.cat([c for _, c in last]))
