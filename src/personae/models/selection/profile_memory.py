"""Profile memory: the context looks up the persona lines that are like it, adds them to itself, and the reply that
points the same way is chosen.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.2, Ranking Profile Memory
Network)

Not stated in the paper: how long the embedded context and persona lines are beside one another, which cosines do not
tell; here each is the mean of its words, as in the published code (ParlAI, projects/personachat/kvmemnn). That code
attends over the context too, instead of adding it. One hop, since further ones "did not bring significant gains".
Otherwise as in Starspace, which this is without a persona. Of both personas, each is attended by itself and both are
added.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.attention import weighted
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.embedding import WordEmbedding, cosines, total
from personae.nn.objective import Objective
from personae.types import Example, Whose


class ProfileMemory(nn.Module):
    """Bags of words with a memory of persona lines. B cases, N candidates, M utterances, P persona lines, S distinct
    sentences, H features of a word."""

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
        bags, lengths = self.words.bags(batch.sentences), batch.sentences.lengths[:, None]
        means = bags / lengths  # (S, H)
        query = context = total(bags, batch.context) / total(lengths, batch.context)  # (B, H)
        for lines in batch.personas:
            similarity = cosines(context, means, lines)[:, None]  # (B, 1, P)
            query = query + weighted(similarity, means[lines.clamp(min=0)], lines >= 0).squeeze(1)
        return cosines(query, means, batch.candidates)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
