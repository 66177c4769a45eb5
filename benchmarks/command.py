"""What the command lines of all benchmarks have in common."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from personae import training
from personae.data.read import read
from personae.types import InputError

Measure = Callable[..., dict[str, Any]]
"""Takes dialogues, where there is `--data`, and the options of a command line; returns what `--json` prints."""


def positive(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parser(purpose: str, *, built: bool = True, data: bool = True) -> argparse.ArgumentParser:
    """With the options that every benchmark has, those of one whose models are `built` for it, and of one that reads
    `data`; `purpose` is its docstring."""
    made = argparse.ArgumentParser(description=purpose.partition("\n")[0])
    if built:
        made.add_argument("--hidden", type=positive, default=200, help="hidden units a direction, of hre, imn and dim")
        made.add_argument("--runs", type=positive, default=3, help="passes over the same work, each side in turn")
    made.add_argument("--threads", type=positive, default=1, help="threads of torch; 1 is steady on a busy machine")
    if data:
        made.add_argument("--data", default="personachat/valid_both_original.txt", help="here or below PERSONAE_DATA")
    made.add_argument("--seed", type=int, default=0, help="of weights, and of what is drawn")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    measure: Measure,
    said: Callable[[dict[str, Any]], str],
) -> int:
    """Measures and prints the result, as JSON or as is `said` of it; the exit code is 2 after a mistake of the
    user's."""
    training.keep_memory()  # as training and scoring do; it is as good for the peer
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    torch.set_num_threads(options.pop("threads"))
    try:
        dialogues = [read(options.pop("data"))] if "data" in options else []
        result = measure(*dialogues, **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result) if as_json else said(result))
    return 0
