"""The command line: every sub-command is a plain function, and its signature is its schema.

Parameters that may be given by position are positional arguments, keyword-only ones are options. Nothing heavy is
imported before a command runs, so that help is quick.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from personae import cold, corpora, exports, judging, options, speaking
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
    candidates: int | None = None,
    seed: int = 0,
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "int8"] = "32-true",
    device: Literal["cpu", "cuda"] = "cpu",
    role: Literal["selection", "generation"] | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a model on a file of dialogues.

    Args:
        model: a run folder, or a model that needs no training, by name or recipe.
        data: the file, as it is or below PERSONAE_DATA.
        split: which split of a file that has several; else a label.
        persona: whose persona the model reads, if not the one that it was made for.
        candidates: how many are drawn for each reply where the file has none, the true one among them; 20 if not given.
        seed: of that draw.
        precision: of the numbers that the model computes with; half of it is faster where the hardware has it.
        device: where the model computes.
        role: what a model that both chooses and writes replies is measured at, if not what it was trained for.
        out: a folder for predictions.jsonl and metrics.json.
        json: print one JSON object.
    """
    from personae import run

    result = run.evaluate(
        model,
        data,
        split=split,
        persona=persona,
        candidates=candidates,
        seed=seed,
        out=out,
        precision=precision,
        device=device,
        role=role,
    )
    _print_metrics(result, json=json)


def compare(run_a: Path, run_b: Path, *, reworded: bool = False, seed: int = 0, json: bool = False) -> None:
    """Compare two results on the same examples: the difference with its interval, and tests.

    Args:
        run_a: a run folder, the folder of an evaluation or a record, or the name of a recorded run of this version.
        run_b: another one.
        reworded: the second was measured on another file, of the same dialogues in the same order with other personas.
        seed: of the bootstrap.
        json: print one JSON object.
    """
    from personae import console, results

    result = results.compare(run_a, run_b, reworded=reworded, seed=seed)
    if json:
        console.as_json(result)
        return
    console.comparison(result, f"{run_a} against {run_b}")


def rank(
    model: str,
    *,
    persona: Path | None = None,
    context: Path | None = None,
    candidates: Path | None = None,
    partner: Path | None = None,
    input: Path | None = None,  # noqa: A002 - the option's name
    output: Path | None = None,
    errors: Path | None = None,
    top: int | None = None,
    explain: bool = False,
    precision: Literal["auto", "32-true", "bf16-mixed", "int8"] = "auto",
    json: bool = False,
) -> None:
    """Rank replies for a persona and a conversation, or for each of a file of them.

    Args:
        model: a run folder, or a model that needs no training, by name ("minilm", "tfidf").
        persona: a text file, a line about the one who replies in each line; may be empty.
        context: a text file, an utterance in each line, the partner's last; may be empty.
        candidates: a text file, a reply in each line.
        partner: a text file, lines about the other speaker; a warning says what is not read of either persona.
        input: in place of these, a file with a case in each line, a JSON object; "-" for standard input.
        output: the file for their ranked candidates; the same command goes on where it was stopped.
        errors: a file for the lines that cannot be ranked; without it, the exit status is 2 if there are any.
        top: give so many; all if not given.
        explain: name the persona line that weighed most for each of them.
        precision: of the numbers that the model computes with; if auto, for the persona reranker the fastest of this
            processor.
        json: print one JSON object.
    """
    from personae import bulk, console
    from personae.agent import Agent
    from personae.data import lines

    if input or output or errors:
        if not (input and output) or persona or context or candidates or partner or explain:
            others = "--persona, --context, --candidates, --partner and --explain"
            raise InputError(f"--input, --output: give both, and none of {others}: each line of the input has its own")
        done = bulk.rank(model, input, output, errors=errors, top=top, precision=precision, say=_say)
        if json:
            console.as_json(done)
        if done["errors"] and not errors:
            raise InputError(f"{input}: {done['errors']} lines could not be ranked; the others are, in {output}")
        return
    if not (persona and context and candidates):
        raise InputError(
            "--persona, --context, --candidates: give all, or cases by --input and --output (see personae rank --help)"
        )
    facts, said, replies = lines.texts(persona), lines.texts(context), lines.texts(candidates, "reply")
    about = lines.texts(partner) if partner else []
    if top is not None and top < 1:
        raise InputError(f"--top: {top} is not at least 1")
    agent = Agent.load(model, precision=precision)
    shown = len(replies) if top is None else top
    ranked = agent.rank(candidates=replies, persona=facts, context=said, partner=about, explain=shown if explain else 0)
    if json:
        results = [asdict(reply) for reply in ranked[:shown]]
        console.as_json({"model": model, "scale": agent.scale, "none": agent.none_fits(ranked), "results": results})
        return
    console.ranking(ranked[:shown], agent.scale, facts=explain)
    if (none := agent.none_fits(ranked)) is not None:
        print(f"none of them fits: {none:.3f}")


