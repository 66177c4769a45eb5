"""The command line: every sub-command is a plain function, and its signature is its schema.

Parameters that may be given by position are positional arguments, keyword-only ones are options. Nothing heavy is
imported before a command runs, so that help is quick.
"""

import inspect
import json as jsonlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from personae import __version__
from personae.types import InputError, Whose


def demo() -> None:
    """Talk as three personas, then train a small model; needs no corpus and no network."""
    from personae import demo as shown

    shown.conversation()
    shown.training()
    shown.next_steps()


def fit(*, config: str | None = None, out: Path, resume: bool = False, **changes: str) -> None:
    """Train a recipe into a run folder. Any argument of the recipe can be changed: --task.model.hidden 64.

    Args:
        config: the recipe, a YAML file or the name of a shipped one.
        out: the run folder, new or empty.
        resume: go on from the last checkpoint in the run folder.
        changes: dotted names of the recipe's arguments, and their values as YAML.
    """
    from personae import run

    _print_metrics(run.train(config, changes, out=out, resume=resume), json=False)


def evaluate(
    model: str,
    *,
    data: str,
    split: str | None = None,
    persona: Whose | None = None,
    seed: int = 0,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a model on a file of dialogues.

    Args:
        model: a run folder, or a model that needs no training, by name or recipe.
        data: the file, as it is or below PERSONAE_DATA.
        split: which split of a file that has several; else a label.
        persona: whose persona the model reads, if not the one that it was made for.
        seed: of the candidates that are drawn where the file has none.
        out: a folder for predictions.jsonl and metrics.json.
        json: print one JSON object.
    """
    from personae import run

    _print_metrics(run.evaluate(model, data, split=split, persona=persona, seed=seed, out=out), json=json)


def compare(run_a: Path, run_b: Path, *, seed: int = 0, json: bool = False) -> None:
    """Compare two results on the same examples: the difference with its interval, and tests.

    Args:
        run_a: a run folder, or the folder of an evaluation.
        run_b: another one.
        seed: of the bootstrap.
        json: print one JSON object.
    """
    from rich.table import Table

    from personae import run

    result = run.compare(run_a, run_b, seed=seed)
    if json:
        _print_json(result)
        return
    table = Table(title=f"{run_a} against {run_b}, {result['n']} examples in {result['dialogues']} dialogues")
    for column in ("metric", "A", "B", "A - B [95 %]", "p, bootstrap", "p, test"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, row in result["metrics"].items():
        test, name_of_test = (row["mcnemar"]["p"], "McNemar") if "mcnemar" in row else (row["t_test"]["p"], "t")
        difference = row["difference"]
        table.add_row(
            name,
            f"{row['a']['value']:.4f}",
            f"{row['b']['value']:.4f}",
            f"{difference['value']:+.4f} {_interval(difference)}",
            "-" if difference["p"] is None else f"{difference['p']:.4f}",
            f"{test:.2g} ({name_of_test})" if test else f"< 1e-300 ({name_of_test})",
        )
    _print(table)


def rank(
    model: str,
    *,
    persona: Path,
    context: Path,
    candidates: Path,
    partner: Path | None = None,
    top: int | None = None,
    explain: bool = False,
    json: bool = False,
) -> None:
    """Rank replies for a persona and a conversation.

    Args:
        model: a run folder, or a model that needs no training, by name ("minilm", "tfidf").
        persona: a text file, a line about the one who replies in each line; may be empty.
        context: a text file, an utterance in each line, the partner's last; may be empty.
        candidates: a text file, a reply in each line.
        partner: a text file, a line about the other speaker in each line.
        top: print so many; all if not given.
        explain: name the persona line that weighed most for each of them.
        json: print one JSON object.
    """
    from rich.table import Table

    from personae.agent import Agent

    facts, said, replies = _lines(persona), _lines(context), _lines(candidates)
    about = _lines(partner) if partner else []
    if not replies:
        raise InputError(f"{candidates}: the file is empty; give a reply in each line")
    if top is not None and top < 1:
        raise InputError(f"--top: {top} is not at least 1")
    agent = Agent.load(model)
    shown = len(replies) if top is None else top
    ranked = agent.rank(
        candidates=replies, persona=facts, context=said, partner=about, explain=shown if explain else 0
    )[:shown]
    if json:
        _print_json({"model": model, "scale": agent.scale, "results": [asdict(reply) for reply in ranked]})
        return
    table = Table("rank", agent.scale, "reply", *(["weighed most"] if explain else []))
    for place, reply in enumerate(ranked, 1):
        table.add_row(str(place), f"{reply.score:.3f}", reply.text, *([reply.fact or "-"] if explain else []))
    _print(table)


def models(*, shipped: bool = False, json: bool = False) -> None:
    """List the models and their recipes.

    Args:
        shipped: only those whose trained weights come with the package.
        json: print one JSON object.
    """
    from rich.table import Table

    from personae import catalogue

    found = [model for model in catalogue.models() if model["shipped"] or not shipped]
    if json:
        _print_json({"models": found})
        return
    table = Table("model", "family", "what it does", "recipes")
    for model in found:
        listed = "\n".join(model["recipes"]) if model["trained"] else "needs no training"
        table.add_row(model["name"], ", ".join(model["families"]), model["summary"], listed)
    _print(table)


def verify(path: str, *, json: bool = False) -> None:
    """Check official files by size and md5.

    Args:
        path: a file or a folder, as it is or below PERSONAE_DATA.
        json: print one JSON object.
    """
    from personae.data import inspect as inspection

    _print_facts(inspection.verify(path), json=json)


def stats(path: str, *, json: bool = False) -> None:
    """Count dialogues, turns, candidates, persona lines and lengths.

    Args:
        path: a file, as it is or below PERSONAE_DATA.
        json: print one JSON object.
    """
    from personae.data import inspect as inspection

    _print_facts(inspection.stats(path), json=json)


def overlap(path_a: str, path_b: str, *, json: bool = False) -> None:
    """Count the dialogues, personas, persona lines and replies that two files share.

    Args:
        path_a: a file, as it is or below PERSONAE_DATA.
        path_b: another one.
        json: print one JSON object.
    """
    from personae.data import inspect as inspection

    _print_facts(inspection.overlap(path_a, path_b), json=json)


def show(path: str, *, n: int = 3, json: bool = False) -> None:
    """Print the first dialogues of a file.

    Args:
        path: a file, as it is or below PERSONAE_DATA.
        n: how many.
        json: print one JSON object.
    """
    from personae.data import inspect as inspection

    dialogues = inspection.show(path, n)
    if json:
        _print_json({"dialogues": [asdict(dialogue) for dialogue in dialogues]})
        return
    for dialogue in dialogues:
        print(dialogue.id)
        for number, speaker in enumerate(dialogue.speakers):
            for fact in speaker.persona.facts:
                print(f"  persona {number}: {fact}")
        for turn in dialogue.turns:
            offered = f"  ({len(turn.candidates)} candidates)" if turn.candidates else ""
            print(f"  {turn.speaker}: {turn.text}{offered}")


ABOUT = {
    "personae": "Personalized dialogue: choose the reply that fits the person, and measure it.",
    "data": "Look at corpora.",
}
COMMANDS: dict[str, Any] = {
    "demo": demo,
    "data": {"verify": verify, "stats": stats, "overlap": overlap, "show": show},
    "fit": fit,
    "evaluate": evaluate,
    "compare": compare,
    "rank": rank,
    "models": models,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 2 for a mistake in what was given, 130 for Ctrl-C, 1 for a failure
    of ours (with PERSONAE_DEBUG set, with its traceback)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        known, changes = _split(given)
        chosen = _parser().parse_args(known)
        command: Any = COMMANDS
        while isinstance(command, dict):
            name = chosen.subcommand
            command, chosen = command[name], chosen[name]
        values = {name: value for name, value in vars(chosen.clone()).items() if name != "subcommand"}
        command(**values, **changes)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; what was kept can be resumed with --resume", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(str(error), 2)
    except Exception as error:
        if os.environ.get("PERSONAE_DEBUG"):
            raise
        return _fail(f"failed: {type(error).__name__}: {error} (set PERSONAE_DEBUG=1 for the traceback)", 1)
    return 0


def _split(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """For `fit`, options that are the recipe's and not its own, by name; for others none."""
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
            changes[name[2:]] = value if equals else next(rest, "null")
        else:
            known.append(argument)
    return known, changes


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="personae", description=ABOUT["personae"])
    parser.add_argument("--version", action="version", version=f"personae {__version__}")
    _add(parser, COMMANDS)
    return parser


