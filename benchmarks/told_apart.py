"""What a trained generator has learnt of its users: how much likelier a real reply is with its user than with others.

Of each held-out reply of the corpus that a run was trained on (its "valid" split), the log-likelihood with its own user
is compared with those with other users, drawn at random, and with that of a user who is not known. It tells what a
model knows apart from what it writes, so also what its replies do not show, or Per-Hits does not read: with `--lower`
all texts are lower-cased first, as Per-Hits does.
"""

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import command
import torch

from personae import run
from personae.data.candidates import examples
from personae.metrics.compare import interval
from personae.nn.newcomers import tables
from personae.types import Corpus, Example, InputError

AT_ONCE = 50


def lowered(example: Example) -> Example:
    """The same in lower case."""
    turns = tuple(replace(turn, text=turn.text.lower()) for turn in example.context.turns)
    target = replace(example.target, text=example.target.text.lower())
    return replace(example, context=replace(example.context, turns=turns), target=target)


def by(example: Example, user: str) -> Example:
    """The same as if this user had replied."""
    asks, replies = example.context.speakers
    return replace(example, context=replace(example.context, speakers=(asks, replace(replies, id=user))))


@torch.no_grad()
def likelihoods(model: Any, cases: Sequence[Example], half: bool) -> tuple[list[float], list[int]]:
    """The log-likelihood of each reply in nats, and its tokens, the end among them; in half precision or not."""
    found: list[float] = []
    tokens: list[int] = []
    for start in range(0, len(cases), AT_ONCE):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            some, written = model.log_likelihood(model.collate(cases[start : start + AT_ONCE]))
        found += some.tolist()
        tokens += written.tolist()
    return found, tokens


def measure(*, folder: str, others: int, seed: int, lower: bool, half: bool) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the model knows no users."""
    model: Any = run.load(folder).model.eval()
    if not tables(model):
        raise InputError(f"{folder}: its model knows no users; give the run of a generator that does")
    corpus: Corpus = run.part(str(Path(folder) / "recipe.yaml"), "corpus", Corpus)
    cases = sorted(examples(list(corpus.split("valid"))), key=model.size)
    cases = [lowered(case) for case in cases] if lower else cases
    names = [case.user.id for case in cases]
    users = sorted(set(names))
    if len(users) < 2:
        raise InputError(f"{folder}: its corpus has but one user in valid, so that there are none to compare with")
    drawn = random.Random(seed)
    own, tokens = likelihoods(model, cases, half)
    unknown, _ = likelihoods(model, [by(case, "") for case in cases], half)
    rounds = []
    for place in range(others):
        chosen = [drawn.choice([user for user in users if user != name]) for name in names]
        swapped = [by(case, user) for case, user in zip(cases, chosen, strict=True)]
        rounds.append(likelihoods(model, swapped, half)[0])
        print(f"others: {place + 1} of {others}", file=sys.stderr)
    gaps = [mine - statistics.mean(rest) for mine, *rest in zip(own, *rounds, strict=True)]
    shares = [
        statistics.mean((mine > other) + (mine == other) / 2 for other in rest)
        for mine, *rest in zip(own, *rounds, strict=True)
    ]
    return {
        "run": folder,
        "lower": lower,
        "others": others,
        "tokens": statistics.mean(tokens),
        "nats a token": {
            "own": -sum(own) / sum(tokens),
            "others": -statistics.mean(sum(rest) for rest in rounds) / sum(tokens),
            "unknown": -sum(unknown) / sum(tokens),
        },
        "gap": asdict(interval(gaps, names, seed=seed)),
        "share": asdict(interval(shares, names, seed=seed)),
    }


def _said(result: dict[str, Any]) -> str:
    gap, share, nats = result["gap"], result["share"], result["nats a token"]
    return (
        f"{result['run']}: with its user a reply of {result['tokens']:.1f} tokens is likelier than with another by "
        f"{gap['value']:.2f} nats [{gap['low']:.2f}, {gap['high']:.2f}], and likelier than with "
        f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}] of them (50 if it knows "
        f"nothing), n {gap['n']}; nats a token: own {nats['own']:.3f}, others {nats['others']:.3f}, a user who is not "
        f"known {nats['unknown']:.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "", built=False, data=False)
    parser.add_argument("folder", metavar="run", help="the folder of a run of a generator")
    parser.add_argument("--others", type=command.positive, default=8, help="users each reply is compared with")
    parser.add_argument("--lower", action="store_true", help="lower-case all texts first")
    parser.add_argument("--half", action="store_true", help="compute in bfloat16, as a transformer is trained")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
