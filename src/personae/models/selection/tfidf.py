"""TF-IDF: the cosine of the words of context and persona with those of the reply; the "IR baseline" of every table.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.1)

Not stated in the paper: the weights. Here a word weighs (1 + ln its count) * (1 + ln((1 + D) / (1 + d))), d of D texts
holding it; the texts are the candidates to be ranked, all of them alike, and the query is the whole context.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from personae.text import words
from personae.types import Example, Whose


@dataclass(frozen=True)
class Texts:
    """A query and the candidates of each case."""

    cases: Sequence[tuple[Sequence[str], Sequence[str]]]

    def to(self, device: torch.device | str) -> Self:
        """Texts have no device."""
        return self


class TfIdf(nn.Module):
    """Word overlap, weighted by rarity. Needs no training; `prepare` counts the words of the candidates."""

    scale = "similarity"

    def __init__(self, *, persona: Whose = "self") -> None:
        super().__init__()
        self.persona: Whose = persona
        self._texts = 0
        self._holding: Counter[str] = Counter()
        self._vectors: dict[tuple[str, ...], dict[str, float]] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Counts in how many texts each word occurs."""
        self._vectors.clear()
        self._texts, self._holding = 0, Counter()
        for text in texts:
            self._texts += 1
            self._holding.update(set(words(text)))

    def collate(self, examples: Sequence[Example]) -> Texts:
        """The words to compare."""
        return Texts(
            [
                (
                    (*(turn.text for turn in example.context.turns), *example.facts(self.persona)),
                    example.target.candidates,
                )
                for example in examples
            ]
        )

    def score(self, batch: Texts) -> Tensor:
        """Cosines between 0 and 1, (cases, candidates), -inf where a case has fewer candidates."""
        most = max(len(candidates) for _, candidates in batch.cases)
        scores = torch.full((len(batch.cases), most), -torch.inf, dtype=torch.float64)
        for row, (query, candidates) in enumerate(batch.cases):
            asked = self._vector(tuple(query))
            for column, candidate in enumerate(candidates):
                offered = self._vector((candidate,))
                scores[row, column] = sum(weight * asked.get(word, 0) for word, weight in offered.items())
        return scores

    def _vector(self, texts: tuple[str, ...]) -> dict[str, float]:
        if texts not in self._vectors:
            counts = Counter(word for text in texts for word in words(text))
            weights = {word: (1 + math.log(count)) * self._rarity(word) for word, count in counts.items()}
            norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
            self._vectors[texts] = {word: weight / norm for word, weight in weights.items()}
        return self._vectors[texts]

    def _rarity(self, word: str) -> float:
        return 1 + math.log((1 + self._texts) / (1 + self._holding[word]))
