"""`personae export` and `personae record`: what of a run is passed on."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from personae.types import InputError, check

Form = Literal["small", "transformers", "sentence-transformers", "onnx"]


def export(model: str, *, to: Form, out: Path) -> None:
    """Write a trained model in a form in which it is passed on, or which other libraries read.

    Args:
        model: a run folder, or a model that comes with the package, by name.
        to: small is a run folder whose weights have eight bits, without those that were not trained, of a backbone that
            has a package or a name. The others are for the persona reranker alone; transformers and
            sentence-transformers read the folder that is named after them, and one for onnx has a graph for ONNX
            Runtime, as it is and with eight bits. The README.md in it says how.
        out: the folder that is written; it must be empty or missing.
    """
    from safetensors import SafetensorError

    from personae import catalogue, lend
    from personae import run as runs

    check("--to", to, Form)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; name another")
    loaded = runs.load(model).model
    if not hasattr(loaded, "loss"):
        raise InputError(f"{model}: needs no training, so that there is nothing to export; use it by its name")
    if not all(weight.isfinite().all() for weight in loaded.parameters()):
        raise InputError(f"{model}: a weight is no number; copy the run again, or train it anew at lower rates")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        if to == "small":
            _small(catalogue.shipped().get(model, Path(model)), loaded, part)
        else:
            lend.write(loaded, part, name=model, graph=to == "onnx")
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--out {out}: cannot be written ({error}): name another folder, or make room") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"written to {out}: {size / 1e6:.1f} MB")


def _small(folder: Path, model: Any, out: Path) -> None:
    """A run folder with the weights of its model in eight bits."""
    from personae import recipes, results, weights
    from personae import run as runs

    backbone = recipes.read(str(folder / "recipe.yaml"))["task"]["init_args"]["model"]["init_args"].get("backbone")
    kept = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    if kept and backbone is not None and Path(backbone).exists():
        raise InputError(
            f"{folder}: needs the weights of its backbone, {backbone}, which only this machine has; train from a name"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.yaml", "config.json"):
        shutil.copyfile(folder / name, out / name)
    if not kept and (folder / runs.BACKBONE).is_dir():
        shutil.copytree(folder / runs.BACKBONE, out / runs.BACKBONE)
    weights.write(model, out / results.WEIGHTS, small=True)


def record(runs: Path, *, out: Path) -> None:
    """Write down what finished runs reached, without their weights: small enough to be sent, or kept with the code.

    Args:
        runs: the folder that holds the run folders.
        out: a folder for a record of each: recipe, environment, metrics, and where each true reply was ranked, or what
            was measured of each written one. Records of other runs that are there stay. The paths of files are as in
            the recipe.
    """
    from personae import shelf

    names = shelf.record(runs, out)
    print(f"written to {out}: {', '.join(names)}")
