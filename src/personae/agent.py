"""The agent: a model that answers as the right person."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Self, TypeVar

import torch

from personae import run
from personae.data.texts import Owner, example_of, listed, with_persona
from personae.metrics.calibration import Calibration
from personae.nn.processor import Numbers, fastest
from personae.tasks.base import Task
from personae.tasks.selection import SCORED
from personae.text import UNKNOWN, words
from personae.types import (
    Attention,
    Case,
    Effect,
    Example,
    Explained,
    InputError,
    Ranked,
    check,
)

OWNERS: tuple[Owner, ...] = ("self", "partner")

log = logging.getLogger(__name__)

WINDOW = 8 * SCORED
"""Of many cases, so many candidates are read before they are scored, those of like length together."""

COMPANY = 100
"""Among how many candidates, the best, it is told what a persona line does to one: to score them all again without each
line would take long where there are thousands."""

NOISE = {"32-true": 1e-6, "bf16-mixed": 0.1, "int8": 0.2}
"""By how much rounding may change a score, by what was read of a conversation before."""

_Item = TypeVar("_Item")


class Agent:
    """Ranks replies with a loaded model, which computes in a `precision`. Where that is "auto", a model that can be
    told of it (`compute_in`) takes the fastest of this processor, which rounds its scores a little, and others 32 bits.
    InputError where a model cannot compute in it."""

    def __init__(self, task: Task, *, name: str | None = None, precision: Numbers = "auto") -> None:
        self.name = name or type(task.model).__name__
        if not hasattr(task.model, "score"):
            raise InputError(f"{self.name}: writes replies, and ranks none; see `personae generate`, or Writer.load")
        self.task: Any = run.as_role(task, "selection", self.name).eval()  # with what ranking asks of it
        self._said: set[str] = set()
        check("precision", precision, Numbers)
        able = hasattr(self.task.model, "compute_in")
        if precision == "int8" and not able:
            raise InputError(f"precision: {self.name} cannot compute in int8; leave it out")
        if precision == "auto":
            precision = fastest() if able else "32-true"
        if able:
            self.task.model.compute_in(precision)
        self.precision: Numbers = precision

    @classmethod
    def load(cls, model: str, *, precision: Numbers = "auto") -> Self:
        """An agent with the model of a run folder, one that comes with the package or one that needs no training, by
        its name ("minilm"). InputError where there is none."""
        return cls(run.load(str(model)), name=str(model), precision=precision)

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
        without which the score falls most, and all are told what the persona `moved` them by. InputError where there
        is no candidate, a text is empty, or a score is not finite.
        """
        if explain < 0:
            raise InputError(f"explain: {explain} is less than 0; say of how many candidates to name the line")
        example = self.case(candidates=candidates, persona=persona, context=context, partner=partner)
        scores = self._scores(example)
        ranked = self._in_order(example, scores)
        places = [one.index for one in ranked[:explain]]
        effects = self._effects(example, scores, places, ("self",)) if explain else []
        facts = [_weightiest(each, NOISE[self.precision]) for each in effects]
        moved = self._moved(example, scores) if explain else [None] * len(scores)
        return [replace(one, fact=fact, moved=moved[one.index]) for one, fact in zip_longest(ranked, facts)]

    def none_fits(self, ranked: Sequence[Ranked]) -> float | None:
        """The probability that none of the candidates fits, all of which were `ranked`; None where the model is not
        calibrated. Where it is the greatest of all, better say nothing."""
        likely = {one.text: one.probability for one in ranked if one.probability is not None}
        return max(0.0, 1.0 - sum(likely.values())) if likely else None

    def rank_many(self, cases: Iterable[Case]) -> Iterator[list[Ranked] | InputError]:
        """Ranks one case after another as `rank` does, several at once. What it gives is in the order of the cases, and
        for one that cannot be ranked it is the InputError that says why. Memory does not grow with the cases, which are
        read some `WINDOW` candidates ahead. What the model does not read is told of once."""
        for window in together(map(self._examined, cases), _width, WINDOW):
            scores = self._each([one for one in window if isinstance(one, Example)])
            for one in window:
                yield self._judged(one, next(scores)) if isinstance(one, Example) else one

    def explain(self, example: Example, *, top: int = 1) -> list[Explained]:
        """Why the first `top` candidates have their place, best first, and the true reply, where it is known and none
        of them. `example` is one of a corpus, or what `case` makes of texts. InputError where `top` is less than 1, or
        it has no candidates."""
        if top < 1:
            raise InputError(f"top: {top} is not at least 1")
        if not example.target.candidates:
            raise InputError(f"example: {example.id} has no candidates; give it some, as data.candidates.draw does")
        scores = self._scores(example)
        order = _order(scores)
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
        example, unread = self._example(candidates, persona, context, partner)
        for what in unread:
            log.warning("%s", what)
        if not hasattr(self.task.model, "loss"):
            self.task.model.prepare(example.target.candidates)
        return example

    def _examined(self, case: Case) -> Example | InputError:
        """The example that a case makes, or what is wrong with it."""
        try:
            if strange := case.keys() - Case.__annotations__:
                raise InputError(f"{min(strange)}: is no part of a case, which are {', '.join(Case.__annotations__)}")
            about = case.get("persona", ()), case.get("context", ()), case.get("partner", ())
            example, unread = self._example(case.get("candidates", ()), *about)
        except InputError as error:
            return error
        for what in unread:
            self._say(what)
        return example

    def _example(
        self, candidates: Sequence[str], persona: Sequence[str], context: Sequence[str], partner: Sequence[str]
    ) -> tuple[Example, list[str]]:
        """The example that texts make, and what is not read of its personas."""
        candidates, persona = listed("candidates", candidates), listed("persona", persona)
        context, partner = listed("context", context), listed("partner", partner)
        if not candidates:
            raise InputError("candidates: there are none to rank; give at least one reply")
        unread = [*self._unread(persona, "self"), *self._unread(partner, "partner")]
        persona, partner = self._read(persona, "self"), self._read(partner, "partner")
        self._warn_of_cuts(persona + partner, context, candidates)
        return example_of(candidates, persona, context, partner), unread

    def _unread(self, lines: tuple[str, ...], whose: Owner) -> Iterator[str]:
        """Says which lines of a persona the model does not read."""
        read, owner = self._read(lines, whose), {"self": "the one who replies", "partner": "the other speaker"}[whose]
        if lines and not read:
            yield f"this model reads no persona of {owner} (persona: {self.task.model.persona}); it is left out"
        elif len(read) < len(lines):
            yield f"this model reads the first {len(read)} lines about {owner}; the rest is left out"

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
        for what in [what for what, cut in cuts.items() if cut]:
            self._say(f"this model reads {what} is left out (task.model.limits)")

    def _say(self, what: str) -> None:
        """Logs it, once."""
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", what)

    def _read(self, lines: tuple[str, ...], whose: Owner) -> tuple[str, ...]:
        """The lines of a persona that the model reads."""
        if self.task.model.persona not in (whose, "both"):
            return ()
        limits = getattr(self.task.model, "limits", None)
        return lines if limits is None else lines[: limits.lines]

    def _judged(self, example: Example, scores: Sequence[float]) -> list[Ranked] | InputError:
        """The candidates with these scores, best first, or what is wrong with the scores."""
        try:
            self._check(scores)
        except InputError as error:
            return error
        return self._in_order(example, scores)

    def _in_order(self, example: Example, scores: Sequence[float]) -> list[Ranked]:
        """The candidates of an example, best first."""
        calibration: Calibration | None = self.task.calibration
        texts = example.target.candidates
        each = dict(zip(texts, scores, strict=True))  # what is offered twice is one answer
        shares = calibration.probabilities(list(each.values()))[0] if calibration else [None] * len(each)
        likely = dict(zip(each, shares, strict=True))
        return [
            Ranked(texts[place], scores[place], place, probability=likely[texts[place]]) for place in _order(scores)
        ]

    def _check(self, scores: Sequence[float]) -> None:
        """InputError where a score is not finite."""
        wrong = next((place for place, score in enumerate(scores) if not math.isfinite(score)), None)
        if wrong is not None:
            raise InputError(
                f"{self.name}: gives candidate {wrong}, counted from 0, the score {scores[wrong]}; its weights are "
                "damaged: copy the run again, or train it anew at lower rates"
            )

    def _scores(self, example: Example) -> list[float]:
        """Of all candidates."""
        (scores,) = self._scored([example])
        self._check(scores)
        return scores

    def _each(self, examples: Sequence[Example]) -> Iterator[list[float]]:
        """The scores of several examples, as if each were asked alone: a model may learn from its candidates."""
        if hasattr(self.task.model, "loss") or not getattr(self.task.model, "learns", True):
            yield from self._scored(examples)
            return
        for example in examples:
            self.task.model.prepare(example.target.candidates)
            yield from self._scored([example])

    def _scored(self, examples: Sequence[Example]) -> list[list[float]]:
        """The scores of several examples, those of like size scored together."""
        found: dict[int, list[float]] = {}
        half = torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        with torch.inference_mode(), half:
            for batch in self.task.held_out(examples):
                scores = self.task.scores(batch.examples, batch.inputs.to(self.task.device))
                found.update(zip(map(id, batch.examples), scores, strict=True))
        return [found[id(example)] for example in examples]

    def _moved(self, example: Example, scores: list[float]) -> list[float]:
        """What each candidate gains by the persona of the one who replies."""
        without = self._scores(with_persona(example, "self", ()))
        pairs = zip(self._comparable(example, scores), self._comparable(example, without), strict=True)
        return [one - other for one, other in pairs]

    def _effects(
        self, example: Example, scores: Sequence[float], places: Sequence[int], owners: Sequence[Owner] = OWNERS
    ) -> list[list[Effect]]:
        """For each candidate at `places`, what each line of the personas of `owners` does to it, among the `COMPANY`
        best ones."""
        best = _order(scores)[:COMPANY]
        company = list(dict.fromkeys([*places, *best]))
        among = tuple(example.target.candidates[place] for place in company)
        example = replace(example, target=replace(example.target, candidates=among))
        scores = [scores[place] for place in company]
        whole = self._comparable(example, scores)
        effects: list[list[Effect]] = [[] for _ in places]
        sequences = self._sequences(example)
        for whose in owners:
            lines = self._read(example.facts(whose), whose)
            for number, line in enumerate(lines):
                less = with_persona(example, whose, lines[:number] + lines[number + 1 :])
                if sequences is not None and sequences == self._sequences(less):
                    changes: list[float | None] = [None] * len(places)
                else:
                    left = self._comparable(example, self._scores(less))
                    changes = [left[place] - whole[place] for place in range(len(places))]
                for found, change in zip(effects, changes, strict=True):
                    found.append(Effect(whose, line, change))
        return effects

    def _sequences(self, example: Example) -> Any:
        """What the model reads of a case; None where it does not say."""
        model = self.task.model
        return model.sequences([example]) if hasattr(model, "sequences") else None

    def _comparable(self, example: Example, scores: list[float]) -> list[float]:
        """The scores as what can be compared between personas."""
        return self._log_shares(example, scores) or scores

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


def together(items: Iterable[_Item], size: Callable[[_Item], int], most: int) -> Iterator[list[_Item]]:
    """Items that follow one another, as few as have the size `most` together, fewer at the end."""
    some: list[_Item] = []
    total = 0
    for item in items:
        some.append(item)
        total += size(item)
        if total >= most:
            yield some
            some, total = [], 0
    if some:
        yield some


def _width(one: Example | InputError) -> int:
    """The candidates of an example; of a mistake one, so that there are never too many."""
    return len(one.target.candidates) if isinstance(one, Example) else 1


def _order(scores: Sequence[float]) -> list[int]:
    """The places of the scores, the best first."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def _weightiest(effects: Sequence[Effect], noise: float) -> str | None:
    """The line without which the score falls most, None where none falls by more than what rounding does."""
    most = min(effects, key=lambda effect: effect.change or 0.0, default=None)
    return most.line if most and (most.change or 0.0) < -noise else None
