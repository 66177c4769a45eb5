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
sooner to match.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.classifier import Classifier
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.persona_fusion import Fusion, PersonaFusion
from personae.nn.recurrent import BiLSTM, aggregate, pool
from personae.nn.words import Words
from personae.types import Example, Whose


class HRE(nn.Module):
    """Hierarchical Recurrent Encoder with persona fusion. B cases, N candidates, M utterances, P persona lines, S
    distinct sentences, H hidden units a direction."""

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
        self.sentence = BiLSTM(width=self.words.width, hidden=hidden, gain=2)
        self.utterances = BiLSTM(width=4 * hidden, hidden=hidden, gain=2)
        self.fusion = None if fusion == "none" else PersonaFusion(fusion=fusion, width=4 * hidden)
        self.dropout = nn.Dropout(dropout)
        parts = 2 + (self.fusion is not None)
        self.classifier = Classifier(width=parts * 4 * hidden, features=features, dropout=dropout)

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
        packing = batch.sentences.packing()
        gates = self.sentence.project(self.words(batch.sentences))[batch.sentences.words]  # (T, 8H)
        vectors = self.dropout(pool(self.dropout(self.sentence(gates, packing)), packing))  # (S, 4H), equations 1-6
        response = vectors[batch.candidates.clamp(min=0)]  # (B, N, 4H)
        context = aggregate(self.utterances, vectors, batch.context, self.dropout)  # equations 7 and 8
        context = context[:, None].expand_as(response)
        parts = [context, response]
        if self.fusion is not None:
            lines = vectors[batch.persona.clamp(min=0)]  # (B, P, 4H)
            parts.insert(1, self.fusion(lines, batch.persona >= 0, context, response))
        return self.classifier(parts, batch.candidates >= 0)  # equation 17

    def loss(self, batch: DialogueBatch) -> Tensor:
        """Cross-entropy over the given candidates, equation 18."""
        return F.cross_entropy(self.score(batch).float(), batch.target)
