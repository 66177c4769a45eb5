"""IMN: match the whole context with the reply, word by word, before it is encoded again and pooled.

Jia-Chen Gu, Zhen-Hua Ling, Quan Liu. Interactive Matching Network for Multi-Turn Response Selection in Retrieval-Based
Chatbots. CIKM 2019. https://arxiv.org/abs/1901.01824
With persona fusion (NA, CA, RA, CRA): Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner
Matters! An Empirical Study on Fusing Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR
2021. https://arxiv.org/abs/2105.09050 (section 4.2)
As IMN_ctx and IMN_utr: Jia-Chen Gu, Zhen-Hua Ling, Xiaodan Zhu, Quan Liu. Dually Interactive Matching Network for
Personalized Response Selection in Retrieval-Based Chatbots. EMNLP 2019. https://arxiv.org/abs/1908.05859 (section 4)

The encoder is that of the second paper, one BiLSTM, not the first one's several layers. Differs from it: as HRE does in
words and dropout, otherwise nothing in the numbers (`nn.matching` says how they are found).

Not stated there: what joins the utterances of the context; here, nothing: their encoded words stand one after the
other, without the word _eos_ with which DIM's published code ends each; which response persona fusion is aware of;
"identical to that in HRE" is read as the response of equation 6, encoded and not yet matched, while a context that it
is aware of is matched already. Persona lines are encoded by the first BiLSTM and pooled, also for IMN_ctx and IMN_utr.
The initial input weights of the sentences' BiLSTM are four times Xavier's: the similarity of words is a plain dot
product, which with small weights makes all attention alike, and then some thousand examples are spent on nothing else.
Those of the second BiLSTM are Xavier's for a, a fifth of them for a~ and a - a~, and two and a half times them for a *
a~, whose values are the smallest and say most; those of the hidden layer a fifth, as in HRE. Otherwise as in HRE, but
for its doubled ones. Without context (table 2 of the second paper), the persona lines take the utterances' place.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from personae.nn.attention import AttentionPooling, attend
from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.matching import attention, match, unpacked
from personae.nn.objective import Objective
from personae.nn.persona_fusion import Fusion, PersonaFusion, whose
from personae.nn.recurrent import BiLSTM, aggregate, pool
from personae.nn.words import Words
from personae.types import Attention, Example, InputError, Read, Whose, check

Fusions = Literal[Fusion, "ctx", "utr"]
Aggregation = Literal["rnn", "attention"]


class IMN(nn.Module):
    """Interactive Matching Network with persona fusion. B cases, N candidates, M utterances of the longest context, P
    persona lines, S distinct sentences of T words; H hidden units a direction.

    `fusion` is one of `PersonaFusion`'s, or "ctx" (equation 1 of the EMNLP paper: what the context finds among the
    persona lines is added to it) or "utr" (equation 2: what each utterance finds is added to that utterance).
    `aggregation` is how utterances become a context (equation 3): a BiLSTM, or attention as in that paper's equations
    22 and 23. Made for both personas, each is fused by itself. Neither that nor `with_hre` is in the papers: HRE's
    classifier stands beside IMN's, over the same sentences, encoded but not matched. Each is trained by a loss of its
    own, and their logits are added."""

    scale = "logit"

    def __init__(
        self,
        *,
        words: Words | None = None,
        fusion: Fusions = "ra",
        persona: Whose = "self",
        hidden: int = 200,
        features: int = 256,
        dropout: float = 0.2,
        aggregation: Aggregation = "rnn",
        with_hre: bool = False,
        context: bool = True,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        check("task.model.fusion", fusion, Fusions)
        check("task.model.aggregation", aggregation, Aggregation)
        if with_hre and fusion in ("ctx", "utr"):
            raise InputError(f"task.model.with_hre: HRE has no fusion {fusion!r}; take none, na, ca, ra or cra")
        self.persona, self.personas = whose(fusion, persona, context)
        self.context, self.limits = context, limits
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=4)
        self.matching = BiLSTM(width=8 * hidden, hidden=hidden, gain=(1, 0.2, 0.2, 2.5))
        self.aggregation: nn.Module | None = None
        if aggregation == "attention":
            self.aggregation = AttentionPooling(width=4 * hidden, rectified=True)
        if aggregation == "rnn" or with_hre:
            self.utterances = BiLSTM(width=4 * hidden, hidden=hidden)
        self.added = fusion if fusion in ("ctx", "utr") else None
        self.of_partner = nn.Linear(4 * hidden, 4 * hidden) if self.added and self.personas == 2 else None
        self.fusion: PersonaFusion | None = None
        if fusion != "none" and fusion != "ctx" and fusion != "utr":
            self.fusion = PersonaFusion(fusion=fusion, width=4 * hidden, personas=self.personas)
        self.dropout = nn.Dropout(dropout)
        width = (2 + (0 if self.fusion is None else self.personas)) * 4 * hidden
        self.classifier = Classifier(width=width, features=features, dropout=dropout)
        self.beside = Classifier(width=width, features=features, dropout=dropout) if with_hre else None

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary and the task's word vectors."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(
            examples,
            self.words,
            whose=self.persona,
            limits=self.limits,
            personas=self.personas,
            context=self.context,
        )

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        return torch.stack(self._scores(batch)).sum(0)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores; with HRE's beside, the sum of both."""
        return torch.stack([objective(scores, batch.target) for scores in self._scores(batch)]).sum()

    def _scores(self, batch: DialogueBatch) -> list[Tensor]:
        """IMN's logits (B, N), and HRE's where they are beside it."""
        tokens, vectors = self._encoded(batch)
        personas, matched, encoded, response = self._matched(batch, tokens, vectors)

        def classified(classifier: Classifier, context: Tensor, response: Tensor) -> Tensor:
            parts = [context, response]
            if self.fusion is not None:
                parts[1:1] = self.fusion(personas, context, encoded)
            return classifier(parts, batch.candidates >= 0)

        scores = [classified(self.classifier, matched, response)]
        if self.beside is not None:
            context = aggregate(self.utterances, vectors, batch.context, self.dropout)
            scores.append(classified(self.beside, context[:, None].expand_as(encoded), encoded))
        return scores

    def attention(self, batch: DialogueBatch) -> list[list[tuple[Attention, ...]]]:
        """For each case and candidate: to the context."""
        to: Read = "context" if self.context else self.persona
        found = attention(self._encoded(batch)[0], batch.sentences, batch.context, batch.candidates, to=to)
        return [[(one,) for one in case] for case in found]

    def line_weights(self, batch: DialogueBatch) -> tuple[Tensor, ...]:
        """The attention (B, N, P) that IMN's persona fusion pays to the lines of each persona; empty without fusion."""
        if self.fusion is None:
            return ()
        personas, context, encoded, _ = self._matched(batch, *self._encoded(batch))
        return self.fusion.weights(personas, context, encoded)

    def _encoded(self, batch: DialogueBatch) -> tuple[Tensor, Tensor]:
        """All words (T, 2H), equations 1 to 3, and all sentences (S, 4H), equations 4 to 6."""
        packing = batch.sentences.packing()
        gates = self.sentence.project(self.words(batch.sentences))[batch.sentences.words]  # (T, 8H)
        packed = self.dropout(self.sentence(gates, packing))
        return unpacked(packed, packing), self.dropout(pool(packed, packing))

    def _matched(
        self, batch: DialogueBatch, tokens: Tensor, vectors: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor, Tensor]:
        """Each persona, its lines (B, P, 4H) and where one is (B, P); the context, matched, and the response, before
        and after it is matched (B, N, 4H)."""
        personas = [(vectors[lines.clamp(min=0)], lines >= 0) for lines in batch.personas]
        matched, rows, response = match(
            self.matching, tokens, batch.sentences, batch.context, batch.candidates, self.dropout
        )
        return personas, self._context(matched, rows, personas), vectors[batch.candidates.clamp(min=0)], response

    def _context(self, matched: Tensor, rows: Tensor, personas: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The context (B, N, 4H) from its utterances, matched with each candidate, which lie at `rows` (N * B, M)."""
        cases = personas[0][0].shape[0]
        if self.added == "utr":
            said = matched[rows.clamp(min=0)].unflatten(0, (-1, cases))  # (N, B, M, 4H)
            said = said + self._found(said, personas)  # equation 2
            matched, rows = said.flatten(0, 2), _numbered(rows)
        if self.aggregation is None:
            context = aggregate(self.utterances, matched, rows, self.dropout)  # (N * B, 4H)
        else:
            context = self.aggregation(matched[rows.clamp(min=0)], rows >= 0)
        context = context.unflatten(0, (-1, cases)).transpose(0, 1)
        if self.added == "ctx":
            context = context + self._found(context, personas)  # equation 1
        return context

    def _found(self, query: Tensor, personas: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What each query (..., B, Q, 4H) finds among the persona lines; what is the partner's goes through a layer, so
        that it can be told apart."""
        own, *partner = (attend(query, lines, there) for lines, there in personas)
        return own + self.of_partner(partner[0]) if self.of_partner is not None else own


def _numbered(rows: Tensor) -> Tensor:
    """The places of `rows` themselves, where they are not -1."""
    return torch.arange(rows.numel(), device=rows.device).view_as(rows).masked_fill(rows < 0, -1)
