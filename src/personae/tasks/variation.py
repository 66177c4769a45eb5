"""Personas told in another way in each epoch, so that a model does not learn them by heart."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from personae.types import Example, InputError, Persona


@dataclass(frozen=True)
class Variation:
    """In each epoch the lines of a persona come in another order, and each word of a line of four or more is left out
    with probability `words`. One dialogue in so many lacks all lines of the replier (`replier`), or of the partner
    (`partner`); all are between 0 and 1. All replies of one side of a dialogue are told the same in one epoch."""

    replier: float = 0.05
    partner: float = 0.15
    words: float = 0.1

    def __post_init__(self) -> None:
        for name in ("replier", "partner", "words"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"task.variation.{name}: {getattr(self, name)} is not at least 0 and less than 1")

    def apply(self, examples: Sequence[Example], *, seed: str) -> list[Example]:
        """The examples with other personas."""
        told: dict[tuple[str, int], tuple[Persona, ...]] = {}
        found = []
        for example in examples:
            side = example.context.id, example.target.speaker
            if side not in told:
                told[side] = self._told(example, random.Random(f"{seed}/{side[0]}/{side[1]}"))
            one, other = (
                replace(speaker, persona=persona)
                for speaker, persona in zip(example.context.speakers, told[side], strict=True)
            )
            found.append(replace(example, context=replace(example.context, speakers=(one, other))))
        return found

    def _told(self, example: Example, drawn: random.Random) -> tuple[Persona, ...]:
        personas = []
        for place, speaker in enumerate(example.context.speakers):
            facts = speaker.persona.facts
            absent = drawn.random() < (self.replier if place == example.target.speaker else self.partner)
            shuffled = [] if absent else drawn.sample(facts, len(facts))
            personas.append(Persona(tuple(self._fewer(line, drawn) for line in shuffled)))
        return tuple(personas)

    def _fewer(self, line: str, drawn: random.Random) -> str:
        words = line.split()
        if len(words) < 4:
            return line
        return " ".join(word for word in words if drawn.random() >= self.words) or line
