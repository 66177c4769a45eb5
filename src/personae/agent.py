"""The agent: a model that answers as the right person."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Literal, Self

import torch

from personae import run
from personae.tasks.base import Task
from personae.text import UNKNOWN, words
from personae.types import (
    Attention,
    Dialogue,
    Effect,
    Example,
    Explained,
    InputError,
    Persona,
    Ranked,
    Speaker,
    Turn,
)

Owner = Literal["self", "partner"]
OWNERS: tuple[Owner, ...] = ("self", "partner")

log = logging.getLogger(__name__)


COMPANY = 100
"""Among how many candidates, the best, it is told what a persona line does to one: to score them all again without each
line would take long where there are thousands."""


class Agent:
    """Ranks replies with a loaded model."""

    def __init__(self, task: Task) -> None:
        self.task: Any = task.eval()  # with what ranking asks of it
        self._said: set[str] = set()

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
        said so far in turn, the partner's utterance last. What the model does not read is left out, with a
        warning. For the first `explain` candidates, `fact` is the line of `persona` that weighed most: the one
        without which the score falls most. InputError where there is no candidate, or a text is empty.
        """
        if explain < 0:
            raise InputError(f"explain: {explain} is less than 0; say of how many candidates to name the line")
        example = self.case(candidates=candidates, persona=persona, context=context, partner=partner)
        scores, order = self._ranked(example)
        facts = map(_weightiest, self._effects(example, scores, order[:explain], ("self",)) if explain else [])
        return [
            Ranked(example.target.candidates[place], scores[place], place, fact)
            for place, fact in zip_longest(order, facts)
        ]

    def explain(self, example: Example, *, top: int = 1) -> list[Explained]:
        """Why the first `top` candidates have their place, best first, and the true reply, where it is known and none
        of them. `example` is one of a corpus, or what `case` makes of texts. InputError where `top` is less than 1, or
        it has no candidates."""
        if top < 1:
            raise InputError(f"top: {top} is not at least 1")
        if not example.target.candidates:
            raise InputError(f"example: {example.id} has no candidates; give it some, as data.candidates.draw does")
        scores, order = self._ranked(example)
        reply, candidates = example.target.text, example.target.candidates
        chosen = order[:top]
        if reply and reply in candidates and reply not in (candidates[place] for place in chosen):
            chosen.append(candidates.index(reply))
        shares = self._log_shares(example, scores)
        explained = []
        for place, effects in zip(chosen, self._effects(example, scores, chosen), strict=True):
            attention, weights = self._looks(example, place)
            if weights:
                effects = [replace(effect, weight=weight) for effect, weight in zip(effects, weights, strict=True)]
            explained.append(
                Explained(
                    text=candidates[place],
                    score=scores[place],
                    index=place,
                    rank=order.index(place) + 1,
                    log_share=shares[place] if shares else None,
                    effects=tuple(effects),
                    attention=attention,
                )
            )
        return explained

    def case(
        self,
        *,
        candidates: Sequence[str],
        persona: Sequence[str] = (),
        context: Sequence[str] = (),
        partner: Sequence[str] = (),
    ) -> Example:
        """The example that texts make, given as `rank` is given them; its true reply is not known. A model that needs
        no training is prepared for its candidates."""
        candidates, persona = _texts("candidates", candidates), _texts("persona", persona)
        context, partner = _texts("context", context), _texts("partner", partner)
        if not candidates:
            raise InputError("candidates: there are none to rank; give at least one reply")
        self._warn(persona, "self")
        self._warn(partner, "partner")
        persona, partner = self._read(persona, "self"), self._read(partner, "partner")
        self._warn_of_cuts(persona + partner, context, candidates)
        example = _example(candidates, persona, context, partner)
        if not hasattr(self.task.model, "loss"):
            self.task.model.prepare(candidates)
        return example

    def _warn(self, lines: tuple[str, ...], whose: Owner) -> None:
        """Says which lines of a persona the model does not read."""
        read, owner = self._read(lines, whose), {"self": "the one who replies", "partner": "the other speaker"}[whose]
        if lines and not read:
            log.warning(
                "this model reads no persona of %s (persona: %s); it is left out", owner, self.task.model.persona
            )
        elif len(read) < len(lines):
            log.warning("this model reads the first %d lines about %s; the rest is left out", len(read), owner)

    def _warn_of_cuts(self, lines: Sequence[str], context: Sequence[str], candidates: Sequence[str]) -> None:
        """Says, once, what the model does not read since it is too long."""
        limits = getattr(self.task.model, "limits", None)
        if limits is None:
            return
        said = context[-limits.utterances :]
        cuts = {f"the last {limits.utterances} utterances; what was said before": len(said) < len(context)}
        for what, texts, most in (
            ("a persona line", lines, limits.line_words),
            ("an utterance", said, limits.utterance_words),
            ("a candidate", candidates, limits.reply_words),
        ):
            cuts[f"the first {most} words of {what}; the rest"] = any(len(words(text)) > most for text in texts)
        for what in [what for what, cut in cuts.items() if cut and what not in self._said]:
            self._said.add(what)
            log.warning("this model reads %s is left out (task.model.limits)", what)

    def _read(self, lines: tuple[str, ...], whose: Owner) -> tuple[str, ...]:
        """The lines of a persona that the model reads."""
        if self.task.model.persona not in (whose, "both"):
            return ()
        limits = getattr(self.task.model, "limits", None)
        return lines if limits is None else lines[: limits.lines]

    def _ranked(self, example: Example) -> tuple[list[float], list[int]]:
        """The scores of the candidates, and their places, best first."""
        scores = self._scores(example)
        return scores, sorted(range(len(scores)), key=lambda place: -scores[place])

    def _scores(self, example: Example) -> list[float]:
        """Of all candidates."""
        with torch.inference_mode():
            return self.task.scores([example], self.task.parts([example]).to(self.task.device))[0]

    def _effects(
        self, example: Example, scores: Sequence[float], places: Sequence[int], owners: Sequence[Owner] = OWNERS
    ) -> list[list[Effect]]:
        """For each candidate at `places`, what each line of the personas of `owners` does to it, among the `COMPANY`
        best ones."""
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[:COMPANY]
        company = list(dict.fromkeys([*places, *best]))
        among = tuple(example.target.candidates[place] for place in company)
        example = replace(example, target=replace(example.target, candidates=among))
        scores = [scores[place] for place in company]
        whole = self._log_shares(example, scores) or scores
        effects: list[list[Effect]] = [[] for _ in places]
        sequences = self._sequences(example)
        for whose in owners:
            lines = self._read(example.facts(whose), whose)
            for number, line in enumerate(lines):
                less = _with_persona(example, whose, lines[:number] + lines[number + 1 :])
                if sequences is not None and sequences == self._sequences(less):
                    changes: list[float | None] = [None] * len(places)
                else:
                    left = self._scores(less)
                    left = self._log_shares(example, left) or left
                    changes = [left[place] - whole[place] for place in range(len(places))]
                for found, change in zip(effects, changes, strict=True):
                    found.append(Effect(whose, line, change))
        return effects

    def _sequences(self, example: Example) -> Any:
        """What the model reads of a case; None where it does not say."""
        model = self.task.model
        return model.sequences([example]) if hasattr(model, "sequences") else None

    def _log_shares(self, example: Example, scores: Sequence[float]) -> list[float]:
        """What can be compared between personas where a score cannot: a logit means something beside those of other
        candidates only, so it becomes the logarithm of a share. Empty where a score is a similarity, which can be
        compared, or no two candidates differ, so that shares never change."""
        if self.scale != "logit" or len(set(example.target.candidates)) < 2:
            return []
        shares: list[float] = torch.tensor(scores).log_softmax(0).tolist()
        return shares

    def _looks(self, example: Example, place: int) -> tuple[tuple[Attention, ...], list[float]]:
        """Where the candidate at `place` looks, and how much attention persona fusion pays to each line that is read;
        nothing where the model does not say, or has nothing to look at."""
        model, target = self.task.model, example.target
        alone = replace(target, candidates=target.candidates[place : place + 1])
        batch = model.collate([replace(example, target=alone)]).to(self.task.device)
        with torch.inference_mode():
            found = model.attention(batch)[0][0] if hasattr(model, "attention") else ()
            weights = model.line_weights(batch) if hasattr(model, "line_weights") else ()
            of_lines = [weight for persona in weights for weight in persona[0, 0].tolist()]
        return tuple(one for one in found if one.sentences != ((UNKNOWN,),)), of_lines


