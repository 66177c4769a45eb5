"""How the lines of a persona become one vector: equations 9 to 16 of "Partner Matters!" (Gu et al., SIGIR 2021)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from personae.nn.attention import AttentionPooling, weighted, weights
from personae.types import InputError, Whose, check

Fusion = Literal["none", "na", "ca", "ra", "cra"]
"""No persona at all, or attention over its lines that is aware of nothing (NA), of the context (CA), of the response
(RA), or of both (CRA)."""


def whose(fusion: str, persona: Whose, context: bool) -> tuple[Whose, int]:
    """Whose persona a model reads, and how many personas it has room for: two where it is made for both. InputError
    where it is to read neither context nor persona, or to fuse a persona with a context that it does not read."""
    check("task.model.persona", persona, Whose)
    if context:
        return ("none" if fusion == "none" else persona), (2 if persona == "both" else 1)
    if fusion != "none" or persona == "none":
        raise InputError("task.model.context: without it the persona takes its place; set fusion: none and a persona")
    return persona, 1


class PersonaFusion(nn.Module):
    """Attention over the lines of each of so many `personas`. All vectors have `width` features; the similarity is the
    raw dot product."""

    def __init__(self, *, fusion: Fusion, width: int, personas: int = 1) -> None:
        super().__init__()
        check("task.model.fusion", fusion, Fusion)
        self.fusion = fusion
        self.pooling = nn.ModuleList(
            AttentionPooling(width=width, rectified=False) for _ in range(personas if fusion == "na" else 0)
        )
        self.query = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(personas if fusion == "cra" else 0))

    def forward(
        self, personas: Sequence[tuple[Tensor, Tensor]], context: Tensor, response: Tensor
    ) -> tuple[Tensor, ...]:
        """The aggregated personas (B, N, width) each, one for each candidate.

        Each persona is its lines (B, P, width) and where a line is, true in (B, P); `context` and `response` (B, N,
        width). A case without a line gets zeros.
        """
        return tuple(
            weighted(self._similarity(place, lines, context, response), lines, there).expand_as(response)
            for place, (lines, there) in enumerate(personas)
        )

    def weights(
        self, personas: Sequence[tuple[Tensor, Tensor]], context: Tensor, response: Tensor
    ) -> tuple[Tensor, ...]:
        """The attention (B, N, P) that is paid to the lines of each persona; shapes as in `forward`."""
        return tuple(
            weights(self._similarity(place, lines, context, response), there).expand(*response.shape[:2], -1)
            for place, (lines, there) in enumerate(personas)
        )

    def _similarity(self, place: int, lines: Tensor, context: Tensor, response: Tensor) -> Tensor:
        """Of each line to what attention is aware of: (B, N, P), or (B, 1, P) where the candidates are not."""
        if self.fusion == "na":  # equation 9
            pooling = self.pooling[place]
            assert isinstance(pooling, AttentionPooling)
            return pooling.similarity(lines)
        if self.fusion == "cra":  # equation 15
            query = self.query[place](torch.cat([context, response], 2))
        else:  # equations 11 and 13
            query = {"ca": context, "ra": response}[self.fusion]
        return query @ lines.transpose(-1, -2)
