"""How the lines of a persona become one vector: equations 9 to 16 of "Partner Matters!" (Gu et al., SIGIR 2021)."""

from typing import Literal

import torch
from torch import Tensor, nn

Fusion = Literal["none", "na", "ca", "ra", "cra"]
"""No persona at all, or attention over its lines that is aware of nothing (NA), of the context (CA), of the response
(RA), or of both (CRA)."""


class PersonaFusion(nn.Module):
    """Attention over persona lines. All vectors have `width` features; the similarity is the raw dot product."""

    def __init__(self, *, fusion: Fusion, width: int) -> None:
        super().__init__()
        self.fusion = fusion
        self.query = {"na": nn.Linear(width, 1), "cra": nn.Linear(2 * width, width)}.get(fusion)

    def forward(self, persona: Tensor, there: Tensor, context: Tensor, response: Tensor) -> Tensor:
        """The aggregated persona (B, N, width), one for each candidate.

        `persona` (B, P, width) with `there` (B, P) true where a line is; `context` and `response` (B, N, width). A case
        without a line gets zeros.
        """
        if persona.shape[1] == 0:
            return torch.zeros_like(response)
        if self.fusion == "na":  # equation 9
            similarity = self._asked(persona).transpose(1, 2).expand(-1, response.shape[1], -1)
        else:  # equations 11, 13, 15
            query = {"ca": lambda: context, "ra": lambda: response}.get(
                self.fusion, lambda: self._asked(torch.cat([context, response], 2))
            )()
            similarity = query @ persona.transpose(1, 2)  # (B, N, P)
        attention = similarity.masked_fill(~there[:, None], torch.finfo(similarity.dtype).min).softmax(2)
        return (attention * there[:, None]) @ persona  # equation 10

    def _asked(self, inputs: Tensor) -> Tensor:
        assert self.query is not None
        asked: Tensor = self.query(inputs)
        return asked