def _texts(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, Iterable) and not isinstance(texts, str):
        listed = tuple(texts)
        if all(isinstance(text, str) for text in listed):
            for place, text in enumerate(listed):
                if not text.strip():
                    raise InputError(f"{name}: number {place}, counted from 0, is empty; leave it out")
            return listed
    raise InputError(f"{name}: a list of texts is wanted")


def _example(
    candidates: Sequence[str], persona: Sequence[str], context: Sequence[str], partner: Sequence[str]
) -> Example:
    """Speaker 1 replies; the last utterance of the context is speaker 0's."""
    speakers = (Speaker("partner", Persona(tuple(partner))), Speaker("self", Persona(tuple(persona))))
    turns = tuple(Turn((len(context) - 1 - place) % 2, text) for place, text in enumerate(context))
    return Example(Dialogue("dialogue", speakers, turns), Turn(1, "", tuple(candidates)))


def _with_persona(example: Example, whose: Owner, facts: tuple[str, ...]) -> Example:
    place = example.target.speaker if whose == "self" else 1 - example.target.speaker
    first, second = (
        replace(speaker, persona=Persona(facts)) if number == place else speaker
        for number, speaker in enumerate(example.context.speakers)
    )
    return replace(example, context=replace(example.context, speakers=(first, second)))


def _weightiest(effects: Sequence[Effect]) -> str | None:
    """The line without which the score falls most, None where none falls."""
    most = min(effects, key=lambda effect: effect.change or 0.0, default=None)
    return most.line if most and (most.change or 0.0) < -1e-6 else None
