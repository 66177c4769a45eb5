"""The input of every word-level selector: the sentences of a batch, each once, and who said which of them when.

Letters: B cases, M utterances of a context, N candidates, P persona lines, S distinct sentences.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor

from personae.nn.words import Sentences, Words
from personae.types import Example, InputError, Whose


@dataclass(frozen=True)
class DialogueBatch:
    """`context` (B, M), `candidates` (B, N) and `persona` (B, P) hold numbers of `sentences`, -1 where there is none;
    the utterances of a case stand at the front of its row, oldest first. `target` (B,) is the place of the true reply,
    -1 where it is not known."""

    sentences: Sentences
    context: Tensor
    candidates: Tensor
    persona: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(
            self.sentences.to(device),
            self.context.to(device),
            self.candidates.to(device),
            self.persona.to(device),
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


def gather(examples: Sequence[Example], words: Words, *, whose: Whose, limits: Limits) -> DialogueBatch:
    """Builds the batch. A context without utterances is read as one empty utterance."""
    numbers: dict[tuple[str, int], int] = {}

    def number(texts: Sequence[str], most: int) -> list[int]:
        return [numbers.setdefault((text, most), len(numbers)) for text in texts]

    context, candidates, persona, target = [], [], [], []
    for example in examples:
        said = [turn.text for turn in example.context.turns] or [""]
        context.append(number(said[-limits.utterances :], limits.utterance_words))
        candidates.append(number(example.target.candidates, limits.reply_words))
        facts = [fact for one in _personas(example, whose) for fact in one[: limits.lines]]
        persona.append(number(facts, limits.line_words))
        known = example.target.text in example.target.candidates
        target.append(example.target.candidates.index(example.target.text) if known else -1)
    return DialogueBatch(
        words.sentences(list(numbers)), _rows(context), _rows(candidates), _rows(persona), torch.tensor(target)
    )


def size(example: Example, words: Words, limits: Limits) -> int:
    """How many words of its context a model reads."""
    said = [turn.text for turn in example.context.turns][-limits.utterances :]
    return sum(min(len(words.split(text)), limits.utterance_words) for text in said)


def _personas(example: Example, whose: Whose) -> list[tuple[str, ...]]:
    return [example.facts("self"), example.facts("partner")] if whose == "both" else [example.facts(whose)]


def _rows(lists: list[list[int]]) -> Tensor:
    width = max(len(numbers) for numbers in lists)
    rows = [numbers + [-1] * (width - len(numbers)) for numbers in lists]
    return torch.tensor(rows, dtype=torch.long).view(len(lists), width)
