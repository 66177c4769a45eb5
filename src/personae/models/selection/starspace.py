"""Starspace: embed the words of context and persona, and those of the reply, so that their sums point the same way.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.1), after Ledell Wu, Adam Fisch,
Sumit Chopra, Keith Adams, Antoine Bordes, Jason Weston. StarSpace: Embed All The Things! AAAI 2018.
https://arxiv.org/abs/1709.03856
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.embedding import WordEmbedding, cosines, total
from personae.nn.objective import Objective
from personae.types import Example, Whose


class Starspace(nn.Module):
    """Bags of words."""

    scale = "similarity"

    def __init__(
        self,
        *,
        persona: Whose = "self",
        hidden: int = 500,
        min_count: int = 2,
        dropout: float = 0.0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.persona: Whose = persona
        self.limits = limits
        self.words = WordEmbedding(width=hidden, min_count=min_count, dropout=dropout)

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits, personas=2)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Cosines (B, N), -inf where a case has fewer candidates."""
        vectors = self.words.bags(batch.sentences)  # (S, H)
        query = sum((total(vectors, lines) for lines in batch.personas), total(vectors, batch.context))  # (B, H)
        return cosines(query, vectors, batch.candidates)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
