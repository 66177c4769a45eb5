import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from personae import checkpoint
from personae.checkpoint import SafeCheckpointIO
from personae.types import InputError

CONTENT: dict[str, Any] = {
    "epoch": 3,
    "highest": float("-inf"),
    "rate": 1e-3,
    "name": "IMN, 猫\n",
    "none": None,
    "yes": True,
    "empty": {"dict": {}, "list": [], "tuple": ()},
    "nested": [{"a": (1, [2.5, None]), 7: "a number as a key"}, ("x",)],
    "tensor": "a string, and no tensor",
    "weights": {
        "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "numbers": torch.tensor([], dtype=torch.int64),
        "transposed": torch.arange(6.0).view(2, 3).t(),
    },
}


def alike(one: Any, other: Any) -> bool:
    """Whether both have the same kinds, values and tensors."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    checkpoint.save(CONTENT, path)
    assert alike(checkpoint.load(path), CONTENT)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_the_state_of_training_is_loaded(tmp_path: Path) -> None:
    """Of an optimizer, whose states have numbers as keys, and of a schedule."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule.step()
    state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "weights": layer.state_dict()}
    checkpoint.save(state, tmp_path / "last.ckpt")
    loaded = checkpoint.load(tmp_path / "last.ckpt")
    assert alike(loaded["optimizer"], state["optimizer"])
    assert alike(loaded["schedule"], state["schedule"])
    layer.load_state_dict(loaded["weights"])


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    checkpoint.save({"whole": whole, "part": whole[1:], "again": whole}, tmp_path / "last.ckpt")
    loaded = checkpoint.load(tmp_path / "last.ckpt")
    assert alike(loaded, {"whole": torch.arange(4.0), "part": torch.arange(1.0, 4.0), "again": torch.arange(4.0)})


@pytest.mark.parametrize("content", [{"a": {1, 2}}, [object()], {"a": [b"bytes"]}])
def test_what_is_no_data_is_refused_and_nothing_is_left(content: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a checkpoint cannot hold a (set|object|bytes)"):
        checkpoint.save(content, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.save(CONTENT, path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"last\.ckpt: cannot be read as a checkpoint, it is missing or damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "pickle", "weights"])
def test_another_kind_of_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        torch.save({"a": torch.ones(2)}, path)
    elif kind == "weights":
        from safetensors.torch import save_file

        save_file({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be read as a checkpoint"):
        checkpoint.load(path)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, full_disk: Any) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.save({"epoch": 1}, path)
    with full_disk(1000), pytest.raises(InputError, match=r"last\.ckpt: cannot be written \(File too large\)"):
        checkpoint.save({"weights": torch.ones(1000)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint.load(path) == {"epoch": 1}


def test_a_file_is_put_in_place_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.save({"epoch": 1}, path)

    def fail(self: Path, target: Path) -> None:
        assert checkpoint.load(self) == {"epoch": 2}
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="Permission denied"):
        checkpoint.save({"epoch": 2}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint.load(path) == {"epoch": 1}


def test_lightning_saves_loads_and_removes(tmp_path: Path) -> None:
    path, files = tmp_path / "last.ckpt", SafeCheckpointIO()
    files.save_checkpoint({"epoch": 1, "path": tmp_path}, str(path))
    assert files.load_checkpoint(str(path)) == {"epoch": 1, "path": str(tmp_path)}
    files.remove_checkpoint(str(path))
    files.remove_checkpoint(str(path))
    assert not path.exists()
