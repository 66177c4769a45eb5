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

from personae.text import ROOM, Kept, words
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
        self._rarity: dict[str, float] = {}
        self._unknown = 1.0
        self._frequent: Kept[dict[str, float]] = Kept(ROOM // 8)
        self._vectors: Kept[dict[str, float]] = Kept()

    def prepare(self, texts: Iterable[str]) -> None:
        """Counts in how many texts each word occurs."""
        self._vectors.clear()
        holding, count = Counter[str](), 0
        for text in texts:
            holding.update(self._frequency(text).keys())
            count += 1
        self._rarity = {word: 1 + math.log((1 + count) / (1 + some)) for word, some in holding.items()}
        self._unknown = 1 + math.log(1 + count)

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
            texts = ["\n".join(query), *candidates]
            for text in self._vectors.new(texts):
                self._vectors[text] = self._weights(text)
            asked, *offered = (self._vectors[text] for text in texts)
            row = [sum([weight * asked.get(word, 0.0) for word, weight in reply.items()]) for reply in offered]
            scores.append(row + [-math.inf] * (most - len(row)))
        return torch.tensor(scores, dtype=torch.float64)

    def _frequency(self, text: str) -> dict[str, float]:
        """1 + ln of how often it has each of its words."""
        if text not in self._frequent:
            for new in self._frequent.new([text]):
                self._frequent[new] = {word: 1 + math.log(count) for word, count in Counter(words(new)).items()}
        return self._frequent[text]

    def _weights(self, text: str) -> dict[str, float]:
        """Those of its words, as a vector of length 1."""
        rarity, unknown = self._rarity, self._unknown
        weights = {word: often * rarity.get(word, unknown) for word, often in self._frequency(text).items()}
        norm = math.sqrt(sum([weight * weight for weight in weights.values()])) or 1.0
        return {word: weight / norm for word, weight in weights.items()}
