"""Response generation: write the reply that a user would give."""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

from torch import Tensor

from personae.data.candidates import Draw, Sides, examples
from personae.metrics.compare import Interval
from personae.metrics.ngram import NgramModels
from personae.metrics.per_hits import MOST, chance, spoken
from personae.metrics.per_hits import rows as ranked
from personae.metrics.ranking import ranks
from personae.metrics.text import ceiling, corpus, measure, per_reply
from personae.nn.decoding import Decoding
from personae.nn.newcomers import tables
from personae.tasks.base import Batch, Batches, Lazily, Model, Task, bucketed
from personae.tasks.negatives import Negatives
from personae.tasks.optimization import Optimization
from personae.text import words
from personae.types import Dialogue, Example, InputError, Spoken, check

log = logging.getLogger(__name__)

Select = Literal["per-hits-avg", "log-likelihood", "f1"]
"""What the best weights are best in, on "dev": Per-Hits@k averaged over k up to 5, the mean log-likelihood of a token
of the real replies, or the token F1 of the generated ones."""


class Generator(Model, Protocol):
    """A model that writes replies. Besides these methods it has `tokens`, a name for what it writes one by one."""

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns what is not trained by gradients: a vocabulary, and who answers (speaker 1) what."""
        ...

    def size(self, example: Example) -> int:
        """How much work an example is: batches are made of examples that are alike."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """The mean negative log-likelihood of a token of the replies."""
        ...

    def log_likelihood(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Of each reply (B,), the log-likelihood in nats, and the number of its tokens, the end among them."""
        ...

    def generate(self, batch: Any, decoding: Decoding) -> list[list[str]]:
        """Of each example so many replies as `decoding` says, the best first."""
        ...


class Judges:
    """A trigram model of each user, of what they said, by which Per-Hits ranks the users of a reply."""

    def __init__(self, histories: Mapping[str, Sequence[str]]) -> None:
        self.users = list(histories)
        self.models = NgramModels([list(map(spoken, said)) for said in histories.values()])
        self._ranks: dict[tuple[str, str], float] = {}

    def judged(self, rows: Sequence[Spoken]) -> list[Spoken]:
        """The rows with the ranks of their users by what was generated and by what was really said."""
        users, n = [row.user for row in rows], len(self.users)
        own = self._places([row.text for row in rows], users)
        real = self._places([row.reference for row in rows], users)
        return [replace(row, rank=a, real=b, users=n) for row, a, b in zip(rows, own, real, strict=True)]

    def _places(self, texts: Sequence[str], users: Sequence[str]) -> list[float]:
        """The place of each text's user among all, from 1; equal ones share theirs."""
        pairs = list(zip(texts, users, strict=True))
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._ranks]:
            perplexities = self.models.perplexities([spoken(text) for text, _ in new])
            found = ranks(ranked(perplexities, self.users, [user for _, user in new]))
            self._ranks.update(zip(new, found.tolist(), strict=True))
        return [self._ranks[pair] for pair in pairs]


