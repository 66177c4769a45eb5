"""The agent: a model that answers as the right person."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, Self

import torch

from personae import run
from personae.tasks.base import Task
from personae.types import Dialogue, Example, InputError, Persona, Ranked, Speaker, Turn

log = logging.getLogger(__name__)


class Agent:
    """Ranks replies with a loaded model."""

    def __init__(self, task: Task) -> None:
        self.task = task.eval()

    @classmethod
    def load(cls, model: str) -> Self:
        """An agent with the model of a run folder, or with one that needs no training, by its name ("minilm").
        InputError where there is none."""
        return cls(run.load(str(model)))

    @property
    def scale(self) -> str:
        """What its scores are: "similarity" or "logit"."""
        scale: str = self.task.model.scale
        return scale

    def rank(
        self,
        *,
        candidates: Sequence[str],
        persona: Sequence[str] = (),
        context: Sequence[str] = (),
        partner: Sequence[str] = (),
        explain: int = 0,
    ) -> list[Ranked]:
        """The candidates, best first; equal scores keep the order given.

        `persona` holds the lines about the one who replies, `partner` those about the other speaker, `context` what was
        said so far in turn, the partner's utterance last. Of both personas, what the model does not read is left out,
        with a warning. For the first `explain` candidates, `fact` is the line of `persona` that weighed most: the one
        without which the score falls most. InputError where there is no candidate.
        """
        candidates, persona = _texts("candidates", candidates), _texts("persona", persona)
        context, partner = _texts("context", context), _texts("partner", partner)
        if not candidates:
            raise InputError("candidates: there are none to rank; give at least one reply")
        persona, partner = self._read(persona, "self"), self._read(partner, "partner")
        example = _example(candidates, persona, context, partner)
        if not hasattr(self.task.model, "loss"):
            self.task.model.prepare(candidates)
        scores = self._scores(example)
        order = sorted(range(len(candidates)), key=lambda place: -scores[place])
        facts = self._facts(example, scores) if explain and persona else [None] * len(candidates)
        return [
            Ranked(candidates[place], scores[place], place, facts[place] if position < explain else None)
            for position, place in enumerate(order)
        ]

    def _read(self, lines: tuple[str, ...], whose: Literal["self", "partner"]) -> tuple[str, ...]:
        """The lines of a persona that the model reads; a warning says what is left out."""
        model, owner = self.task.model, {"self": "the one who replies", "partner": "the other speaker"}[whose]
        limits = getattr(model, "limits", None)
        if lines and model.persona not in (whose, "both"):
            log.warning("this model reads no persona of %s (persona: %s); it is left out", owner, model.persona)
            return ()
        if limits is not None and len(lines) > limits.lines:
            log.warning("this model reads the first %d lines about %s; the rest is left out", limits.lines, owner)
            return lines[: limits.lines]
        return lines

    def _scores(self, example: Example) -> list[float]:
        """Of all candidates, some at a time, so that memory does not grow with their number."""
        candidates = example.target.candidates
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(candidates), 256):
                part = replace(example, target=replace(example.target, candidates=candidates[start : start + 256]))
                batch = self.task.model.collate([part]).to(self.task.device)
                scores += self.task.model.score(batch)[0].float().tolist()
        return scores

    def _facts(self, example: Example, scores: Sequence[float]) -> list[str | None]:
        """For each candidate the line of the replier's persona without which its score falls most, None where none
        falls."""
        lines = example.facts("self")
        cases = [_with_persona(example, lines[:i] + lines[i + 1 :]) for i in range(len(lines))]
        whole, *without = (self._comparable(row) for row in (scores, *map(self._scores, cases)))
        facts: list[str | None] = []
        for place, score in enumerate(whole):
            falls = [score - left[place] for left in without]
            most = max(range(len(lines)), key=falls.__getitem__)
            facts.append(lines[most] if falls[most] > 1e-6 else None)
        return facts

    def _comparable(self, scores: Sequence[float]) -> list[float]:
        """Scores that can be compared between personas: a logit means something beside those of the other candidates
        only, so it becomes the logarithm of a share."""
        if self.scale != "logit":
            return list(scores)
        shares: list[float] = torch.tensor(scores).log_softmax(0).tolist()
        return shares


def _texts(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, Iterable) and not isinstance(texts, str):
        listed = tuple(texts)
        if all(isinstance(text, str) for text in listed):
            return listed
    raise InputError(f"{name}: a list of texts is wanted")


def _example(
    candidates: Sequence[str], persona: Sequence[str], context: Sequence[str], partner: Sequence[str]
) -> Example:
    """Speaker 1 replies; the last utterance of the context is speaker 0's."""
    speakers = (Speaker("partner", Persona(tuple(partner))), Speaker("self", Persona(tuple(persona))))
    turns = tuple(Turn((len(context) - 1 - place) % 2, text) for place, text in enumerate(context))
    return Example(Dialogue("dialogue", speakers, turns), Turn(1, "", tuple(candidates)))


def _with_persona(example: Example, facts: tuple[str, ...]) -> Example:
    partner, own = example.context.speakers
    return replace(example, context=replace(example.context, speakers=(partner, replace(own, persona=Persona(facts)))))
