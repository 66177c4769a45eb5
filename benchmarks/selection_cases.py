"""Cases of 20 candidates a second on Persona-Chat's validation set: ours against the published algorithm, plainly.

The plain versions are those of `plain.py`, with the weights of ours. Both sides score the same sample of cases, in
turn, with the same threads and no gradients; building the batch is not timed, on either side. Ours takes batches of
cases of like length, as `personae evaluate` does. The plain matchers take batches of as many cases, in the file's order
or ordered by length, and pad them, as was published, or pack them, whichever is faster; plain BERT takes a case at a
time, since its candidates are of like length, and pads. `ratio` is against the fastest, `ratio_padded` against the
fastest that pads, each in turn with ours.

Scores must agree to 0.001. With --precision bf16-mixed, ours computes in half precision; plain BERT is timed in both,
and the ratio is against the faster. `equal` then says that the first choice is that of the plain version in single
precision in 98 of 100 cases, and that as many, to three in a thousand or one, are answered right; that can be said of a
trained model only, which --run names.
"""

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import command
import torch
from plain import PlainBERT, PlainMatcher, Reading
from torch import Tensor

from personae.data.candidates import examples, offered
from personae.models.selection.bert import BERT
from personae.models.selection.dim import DIM
from personae.models.selection.hre import HRE
from personae.models.selection.imn import IMN
from personae.nn.shared_context import SharedEncoder
from personae.nn.words import Words
from personae.results import environment
from personae.run import load
from personae.tasks.selection import Selection, texts
from personae.text import Vocabulary, words
from personae.types import Dialogue, Example, InputError

FUSIONS = ("none", "na", "ca", "ra", "cra")
SYSTEMS = ("dim", *(f"{name}-{fusion}" for name in ("hre", "imn", "bert") for fusion in FUSIONS))
Score = Callable[[], list[tuple[list[str], Tensor]]]


def made(system: str, dialogues: Sequence[Dialogue], *, hidden: int, backbone: str | None) -> Any:
    """One of the `SYSTEMS`, untrained, at the papers' sizes."""
    name, _, fusion = system.partition("-")
    if name == "bert":
        return BERT(fusion=fusion, backbone=backbone, dropout=0)  # type: ignore[arg-type]
    vectors = Words(dropout=0)
    found = Vocabulary.of([words(text) for text in texts(dialogues)]).words[2:]
    vectors.set_extra_state({"vocabulary": found, "unseen": []})
    vectors.table.normal_(std=0.5)  # what they say does not matter to the speed
    sizes: dict[str, Any] = {"words": vectors, "hidden": hidden, "dropout": 0}
    return DIM(**sizes) if name == "dim" else {"hre": HRE, "imn": IMN}[name](fusion=fusion, **sizes)


def scoring(score: Callable[..., Tensor], batches: Sequence[tuple[list[str], Sequence[Any]]], half: bool) -> Score:
    """A function that scores batches of named cases."""

    def run() -> list[tuple[list[str], Tensor]]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return [(names, score(*inputs).float()) for names, inputs in batches]

    return run


def seconds(score: Score) -> tuple[float, dict[str, Tensor]]:
    """How long it takes, and the scores of each case."""
    start = time.perf_counter()
    found = score()
    taken = time.perf_counter() - start
    return taken, {name: row for names, rows in found for name, row in zip(names, rows, strict=True)}


def right(scores: dict[str, Tensor], cases: Sequence[Example]) -> float:
    """The share of cases whose true reply has the greatest score."""
    hits = [case.target.candidates[int(scores[case.id].argmax())] == case.target.text for case in cases]
    return sum(hits) / len(hits)


