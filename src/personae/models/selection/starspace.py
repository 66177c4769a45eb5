"""Starspace: learn a vector for each word, so that those of context and persona add up to the direction of the reply's.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.1), with the model of Ledell Wu,
Adam Fisch, Sumit Chopra, Keith Adams, Antoine Bordes, Jason Weston. StarSpace: Embed All The Things! AAAI 2018.
https://arxiv.org/abs/1709.03856

Trained there by the margin ranking loss over negatives that StarSpace's code draws until some violate the margin, of
which alone it takes the mean: `objective: {kind: pairwise, violating: true}`. Over all negatives the mean learns less.

Not stated in the paper: sizes and rates; 500 features are those of its published memory network (ParlAI,
projects/personachat/kvmemnn), which reads two utterances of the context. Words that training does not know are not
mentioned; that code's list holds the words of all splits. Here they share some thousand vectors that are not trained,
so that such a word is still found again where the persona has it. Of both personas, it is not told which is whose.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.embedding import WordEmbedding, cosines, total
from personae.nn.objective import Objective
from personae.types import Example, Whose


class Starspace(nn.Module):
    """Bags of words. B cases, N candidates, S distinct sentences, H features of a word (`hidden`). `dropout` drops
    words."""

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
        bags = self.words.bags(batch.sentences)  # (S, H)
        query = total(bags, batch.context)  # (B, H)
        for lines in batch.personas:
            query = query + total(bags, lines)
        return cosines(query, bags, batch.candidates)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
