"""Response selection: choose the true reply among candidates."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from personae.data.candidates import Draw, Sides, examples, offered
from personae.metrics.compare import Interval, interval
from personae.metrics.ranking import metrics
from personae.nn.objective import Objective
from personae.tasks.base import Batch, Batches, Lazily, Model, Task, bucketed
from personae.tasks.negatives import Drawn, Negatives
from personae.tasks.optimization import Optimization
from personae.tasks.variation import Variation
from personae.types import Dialogue, Example, InputError, Row

log = logging.getLogger(__name__)

SCORED = 640
"""So many candidates, of one case or several, are scored at once."""


class Scorer(Model, Protocol):
    """A model that scores candidates. Besides these methods it has `persona`, whose persona it reads."""

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns from texts what is not trained by gradients; never told which of them is a true reply."""
        ...

    def score(self, batch: Any) -> Tensor:
        """Scores (cases, candidates); more is better."""
        ...


class Selector(Scorer, Protocol):
    """A scorer that is trained. Where it `shares_contexts`, it reads the contexts of one side of a dialogue as one,
    and is given them in one batch."""

    def size(self, example: Example) -> int:
        """How much work an example is: batches are made of examples that are alike."""
        ...

    def loss(self, batch: Any, objective: Objective) -> Tensor:
        """The scalar that training makes small: what `objective` makes of the scores."""
        ...


@runtime_checkable
class Remembering(Selector, Protocol):
    """A selector that keeps something of what it was trained on."""

    def remember(self, examples: Sequence[Example]) -> None:
        """Sees the training examples when its weights are trained."""
        ...


class Parts:
    """Inputs that `collate` makes of the same cases, to be scored one after another: more than one where a case has
    more candidates than are scored at once. Each is made when its turn comes, so that memory does not grow with
    them."""

    def __init__(
        self,
        collate: Callable[[Sequence[Example]], Any],
        examples: Sequence[Example],
        device: torch.device | str = "cpu",
    ) -> None:
        self.collate, self.examples, self.device = collate, examples, device

    def __iter__(self) -> Iterator[Any]:
        targets = [example.target for example in self.examples]
        for start in range(0, max(len(target.candidates) for target in targets), SCORED):
            some = [replace(target, candidates=target.candidates[start : start + SCORED]) for target in targets]
            cases = [replace(example, target=target) for example, target in zip(self.examples, some, strict=True)]
            yield self.collate(cases).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.collate, self.examples, device)