def calibrate(run: Path, *, json: bool = False) -> None:
    """Make probabilities of the scores of a run: that a reply is the right one, and that none of them fits.

    Args:
        run: the run folder, in whose config.json the calibration is kept; it is fitted to the dialogues that its recipe
            holds out of training.
        json: print one JSON object.
    """
    from personae import calibrate as made
    from personae import console

    result = made.calibrate(run)
    (console.as_json if json else console.facts)({"run": str(run), **result})


def explain(
    model: str,
    *,
    persona: Path | None = None,
    context: Path | None = None,
    candidates: Path | None = None,
    partner: Path | None = None,
    data: str | None = None,
    case: Sequence[str] = (),
    top: int = 1,
    out: Path,
    json: bool = False,
) -> None:
    """Show why the best replies are where they are: what each persona line does, and where each word looks.

    Args:
        model: a run folder, or a model that needs no training, by name ("minilm", "tfidf").
        persona: a text file, a line about the one who replies in each line; may be empty.
        context: a text file, an utterance in each line, the partner's last; may be empty.
        candidates: a text file, a reply in each line.
        partner: a text file, lines about the other speaker; a warning says what is not read of either persona.
        data: in place of these, a file of dialogues, as it is or below PERSONAE_DATA.
        case: which of its cases, by the id in predictions.jsonl, DIALOGUE#TURN; may be given several times.
        top: explain so many of the best; of a case of --data the true reply, too.
        out: a folder for explanation.json and the pictures.
        json: print one JSON object, the content of explanation.json.
    """
    from personae import console, explanation
    from personae.data import lines

    files = {"persona": persona, "context": context, "partner": partner}
    texts = {name: lines.texts(path) for name, path in files.items() if path}
    if candidates:
        texts["candidates"] = lines.texts(candidates, "reply")
    result = explanation.write(model, texts, data=data, ids=case, top=top, out=out)
    if json:
        console.as_json(result)
    else:
        explanation.show(result)
        print(f"written to {out}: explanation.json and a picture of each")


def recipe(name: str) -> None:
    """Print a recipe, to make one of your own of it.

    Args:
        name: that of a shipped one, as `personae models` lists them, or a YAML file.
    """
    from personae import recipes
    from personae.data import lines

    print(lines.text(recipes.find(name)), end="")


def models(*, shipped: bool = False, json: bool = False) -> None:
    """List the models and their recipes.

    Args:
        shipped: only those whose trained weights come with the package.
        json: print one JSON object.
    """
    from personae import catalogue, console

    found = [model for model in catalogue.models() if model["shipped"] or not shipped]
    if json:
        console.as_json({"models": found})
        return
    console.models(found)


