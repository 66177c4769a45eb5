"""Recipes: YAML of the arguments of `personae.run.fit`. Those that are shipped lie below this folder."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from personae.names import hint
from personae.types import InputError

MEASURED = {"task", "task.model", "corpus", "corpus.valid"}
"""The arguments that a published number is of."""

APART = {"out", "resume"}
"""Those of these arguments that no recipe has."""


def shipped() -> dict[str, Path]:
    """Names ("selection/imn-personachat-ra") and files of the recipes that are shipped."""
    root = Path(str(resources.files(__name__)))
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.yaml"))}


def find(recipe: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one. InputError where there is neither."""
    if Path(recipe).is_file():
        return Path(recipe)
    known = shipped()
    if recipe not in known:
        beside = map(str, Path(recipe).parent.glob("*.yaml"))
        otherwise = f"give a YAML file, or one of: {', '.join(known)}"
        raise InputError(f"{recipe}: no such recipe; {hint(recipe, [*known, *beside], otherwise)}")
    return known[recipe]


def read(recipe: str) -> dict[str, Any]:
    """The arguments in a recipe, not yet checked. InputError where it is no YAML mapping."""
    path = find(recipe)
    try:
        arguments = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: a recipe is a mapping with the keys task, corpus and trainer")
    return arguments


def change(arguments: dict[str, Any], changes: Mapping[str, str]) -> None:
    """Sets arguments by dotted names: "task.model.hidden" reaches into `init_args` where there is a `class_path`. The
    values are YAML. What is published of a recipe, its `paper`, is of its own model and what that is measured on: where
    these change, it is left out unless another is named. InputError where a name leads through something that has no
    parts."""
    changed = {".".join(name.split(".")[:2]) for name in changes}
    if changed & MEASURED and not any(name.partition(".")[0] == "paper" for name in changes):
        arguments.pop("paper", None)
    for name, value in changes.items():
        *parents, leaf = name.split(".")
        place: Any = arguments
        for part in parents:
            place = _parts(place, name).setdefault(part, {})
        try:
            _parts(place, name)[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--{name}: {value!r} cannot be read as YAML") from None


def _parts(place: Any, name: str) -> dict[str, Any]:
    if not isinstance(place, dict):
        raise InputError(f"--{name}: leads through {place!r}, which has no parts")
    parts: dict[str, Any] = place.setdefault("init_args", {}) if "class_path" in place else place
    return parts
