"""What there is: the models, found by their files and described by their docstrings, and their recipes. Nothing heavy
is imported for it."""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from personae import published, recipes
from personae.names import hint

ROOT = Path(__file__).parent / "models"

ANSWERS = {"score", "generate"}
"""The methods by which a model answers."""

SHIPPED = Path(__file__).parent / "shipped"


@cache
def models() -> list[dict[str, Any]]:
    """Every model: its name and file, the families it belongs to, its class, what it does, its papers, its recipes, and
    what these reached or, where it needs no training (has no loss), the model."""
    found, measured = [], published.measured()
    weighed = {name.replace("-", "_") for name in shipped()}
    for file in sorted(ROOT.glob("*/*.py")):
        if file.stem == "__init__":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        summary, _, rest = (ast.get_docstring(tree) or "").partition("\n\n")
        module = f"personae.models.{file.parent.name}.{file.stem}"
        classes = {node.name: _methods(node) for node in tree.body if isinstance(node, ast.ClassDef)}
        titles = [title for title, path in recipes.shipped().items() if f"{module}." in path.read_text("utf-8")]
        runs = {file.stem: f"{file.stem}-self", **{title: Path(title).name for title in titles}}
        name = next(name for name, methods in classes.items() if "collate" in methods and methods & ANSWERS)
        found.append(
            {
                "name": file.stem,
                "families": [file.parent.name, *(["selection"] if classes[name] >= ANSWERS else [])],
                "summary": " ".join(summary.split()),
                "paper": " ".join(rest.partition("\n\n")[0].split()),
                "file": f"personae/models/{file.parent.name}/{file.name}",
                "class": f"{module}.{name}",
                "trained": "loss" in classes[name],
                "recipes": sorted(titles, key=lambda title: (title.removesuffix("-gpu"), title)),
                "results": {title: measured[run] for title, run in runs.items() if run in measured},
                "shipped": file.stem in weighed,
            }
        )
    return found


def shipped() -> dict[str, Path]:
    """Names and run folders of the trained models that come with the package."""
    return {recipe.parent.name: recipe.parent for recipe in sorted(SHIPPED.glob("*/recipe.yaml"))}


def untrained(name: str) -> Any:
    """The class of the model called `name`, if it needs no training, else None."""
    for model in models():
        if model["name"] == name and not model["trained"]:
            module, _, cls = model["class"].rpartition(".")
            return getattr(importlib.import_module(module), cls)
    return None


def _methods(node: ast.ClassDef) -> set[str]:
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def missing(model: str) -> str | None:
    """Why there is nothing to load by a name that is no run folder and no model that needs no training, and what to do;
    None where it is a recipe."""
    known = {one["name"]: one for one in models()}
    if model in known:
        reached = known[model]["results"]
        best = max(
            known[model]["recipes"],
            key=lambda name: reached[name]["metrics"]["hits@1/20"]["value"] if name in reached else 0,
        )
        ready = f"; {model.replace('_', '-')} comes trained" if known[model]["shipped"] else ""
        return (
            f"must be trained first: personae fit --config {best} --out RUN, or another recipe that `personae models` "
            f"lists, then give RUN{ready}"
        )
    recorded = published.records() / model / "recipe.yaml"
    if recorded.is_file():
        return f"is recorded without weights; train it anew: personae fit --config {recorded} --out RUN"
    if Path(model).exists() or model in recipes.shipped():
        return None
    beside = [str(file.parent) for file in Path(model).parent.glob("*/config.json")]
    free = ", ".join(name for name in known if not known[name]["trained"])
    otherwise = f"give a run folder, a recipe, or one that needs no training: {free}"
    return f"no such model; {hint(model, [*known, *shipped(), *beside, *recipes.shipped()], otherwise)}"
