"""A function's signature as a command's options."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser

from personae import __version__
from personae.types import InputError

KEYWORD = inspect.Parameter.KEYWORD_ONLY


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


class Parser(ArgumentParser):
    """A parser whose mistakes are InputErrors, in one message. The first of all knows the `commands`."""

    commands: Mapping[str, Any] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises it, in words that do not name the command's functions and types."""
        message = re.sub(r'^Parser key "(\w+)":\s*', r"--\1: ", message)
        message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
        expected = r"(?:Does not validate.+?)?Expected an? (\w+)(?:\. Got|\n.+Given) value: (.+)"
        message = re.sub(expected, r"\2 is no \1", message, flags=re.DOTALL)
        command = self.prog.replace(" [options]", "")
        if lacking := re.findall(r"[\w.]+(?=,|$)", message.partition("arguments are required: ")[2]):
            command = " ".join([command, *lacking[0].split(".")[:-1]])
            named = ", ".join(self._named(*name.split(".")) for name in lacking)
            message = f"the following arguments are required: {named}"
        raise InputError(f"{message} (see {command} --help)")

    def _named(self, *names: str) -> str:
        """A parameter as the user writes it: an option with its dashes."""
        command: Any = self.commands
        for name in names[:-1]:
            command = command[name]
        keyword = callable(command) and inspect.signature(command).parameters[names[-1]].kind is KEYWORD
        return f"--{names[-1]}" if keyword else names[-1]


def parser(commands: dict[str, Any], about: dict[str, str]) -> Parser:
    """The parser of all commands: names to functions, or to groups of such. `about` says what each group does."""
    made = Parser(prog="personae", description=about["personae"])
    made.commands = commands
    made.add_argument("--version", action="version", version=f"personae {__version__}")
    _add(made, commands, about)
    return made


def _add(to: Parser, commands: dict[str, Any], about: dict[str, str]) -> None:
    chosen = to.add_subcommands(required=True)
    for name, command in commands.items():
        if isinstance(command, dict):
            group = Parser(description=about[name])
            chosen.add_subcommand(name, group, help=about[name])
            _add(group, command, about)
        else:
            chosen.add_subcommand(name, _command(command), help=_summary(command))


def _command(function: Callable[..., None]) -> Parser:
    """Parameters that may be given by position become positional arguments, keyword-only ones options."""
    made = Parser(description=_summary(function))
    found = re.findall(r"^( +)(\w+): (.+(?:\n\1 +.+)*)$", function.__doc__ or "", re.MULTILINE)
    documented = {name: " ".join(text.split()) for _, name, text in found}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            made.add_argument(name, type=parameter.annotation, help=documented[name])
        elif parameter.annotation is bool:
            made.add_argument(f"--{name}", action="store_true", default=parameter.default, help=documented[name])
        elif parameter.annotation == Sequence[str]:  # may be given several times
            made.add_argument(f"--{name}", action="append", default=[], help=documented[name])
        elif parameter.kind is KEYWORD:
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            choices = [
                each for one in (parameter.annotation, *get_args(parameter.annotation)) for each in _choices(one)
            ]
            made.add_argument(
                f"{'-' if len(name) == 1 else '--'}{name}",
                required=required,
                default=default,
                help=documented[name],
                **({"choices": choices} if choices else {"type": parameter.annotation}),
            )
    return made


def _choices(annotation: Any) -> tuple[str, ...]:
    """What a Literal may be; nothing of another type."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _summary(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
