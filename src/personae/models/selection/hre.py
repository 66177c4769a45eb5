"""HRE: encode context, persona and reply apart from one another, then match.

Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner Matters! An Empirical Study on Fusing
Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR 2021. https://arxiv.org/abs/2105.09050
(section 4.1; the encoder is that of Serban et al., AAAI 2016)

Differs from the paper: the frozen word vectors of each table are scaled to a root mean square of a half, since tables
come in different scales; words are spelt in bytes, not characters, so that any script can be; dropout on word vectors
drops the same features of a word wherever it occurs in a batch, since each distinct word is represented, and each
distinct sentence encoded, once. GloVe has 300 dimensions there, 50 in the package that is read when no file is named.

Not stated in the paper: the last hidden state of a bidirectional layer (equations 4 to 8) is taken as the state in
which each direction ends; the initial weights are Xavier's, orthogonal for recurrences, and forget gates start open.
Those of the inputs of both BiLSTMs are doubled and those of the hidden layer divided by five, with which it learns
sooner to match. Without context (table 2), the persona lines take the utterances' place.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.objective import Objective
from personae.nn.persona_fusion import Fusion, PersonaFusion, whose
from personae.nn.recurrent import BiLSTM, aggregate, pool
from personae.nn.words import Words
from personae.types import Example, Whose


class HRE(nn.Module):
    """Hierarchical Recurrent Encoder with persona fusion. B cases, N candidates, M utterances, P persona lines, S
    distinct sentences, H hidden units a direction.

    Made for both personas, it fuses each by itself and gives both to the classifier. Not in the paper."""

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
        context: bool = True,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.persona, self.personas = whose(fusion, persona, context)
        self.context, self.limits = context, limits
        self.words = words or Words()
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=2)
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden, gain=2)
        self.fusion = (
            None if fusion == "none" else PersonaFusion(fusion=fusion, width=4 * hidden, personas=self.personas)
        )
        self.dropout = nn.Dropout(dropout)
        parts = 2 + (0 if self.fusion is None else self.personas)
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
        )

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        personas, context, response = self._encoded(batch)
        parts = [context, response]
        if self.fusion is not None:
            parts[1:1] = self.fusion(personas, context, response)
        return self.classifier(parts, batch.candidates >= 0)  # equation 17

    def line_weights(self, batch: DialogueBatch) -> tuple[Tensor, ...]:
        """The attention (B, N, P) that persona fusion pays to the lines of each persona; empty without fusion."""
        return () if self.fusion is None else self.fusion.weights(*self._encoded(batch))

    def _encoded(self, batch: DialogueBatch) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Each persona, its lines (B, P, 4H) and where one is (B, P); context and response (B, N, 4H)."""
        packing = batch.sentences.packing()
        gates = self.sentence.project(self.words(batch.sentences))[batch.sentences.words]  # (T, 8H)
        vectors = self.dropout(pool(self.dropout(self.sentence(gates, packing)), packing))  # (S, 4H), equations 1-6
        response = vectors[batch.candidates.clamp(min=0)]  # (B, N, 4H)
        context = aggregate(self.utterances, vectors, batch.context, self.dropout)  # equations 7 and 8
        personas = [(vectors[lines.clamp(min=0)], lines >= 0) for lines in batch.personas]
        return personas, context[:, None].expand_as(response), response

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