class Generation(Task):
    """Trains a generator on the likelihood of replies; on held-out ones it also writes some by `decoding`, and the
    weights are kept that are best by `select`. A model that learns to choose replies, too, is given wrong ones by
    `negatives`. The defaults of `decoding` and `select` are those of the tensor-factorization paper (section 5.4)."""

    def __init__(
        self,
        *,
        model: Generator,
        batch_size: int = 64,
        negatives: Negatives | None = None,
        optimization: Optimization = Optimization(decay=1.0),  # noqa: B008 - frozen
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        select: Select = "per-hits-avg",
        average: float = 0.0,
    ) -> None:
        super().__init__(model=model, batch_size=batch_size, optimization=optimization, average=average)
        check("task.select", select, Select)
        self.negatives, self.decoding, self.monitor = negatives, decoding, select
        self._judges: tuple[dict[str, tuple[str, ...]], Judges | None] = ({}, None)

    def cases(
        self, dialogues: Sequence[Dialogue], where: str, *, n: int = 20, seed: int = 0, sides: Sides = "second"
    ) -> tuple[list[Example], Draw | None]:
        """The replies; whose users the model does not know is said. InputError where there are none."""
        cases = examples(dialogues, sides=sides)
        if not cases:
            raise InputError(f"{where}: holds no reply to a turn before it; let speaker 1 be the one who replies")
        known = {name for table in tables(self.model).values() for name in table.names}
        users = {case.user.id for case in cases}
        if known and (strangers := users - known):
            log.warning(
                "%s: %d of %d users, such as %s, are not known from the training, and the model answers as the average "
                "one for them",
                where,
                len(strangers),
                len(users),
                min(strangers),
            )
        return cases, None

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Gives the model the dialogues. InputError where weights are to be selected by Per-Hits, and too few users, or
        not all of them, have a history."""
        histories = {dialogue.speakers[1].id: dialogue.speakers[1].history for dialogue in dialogues}
        if self.monitor == "per-hits-avg" and not _told(histories):
            raise InputError(
                f"task.select: {self.monitor} wants at least {MOST} users, each of whom has a history; take a corpus "
                "of users, or select by log-likelihood"
            )
        self.model.prepare(dialogues)

    def batches(self, examples: Sequence[Example], *, rank: int = 0, processes: int = 1) -> Batches:
        """Training batches, bucketed by size."""
        sizes = {id(example): self.model.size(example) for example in examples}
        if self.negatives is not None:
            self.negatives.start(examples)

        @lru_cache(maxsize=1)
        def plan(epoch: int) -> list[list[Example]]:
            units = [[example] for example in examples]
            seed = f"{self.seed}/{epoch}"
            batches = bucketed(units, lambda example: sizes[id(example)], batch_size=self.batch_size, seed=seed)
            if self.negatives is None:
                return batches
            drawn = random.Random(seed)
            return [filled for batch in batches if (filled := self.negatives.fill(batch, epoch=epoch, drawn=drawn))]

        return Batches(plan, self.model.collate, rank=rank, processes=processes)

    def loss(self, batch: Batch) -> Tensor:
        """The model's."""
        loss: Tensor = self.model.loss(batch.inputs)
        return loss

    def held_out(self, examples: Sequence[Example]) -> Sequence[Batch]:
        """Batches of like size, in a random order. Users are told apart where each of them has a history."""
        histories = {example.user.id: example.user.history for example in examples}
        if histories != self._judges[0]:
            self._judges = histories, Judges(histories) if _told(histories) else None
        ordered = sorted(examples, key=self.model.size)
        batches = [ordered[start : start + 64] for start in range(0, len(ordered), 64)]
        return Lazily(random.Random(0).sample(batches, len(batches)), self.model.collate)

    def rows_of(self, batch: Batch) -> list[Spoken]:
        """What the model writes, and what it thinks of the real replies."""
        likelihoods, tokens = (each.tolist() for each in self.model.log_likelihood(batch.inputs))
        texts = [each[0] for each in self.model.generate(batch.inputs, self.decoding)]
        rows = [
            Spoken(example.id, example.user.id, text, example.target.text, -likelihood, n)
            for example, text, likelihood, n in zip(batch.examples, texts, likelihoods, tokens, strict=True)
        ]
        return rows if self._judges[1] is None else self._judges[1].judged(rows)

    def values(self, rows: Sequence[Spoken]) -> dict[str, float]:
        """Each metric, and "log-likelihood"."""
        found = {name: each.value for name, each in corpus(rows, tokens=self.model.tokens).items()}
        found |= {name: sum(each) / len(each) for name, each in per_reply(rows).items()}
        found["log-likelihood"] = -sum(row.nll for row in rows) / sum(row.tokens for row in rows)
        return found

    def measure(self, rows: Sequence[Spoken]) -> dict[str, Interval]:
        """Each metric, with its interval over users."""
        return measure(rows, tokens=self.model.tokens)

    def beside(self, rows: Sequence[Spoken]) -> dict[str, Any]:
        """Of Per-Hits@k, what real replies reach ("real"), and guessing ("chance"); of Distinct, too, the former."""
        if any(row.real is None for row in rows):
            return {}
        names = ("per-hits", "distinct")
        real = measure(ceiling(rows), tokens=self.model.tokens)
        return {
            "real": {name: asdict(each) for name, each in real.items() if name.startswith(names)},
            "chance": chance(rows[0].users),
        }


def _told(histories: Mapping[str, Sequence[str]]) -> bool:
    """Whether there are users enough, and each of them said something."""
    return len(histories) >= MOST and all(any(map(words, said)) for said in histories.values())
