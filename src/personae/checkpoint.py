"""Lightning checkpoints without pickle: one safetensors file, whose metadata holds everything that is no tensor as
JSON."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from personae.types import InputError


def save(content: Any, path: Path) -> None:
    """Writes nested dicts, lists and tuples of tensors, numbers, strings and None. The file is complete or
    untouched."""
    tensors: dict[str, Tensor] = {}
    structure = _encode(content, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, unfinished, metadata={"structure": json.dumps(structure)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Reads what `save` wrote. InputError where the file is missing, cut off or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return _decode(json.loads(file.metadata()["structure"]), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint, it is missing or damaged ({error})") from None


def _encode(content: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(content, Tensor):
        name = str(len(tensors))
        tensors[name] = content.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(content, Mapping):
        return {"dict": [[_encode(part, tensors) for part in item] for item in content.items()]}
    if isinstance(content, tuple):
        return {"tuple": [_encode(part, tensors) for part in content]}
    if isinstance(content, list):
        return [_encode(part, tensors) for part in content]
    if isinstance(content, Path):
        return str(content)
    if content is None or isinstance(content, bool | int | float | str):
        return content
    raise TypeError(f"a checkpoint cannot hold a {type(content).__name__}")


def _decode(structure: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(structure, list):
        return [_decode(part, tensors) for part in structure]
    if not isinstance(structure, dict):
        return structure
    (kind, parts) = next(iter(structure.items()))
    if kind == "tensor":
        return tensors[parts]
    if kind == "tuple":
        return tuple(_decode(part, tensors) for part in parts)
    return {_decode(key, tensors): _decode(value, tensors) for key, value in parts}


class SafeCheckpointIO(CheckpointIO):
    """What Lightning writes and reads checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint."""
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint."""
        content: dict[str, Any] = load(Path(path))
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)
