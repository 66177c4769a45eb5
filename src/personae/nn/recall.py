"""What a user said before that is most like a question: by the words that they share, rare ones more (TF-IDF).

Salton and Buckley, Term-weighting approaches in automatic text retrieval, Information Processing and Management 24,
1988. It is how memories are chosen for a generative memory network in Wu, Ma and Yang, GEM 2021, section 5.2
(https://aclanthology.org/2021.gem-1.5), which does not say what is relevant.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from personae.text import Kept, words


class Recall:
    """Finds what is most like a question in a history. Before `prepare` all words weigh the same."""

    def __init__(self) -> None:
        self.rarity, self.rarest = dict[str, float](), 1.0
        self._weights: Kept[dict[str, float]] = Kept()
        self._indices: Kept[_Index] = Kept()

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns from training texts how rare words are."""
        texts = list(texts)
        counts = Counter(word for text in texts for word in set(words(text)))
        self.know({word: math.log(1 + len(texts) / count) for word, count in counts.items()})

    def know(self, rarity: Mapping[str, float]) -> None:
        """Takes how rare words are."""
        self.rarity, self.rarest = dict(rarity), max(rarity.values(), default=1.0)
        self._weights.clear()
        self._indices.clear()

    def weights(self, text: str) -> dict[str, float]:
        """The words of a text and what they weigh, of unit length together; an unseen word weighs as one seen once."""
        for new in self._weights.new([text]):
            found = {word: times * self.rarity.get(word, self.rarest) for word, times in Counter(words(new)).items()}
            length = math.sqrt(sum(weight * weight for weight in found.values())) or 1.0
            self._weights[new] = {word: weight / length for word, weight in found.items()}
        return self._weights[text]

    def like(self, question: str, history: Sequence[str], *, most: int, leave_out: str = "") -> list[str]:
        """Up to `most` of a history, most like the question first, of those alike the latest; never the text
        `leave_out`, which is to be written."""
        key = repr(tuple(history))
        for new in self._indices.new([key]):
            self._indices[new] = _Index(history, self)
        scores = self._indices[key].scores(self.weights(question))
        order = np.lexsort((-np.arange(len(history)), -scores))
        found: list[str] = []
        for place in order.tolist():
            if len(found) == most:
                break
            if history[place] != leave_out:
                found.append(history[place])
        return found


class _Index:
    """Of each word, which texts of a history hold it, and what it weighs there."""

    def __init__(self, history: Sequence[str], recall: Recall) -> None:
        self.size = len(history)
        places: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, text in enumerate(history):
            for word, weight in recall.weights(text).items():
                places[word].append((place, weight))
        self.places = {word: tuple(map(np.array, zip(*each, strict=True))) for word, each in places.items()}

    def scores(self, question: dict[str, float]) -> NDArray[np.float64]:
        """The cosine of each text with a question."""
        found = np.zeros(self.size)
        for word, weight in question.items():
            if word in self.places:
                places, weights = self.places[word]
                found[places] += weight * weights
        return found
