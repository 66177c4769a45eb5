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

from personae.text import Kept, words
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
        self._counts: Kept[Counter[str]] = Kept()
        self._vectors: Kept[dict[str, float]] = Kept()

    def prepare(self, texts: Iterable[str]) -> None:
        """Counts in how many texts each word occurs."""
        self._vectors.clear()
        self._texts, self._holding = 0, Counter()
        for text in texts:
            self._texts += 1
            self._holding.update(self._counted(text).keys())

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
        scores = []
        for query, candidates in batch.cases:
            asked = self._vector("\n".join(query))
            vectors = map(self._vector, candidates)
            row = [sum(weight * asked.get(word, 0.0) for word, weight in offered.items()) for offered in vectors]
            scores.append(row + [-math.inf] * (most - len(row)))
        return torch.tensor(scores, dtype=torch.float64)

    def _counted(self, text: str) -> Counter[str]:
        """How often it has each of its words."""
        if text not in self._counts:
            self._counts.update((new, Counter(words(new))) for new in self._counts.new([text]))
        return self._counts[text]

    def _vector(self, text: str) -> dict[str, float]:
        """The weights of its words, of length 1."""
        if text not in self._vectors:
            weights = {word: (1 + math.log(count)) * self._rarity(word) for word, count in self._counted(text).items()}
            norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
            for new in self._vectors.new([text]):
                self._vectors[new] = {word: weight / norm for word, weight in weights.items()}
        return self._vectors[text]

    def _rarity(self, word: str) -> float:
        return 1 + math.log((1 + self._texts) / (1 + self._holding[word]))
