"""Key-value profile memory: profile memory that also looks up the dialogues of training that are like this one, and
adds what was replied in them.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.3, Key-Value Profile Memory
Network)

As in the paper, training knows nothing of the second memory: it is filled when the weights are trained, with the
contexts (keys) and replies (values) of the training examples. They are kept in half precision: a pair takes 4 bytes for
each feature.

Differs from the paper: attention is over the `nearest` keys only. The softmax of cosines, which differ by little, over
all of them would give about the mean of all replies, whatever is asked. The published code, too, takes a few: it ranks
with the words of the ten nearest replies as a query of their own, and adds a tenth of that cosine. Otherwise as in
profile memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.attention import weighted
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.embedding import WordEmbedding, cosines, total
from personae.nn.objective import Objective
from personae.types import Example, InputError, Whose

CHUNK = 8192
"""So many examples or keys are worked on at once, so that memory does not grow with their number."""


class KVProfileMemory(nn.Module):
    """Bags of words with a memory of persona lines and one of dialogues. B cases, N candidates, M utterances, P persona
    lines, S distinct sentences, K remembered pairs, H features of a word."""

    scale = "similarity"

    def __init__(
        self,
        *,
        persona: Whose = "self",
        hidden: int = 500,
        nearest: int = 10,
        min_count: int = 2,
        dropout: float = 0.0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if nearest < 1:
            raise InputError(f"task.model.nearest: {nearest} is not at least 1")
        self.persona: Whose = persona
        self.limits, self.nearest = limits, nearest
        self.words = WordEmbedding(width=hidden, min_count=min_count, dropout=dropout)
        self.register_buffer("keys", torch.zeros(0, hidden, dtype=torch.half))
        self.register_buffer("values", torch.zeros(0, hidden, dtype=torch.half))
        self.keys: Tensor
        self.values: Tensor

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits, personas=2)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    @torch.no_grad()
    def remember(self, examples: Sequence[Example]) -> None:
        """Fills the second memory: the directions of the contexts, and the replies."""
        keys, values = [self.keys[:0]], [self.values[:0]]
        for start in range(0, len(examples), CHUNK):
            replied = [
                replace(example, target=replace(example.target, candidates=(example.target.text,)))
                for example in examples[start : start + CHUNK]
            ]
            batch = self.collate(replied).to(self.keys.device)
            context, means = self._embedded(batch)
            keys.append(F.normalize(context, dim=1).half())
            values.append(means[batch.candidates[:, 0]].half())
        self.keys, self.values = torch.cat(keys), torch.cat(values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("keys", "values"):  # how many there are is known only then
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Cosines (B, N), -inf where a case has fewer candidates."""
        context, means = self._embedded(batch)
        query = context
        for lines in batch.personas:
            similarity = cosines(context, means, lines)[:, None]  # (B, 1, P)
            query = query + weighted(similarity, means[lines.clamp(min=0)], lines >= 0).squeeze(1)
        return cosines(query + self._recalled(query), means, batch.candidates)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)

    def _embedded(self, batch: DialogueBatch) -> tuple[Tensor, Tensor]:
        """The contexts (B, H) and the distinct sentences (S, H): the means of their words."""
        bags, lengths = self.words.bags(batch.sentences), batch.sentences.lengths[:, None]
        return total(bags, batch.context) / total(lengths, batch.context), bags / lengths

    def _recalled(self, query: Tensor) -> Tensor:
        """The mean (B, H) of the replies whose keys are nearest, weighted by the softmax of their cosines."""
        directions = F.normalize(query, dim=1)
        similarity = torch.cat([directions @ keys.to(query).t() for keys in self.keys.split(CHUNK)], 1)  # (B, K)
        nearest, place = similarity.topk(min(self.nearest, len(self.keys)), 1)
        return (nearest.softmax(1)[:, None] @ self.values[place].to(query)).squeeze(1)
