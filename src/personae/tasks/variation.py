"""Dialogues told in another way in each epoch, so that a model does not learn them by heart."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from personae.data.rewordings import Rewordings, digest, read
from personae.data.texts import with_personas
from personae.types import Example, InputError, Persona, Turn


@dataclass(frozen=True)
class Variation:
    """In each epoch the lines of a persona come in another order; each is `reworded` with that probability, where
    `rewordings` knows it (a file of `personae.data.rewordings`; None is the one that comes with the package), and each
    word of a line of four or more is left out with probability `words`, of an utterance that is answered with
    probability `said`. One dialogue in so many lacks all lines of the replier (`replier`), or of the partner
    (`partner`); all are at least 0 and less than 1. All replies of one side of a dialogue are told the same in one
    epoch."""

    replier: float = 0.05
    partner: float = 0.15
    words: float = 0.1
    said: float = 0.0
    reworded: float = 0.0
    rewordings: str | None = None

    def __post_init__(self) -> None:
        for name in ("replier", "partner", "words", "said", "reworded"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"task.variation.{name}: {getattr(self, name)} is not at least 0 and less than 1")

    def apply(self, examples: Sequence[Example], *, seed: str) -> list[Example]:
        """The examples, told in another way. InputError where the rewordings cannot be read."""
        known = read(self.rewordings) if self.reworded else {}
        told: dict[tuple[str, int], tuple[Persona, ...]] = {}
        found = []
        for example in examples:
            dialogue, side = example.context, example.target.speaker
            own = f"{seed}/{dialogue.id}/{side}"
            if (dialogue.id, side) not in told:
                told[dialogue.id, side] = self._told(example, known, random.Random(own))
            turns = self._said(dialogue.turns, own) if self.said else dialogue.turns
            context = with_personas(replace(dialogue, turns=turns), told[dialogue.id, side])
            found.append(replace(example, context=context))
        return found

    def _told(self, example: Example, known: Rewordings, drawn: random.Random) -> tuple[Persona, ...]:
        personas = []
        for place, speaker in enumerate(example.context.speakers):
            facts = speaker.persona.facts
            absent = drawn.random() < (self.replier if place == example.target.speaker else self.partner)
            shuffled = [] if absent else drawn.sample(facts, len(facts))
            personas.append(Persona(tuple(self._line(line, known, drawn) for line in shuffled)))
        return tuple(personas)

    def _line(self, line: str, known: Rewordings, drawn: random.Random) -> str:
        if drawn.random() < self.reworded and (others := known.get(digest(line))):
            line = drawn.choice(others)
        return _fewer(line, self.words, drawn)

    def _said(self, turns: Sequence[Turn], seed: str) -> tuple[Turn, ...]:
        """Each turn is told the same however many follow it."""
        return tuple(
            replace(turn, text=_fewer(turn.text, self.said, random.Random(f"{seed}/{place}")))
            for place, turn in enumerate(turns)
        )


def _fewer(text: str, share: float, drawn: random.Random) -> str:
    """The text without some words, where it has four or more."""
    words = text.split()
    if len(words) < 4:
        return text
    return " ".join(word for word in words if drawn.random() >= share) or text
