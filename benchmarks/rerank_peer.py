"""The other side of `rerank.py`: sentence-transformers' CrossEncoder, alone in a process.

It needs sentence-transformers alone, so that it can run where the libraries are that its ONNX backend asks for.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

SIDES: dict[str, dict[str, Any]] = {
    "torch, single precision": {},
    "torch, bfloat16": {"model_kwargs": {"dtype": "bfloat16"}},
    "onnx": {"backend": "onnx", "model_kwargs": {"file_name": "model.onnx"}},
    "onnx, int8": {"backend": "onnx", "model_kwargs": {"file_name": "model_int8.onnx"}},
    "a plain MiniLM, torch, bfloat16": {"model_kwargs": {"dtype": "bfloat16"}, "num_labels": 1},
}


def megabytes() -> float:
    """The most memory that this process has had, where Linux tells; that of getrusage may be its parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def main() -> None:
    """Loads a side, of a folder and with so many threads; then takes requests, one in a line, until there are no
    more: pairs of cases, for whose scores it tells the seconds."""
    side, folder, threads = sys.argv[1:]
    try:
        import torch

        torch.set_num_threads(int(threads))
        from sentence_transformers import CrossEncoder

        made: Any = CrossEncoder(folder, trust_remote_code=True, device="cpu", **SIDES[side])
    except (ImportError, OSError, ValueError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        cases = json.loads(line)["pairs"]
        pairs = [tuple(pair) for case in cases for pair in case]
        start = time.perf_counter()
        scores = made.predict(pairs, batch_size=32, show_progress_bar=False).tolist()
        seconds = time.perf_counter() - start
        rows = [[scores.pop(0) for _ in case] for case in cases]
        print(json.dumps({"seconds": seconds, "scores": rows, "megabytes": megabytes()}), flush=True)


if __name__ == "__main__":
    main()
