"""DIM: match the reply with the context and, in parallel, with the persona, word by word.

Jia-Chen Gu, Zhen-Hua Ling, Xiaodan Zhu, Quan Liu. Dually Interactive Matching Network for Personalized Response
Selection in Retrieval-Based Chatbots. EMNLP 2019. https://arxiv.org/abs/1908.05859 (equations 4 to 24)

Differs from the paper: the frozen word vectors of each table are scaled to a root mean square of a half, since tables
come in different scales; words are spelt in bytes, not characters, so that any script can be; dropout on word vectors
drops the same features of a word wherever it occurs in a batch, since each distinct word is represented, and each
distinct sentence encoded, once. GloVe has 300 dimensions there, 50 in the package that is read when no file is named.
The published code splits the speaker's own utterances and the candidates at spaces only, the other texts at punctuation
too, ends each utterance with a word of its own, _eos_, maps words that it does not know to a known one and pools over
padding; here all texts are split alike, and there is nothing but the paper: the encoded words of the utterances, one
after the other, are the context, with nothing between them.

Not stated in the paper: the last hidden state of a bidirectional layer is taken as the state in which each direction
ends; a persona without lines is read as one empty line. First weights as in IMN.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.attention import AttentionPooling
from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import OWNERS, DialogueBatch, Limits, gather, size
from personae.nn.matching import attention, match, unpacked
from personae.nn.objective import Objective
from personae.nn.recurrent import BiLSTM, aggregate
from personae.nn.words import Words
from personae.types import Attention, Example, InputError, Read, Whose


class DIM(nn.Module):
    """Dually Interactive Matching Network. B cases, N candidates, M utterances of the longest context, P persona lines,
    T words of all distinct sentences, H hidden units a direction.

    Without `context`, or with the persona "none", the matching with it is left out, as in table 4. Made for both
    personas, it matches the reply with each by itself. Not in the paper."""

    scale = "logit"

    def __init__(
        self,
        *,
        words: Words | None = None,
        persona: Whose = "self",
        hidden: int = 200,
        features: int = 256,
        dropout: float = 0.2,
        context: bool = True,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if not context and persona == "none":
            raise InputError("task.model: reads neither context nor persona; set one of them")
        self.persona: Whose = persona
        self.personas = {"none": 0, "both": 2}.get(persona, 1)
        self.context, self.limits = context, limits
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=4)
        self.matching = BiLSTM(width=8 * hidden, hidden=hidden, gain=(1, 0.2, 0.2, 2.5))
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden) if context else None
        self.lines = nn.ModuleList(AttentionPooling(width=4 * hidden, rectified=True) for _ in range(self.personas))
        self.dropout = nn.Dropout(dropout)
        parts = 2 * (context + self.personas)
        self.classifier = Classifier(width=parts * 4 * hidden, features=features, dropout=dropout)

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
            blank=True,
        )

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        tokens, parts = self._encoded(batch), []
        if self.utterances is not None:
            matched, rows, response = self._match(tokens, batch, batch.context)
            parts += [aggregate(self.utterances, matched, rows, self.dropout), response]  # equations 20 and 21
        for pooling, lines in zip(self.lines, batch.personas, strict=True):
            matched, rows, response = self._match(tokens, batch, lines)
            parts += [pooling(matched[rows.clamp(min=0)], rows >= 0), response]  # equations 22 and 23
        cases = len(batch.candidates)
        parts = [part if part.ndim == 3 else part.unflatten(0, (-1, cases)).transpose(0, 1) for part in parts]
        return self.classifier(parts, batch.candidates >= 0)  # equation 24

    def _encoded(self, batch: DialogueBatch) -> Tensor:
        """The words of all sentences (T, 2H), equations 4 to 6."""
        sentences, packing = batch.sentences, batch.sentences.packing()
        gates = self.sentence.project(self.words(sentences))[sentences.words]  # (T, 8H)
        return unpacked(self.dropout(self.sentence(gates, packing)), packing)

    def _match(self, tokens: Tensor, batch: DialogueBatch, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Equations 7 to 19, for the context or a persona."""
        return match(self.matching, tokens, batch.sentences, chosen, batch.candidates, self.dropout)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)

    def attention(self, batch: DialogueBatch) -> list[list[tuple[Attention, ...]]]:
        """For each case and candidate: to the context, and to each persona (figure 3)."""
        parts: list[tuple[Read, Tensor]] = [("context", batch.context)] if self.context else []
        parts += zip(OWNERS if self.personas == 2 else (self.persona,), batch.personas, strict=False)
        tokens = self._encoded(batch)
        found = [attention(tokens, batch.sentences, chosen, batch.candidates, to=to) for to, chosen in parts]
        return [list(zip(*case, strict=True)) for case in zip(*found, strict=True)]
