"""The records that every part of personae shares: plain frozen dataclasses, no tensor and no file in sight."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict, get_args, runtime_checkable

Whose = Literal["none", "self", "partner", "both"]
"""Whose persona is used: the replier's own (self), the other speaker's (partner), both, or none."""

Read = Literal["context"] | Whose
"""What of a case is read: the context, or the lines of a persona."""


class InputError(ValueError):
    """A mistake in what the user gave; its message names the file, line or field and says what to do."""


def check(argument: str, given: object, choices: Any) -> None:
    """InputError where what was given for an argument is none of a Literal's choices."""
    if given not in get_args(choices):
        raise InputError(f"{argument}: {given!r} is none of the choices {', '.join(get_args(choices))}")


@dataclass(frozen=True, slots=True)
class Persona:
    """What is written about someone, a sentence a fact; may be empty."""

    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Speaker:
    """Someone with an id, and, of a user of whom it is known, the `history` of what they said elsewhere."""

    id: str
    persona: Persona = Persona()
    history: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `speaker` is 0 or 1, the place in `Dialogue.speakers`; `candidates` are the replies to choose
    from, the true one among them wherever it is known."""

    speaker: int
    text: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Two speakers and what they said, in order. `question` is the id of what the last turn answers, where others
    answer the same."""

    id: str
    speakers: tuple[Speaker, Speaker]
    turns: tuple[Turn, ...]
    question: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Example:
    """Given `context` (all earlier turns), what comes next: `target`, said by `target.speaker`."""

    context: Dialogue
    target: Turn

    @property
    def user(self) -> Speaker:
        """Who says the target."""
        return self.context.speakers[self.target.speaker]

    @property
    def id(self) -> str:
        """The dialogue's id and the position of the target turn in it, counted from 0."""
        return f"{self.context.id}#{len(self.context.turns)}"

    def facts(self, whose: Whose) -> tuple[str, ...]:
        """The persona lines of the speaker who is about to reply (self), of the other one (partner), or of both, self
        first. InputError where `whose` is none of them."""
        check("persona", whose, Whose)
        own = self.context.speakers[self.target.speaker].persona.facts
        other = self.context.speakers[1 - self.target.speaker].persona.facts
        return {"none": (), "self": own, "partner": other, "both": own + other}[whose]


@dataclass(frozen=True, slots=True)
class Row:
    """One scored example: what a metric reads. `scores` are in the order of the example's candidates and `target` is
    the place of the true reply among them; `dialogue` groups examples that are not independent."""

    id: str
    dialogue: str
    scores: tuple[float, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """One generated reply: what a metric reads. `user` is whom it was written for, and groups replies that are not
    independent; `reference` is what they really said, to which the model gives the negative log-likelihood `nll` (nats)
    in `tokens` of its own, the end among them. `rank` is the place, from 1, of the user's own language model among
    those of `users` users by the perplexity of `text`, and `real` that of `reference`; None where Per-Hits was not
    measured."""

    id: str
    user: str
    text: str
    reference: str
    nll: float
    tokens: int
    rank: float | None = None
    real: float | None = None
    users: int = 0


class Case(TypedDict):
    """Candidates to be ranked, and what for: lines about the one who replies, and about the `partner`, and what was
    said so far in turn, the partner's utterance last."""

    candidates: Sequence[str]
    persona: NotRequired[Sequence[str]]
    context: NotRequired[Sequence[str]]
    partner: NotRequired[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its place: `index` in the list that was given, `score` as the model means it, `fact`, the persona
    line without which the score falls most (None where no line supports it or none was asked for), and `probability`,
    that it is the right one (None where the model is not calibrated). What these lack to one is the probability that
    none of the candidates fits. `moved` is what the persona did to it: what its similarity, or the logarithm of the
    share that a softmax over the candidates gives its logit, gained over that without any line of the persona (None
    where this was not asked for)."""

    text: str
    score: float
    index: int
    fact: str | None = None
    probability: float | None = None
    moved: float | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What a line of someone's persona does to a candidate: `change` is by how much the score changes when the line is
    removed (None where the model does not read it), `weight` the attention that the model's persona fusion pays to it
    (None where it has no such fusion)."""

    whose: Whose
    line: str
    change: float | None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Where a reply looks: for each of its `words` a row of weights, which sum to one, over all words of the
    `sentences`, which are what `to` says: the last utterances of the context, or the lines of a persona."""

    to: Read
    words: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a candidate has its place: `rank` is counted from 1, `index` is the place in the list that was given, `score`
    is as the model means it. `log_share` is the logarithm of the share that a softmax over all candidates gives it, and
    what the `effects` are changes of; None where these are changes of the score itself, since that is a similarity, or
    no two candidates differ."""

    text: str
    score: float
    index: int
    rank: int
    log_share: float | None
    effects: tuple[Effect, ...] = ()
    attention: tuple[Attention, ...] = ()


@runtime_checkable
class Corpus(Protocol):
    """Named splits of dialogues, in a fixed order."""

    def split(self, name: str) -> Iterator[Dialogue]:
        """The dialogues of `name`: "train", "dev" (held out of training, to select models) or "valid" (to report)."""
        ...


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a recipe's system is published, and what is published of it: `table` is a key of the paper's file in
    `published/`, `row` and `column` are the paper's own labels."""

    name: str
    table: str
    row: str
    column: str = "hits@1"
