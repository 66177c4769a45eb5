"""The weights of a model in a file: as they are, or small enough to be given away.

In a small file a matrix is of eight-bit numbers, with a scale for each of its rows (symmetric quantization: Jacob et
al., CVPR 2018, https://arxiv.org/abs/1712.05877), and what was not trained is left out, since whoever has the
pretrained model has it too.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from personae.data import lines
from personae.nn.processor import eight_bits

FORM = {"form": "int8"}
"""The metadata of a small file."""

SCALE = ".scale"
"""Ends the name of the scales (rows, 1) of a matrix."""


def write(model: nn.Module, path: Path, *, small: bool = False) -> None:
    """Writes the weights; the file is complete or untouched."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if small:
        kept = {name for name, value in model.named_parameters() if not value.requires_grad}
        tensors = _rounded({name: value for name, value in tensors.items() if name not in kept})
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    with lines.whole(path) as file:
        file.write(to_bytes(tensors, metadata=FORM if small else None))


def read(path: Path, model: nn.Module) -> dict[str, Any]:
    """The weights that a file holds, of a small one with those of the `model` that it leaves out. SafetensorError,
    OSError or KeyError where it is damaged."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        small = file.metadata() == FORM
    if not small:
        return tensors
    for name in [name for name in tensors if name.endswith(SCALE)]:
        matrix = name.removesuffix(SCALE)
        tensors[matrix] = tensors[matrix] * tensors.pop(name)
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    return {**frozen, **tensors}


def _rounded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of numbers as eight-bit numbers and scales, the rest as it is."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.dim() != 2 or not value.is_floating_point():
            found[name] = value
            continue
        found[name], found[name + SCALE] = eight_bits(value)
    return found
