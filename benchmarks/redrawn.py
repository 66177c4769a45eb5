"""Per-Hits of replies that a trained generator draws several times, of one run or of two on the same cases.

A run's report has one reply to each case, drawn from the words that are likely, and Per-Hits moves with what is drawn.
Here each case of the "valid" split of the run's corpus is answered so often, and counts as the mean of its replies.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import command
import numpy as np
import torch

from personae import run
from personae.data.candidates import examples
from personae.metrics.compare import interval, paired, wilcoxon
from personae.metrics.per_hits import MOST, hits
from personae.tasks.generation import Generation, Judges
from personae.types import Corpus, Example, InputError, Spoken

AT_ONCE = 32

Hits = dict[str, list[float]]
"""Of each metric a value of each case."""


def cases_of(folder: str) -> list[Example]:
    """What is to be answered. InputError where the users of the corpus have no history."""
    corpus: Corpus = run.part(str(Path(folder) / "recipe.yaml"), "corpus", Corpus)
    cases = examples(list(corpus.split("valid")))
    if len({case.user.id for case in cases if case.user.history}) < MOST:
        raise InputError(
            f"{folder}: fewer than {MOST} users of its corpus have a history, by which they are told apart"
        )
    return cases


@torch.no_grad()
def drawn(folder: str, cases: Sequence[Example], judges: Judges, *, draws: int, half: bool) -> Hits:
    """The Per-Hits of each case, its mean over replies."""
    task = run.load(folder)
    if not isinstance(task, Generation):
        raise InputError(f"{folder}: ranks replies, and writes none; give the run of a generator")
    decoding = replace(task.decoding, n=draws)
    ordered = sorted(cases, key=task.model.size)
    found: dict[str, list[str]] = {}
    for start in range(0, len(ordered), AT_ONCE):
        some = ordered[start : start + AT_ONCE]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            texts = task.model.generate(task.model.collate(some), decoding)
        found |= {case.id: each for case, each in zip(some, texts, strict=True)}
        print(f"{folder}: {len(found)} of {len(cases)} cases", file=sys.stderr)
    rows = [Spoken(case.id, case.user.id, text, case.target.text, 0.0, 1) for case in cases for text in found[case.id]]
    ranks = np.array([row.rank for row in judges.judged(rows)], dtype=float)
    each = hits(ranks, len(judges.users), most=MOST)
    return {name: np.reshape(values, (len(cases), draws)).mean(1).tolist() for name, values in each.items()}


def measure(*, folder: str, other: str | None, draws: int, half: bool, seed: int) -> dict[str, Any]:
    """The result that `--json` prints. InputError where two runs are not of the same cases."""
    folders = [folder, *([other] if other else [])]
    cases = cases_of(folders[0])
    if any(cases_of(folder) != cases for folder in folders[1:]):
        raise InputError(f"{folders[1]}: its corpus has other cases than that of {folders[0]}; give runs of the same")
    judges = Judges({case.user.id: case.user.history for case in cases})
    users = [case.user.id for case in cases]
    found = [drawn(folder, cases, judges, draws=draws, half=half) for folder in folders]
    runs = [
        {"run": folder, **{name: asdict(interval(values, users, seed=seed)) for name, values in each.items()}}
        for folder, each in zip(folders, found, strict=True)
    ]
    result: dict[str, Any] = {"draws": draws, "users": len(judges.users), "runs": runs}
    if len(folders) > 1:
        result["difference"] = {
            name: {
                **asdict(paired(values, found[1][name], users, seed=seed)),
                "wilcoxon": wilcoxon(values, found[1][name]),
            }
            for name, values in found[0].items()
        }
    return result


def _said(result: dict[str, Any]) -> str:
    name = next(name for name in result["runs"][0] if name.startswith("per-hits-avg"))
    lines = [
        f"{one['run']}: {name} {one[name]['value']:.4f} [{one[name]['low']:.4f}, {one[name]['high']:.4f}], "
        f"{result['draws']} replies to each of {one[name]['n']} cases"
        for one in result["runs"]
    ]
    if "difference" in result:
        told = result["difference"][name]
        lines.append(
            f"the first less the second: {told['value']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}], Wilcoxon's p "
            f"{told['wilcoxon']:.2g}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "", built=False, data=False)
    parser.add_argument("folder", metavar="run", help="the folder of a run of a generator")
    parser.add_argument("other", nargs="?", help="that of another, of the same corpus")
    parser.add_argument("--draws", type=command.positive, default=5, help="replies to each case")
    parser.add_argument("--half", action="store_true", help="compute in bfloat16, as a transformer is trained")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