class Selection(Task):
    """Trains a selector: `negatives` says which wrong replies the true one is told apart from (`Drawn` if None),
    `objective` how, `variation` how personas are told (as they are, if None). `average` is the decay of
    a mean of the weights, which is measured and kept in their place; 0 for none. The defaults are the persona-fusion
    paper's (section 5.3)."""

    def __init__(
        self,
        *,
        model: Scorer,
        batch_size: int = 16,
        negatives: Negatives | None = None,
        variation: Variation | None = None,
        objective: Objective = Objective(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(),  # noqa: B008 - frozen
        average: float = 0.0,
    ) -> None:
        super().__init__(model=model, batch_size=batch_size, optimization=optimization, average=average)
        self.negatives, self.objective = negatives or Drawn(), objective
        self.variation = variation
        self.monitor = "mrr"

    def cases(
        self, dialogues: Sequence[Dialogue], where: str, *, n: int = 20, seed: int = 0, sides: Sides = "second"
    ) -> tuple[list[Example], Draw | None]:
        """The replies, with candidates, and their draw. InputError where one side's are wanted and there are none."""
        try:
            with_candidates, drawn = offered(dialogues, n=n, seed=seed, sides=sides)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        cases = examples(with_candidates, sides=sides)
        twice = sum(case.target.candidates.count(case.target.text) > 1 for case in cases)
        if twice:
            log.warning(
                "%s: %d of %d replies are among their candidates more than once, and can at best tie for the first "
                "place: no hit at 1",
                where,
                twice,
                len(cases),
            )
        if not cases and sides == "second":
            raise InputError(
                f"{where}: holds no reply of speaker 1 to a turn before it, the only ones that are measured; let "
                "speaker 1 be the one who replies, or give candidates to the turns that count"
            )
        return cases, drawn

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Gives the model every sentence of the dialogues and personas."""
        self.model.prepare(texts(dialogues))

    def batches(self, examples: Sequence[Example], *, rank: int = 0, processes: int = 1) -> Batches:
        """Training batches, bucketed by size, with candidates. InputError where no batch has any."""
        self.negatives.start(examples)
        units: dict[Any, list[Example]] = {}
        sharing = self._sharing()
        for place, example in enumerate(examples):
            side = example.context.id, example.target.speaker
            units.setdefault(side if sharing else place, []).append(example)
        sizes = {id(unit[-1]): self.model.size(unit[-1]) for unit in units.values()}

        @lru_cache(maxsize=1)
        def plan(epoch: int) -> list[list[Example]]:
            seed = f"{self.seed}/{epoch}"
            drawn = random.Random(seed)
            batches = bucketed(
                list(units.values()), lambda example: sizes[id(example)], batch_size=self.batch_size, seed=seed
            )
            if self.variation is not None:
                batches = [self.variation.apply(batch, seed=seed) for batch in batches]
            return [filled for batch in batches if (filled := self.negatives.fill(batch, epoch=epoch, drawn=drawn))]

        if not plan(0):
            raise InputError(
                f"task.batch_size: {self.batch_size} leaves {type(self.negatives).__name__} (task.negatives) no wrong "
                "reply in any batch; give more, or other negatives"
            )
        return Batches(plan, self.model.collate, rank=rank, processes=processes)

    def _sharing(self) -> bool:
        """Whether the model reads the contexts of one side of a dialogue as one."""
        return getattr(self.model, "shares_contexts", False)

    def loss(self, batch: Batch) -> Tensor:
        """What the objective makes of the model's scores."""
        return self.model.loss(batch.inputs, self.objective)

    def remember(self, examples: Sequence[Example]) -> None:
        """Shows the training examples to a model that keeps something of them."""
        if isinstance(self.model, Remembering):
            self.model.remember(examples)

    def held_out(self, examples: Sequence[Example]) -> Sequence[Batch]:
        """Batches of like size, or of one dialogue after another, made when they are asked for; in a random order, so
        that the first of them are a sample of all. One has 32 cases of 20 candidates, fewer of more, so that memory
        does not grow with these."""
        sized = hasattr(self.model, "size") and not self._sharing()
        ordered = sorted(examples, key=self.model.size) if sized else list(examples)
        batches: list[list[Example]] = []
        most = 0
        for example in ordered:
            most = max(most, len(example.target.candidates))
            if not batches or len(batches[-1]) == 32 or (len(batches[-1]) + 1) * most > SCORED:
                batches.append([])
                most = len(example.target.candidates)
            batches[-1].append(example)
        return Lazily(random.Random(0).sample(batches, len(batches)), self.parts)

    def parts(self, examples: Sequence[Example]) -> Parts:
        """The model's input, in parts where a single example has more candidates than are scored at once."""
        return Parts(self.model.collate, examples)

    def scores(self, examples: Sequence[Example], inputs: Parts) -> list[list[float]]:
        """Of each example, a score a candidate; candidates of the same text have the same, that of the first of them,
        since rounding may tell them apart."""
        rows = torch.cat([self.model.score(part) for part in inputs], 1).float().tolist()
        scores = []
        for example, row in zip(examples, rows, strict=True):
            first: dict[str, float] = {}
            scores.append([first.setdefault(*each) for each in zip(example.target.candidates, row, strict=False)])
        return scores

    def rows_of(self, batch: Batch) -> list[Row]:
        """One row of scores an example."""
        return [
            Row(
                example.id,
                example.context.id,
                tuple(scores),
                example.target.candidates.index(example.target.text),
            )
            for example, scores in zip(batch.examples, self.scores(batch.examples, batch.inputs), strict=True)
        ]

    def metrics(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """hits@k and reciprocal rank, one number a row."""
        return metrics(rows)

    def values(self, rows: Sequence[Row]) -> dict[str, float]:
        """The mean of each metric."""
        return {name: sum(each) / len(each) for name, each in self.metrics(rows).items()}

    def measure(self, rows: Sequence[Row]) -> dict[str, Interval]:
        """The mean of each metric, and its interval over dialogues."""
        dialogues = [row.dialogue for row in rows]
        return {name: interval(each, dialogues) for name, each in self.metrics(rows).items()}


def texts(dialogues: Iterable[Dialogue]) -> list[str]:
    """Every persona line and utterance, as often as it occurs; where a reply has candidates, all of them alike, so that
    nothing that is learnt from the texts knows which one is true."""
    return [
        text
        for dialogue in dialogues
        for part in (
            (fact for speaker in dialogue.speakers for fact in speaker.persona.facts),
            (text for turn in dialogue.turns for text in turn.candidates or (turn.text,)),
        )
        for text in part
    ]
