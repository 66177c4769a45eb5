"""Key-value profile memory: profile memory that also looks up the dialogues of training that are like this one, and
adds what was replied in them.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.3, Key-Value Profile Memory
Network)

As in the paper, training knows nothing of the second memory: it is filled when the weights are trained, with the
contexts (keys) and replies (values) of all training examples. Each of their sentences is kept once, in half precision.

The published code does something else (ParlAI, projects/personachat/kvmemnn): the words of the ten nearest replies are
a query of their own, for which the persona is attended once more, and whose cosine counts a tenth. What that gains, it
gains also without these words, by counting the persona twice. Not stated in the paper: as in profile memory.
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
from personae.types import Example, Whose


class KVProfileMemory(nn.Module):
    """Bags of words with a memory of persona lines and one of dialogues. B cases, N candidates, M utterances, P persona
    lines, S distinct sentences, H features of a word (`hidden`); K remembered pairs, R remembered sentences."""

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
        self.register_buffer("remembered", torch.zeros(0, hidden, dtype=torch.half))
        self.register_buffer("lengths", torch.zeros(0, dtype=torch.long))
        self.register_buffer("histories", torch.zeros(0, 1, dtype=torch.long))
        self.register_buffer("norms", torch.zeros(0))
        self.register_buffer("replies", torch.zeros(0, dtype=torch.long))
        self.remembered: Tensor  # (R, H): sums of words
        self.lengths: Tensor  # (R,)
        self.histories: Tensor  # (K, M): the sentences that add up to each key, -1 where there is none
        self.norms: Tensor  # (K,): the keys'
        self.replies: Tensor  # (K,): the sentence that is each value

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
        """Fills the second memory."""
        pairs = [replace(one, target=replace(one.target, candidates=(one.target.text,))) for one in examples]
        batch = gather(pairs, self.words, whose="none", limits=self.limits).to(self.remembered.device)
        self.remembered, self.lengths = self.words.bags(batch.sentences).half(), batch.sentences.lengths
        self.histories, self.replies = batch.context, batch.candidates[:, 0]
        keys = (total(self.remembered.float(), some) for some in self.histories.split(1024))
        self.norms = torch.cat([key.norm(dim=1) for key in keys])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():  # how much is remembered is known only then
            if buffer is not None and prefix + name in state_dict:
                self._buffers[name] = buffer.new_zeros(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Cosines (B, N), -inf where a case has fewer candidates."""
        bags, lengths = self.words.bags(batch.sentences), batch.sentences.lengths[:, None]
        means = bags / lengths  # (S, H)
        query = context = total(bags, batch.context) / total(lengths, batch.context)  # (B, H)
        for lines in batch.personas:
            similarity = cosines(context, means, lines)[:, None]  # (B, 1, P)
            query = query + weighted(similarity, means[lines.clamp(min=0)], lines >= 0).squeeze(1)
        if len(self.replies):
            query = query + self._recalled(query)
        return cosines(query, means, batch.candidates)

    def _recalled(self, query: Tensor) -> Tensor:
        """The mean of the remembered replies (B, H), weighted by the softmax of how like their histories are."""
        remembered = self.remembered.to(query)
        alike = F.normalize(query, dim=1) @ remembered.t()  # (B, R)
        similarity = total(alike.t(), self.histories).t() / self.norms  # (B, K): cosines with the keys
        shares = similarity.softmax(1) / self.lengths[self.replies]
        return torch.zeros_like(alike, dtype=shares.dtype).index_add(1, self.replies, shares) @ remembered

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
