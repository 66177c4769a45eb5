"""FIRE: filter context and persona by one another, then let each and the reply refer to one another several times.

Jia-Chen Gu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Filtering before Iteratively Referring for
Knowledge-Grounded Response Selection in Retrieval-Based Chatbots. Findings of EMNLP 2020.
https://arxiv.org/abs/2004.14550 (written after its abstract and the authors' code, https://github.com/JasonForJoy/FIRE,
since the paper's equations could not be read)

Differs from that code: as DIM does in words, dropout and padding. There, a persona line's relevance is at least that of
padding, a half, so that the threshold of .3 discards nothing, and no gradient reaches what measures it; with all lines
discarded, all words would be attended to alike. Here only utterances count, so that it does discard, and it loses more
than it gains, so that the recipes have a threshold of 0; the gradient is that of lines which are weighted by their
relevance, though they are not; with nothing left, zeros are found. There, a score is the mean of the shares that each
iteration's softmax gives, here of the logits, so that it does not depend on the other candidates; no labels are
smoothed. The losses of all iterations are added, as there.

Not stated there: a persona without lines is read as one empty line. First weights as in IMN; those of products are a
quarter in each further iteration, since what is multiplied has grown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.attention import AttentionPooling, weighted
from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.matching import places, unpacked
from personae.nn.objective import Objective
from personae.nn.recurrent import BiLSTM, aggregate, pool
from personae.nn.words import Sentences, Words
from personae.types import Example, InputError, Whose


class FIRE(nn.Module):
    """Filtering before Iteratively REferring. B cases, N candidates, M utterances of the longest context, P persona
    lines, S distinct sentences of T words, H hidden units a direction, D = 2H; C words of one case's context or
    persona, R of its longest reply, K of a persona where it meets the context.

    A persona line is kept where its relevance to some utterance is above `threshold`. With the persona "none", there is
    nothing to filter by, and only context and reply refer to one another. Made for both personas, each is filtered,
    and refers to the reply, by itself, and what it adds to the context is added for both. Neither is in the paper."""

    scale = "logit"

    def __init__(
        self,
        *,
        words: Words | None = None,
        persona: Whose = "self",
        hidden: int = 200,
        features: int = 256,
        iterations: int = 3,
        threshold: float = 0.3,
        dropout: float = 0.2,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise InputError(f"task.model.iterations: {iterations} is not at least 1")
        self.persona: Whose = persona
        self.personas = {"none": 0, "both": 2}.get(persona, 1)
        self.limits, self.threshold = limits, threshold
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=4)
        self.filters = nn.ModuleList(_Comparison(width=2 * hidden) for _ in range(self.personas))
        self.relevance = nn.ModuleList(nn.Linear(2 * hidden, 2 * hidden, bias=False) for _ in range(self.personas))
        self.iterations = nn.ModuleList(
            _Iteration(hidden=hidden, features=features, dropout=dropout, personas=self.personas, gain=4.0**-place)
            for place in range(iterations)
        )
        self.dropout = nn.Dropout(dropout)

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary and the task's word vectors."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits, personas=self.personas, blank=True)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        return torch.stack(self._scores(batch)).mean(0)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of each iteration's scores, in all."""
        return torch.stack([objective(scores, batch.target) for scores in self._scores(batch)]).sum()

    def _scores(self, batch: DialogueBatch) -> list[Tensor]:
        """The logits (B, N) of each iteration."""
        sentences, packing = batch.sentences, batch.sentences.packing()
        gates = self.sentence.project(self.words(sentences))[sentences.words]  # (T, 8H)
        packed = self.dropout(self.sentence(gates, packing))
        tokens, ends = unpacked(packed, packing), pool(packed, packing).chunk(2, 1)[1]  # (T, D), (S, D)
        candidates = batch.candidates.clamp(min=0)
        length = sentences.lengths[candidates][..., None]  # (B, N, 1)
        real = torch.arange(int(length.max()), device=tokens.device) < length  # (B, N, R)
        spelt = torch.zeros_like(real, dtype=torch.long)
        replies = tokens[spelt.masked_scatter_(real, places(sentences, candidates.flatten()))]  # (B, N, R, D)

        parts = [(batch.context, batch.context >= 0, torch.zeros_like(batch.context))]
        parts += [(lines, *self._judged(place, batch, ends)) for place, lines in enumerate(batch.personas)]
        cases = zip(*(_sources(tokens, sentences, *part) for part in parts), strict=True)
        pooled = [  # of each case, part and iteration: the sentences (N, M, 2D) and the replies (N, 2D)
            [self._referred(place, source, reply, there) for place, source in enumerate(self._filtered(case))]
            for case, reply, there in zip(cases, replies, real, strict=True)
        ]
        scores = []
        for step, iteration in enumerate(self.iterations):
            read = []
            for place, (chosen, kept, _) in enumerate(parts):
                said, answers = zip(*(case[place][step] for case in pooled), strict=True)
                vectors = torch.cat([each.flatten(0, 1) for each in said])
                read.append((vectors, _rows(chosen, len(real[0])), kept, torch.stack(answers)))
            scores.append(iteration(read, batch.candidates >= 0))
        return scores

    def _judged(self, place: int, batch: DialogueBatch, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Which lines of a persona are kept, and the logarithm of how far to see them, zero but for its gradient; both
        (B, P)."""
        lines, context = batch.personas[place], batch.context
        similarity = self.relevance[place](ends[lines.clamp(min=0)]) @ ends[context.clamp(min=0)].transpose(1, 2)
        relevance = similarity.masked_fill(context[:, None] < 0, torch.finfo(similarity.dtype).min).amax(2)
        seen = F.logsigmoid(relevance)
        return (lines >= 0) & (relevance.sigmoid() > self.threshold), seen - seen.detach()

    def _filtered(self, case: Sequence["_Source"]) -> list["_Source"]:
        """Context and personas, each having looked at the other."""
        context, *personas = case
        words, filtered = context.words, []
        for persona, compare in zip(personas, self.filters, strict=True):
            similarity = context.words @ persona.words.t()  # (C, K)
            words = words + compare(context.words, persona.words, similarity, torch.ones_like(persona.kept))
            own = compare(persona.words, context.words, similarity.t(), context.kept)
            filtered.append(replace(persona, words=persona.words + own))
        return [replace(context, words=words), *filtered]

    def _referred(self, place: int, source: "_Source", reply: Tensor, there: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The source's sentences (N, M, 2D) and the replies (N, 2D) after each iteration, pooled over their words."""
        there = there[:, : int(there.sum(1).max())]
        reply = reply[:, : there.shape[1]]
        read, answer, pooled = source.words, reply, []  # later (N, C, D) and (N, R, D)
        for step, iteration in enumerate(self.iterations):
            assert isinstance(iteration, _Iteration)
            compare = iteration.compare[place]
            similarity = answer @ read.transpose(-1, -2)  # (N, R, C)
            read, answer = (
                compare(read, answer, similarity.transpose(1, 2), there) + read,
                compare(answer, read, similarity + source.leaning, source.kept) + answer,
            )
            if step > 0:  # from the second iteration on, what was encoded is added, too
                read, answer = read + source.words, answer + reply
            pooled.append((torch.stack([_pool(s) for s in read.split(source.lengths, 1)], 1), _pool(answer, there)))
        return pooled


@dataclass(frozen=True)
class _Source:
    """The words (C, D) of a case's context or persona, which of them are `kept` (C,), and how far to see them (C,); the
    `lengths` of its sentences."""

    words: Tensor
    kept: Tensor
    leaning: Tensor
    lengths: list[int]


def _sources(tokens: Tensor, sentences: Sentences, chosen: Tensor, kept: Tensor, leaning: Tensor) -> list[_Source]:
    """What each case has chosen (B, M), with what is `kept` and `leaning` (B, M)."""
    there = chosen >= 0
    said, count = chosen[there], there.sum(1).tolist()
    length = sentences.lengths[said]
    lengths = [part.tolist() for part in length.split(count)]
    words = [
        each.split([sum(part) for part in lengths])
        for each in (
            tokens[places(sentences, said)],
            kept[there].repeat_interleave(length),
            leaning[there].repeat_interleave(length),
        )
    ]
    return [_Source(*case) for case in zip(*words, lengths, strict=True)]


def _rows(chosen: Tensor, candidates: int) -> Tensor:
    """Where the sentences (B, N, M) lie among those of all cases and candidates, -1 where there is none."""
    there = chosen >= 0
    count = there.sum(1)[:, None, None]
    candidate = torch.arange(candidates, device=chosen.device)[:, None]
    rows = (count.cumsum(0) - count) * candidates + candidate * count + torch.arange(there.shape[1]).to(chosen)
    return rows.masked_fill(~there[:, None], -1)


def _pool(words: Tensor, there: Tensor | None = None) -> Tensor:
    """Max and mean over the words (N, R, D) that are there (N, R), all of them if None: (N, 2D)."""
    if there is None:
        return torch.cat([words.max(1).values, words.mean(1)], 1)
    greatest = words.masked_fill(~there[..., None], torch.finfo(words.dtype).min).max(1).values
    return torch.cat([greatest, (words * there[..., None]).sum(1) / there.sum(1, keepdim=True)], 1)


class _Comparison(nn.Module):
    """A rectified layer over [a; a~; a - a~; a * a~] of `width` features each, where the weight of a - a~ is part of
    those of a and a~. The first weights of products are smaller by `gain`."""

    def __init__(self, *, width: int, gain: float = 1.0) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.other = nn.Linear(width, width, bias=False)
        self.product = nn.Linear(width, width, bias=False)
        for layer, first in ((self.own, 1.0), (self.other, 0.2), (self.product, 2.5 * gain)):
            nn.init.xavier_uniform_(layer.weight, first)
        nn.init.zeros_(self.own.bias)

    def forward(self, a: Tensor, b: Tensor, similarity: Tensor, there: Tensor) -> Tensor:
        """What the a (..., C, D) find among the b (..., R, D) that are there (..., R), by their similarity (..., C, R),
        compared with them: (..., C, D)."""
        if b.shape[-2] < a.shape[-2]:  # the weight of a~ goes through the attention, so that there is less to multiply
            found, other = weighted(similarity, torch.cat([b, self.other(b)], -1), there).chunk(2, -1)
        else:
            found = weighted(similarity, b, there)
            other = self.other(found)
        compared: Tensor = self.product(a * found)
        return compared.add_(other).add_(self.own(a)).relu_()


class _Iteration(nn.Module):
    """What each iteration has for itself: the comparisons, and from what they give to a score."""

    def __init__(self, *, hidden: int, features: int, dropout: float, personas: int, gain: float) -> None:
        super().__init__()
        self.compare = nn.ModuleList(_Comparison(width=2 * hidden, gain=gain) for _ in range(1 + personas))
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden)
        self.lines = nn.ModuleList(AttentionPooling(width=4 * hidden, rectified=True) for _ in range(personas))
        self.dropout = nn.Dropout(dropout)
        self.classifier = Classifier(width=2 * (1 + personas) * 4 * hidden, features=features, dropout=dropout)

    def forward(self, parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], there: Tensor) -> Tensor:
        """Logits (B, N). Of context and personas: the pooled sentences (..., 4H), where they lie (B, N, M), which are
        kept (B, M), and the replies (B, N, 4H)."""
        features = []
        for place, (vectors, rows, kept, replies) in enumerate(parts):
            if place == 0:
                read = aggregate(self.utterances, vectors, rows.flatten(0, 1), self.dropout).view_as(replies)
            else:
                read = self.lines[place - 1](vectors[rows.clamp(min=0)], kept[:, None].expand_as(rows))
            features += [read, self.dropout(replies)]
        return self.classifier(features, there)
