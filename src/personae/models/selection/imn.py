"""IMN: match the whole context with the reply, word by word, before it is encoded again and pooled.

Jia-Chen Gu, Zhen-Hua Ling, Quan Liu. Interactive Matching Network for Multi-Turn Response Selection in Retrieval-Based
Chatbots. CIKM 2019. https://arxiv.org/abs/1901.01824
With persona fusion: Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner Matters! An
Empirical Study on Fusing Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR 2021.
https://arxiv.org/abs/2105.09050 (section 4.2)

The encoder is that of the second paper, one BiLSTM, not the first one's several layers. Differs from it: as HRE does in
words and dropout, otherwise nothing in the numbers. The second BiLSTM reads
[a; a~; a - a~; a * a~], and almost all of the work is its input weight; here that weight is split in four, so that the
share of a is computed once a context, that of a~ goes through the attention, and only a * a~ is multiplied for each
pair.

Not stated there: which response persona fusion is aware of; "identical to that in HRE" is read as the response
of equation 6, encoded and not yet matched, while a context that it is aware of is matched already. The initial input
weights of the sentences' BiLSTM are four times Xavier's: the similarity of words is a plain dot product, which with
small weights makes all attention alike, and then some thousand examples are spent on nothing else. Those of the second
BiLSTM are Xavier's for a, a fifth of them for a~ and a - a~, and two and a half times them for a * a~, whose values are
the smallest and say most; those of the hidden layer a fifth, as in HRE. Otherwise as in HRE, but for its doubled ones.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.persona_fusion import Fusion, PersonaFusion
from personae.nn.recurrent import BiLSTM, aggregate, pack, pool
from personae.nn.words import Sentences, Words
from personae.types import Example, Whose


class IMN(nn.Module):
    """Interactive Matching Network with persona fusion. B cases, N candidates, P persona lines, S distinct sentences of
    T words, U utterances of all contexts; C words of the longest context, R of the longest reply; H hidden units a
    direction.

    `with_hre` is not in the papers: HRE's classifier stands beside IMN's, over the same sentences, encoded but not
    matched. Each is trained by a loss of its own, and their logits are added."""

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
        with_hre: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.persona: Whose = "none" if fusion == "none" else persona
        self.limits = limits
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=4)
        self.matching = BiLSTM(width=8 * hidden, hidden=hidden, gain=(1, 0.2, 0.2, 2.5))
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden)
        self.fusion = None if fusion == "none" else PersonaFusion(fusion=fusion, width=4 * hidden)
        self.dropout = nn.Dropout(dropout)
        width = (2 + (self.fusion is not None)) * 4 * hidden
        self.classifier = Classifier(width=width, features=features, dropout=dropout)
        self.beside = Classifier(width=width, features=features, dropout=dropout) if with_hre else None

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
        return torch.stack(self._scores(batch)).sum(0)

    def loss(self, batch: DialogueBatch) -> Tensor:
        """Cross-entropy over the given candidates; with HRE's beside, the sum of both."""
        losses = [F.cross_entropy(scores.float(), batch.target) for scores in self._scores(batch)]
        return torch.stack(losses).sum()

    def _scores(self, batch: DialogueBatch) -> list[Tensor]:
        """IMN's logits (B, N), and HRE's where they are beside it."""
        sentences, packing = batch.sentences, batch.sentences.packing()
        gates = self.sentence.project(self.words(sentences))[sentences.words]  # (T, 8H)
        packed = self.dropout(self.sentence(gates, packing))  # equations 1-3
        vectors = self.dropout(pool(packed, packing))  # (S, 4H), equations 4-6
        encoded, lines = vectors[batch.candidates.clamp(min=0)], vectors[batch.persona.clamp(min=0)]  # (B, N or P, 4H)

        def classified(classifier: Classifier, context: Tensor, response: Tensor) -> Tensor:
            parts = [context, response]
            if self.fusion is not None:
                parts.insert(1, self.fusion(lines, batch.persona >= 0, context, encoded))
            return classifier(parts, batch.candidates >= 0)

        scores = [classified(self.classifier, *self._match(_unpacked(packed, packing.rows), batch))]
        if self.beside is not None:
            context = aggregate(self.utterances, vectors, batch.context, self.dropout)
            scores.append(classified(self.beside, context[:, None].expand_as(encoded), encoded))
        return scores

    def _match(self, tokens: Tensor, batch: DialogueBatch) -> tuple[Tensor, Tensor]:
        """Context and response (B, N, 4H) after cross-attention, from the encoded words (T, 2H)."""
        sentences, (cases, number) = batch.sentences, batch.candidates.shape
        case, place = (batch.context >= 0).nonzero(as_tuple=True)  # of each utterance
        said, replies = batch.context[case, place], batch.candidates.clamp(min=0).flatten()
        words, length = _words(sentences, said), sentences.lengths[said]  # of all contexts, (U,)
        reply_words, reply_length = _words(sentences, replies), sentences.lengths[replies]  # of all replies, (B * N,)
        real = torch.arange(int(reply_length.max()), device=tokens.device) < reply_length[:, None]  # (B * N, R)
        padded = torch.zeros_like(real, dtype=torch.long).masked_scatter_(real, reply_words)
        size = length.new_zeros(cases).index_add_(0, case, length)  # words of each context
        in_contexts, in_replies = size.tolist(), reply_length.view(cases, number).sum(1).tolist()

        of_a, of_other, of_difference, of_product = self.matching.input.chunk(4, 1)  # (8H, 2H) each
        shared = F.linear(tokens, of_a + of_difference, self.matching.bias)  # (T, 8H): the share of a
        crossing = F.linear(tokens, of_other - of_difference)  # (T, 8H): the share of a~, before attention
        of_contexts: list[Tensor] = []  # the gates; a case at a time, so that nothing is padded to the longest context
        of_replies: list[Tensor] = []
        for a, a_shared, a_crossing, b, b_shared, b_padded, b_crossing, there in zip(
            *(each[words].split(in_contexts) for each in (tokens, shared, crossing)),
            *(each[reply_words].split(in_replies) for each in (tokens, shared)),
            *(each[padded].split(number) for each in (tokens, crossing)),
            real.split(number),
            strict=True,
        ):
            similarity = (a @ b_padded.flatten(0, 1).t()).unflatten(1, there.shape)  # (C, N, R), equation 19
            least = torch.finfo(similarity.dtype).min
            to_reply = similarity.masked_fill(~there, least).softmax(2).transpose(0, 1)  # (N, C, R)
            to_context = similarity.flatten(1).t()[there.flatten()].softmax(1)  # (words of the replies, C)
            gates = F.linear(a * (to_reply @ b_padded), of_product)  # (N, C, 8H); the other shares are added in place
            of_contexts.append(gates.add_(to_reply @ b_crossing).add_(a_shared).flatten(0, 1))
            gates = F.linear(b * (to_context @ a), of_product)
            of_replies.append(gates.add_(to_context @ a_crossing).add_(b_shared))

        start = length.cumsum(0) - length + (size.cumsum(0) - size)[case] * (number - 1)
        start = start + torch.arange(number, device=tokens.device)[:, None] * size[case]  # (N, U)
        reply_start = number * len(words) + reply_length.cumsum(0) - reply_length
        packing = pack(
            torch.cat([start.flatten(), reply_start]), torch.cat([length.expand(number, -1).flatten(), reply_length])
        )
        states = self.dropout(self.matching(of_contexts + of_replies, packing))
        utterances, response = self.dropout(pool(states, packing)).split([start.numel(), len(replies)])  # (..., 4H)

        spoken = batch.context >= 0
        rows = spoken.flatten().cumsum(0).view_as(spoken) - 1  # of each utterance in those of all contexts
        rows = rows + torch.arange(number, device=tokens.device)[:, None, None] * len(case)  # (N, B, U)
        rows = rows.masked_fill(~spoken, -1).flatten(0, 1)
        context = aggregate(self.utterances, utterances, rows, self.dropout)  # (N * B, 4H)
        return context.unflatten(0, (number, cases)).transpose(0, 1), response.unflatten(0, (cases, number))


def _unpacked(packed: Tensor, rows: Tensor) -> Tensor:
    """Packed tokens (T, ...) back in the order of the sentences."""
    return packed[torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows), device=rows.device))]


def _words(sentences: Sentences, chosen: Tensor) -> Tensor:
    """The words of the `chosen` sentences, one after the other, as places among all words."""
    lengths, starts = sentences.lengths[chosen], sentences.starts[chosen]
    behind = starts - (lengths.cumsum(0) - lengths)
    return behind.repeat_interleave(lengths) + torch.arange(int(lengths.sum()), device=chosen.device)
