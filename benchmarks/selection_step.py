"""One training step of IMN with 20 candidates: ours against the published algorithm written plainly.

The plain version is `plain.PlainMatcher`, which says what it does; of two ways to give `nn.LSTM` padded sentences and
get the right answer, the faster is taken.

Timed are the forward pass, the backward pass and Adam's step; building the batch is not, on either side. Batches are
drawn at random, not bucketed. Both sides have the same weights, type and threads and no dropout. Every step starts from
the same weights, and each pair's scores, and the gradients of four parameters, are compared.
"""

import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, get_args

import command
import torch
from plain import Padded, PlainMatcher, Reading
from torch import Tensor, nn

from personae.data.candidates import examples, offered
from personae.models.selection.imn import IMN
from personae.nn.dialogue_batch import DialogueBatch
from personae.nn.persona_fusion import Fusion
from personae.nn.words import Words
from personae.results import environment
from personae.tasks.selection import texts
from personae.text import Vocabulary, words
from personae.types import Dialogue, InputError


class Side:
    """One of the two that are compared: a model, its optimizer, and the weights that every step starts from."""

    def __init__(self, model: IMN | PlainMatcher) -> None:
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.first = [parameter.detach().clone() for parameter in self.trained]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-3)

    def step(self, batch: DialogueBatch, plain: Sequence[Padded]) -> tuple[float, list[Tensor]]:
        """The seconds of a step, and what must be equal: the scores, then four gradients."""
        with torch.no_grad():
            for parameter, first in zip(self.trained, self.first, strict=True):
                parameter.copy_(first)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        scores = self.model.score(batch) if isinstance(self.model, IMN) else self.model.score(*plain)
        nn.functional.cross_entropy(scores, batch.target).backward()
        self.optimizer.step()
        return time.perf_counter() - start, [scores.detach(), *self._gradients()]

    def _gradients(self) -> list[Tensor]:
        model, found = self.model, [self.model.words.spelling.weight.grad, self.model.classifier.hidden.weight.grad]
        if isinstance(model, IMN):
            found += [model.matching.input.grad, model.matching.recurrent.grad]
        else:
            found += model.matching.gradients()
        return [gradient for gradient in found if gradient is not None]


def equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether scores are the same to 0.0001 and gradients to a thousandth of their norm."""
    (scores, *gradients), (others, *other_gradients) = ours, theirs
    return bool((scores - others).abs().max() <= 1e-4) and all(
        bool((one - other).norm() <= 1e-3 * one.norm()) for one, other in zip(gradients, other_gradients, strict=True)
    )


def measure(
    dialogues: Sequence[Dialogue], *, hidden: int, cases: int, batches: int, runs: int, fusion: Fusion, seed: int
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples."""
    torch.manual_seed(seed)
    vectors = Words(dropout=0)
    vectors.set_extra_state(
        {"vocabulary": Vocabulary.of([words(text) for text in texts(dialogues)]).words[2:], "unseen": []}
    )
    vectors.table.normal_()  # what they say does not matter to the speed
    model = IMN(words=vectors, fusion=fusion, hidden=hidden, dropout=0)
    found = examples(offered(dialogues)[0])
    if len(found) < cases:
        raise InputError(f"--cases: {cases} are more than the file's {len(found)} examples: ask for fewer")
    drawn = random.Random(seed)
    inputs = []
    for _ in range(batches):
        batch = model.collate(drawn.sample(found, cases))
        inputs.append((batch, PlainMatcher.inputs(batch)))

    ours, plain = Side(model), {reading: Side(PlainMatcher(model, reading)) for reading in get_args(Reading)}
    for side in (ours, *plain.values()):  # a first step allocates and picks kernels
        side.step(*inputs[0])
    tried = [{reading: side.step(*inputs[0])[0] for reading, side in plain.items()} for _ in range(2)]
    variants = {reading: min(seconds[reading] for seconds in tried) for reading in plain}
    print("plain:", *(f"{reading} {seconds:.2f} s" for reading, seconds in variants.items()), file=sys.stderr)
    theirs = plain[min(variants, key=variants.__getitem__)]
    pairs, same = [], True
    for run in range(runs):
        for place, one in enumerate(inputs):
            (a, results), (b, others) = ours.step(*one), theirs.step(*one)
            pairs.append((a, b))
            same &= equal(results, others)
            print(f"run {run + 1}, batch {place + 1}: {a:.2f} s, plain {b:.2f} s", file=sys.stderr)
    return {
        "what": f"a training step of IMN, fusion {fusion}, hidden {hidden}, on {cases} cases",
        "ratio": statistics.median(b / a for a, b in pairs),
        "ours": statistics.median(a for a, _ in pairs),
        "theirs": statistics.median(b for _, b in pairs),
        "unit": "seconds",
        "runs": runs,
        "equal": same,
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "ratios": [b / a for a, b in pairs],
        "variants": variants,
    }


def _said(result: dict[str, Any]) -> str:
    return (
        f"{result['what']}: {result['ours']:.2f} s, plain {result['theirs']:.2f} s, {result['ratio']:.2f} times as "
        f"fast; {'the same' if result['equal'] else 'OTHER'} scores and gradients"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "")
    parser.add_argument("--cases", type=command.positive, default=16, help="examples a batch")
    parser.add_argument("--batches", type=command.positive, default=5, help="different batches")
    parser.add_argument("--fusion", choices=get_args(Fusion), default="ra", help="persona fusion")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
