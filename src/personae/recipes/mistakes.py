"""What is wrong with a recipe, told to who wrote it: jsonargparse's messages are a tree of its own terms."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from personae.names import nearest
from personae.recipes import APART
from personae.types import InputError

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
MAX_TIME = "days, hours, minutes and seconds are wanted, such as 00:01:30:00, in quotes where they do not begin with 0"


def checked(make: Callable[[], Any], recipe: str, changes: Mapping[str, str], top: Callable[..., Any]) -> Any:
    """What `make` makes of a recipe for the arguments of `top`, with `changes` made to it. InputError where it cannot,
    which names the option that is wrong, or the recipe and the place in it."""
    try:
        return make()
    except InputError:
        raise
    except Exception as error:  # jsonargparse reports a mistake in a recipe as several kinds of exception
        raise InputError(_told(str(error), recipe, changes, top)) from error


def _told(message: str, recipe: str, changes: Mapping[str, str], top: Callable[..., Any]) -> str:
    keys, owner, kinds, value, problems = [], "", "", "", []
    for line in (part.strip().removeprefix("- ") for part in message.splitlines()):
        if found := re.fullmatch(r'Parser key "(.+)":', line):
            keys.append(found[1])
        elif found := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            owner = found[1]
        elif line.startswith("Subtypes: "):
            kinds = line
        elif line.startswith("Given value: "):
            value = value or line.removeprefix("Given value: ")
        elif line and not re.match(r"Does not validate|Errors:|Given value type|Expected a <class 'NoneType'>", line):
            problems.append(line)
    problem = problems[0] if problems else ""
    if found := re.fullmatch(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'(?: is not accepted)?", problem):
        keys += [part for part in found.groups() if part]
        problem = _unknown(_taker(owner, found[1], top), found[2].partition(".")[0])
    elif "Timer(duration" in problem or keys == ["trainer", "max_time"]:
        keys, problem = ["trainer", "max_time"], MAX_TIME
    elif found := re.fullmatch(r"Expected a (<.+>|.+\])(?:\. Got value: (.+))?", problem):
        problem = _unlike(found[1] if found[2] else kinds, found[2] or value)
    else:
        problem = " ".join(problems)
    place = ".".join(keys).replace(".init_args", "")
    for name in sorted(changes, key=len, reverse=True):
        leaf = re.escape(name.rpartition(".")[2])
        if f"{place}.".startswith(f"{name}.") or (not place and re.search(rf"\b{leaf}\b", problem)):
            return f"--{name}: {f'{place}: ' if place not in ('', name) else ''}{problem}"
    return f"{recipe}: {f'{place}: ' if place else ''}{problem}"


def _taker(owner: str, group: str | None, top: Callable[..., Any]) -> Any:
    """What has the arguments at a place: the class of that import path, `top` without one, or the dataclass that its
    argument `group` is."""
    module, _, name = owner.rpartition(".")
    taker = getattr(importlib.import_module(module), name) if owner else top
    if group is None:
        return taker
    hint = get_type_hints(taker.__init__ if inspect.isclass(taker) else taker)[group]
    return next((kind for kind in (*get_args(hint), hint) if dataclasses.is_dataclass(kind)), taker)


def _unknown(taker: Callable[..., Any], name: str) -> str:
    known = [each for each in inspect.signature(taker).parameters if inspect.isclass(taker) or each not in APART]
    near = nearest(name, known)
    which = taker.__name__ if inspect.isclass(taker) else "a recipe"
    return f"{which} takes no {name}{f', did you mean {near}? It' if near else '; it'} takes {', '.join(known)}"


def _unlike(kinds: str, value: str) -> str:
    """What to say of a value of none of the kinds that a message names."""
    wanted = []
    for kind in re.findall(r"<class '[\w.]+'>|typing\.Literal\[[^\]]*\]|\w+(?=\[)", kinds):
        name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
        choices = kind.partition("[")[2].rstrip("]").replace("'", "")
        wanted.append(f"one of {choices}" if choices else KINDS.get(name, name))
    instead = f": write '[{value}]'" if wanted == ["a list"] else ""
    return f"{' or '.join(wanted)} is wanted, not {value}{instead}"
