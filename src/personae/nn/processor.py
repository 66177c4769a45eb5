"""What the processor multiplies fast."""

from typing import Any, Literal

import torch
from torch import Tensor

STEPS = 127
"""The largest of the eight-bit numbers."""

Numbers = Literal["auto", "32-true", "bf16-mixed", "int8"]
"""The fastest of this processor; of 32 bits; of 16 where they suffice; or matrices of eight, whose products are of
32."""


def fastest() -> Numbers:
    """What a model computes with fastest: numbers of 16 bits where there are instructions for them, else of eight where
    there are some for these."""
    asked: Any = getattr(torch.cpu, "get_capabilities", _known)
    able = asked()
    if able.get("avx512_bf16") or able.get("amx_bf16"):
        return "bf16-mixed"
    return "int8" if able.get("avx512_vnni") or able.get("avx_vnni") else "32-true"


def _known() -> dict[str, bool]:
    """What older versions of torch say."""
    asked: Any = torch.cpu
    names = {"avx512_bf16": "_is_avx512_bf16_supported", "avx512_vnni": "_is_vnni_supported"}
    return {name: bool(getattr(asked, told, bool)()) for name, told in names.items()}


def eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, W) as whole numbers up to `STEPS`, and what they are to be multiplied with (N, 1)."""
    scales = (rows.abs().amax(1, keepdim=True) / STEPS).clamp(min=torch.finfo(rows.dtype).tiny)
    return (rows / scales).round_().to(torch.int8), scales
