"""IMN: match the whole context with the reply, word by word, before it is encoded again and pooled.

Jia-Chen Gu, Zhen-Hua Ling, Quan Liu. Interactive Matching Network for Multi-Turn Response Selection in Retrieval-Based
Chatbots. CIKM 2019. https://arxiv.org/abs/1901.01824
With persona fusion: Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner Matters! An
Empirical Study on Fusing Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR 2021.
https://arxiv.org/abs/2105.09050 (section 4.2)

Differs from the papers: nothing in the numbers. The second BiLSTM reads [a; a~; a - a~; a * a~], and almost all of the
work is its input weight; here that weight is split in four, so that the share of a is computed once a context, that of
a~ goes through the attention, and only a * a~ is multiplied for each pair. Dropout on word vectors drops the same
features of a word wherever it occurs in a batch, since each distinct word is represented, and each distinct sentence
encoded, once.

Not stated in the papers: which response persona fusion is aware of; "identical to that in HRE" is read as the response
of equation 6, encoded and not yet matched. Otherwise as in HRE.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.persona_fusion import Fusion, PersonaFusion
from personae.nn.recurrent import BiLSTM, pack, pool
from personae.nn.words import Sentences, Words
from personae.types import Example, Whose


class IMN(nn.Module):
    """Interactive Matching Network with persona fusion. B cases, N candidates, P persona lines, S distinct sentences of
    T words, U utterances of all contexts; C words of the longest context, R of the longest reply; H hidden units a
    direction."""

    scale = "logit"

    def __init__(
        self,
        *,
        words: Words | None = None,
        fusion: Fusion = "ra",
        persona: Whose = "self",
        hidden: int = 200,
        features: int = 256,
        dropout: float = 0.2,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.persona: Whose = "none" if fusion == "none" else persona
        self.limits = limits
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden)
        self.matching = BiLSTM(width=8 * hidden, hidden=hidden)
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden)
        self.fusion = None if fusion == "none" else PersonaFusion(fusion=fusion, width=4 * hidden)
        self.dropout = nn.Dropout(dropout)
        parts = 2 if self.fusion is None else 3
        self.hidden = nn.Linear(parts * 4 * hidden, features)
        self.output = nn.Linear(features, 1)
        for layer in (self.hidden, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary and the task's word vectors."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        sentences, packing = batch.sentences, batch.sentences.packing()
        gates = self.sentence.project(self.words(sentences))[sentences.words]  # (T, 8H)
        packed = self.dropout(self.sentence(gates, packing))  # equations 1-3
        context, response = self._match(_unpacked(packed, packing.rows), batch)  # (B, N, 4H) each
        parts = [context, response]
        if self.fusion is not None:
            vectors = self.dropout(pool(packed, packing))  # (S, 4H), equations 4-6
            lines, encoded = vectors[batch.persona.clamp(min=0)], vectors[batch.candidates.clamp(min=0)]
            parts.insert(1, self.fusion(lines, batch.persona >= 0, context, encoded))
        scores: Tensor = self.output(self.dropout(F.relu(self.hidden(torch.cat(parts, 2))))).squeeze(2)
        return scores.masked_fill(batch.candidates < 0, -torch.inf)

    def loss(self, batch: DialogueBatch) -> Tensor:
        """Cross-entropy over the given candidates."""
        return F.cross_entropy(self.score(batch).float(), batch.target)

    def _match(self, tokens: Tensor, batch: DialogueBatch) -> tuple[Tensor, Tensor]:
        """Context and response (B, N, 4H) after cross-attention, from the encoded words (T, 2H)."""
        cases, number = batch.candidates.shape
        of_a, of_other, of_difference, of_product = self.matching.input.chunk(4, 1)  # (8H, 2H) each
        shared = F.linear(tokens, of_a + of_difference, self.matching.bias)  # (T, 8H): the share of a
        crossing = F.linear(tokens, of_other - of_difference)  # (T, 8H): the share of a~, before attention

        there, case, offset, length, words = _layout(batch.sentences, batch.context)  # words (B, C)
        reply_words, reply_length = _words(batch.sentences, batch.candidates.clamp(min=0).flatten())
        longest = reply_words.shape[1]
        a = tokens[words]  # (B, C, 2H)
        b = tokens[reply_words].view(cases, number, longest, -1)  # (B, N, R, 2H)
        real = (torch.arange(longest, device=a.device) < reply_length[:, None]).view(cases, 1, number, longest)
        similarity = (a @ b.flatten(1, 2).transpose(1, 2)).unflatten(2, (number, longest))  # (B, C, N, R), equation 19
        least = torch.finfo(similarity.dtype).min
        to_reply = similarity.masked_fill(~real, least).softmax(3).type_as(similarity).transpose(1, 2)  # (B, N, C, R)
        to_context = similarity.masked_fill(~there[:, :, None, None], least).softmax(1)  # (B, C, N, R)

        seen = to_reply @ b  # (B, N, C, 2H): a~
        gates = F.linear((a[:, None] * seen).flatten(0, 1), of_product)  # (B * N, C, 8H); the other shares are added
        gates.baddbmm_(to_reply.flatten(0, 1), crossing[reply_words])  # in place
        gates.add_(shared[words].repeat_interleave(number, 0))
        start = torch.arange(number, device=a.device)[:, None] * words.shape[1]
        start = start + case * number * words.shape[1] + offset  # (N, U)
        packing = pack(start.flatten(), length.expand(number, -1).flatten())
        utterances = self.dropout(
            pool(self.dropout(self.matching(gates.flatten(0, 1), packing)), packing)
        )  # (N * U, 4H)

        seen = to_context.flatten(2).transpose(1, 2) @ a  # (B, N * R, 2H): b~
        b = b.flatten(1, 2)
        seen = torch.cat([seen, b * seen], 2).flatten(0, 1)
        gates = F.linear(seen, torch.cat([of_other - of_difference, of_product], 1))
        gates.add_(shared[reply_words.flatten()])  # (B * N * R, 8H)
        packing = pack(torch.arange(cases * number, device=a.device) * longest, reply_length)
        response = self.dropout(pool(self.dropout(self.matching(gates, packing)), packing))  # (B * N, 4H)

        spoken = (batch.context >= 0).sum(1)  # utterances of each case
        first = (spoken.cumsum(0) - spoken) + torch.arange(number, device=a.device)[:, None] * len(case)  # (N, B)
        packing = pack(first.flatten(), spoken.expand(number, -1).flatten())
        gates = self.utterances.project(utterances)
        context = self.dropout(pool(self.dropout(self.utterances(gates, packing)), packing))  # (N * B, 4H)
        return context.unflatten(0, (number, cases)).transpose(0, 1), response.unflatten(0, (cases, number))


def _unpacked(packed: Tensor, rows: Tensor) -> Tensor:
    """Packed tokens (T, ...) back in the order of the sentences."""
    return packed[torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows), device=rows.device))]


def _words(sentences: Sentences, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The words of the `chosen` sentences (K,), as places among all words (K, R), and the lengths (K,). Beyond a
    sentence's end its last word is repeated."""
    length = sentences.lengths[chosen]
    steps = torch.arange(int(length.max()), device=chosen.device)
    return sentences.starts[chosen][:, None] + torch.minimum(steps, length[:, None] - 1), length


def _layout(sentences: Sentences, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Each context as one sequence of words: which of (B, C) places hold a word; the case, the offset in its context
    and the length of each utterance (U,); and the places among all words (B, C)."""
    spoken = context >= 0
    length = torch.where(spoken, sentences.lengths[context.clamp(min=0)], 0)  # (B, M)
    total = length.sum(1)
    there = torch.arange(int(total.max()), device=context.device) < total[:, None]
    case, _ = spoken.nonzero(as_tuple=True)
    offset = (length.cumsum(1) - length)[spoken]
    length, start = length[spoken], sentences.starts[context[spoken]]
    within = torch.arange(int(length.sum()), device=context.device)
    within = within - (length.cumsum(0) - length).repeat_interleave(length)
    words = torch.zeros_like(there, dtype=torch.long)
    words[there] = start.repeat_interleave(length) + within
    return there, case, offset, length, words