def _add(parser: ArgumentParser, commands: dict[str, Any]) -> None:
    chosen = parser.add_subcommands(required=True)
    for name, command in commands.items():
        if isinstance(command, dict):
            group = ArgumentParser(description=ABOUT[name])
            chosen.add_subcommand(name, group, help=ABOUT[name])
            _add(group, command)
        else:
            chosen.add_subcommand(name, _command(command), help=_summary(command))


def _command(function: Callable[..., None]) -> ArgumentParser:
    """Parameters that may be given by position become positional arguments, keyword-only ones options."""
    parser = ArgumentParser(description=_summary(function))
    documented = dict(re.findall(r"^\s+(\w+): (.+)$", function.__doc__ or "", re.MULTILINE))
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            parser.add_argument(name, type=parameter.annotation, help=documented[name])
        elif parameter.annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", default=parameter.default, help=documented[name])
        elif parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            parser.add_argument(
                f"{'-' if len(name) == 1 else '--'}{name}",
                type=parameter.annotation,
                required=required,
                default=default,
                help=documented[name],
            )
    return parser


def _summary(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank; none where it is empty."""
    from personae.data import lines

    if path.is_file() and path.stat().st_size == 0:
        return []
    return [line.strip() for _, line in lines.numbered(path)]


def _print_metrics(result: dict[str, Any], *, json: bool) -> None:
    from rich.table import Table

    if json:
        _print_json(result)
        return
    data = result["data"]
    table = Table(
        "metric",
        "value",
        "95 % interval",
        "examples",
        title=f"{result['model']} on {data['path'] or data['split']}, candidates {data['candidates']['name']} "
        f"({data['candidates']['sha256'][:12]}), persona {result['persona']}",
    )
    for name, row in result["metrics"].items():
        table.add_row(name, f"{row['value']:.4f}", _interval(row), str(row["n"]))
    _print(table)


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["low"] is None else f"[{row['low']:.4f}, {row['high']:.4f}]"


def _print_facts(facts: dict[str, Any], *, json: bool) -> None:
    from rich.pretty import pprint

    if json:
        _print_json(facts)
    else:
        pprint(facts, expand_all=True)


def _print_json(content: Any) -> None:
    print(jsonlib.dumps(content, ensure_ascii=False))


def _print(content: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(content)


def _fail(message: str, code: int) -> int:
    print(f"personae: {message}", file=sys.stderr)
    return code