def reproduce(
    table: str,
    *,
    budget: Literal["cpu-small", "gpu-full"] = "cpu-small",
    runs: Path | None = None,
    out: Path | None = None,
    only: Sequence[str] = (),
    train: str | None = None,
    revised_train: str | None = None,
    shipped: bool = False,
    json: bool = False,
) -> None:
    """Make a paper's table again: train what is missing, measure, and lay the paper's numbers beside ours.

    Args:
        table: the paper's name and the table's or figure's, such as dim/table3.
        budget: how much is trained; cpu-small are the recipes as shipped, gpu-full those for a GPU.
        runs: a folder for runs, which tables share; PERSONAE_HOME/runs if not given.
        out: a folder for table.md, table.json and table.svg; reproduced/PAPER-TABLE if not given.
        only: a row to train and measure, by its label; may be given several times; all if not given.
        train: a file of training dialogues in place of the recipes', such as the whole corpus.
        revised_train: a file of training dialogues with revised personas.
        shipped: train and measure nothing; lay out what this version's own runs reached, which are recorded in it.
        json: print one JSON object.
    """
    from personae import console, tables

    result = tables.reproduce(
        table,
        budget=budget,
        runs=runs,
        out=out,
        only=only,
        train=train,
        revised_train=revised_train,
        shipped=shipped,
        say=_say,
    )
    (console.as_json if json else console.reproduction)({"rows": result["rows"]})


ABOUT = {
    "personae": "Personalized dialogue: choose or write the reply that fits the person, and measure it.",
    "data": "Look at corpora.",
}
COMMANDS: dict[str, Any] = {
    "demo": demo,
    "data": {"verify": corpora.verify, "stats": corpora.stats, "users": corpora.users, "show": corpora.show},
    "fit": fit,
    "evaluate": evaluate,
    "compare": compare,
    "rank": rank,
    "explain": explain,
    "models": models,
    "recipe": recipe,
    "reproduce": reproduce,
    "record": exports.record,
    "calibrate": calibrate,
    "export": exports.export,
    "perhits": judging.perhits,
    "generate": speaking.generate,
    "adapt": speaking.adapt,
    "cold": cold.cold,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 2 for a mistake in what was given, 130 for Ctrl-C, 1 for a failure
    of ours (with PERSONAE_DEBUG set, with its traceback)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    values: dict[str, Any] = {}
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, _: Any) -> None:
        pressed.append(number)  # for whatever a library makes of the exception
        raise KeyboardInterrupt

    mine = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    try:
        if mine:
            signal.signal(signal.SIGINT, interrupt)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding cannot hold is written as an escape
        known, changes = options.split(given)
        chosen = options.parser(COMMANDS, ABOUT).parse_args(known)
        command: Any = COMMANDS
        while isinstance(command, dict):
            name = chosen.subcommand
            command, chosen = command[name], chosen[name]
        values = {name: value for name, value in vars(chosen.clone()).items() if name != "subcommand"}
        command(**values, **changes)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _interrupted(given, values)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except Exception as error:
        if pressed:
            return _interrupted(given, values)
        if os.environ.get("PERSONAE_DEBUG"):
            raise
        return _fail(f"failed: {type(error).__name__}: {error} (set PERSONAE_DEBUG=1 for the traceback)", 1)
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)
    return 0


def _interrupted(given: Sequence[str], values: dict[str, Any]) -> int:
    """What a command that Ctrl-C ended, with the `values` of its arguments, has kept."""
    ways = {"fit": "fit --resume", "reproduce": "the same command"}
    how = ways.get(" ".join(given[:1])) if values.get("input") in (None, Path("-")) else "the same command"
    if given[:1] == ["fit"] and not (values and (values["out"] / "checkpoints" / "last.ckpt").exists()):
        return _fail("interrupted before anything was kept; give the same command again", 130)
    return _fail(f"interrupted; {how} goes on from what was kept" if how else "interrupted", 130)


def _print_metrics(result: dict[str, Any], *, json: bool) -> None:
    from personae import console

    (console.as_json if json else console.metrics)(result)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _fail(message: str, code: int) -> int:
    _say(f"personae: {message}")
    return code
