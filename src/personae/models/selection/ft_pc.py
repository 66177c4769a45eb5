"""FT-PC: a transformer reads the context, another the reply; the context looks up persona lines and adds them to it.

Pierre-Emmanuel Mazaré, Samuel Humeau, Martin Raison, Antoine Bordes. Training Millions of Personalized Dialogue Agents.
EMNLP 2018. https://arxiv.org/abs/1809.01984 (section 3, its best model: a transformer with a memory of the persona)

Differs from the paper: it is pre-trained there on 700 million exchanges of Reddit with personas made of what their
authors said, which are not published; the recipes have Synthetic-Persona-Chat in their place, a run of which is named
by `init_from`, and word vectors that begin at random. Of both personas, each is attended by itself, and both are added.

Not stated in the paper: heads, normalisation before each sublayer, sines and cosines for places, word vectors
multiplied by the root of their width before these are added ("Attention Is All You Need", section 3.4), that the layer
after the sum of a line's words has no bias and begins as the identity (of both personas, that of the replier's). A
persona without lines adds nothing.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from personae.nn.attention import attend
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.embedding import WordEmbedding
from personae.nn.matching import places
from personae.nn.objective import Objective
from personae.nn.words import Sentences
from personae.types import Example, InputError, Whose


class FTPC(nn.Module):
    """Transformers with a memory of persona lines. B cases, N candidates, M utterances, P persona lines, S distinct
    sentences of T words, C words of the longest sequence, H features."""

    scale = "logit"

    def __init__(
        self,
        *,
        persona: Whose = "self",
        hidden: int = 300,
        layers: int = 4,
        heads: int = 4,
        min_count: int = 2,
        dropout: float = 0.1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if heads < 1 or hidden % heads or hidden % 2:
            raise InputError(f"task.model.heads: {heads} do not divide hidden ({hidden}), which must be even")
        self.persona: Whose = persona
        self.personas = 2 if persona == "both" else 1
        self.limits = limits
        self.words = WordEmbedding(width=hidden, min_count=min_count, dropout=0.0)
        self.context = _Encoder(width=hidden, layers=layers, heads=heads, dropout=dropout)
        self.reply = _Encoder(width=hidden, layers=layers, heads=heads, dropout=dropout)
        first = nn.Linear(hidden, hidden, bias=False)
        nn.init.eye_(first.weight)  # at first, a line is the sum of its words, so that a reply with the same is like it
        others = (nn.Linear(hidden, hidden, bias=False) for _ in range(1, self.personas))
        self.lines = nn.ModuleList([first, *others])

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits, personas=self.personas)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        sentences = batch.sentences
        tokens, bags = self.words(sentences)[sentences.words], self.words.bags(sentences)  # (T, H), (S, H)
        query = context = self.context(tokens, sentences, batch.context)  # (B, H)
        for layer, lines in zip(self.lines, batch.personas, strict=True):
            memory = layer(bags)[lines.clamp(min=0)]  # (B, P, H)
            query = query + attend(context[:, None], memory, lines >= 0).squeeze(1)
        distinct, row = batch.candidates.clamp(min=0).unique(return_inverse=True)
        replies = self.reply(tokens, sentences, distinct[:, None])[row]  # (B, N, H)
        scores = (replies @ query[..., None]).squeeze(2)
        return scores.masked_fill(batch.candidates < 0, -torch.inf)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)


class _Encoder(nn.Module):
    """A transformer over sequences of sentences, averaged over their words."""

    def __init__(self, *, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, sentences: Sentences, chosen: Tensor) -> Tensor:
        """The `chosen` (B, M) sentences of each case, read one after another, as (B, H); -1 stands for none."""
        there = chosen >= 0
        words = places(sentences, chosen[there])
        length = (sentences.lengths[chosen.clamp(min=0)] * there).sum(1)
        real = torch.arange(int(length.max()), device=tokens.device) < length[:, None]  # (B, C)
        place = torch.zeros_like(real, dtype=torch.long).masked_scatter_(real, words)
        scaled = tokens[place] * tokens.shape[1] ** 0.5  # or the places would drown the words
        sequence = self.dropout(scaled + _positions(real.shape[1], tokens))  # (B, C, H)
        states = self.layers(sequence, src_key_padding_mask=~real)
        return (states * real[..., None]).sum(1) / length[:, None]


def _positions(count: int, like: Tensor) -> Tensor:
    """Sines and cosines that tell places apart (count, H), as in "Attention Is All You Need" (section 3.5)."""
    width = like.shape[1]
    rates = 10000 ** (-torch.arange(0, width, 2).to(like) / width)
    angles = torch.arange(count).to(like)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