def measure(
    dialogues: Sequence[Dialogue],
    *,
    system: str,
    hidden: int,
    cases: int,
    batch: int,
    runs: int,
    precision: str,
    backbone: str | None,
    run: str | None,
    seed: int,
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples."""
    half = precision != "32-true"
    if half and run is None:
        raise InputError("--precision: whether half of it changes a choice is seen of a trained model; name its --run")
    torch.manual_seed(seed)
    found = examples(offered(dialogues)[0])
    if len(found) < cases:
        raise InputError(f"--cases: {cases} are more than the file's {len(found)} examples: ask for fewer")
    if len({len(case.target.candidates) for case in found}) > 1:
        raise InputError("--data: cases of different numbers of candidates cannot be compared")
    chosen = sorted(random.Random(seed).sample(range(len(found)), cases))
    sample = [found[place] for place in chosen]
    if run is None:
        task: Any = Selection(model=made(system, dialogues, hidden=hidden, backbone=backbone)).eval()
    else:
        task, system = load(run), Path(run).name
    if not isinstance(task.model, BERT | DIM | HRE | IMN):
        raise InputError(f"--run {run}: there is no plain version of its model; name a run of bert, dim, hre or imn")
    if isinstance(task.model, BERT) and isinstance(task.model.encoder, SharedEncoder):
        raise InputError(f"--run {run}: plain BERT reads the context for each candidate; name a run without `shared`")
    if isinstance(task.model, HRE | IMN) and task.model.personas > 1:
        raise InputError(f"--run {run}: plain HRE and IMN read one persona; name a run that is not made for both")
    if isinstance(task.model, IMN) and any((task.model.added, task.model.aggregation, task.model.beside)):
        raise InputError(f"--run {run}: plain IMN has no fusion ctx or utr, no aggregation by attention and no HRE")
    start = time.perf_counter()
    batches = [([one.id for one in each.examples], tuple(each.inputs)) for each in task.held_out(sample)]
    building = time.perf_counter() - start
    ours = scoring(task.model.score, batches, half)
    plain: dict[str, Score] = {}
    if isinstance(task.model, BERT):
        model = PlainBERT(task.model).eval()
        alone = [([case.id], PlainBERT.inputs(task.model.collate([case]))) for case in sample]
        plain = {"32-true": scoring(model.score, alone, False)}
        if half:
            plain[precision] = scoring(model.score, alone, True)
    else:
        for order, ordered in (("file order", sample), ("by length", sorted(sample, key=task.model.size))):
            parts = [ordered[place : place + batch] for place in range(0, cases, batch)]
            given = [([c.id for c in part], PlainMatcher.inputs(task.model.collate(part))) for part in parts]
            for reading in get_args(Reading):
                matcher = PlainMatcher(task.model, reading).eval()
                plain[f"{reading}, {order}"] = scoring(matcher.score, given, False)

    _, answers = seconds(ours)  # a first pass allocates and picks kernels
    tried = {name: seconds(one) for name, one in plain.items()}
    print("plain:", *(f"{name} {taken:.2f} s" for name, (taken, _) in tried.items()), file=sys.stderr)
    padding = [name for name in tried if not name.startswith("packed")]
    fastest, padded = (min(names, key=lambda name: tried[name][0]) for names in (tried, padding))
    times: dict[str, list[float]] = {"ours": [], fastest: [], padded: []}
    for number in range(runs):
        for name, taken in times.items():
            taken.append(seconds({"ours": ours, **plain}[name])[0])
        said = (f"{name} {cases / taken[-1]:.4g}" for name, taken in times.items())
        print(f"run {number + 1}, cases a second:", "; ".join(said), file=sys.stderr)
    ratios = {name: [b / a for a, b in zip(times["ours"], taken, strict=True)] for name, taken in times.items()}
    others = tried["32-true" if "32-true" in tried else fastest][1]
    difference = max(float((answers[case.id] - others[case.id]).abs().max()) for case in sample)
    same = [int(answers[case.id].argmax()) == int(others[case.id].argmax()) for case in sample]
    changed = abs(right(answers, sample) - right(others, sample))
    return {
        "what": f"cases of {len(sample[0].target.candidates)} candidates a second, {system}, {precision}",
        "ratio": statistics.median(ratios[fastest]),
        "ours": cases / statistics.median(times["ours"]),
        "theirs": cases / statistics.median(times[fastest]),
        "unit": "cases a second",
        "runs": runs,
        "equal": (changed <= max(0.003, 1 / cases) and sum(same) >= 0.98 * cases) if half else difference <= 1e-3,
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "cases": cases,
        "ratios": ratios[fastest],
        "ratio_padded": statistics.median(ratios[padded]),
        "with_building": cases / (statistics.median(times["ours"]) + building),
        "difference": difference,
        "same_first": sum(same) / cases,
        "variants": {name: cases / taken for name, (taken, _) in tried.items()},
        "taken": fastest,
    }


def _said(result: dict[str, Any]) -> str:
    alike = "the same scores" if result["difference"] <= 1e-3 else f"{result['same_first']:.1%} of first choices alike"
    return (
        f"{result['what']}: {result['ours']:.1f}, plain {result['theirs']:.1f} ({result['taken']}), "
        f"{result['ratio']:.2f} times as fast, {result['ratio_padded']:.2f} times where plain pads; "
        f"{alike if result['equal'] else 'OTHER scores'}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "")
    parser.add_argument("--system", choices=SYSTEMS, default="dim", help="what is measured")
    parser.add_argument("--cases", type=command.positive, default=320, help="how many are scored")
    parser.add_argument("--batch", type=command.positive, default=32, help="cases a batch of the plain matchers")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of ours")
    parser.add_argument("--run", help="a run folder, whose model takes the place of an untrained one")
    parser.add_argument("--backbone", help="of bert; MiniLM's package if not given")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
