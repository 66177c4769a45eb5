import importlib
import json
from pathlib import Path

import pytest
import torch
from tiny_backbone import write

from personae.data import jsonl, toy

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_tokens_beside_transformers(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    generate = importlib.import_module("generate")
    path = tmp_path / "toy.jsonl"
    jsonl.write(toy.Selection(dialogues=40).split("valid"), path)
    backbone = write(tmp_path / "backbone", "llama")
    options = ["--backbone", backbone, "--data", str(path), "--threads", str(torch.get_num_threads())]
    options += ["--batches", "1", "5", "--tokens", "6", "--runs", "2", "--precision", precision]
    assert generate.main([*options, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert set(result) >= {"what", "ratio", "ours", "theirs", "unit", "runs", "equal", "machine"}
    assert set(result["batches"]) == {"1", "5"}
    assert result["ratio"] == min(one["ratio"] for one in result["batches"].values())
    assert all(len(one["ratios"]) == 2 for one in result["batches"].values())
    assert "batch 5, run 2" in printed.err
    if precision == "32-true":
        assert result["equal"] is True
    assert generate.main(options) == 0
    assert "batch 5: " in capsys.readouterr().out
    assert generate.main([*options, "--batches", "100"]) == 2
    assert capsys.readouterr().err.startswith("error: --batches: 100 are more than the file's ")
