"""Weights in a file, whole or small."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from personae import weights
from personae.types import Example

Build = Callable[..., Any]


@pytest.fixture
def model(build: Build) -> Any:
    return build("persona_reranker")


def test_whole(model: Any, build: Build, tmp_path: Path) -> None:
    weights.write(model, tmp_path / "w.safetensors")
    other = build("persona_reranker", seed=1)
    found = weights.read(tmp_path / "w.safetensors", other)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_small(model: Any, tmp_path: Path) -> None:
    weights.write(model, tmp_path / "w.safetensors", small=True)
    kept = load_file(tmp_path / "w.safetensors")
    words = "encoder.backbone.embeddings.word_embeddings.weight"
    assert words not in kept
    found = weights.read(tmp_path / "w.safetensors", model)
    assert found.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        if value.dim() == 2 and name != words:
            assert kept[name].dtype == torch.int8
            step = value.abs().amax(1, keepdim=True) / 127
            assert ((found[name] - value).abs() <= step * 0.51).all()
        else:
            assert torch.equal(found[name], value)


def test_a_small_model_ranks_alike(model: Any, cases: Sequence[Example], tmp_path: Path) -> None:
    with torch.no_grad():
        before = model.score(model.collate(cases))
        weights.write(model, tmp_path / "w.safetensors", small=True)
        model.load_state_dict(weights.read(tmp_path / "w.safetensors", model))
        after = model.score(model.collate(cases))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, before, atol=0.1, rtol=0)


def test_a_row_of_zeros_stays_one(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(model.weight)
    weights.write(model, tmp_path / "w.safetensors", small=True)
    assert not weights.read(tmp_path / "w.safetensors", model)["weight"].any()


def test_a_damaged_file_is_none(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.write(model, path, small=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SafetensorError):
        weights.read(path, model)
