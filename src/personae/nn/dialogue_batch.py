"""The input of every word-level selector: the sentences of a batch, each once, and who said which of them when.

Letters: B cases, M utterances of a context, N candidates, P persona lines, S distinct sentences.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor

from personae.nn.embedding import WordEmbedding
from personae.nn.words import Sentences, Words
from personae.types import Example, InputError, Whose, check

OWNERS: tuple[Whose, Whose] = ("self", "partner")
"""Whose the personas of a batch are, where there are two."""


@dataclass(frozen=True)
class DialogueBatch:
    """`context` (B, M), `candidates` (B, N) and each of the `personas` (B, P) hold numbers of `sentences`, -1 where
    there is none; the utterances of a case stand at the front of its row, oldest first. `target` (B,) is the place of
    the true reply, -1 where it is not known."""

    sentences: Sentences
    context: Tensor
    candidates: Tensor
    personas: tuple[Tensor, ...]
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(
            self.sentences.to(device),
            self.context.to(device),
            self.candidates.to(device),
            tuple(persona.to(device) for persona in self.personas),
            self.target.to(device),
        )


@dataclass(frozen=True)
class Limits:
    """How much of a case is read: the last `utterances`, the first `lines` of each persona, the first so many words of
    each sentence. The defaults are the persona-fusion paper's (section 5.3)."""

    utterances: int = 15
    utterance_words: int = 20
    lines: int = 5
    line_words: int = 15
    reply_words: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"task.model.limits.{name}: {value} is not at least 1")


def gather(
    examples: Sequence[Example],
    words: Words | WordEmbedding,
    *,
    whose: Whose,
    limits: Limits,
    personas: int = 1,
    context: bool = True,
    blank: bool = False,
) -> DialogueBatch:
    """Builds the batch. With two `personas` the replier's own and the other speaker's stand apart, else one persona is
    read, `whose`. Without `context`, the persona lines take its place, of both personas one after the other. A context
    without utterances is read as one empty utterance, and where `blank`, so is a persona without lines."""
    numbers: dict[tuple[str, int], int] = {}

    def number(texts: Sequence[str], most: int) -> list[int]:
        return [numbers.setdefault((text, most), len(numbers)) for text in texts]

    said, candidates = [], []
    told: list[list[list[int]]] = [[] for _ in range(personas)]
    for example in examples:
        lines = [list(facts[: limits.lines]) for facts in personas_read(example, whose, personas)]
        if context:
            turns = [turn.text for turn in example.context.turns] or [""]
            said.append(number(turns[-limits.utterances :], limits.utterance_words))
        else:
            said.append(number([fact for facts in lines for fact in facts] or [""], limits.line_words))
        candidates.append(number(example.target.candidates, limits.reply_words))
        for persona, facts in zip(told, lines, strict=False):
            persona.append(number(facts or [""] * blank, limits.line_words))
    return DialogueBatch(
        words.sentences(list(numbers)), rows(said), rows(candidates), tuple(map(rows, told)), targets(examples)
    )


def size(example: Example, words: Words | WordEmbedding, limits: Limits) -> int:
    """How many words of its context a model reads."""
    said = [turn.text for turn in example.context.turns][-limits.utterances :]
    return sum(min(len(words.split(text)), limits.utterance_words) for text in said)


def personas_read(example: Example, whose: Whose, personas: int) -> list[tuple[str, ...]]:
    """The lines of each persona that a model has room for, none for one that is not read; where it reads both in the
    place of the context, of both."""
    check("persona", whose, Whose)
    if personas == 2 or whose == "both":
        return [example.facts(one) if whose in (one, "both") else () for one in OWNERS]
    return [example.facts(whose)][:personas]


def targets(examples: Sequence[Example]) -> Tensor:
    """The place (B,) of each true reply among its candidates, -1 where it is not known."""
    turns = [example.target for example in examples]
    return torch.tensor([turn.candidates.index(turn.text) if turn.text in turn.candidates else -1 for turn in turns])


def rows(lists: list[list[int]]) -> Tensor:
    """Lists of numbers as rows, -1 beyond the end of each."""
    width = max(len(numbers) for numbers in lists)
    filled = [numbers + [-1] * (width - len(numbers)) for numbers in lists]
    return torch.tensor(filled, dtype=torch.long).view(len(lists), width)
