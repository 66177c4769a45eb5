"""Word vectors that are trained with the model that reads them, and the bags of words that they make.

Letters: B cases, M or N sentences of a case, S distinct sentences, W distinct words, T tokens, H features.
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.resizable import Resizable
from personae.nn.words import Sentences
from personae.text import UNKNOWN, Kept, Vocabulary, words
from personae.types import InputError


class WordEmbedding(Resizable):
    """A vector of `width` features for each word that training texts hold at least `min_count` times, drawn at random
    for the model to train. Any other word has one of `others` vectors, by its spelling: it means little, but is found
    again where it recurs. `dropout` drops words, not features."""

    def __init__(self, *, width: int, min_count: int, dropout: float, others: int = 5000) -> None:
        super().__init__()
        for name, value in (("hidden", width), ("min_count", min_count)):
            if value < 1:
                raise InputError(f"task.model.{name}: {value} is not at least 1")
        self.width, self.min_count, self.others = width, min_count, others
        self.numbers: dict[str, int] = {}
        self.weight = nn.Parameter(self._drawn(others))
        self.dropout = nn.Dropout(dropout)
        self._split: Kept[list[str]] = Kept()

    def _drawn(self, rows: int) -> Tensor:
        return torch.randn(rows, self.width) * self.width**-0.5

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the words of training texts; those that it knows already, from others, keep their vectors."""
        found = Vocabulary.of(map(words, texts), min_count=self.min_count).words[2:]
        new = [word for word in found if word not in self.numbers]
        self._know([*self.numbers, *new])
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), self._drawn(len(new)).to(self.weight)]))

    def _know(self, vocabulary: Sequence[str]) -> None:
        self.numbers = {word: self.others + place for place, word in enumerate(vocabulary)}

    def get_extra_state(self) -> dict[str, list[str]]:
        """The words of the table, saved as JSON beside the weights."""
        return {"vocabulary": list(self.numbers)}

    def _resize(self, state: dict[str, list[str]]) -> None:
        self._know(state["vocabulary"])
        self.weight = nn.Parameter(self._drawn(self.others + len(self.numbers)).to(self.weight))

    def split(self, text: str) -> list[str]:
        """The words of a text; one unknown word where there is none."""
        if text not in self._split:
            self._split.update((new, words(new) or [UNKNOWN]) for new in self._split.new([text]))
        return self._split[text]

    def sentences(self, texts: Sequence[tuple[str, int]]) -> Sentences:
        """Distinct sentences as numbers, each cut to its first so many words; nothing is spelt."""
        cut = [self.split(text)[:most] for text, most in texts]
        index: dict[str, int] = {}
        tokens = torch.tensor([index.setdefault(word, len(index)) for sentence in cut for word in sentence])
        numbers = torch.tensor([self._number(word) for word in index])
        lengths = torch.tensor([len(sentence) for sentence in cut])
        starts = lengths.cumsum(0) - lengths
        return Sentences(numbers, numbers.new_empty(len(index), 0), tokens, lengths, starts, tuple(index))

    def _number(self, word: str) -> int:
        number = self.numbers.get(word)
        return crc32(word.encode(errors="replace")) % self.others if number is None else number

    def forward(self, sentences: Sentences) -> Tensor:
        """The vectors of the distinct words: (W, H)."""
        return self.weight[sentences.numbers]

    def bags(self, sentences: Sentences) -> Tensor:
        """The sum of each sentence's words: (S, H)."""
        tokens = sentences.numbers[sentences.words]  # (T,)
        kept = self.dropout(torch.ones_like(tokens, dtype=self.weight.dtype))
        return F.embedding_bag(tokens, self.weight, sentences.starts, mode="sum", per_sample_weights=kept)


def total(vectors: Tensor, chosen: Tensor) -> Tensor:
    """The sum (B, H) of the `chosen` (B, M) of the vectors (S, H); -1 stands for none."""
    return (vectors[chosen.clamp(min=0)] * (chosen >= 0)[..., None]).sum(1)


def cosines(query: Tensor, vectors: Tensor, chosen: Tensor) -> Tensor:
    """The cosines (B, N) of each query (B, H) with the `chosen` (B, N) of the vectors (S, H); -inf where there is
    none."""
    similarity = F.normalize(query, dim=1) @ F.normalize(vectors, dim=1).t()  # (B, S)
    return similarity.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, -torch.inf)
