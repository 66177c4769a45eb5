"""`personae export` and `personae record`: what of a run is passed on."""

import shutil
from pathlib import Path
from typing import Literal

from personae.types import InputError, check

Form = Literal["small"]


def export(run: Path, *, to: Form, out: Path) -> None:
    """Write a trained model in a form in which it is passed on.

    Args:
        run: the run folder of a trained model.
        to: small is a run folder whose weights have eight bits, without those that were not trained, of a backbone that
            has a package or a name.
        out: the folder that is written; it must be empty or missing.
    """
    from personae import recipes, results, weights
    from personae import run as runs

    check("--to", to, Form)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; name another")
    task = runs.load(str(run))
    backbone = recipes.read(str(run / "recipe.yaml"))["task"]["init_args"]["model"]["init_args"].get("backbone")
    kept = {name for name, weight in task.model.named_parameters() if not weight.requires_grad}
    if kept and backbone is not None and Path(backbone).exists():
        raise InputError(
            f"{run}: needs the weights of its backbone, {backbone}, which only this machine has; train from a name"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.yaml", "config.json"):
        shutil.copyfile(run / name, out / name)
    if not kept and (run / runs.BACKBONE).is_dir():
        shutil.copytree(run / runs.BACKBONE, out / runs.BACKBONE)
    weights.write(task.model, out / results.WEIGHTS, small=True)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"written to {out}: {size / 1e6:.1f} MB")


def record(runs: Path, *, out: Path) -> None:
    """Write down what finished runs reached, without their weights: small enough to be sent, or kept with the code.

    Args:
        runs: the folder that holds the run folders.
        out: a folder for a record of each: recipe, environment, metrics, and where each true reply was ranked. Records
            of other runs that are there stay. The paths of files are as in the recipe.
    """
    from personae import shelf

    names = shelf.record(runs, out)
    print(f"written to {out}: {', '.join(names)}")
