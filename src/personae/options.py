"""A function's signature as a command's options."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from personae import __version__
from personae.types import InputError


def split(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """For `fit`, options that are the recipe's and not its own, by name; for others none. InputError where one of them
    has no value."""
    if given[:1] != ["fit"]:
        return given, {}
    own = {"--config", "--out", "--resume", "--help", "-h"}
    known, changes = given[:1], {}
    rest = iter(given[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in own:
            known.append(argument)
            if not equals and name in ("--config", "--out"):
                known += [value for value in [next(rest, None)] if value is not None]
        elif name.startswith("--"):
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise InputError(f"{name}: give it a value")
            changes[name[2:]] = value
        else:
            known.append(argument)
    return known, changes


def parser(commands: dict[str, Any], about: dict[str, str]) -> ArgumentParser:
    """The parser of all commands: names to functions, or to groups of such. `about` says what each group does."""
    made = ArgumentParser(prog="personae", description=about["personae"])
    made.add_argument("--version", action="version", version=f"personae {__version__}")
    _add(made, commands, about)
    return made


def _add(to: ArgumentParser, commands: dict[str, Any], about: dict[str, str]) -> None:
    chosen = to.add_subcommands(required=True)
    for name, command in commands.items():
        if isinstance(command, dict):
            group = ArgumentParser(description=about[name])
            chosen.add_subcommand(name, group, help=about[name])
            _add(group, command, about)
        else:
            chosen.add_subcommand(name, _command(command), help=_summary(command))


def _command(function: Callable[..., None]) -> ArgumentParser:
    """Parameters that may be given by position become positional arguments, keyword-only ones options."""
    made = ArgumentParser(description=_summary(function))
    documented = dict(re.findall(r"^\s+(\w+): (.+)$", function.__doc__ or "", re.MULTILINE))
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            made.add_argument(name, type=parameter.annotation, help=documented[name])
        elif parameter.annotation is bool:
            made.add_argument(f"--{name}", action="store_true", default=parameter.default, help=documented[name])
        elif parameter.annotation == Sequence[str]:  # may be given several times
            made.add_argument(f"--{name}", action="append", default=[], help=documented[name])
        elif parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            made.add_argument(
                f"{'-' if len(name) == 1 else '--'}{name}",
                type=parameter.annotation,
                required=required,
                default=default,
                help=documented[name],
            )
    return made


def _summary(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
