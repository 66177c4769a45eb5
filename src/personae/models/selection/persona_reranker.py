"""Persona reranker: a small pretrained encoder that reads persona and context once for all candidates.

Not of a paper. What it is made of: replies attend to a context that does not attend to them, as documents to a query in
PreTTR (MacAvaney et al., SIGIR 2020, https://arxiv.org/abs/2004.14255), the other way round; the score of a bi-encoder
is added, which chooses the wrong replies to learn from (Karpukhin et al., EMNLP 2020, https://arxiv.org/abs/2004.04906);
among them, the true reply is told apart by a softmax (Humeau et al., Poly-encoders, ICLR 2020,
https://arxiv.org/abs/1905.01969). The encoder is MiniLM (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957).

A context is [CLS], the lines of the replier's persona, of the partner's, the last utterances and [SEP]; a [SEP] stands
before each of these parts. What a token is of is told by an embedding: whose persona, or who spoke. A reply is [CLS],
its tokens and [SEP], its positions count from 0. The vectors of tokens are averaged. The embeddings of words stay as
they were pretrained.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.dialogue_batch import personas_read, rows, targets
from personae.nn.objective import Objective
from personae.nn.packed import ROOM, Blocks, Packed, pack
from personae.nn.packed_encoder import PackedEncoder, means
from personae.types import Example, InputError, Whose, check

REPLY, SELF, PARTNER, OWN_TURN, PARTNER_TURN = range(5)
"""What a token is of."""

MOST = 512
"""So many tokens may the replies of a block have, if they are more than one."""


@dataclass(frozen=True)
class Cases:
    """B contexts and U distinct replies; `places` (B, N) are the candidates among the replies, -1 where there is none,
    and `target` (B,) the true one among the candidates, -1 where it is not known."""

    contexts: Packed
    replies: Packed
    places: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        parts = ("contexts", "replies", "places", "target")
        return replace(self, **{name: getattr(self, name).to(device) for name in parts})


class PersonaReranker(nn.Module):
    """A reader of persona, context and replies. B cases, N candidates, U distinct replies, T tokens, H hidden units.

    `backbone` is a folder or a hub id of a BERT, None for MiniLM's package. The last `utterances` are read, of each
    `utterance_tokens`, and so many tokens of each persona line and of a reply; of all, `longest`. In training, each
    reply is told apart by the bi-encoder from all candidates, and by the reader from `crossed` of them: the `hard`
    ones that the bi-encoder likes best, and others by chance. Of the features of an embedded token, so many are left
    out (`dropout`).
    """

    scale = "logit"

    def __init__(
        self,
        *,
        backbone: str | None = None,
        persona: Whose = "both",
        utterances: int = 6,
        utterance_tokens: int = 40,
        line_tokens: int = 24,
        reply_tokens: int = 40,
        longest: int = 384,
        crossed: int = 8,
        hard: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"utterances": utterances, "utterance_tokens": utterance_tokens, "line_tokens": line_tokens}
        for name, value in {**sizes, "reply_tokens": reply_tokens}.items():
            if value < 1:
                raise InputError(f"task.model.{name}: {value} is not at least 1")
        if not 1 <= hard < crossed:
            raise InputError(f"task.model: crossed ({crossed}) must be more than hard ({hard}), and that at least 1")
        self.persona: Whose = persona
        self.utterances, self.utterance_tokens = utterances, utterance_tokens
        self.line_tokens, self.reply_tokens, self.longest = line_tokens, reply_tokens, longest
        self.crossed, self.hard = crossed, hard
        self.encoder = PackedEncoder(backbone, longest=longest, dropout=dropout, subtypes=5)
        nn.init.zeros_(self.encoder.subtypes.weight)  # type: ignore[union-attr]
        self.encoder.backbone.embeddings.word_embeddings.requires_grad_(False)
        self.alone = nn.Parameter(torch.tensor(math.log(20.0)))
        self.together = nn.Parameter(torch.tensor(math.log(10.0)))
        self.output = nn.Linear(self.encoder.width, 1)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def prepare(self, texts: Iterable[str]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.encoder.require_weights()

    def collate(self, examples: Sequence[Example]) -> Cases:
        """The model's input."""
        self._split(examples)
        replies: dict[str, int] = {}
        found = [[replies.setdefault(text, len(replies)) for text in example.target.candidates] for example in examples]
        return Cases(
            pack(*zip(*map(self._context, examples), strict=True)),
            pack(*zip(*map(self._reply, replies), strict=True)),
            rows(found),
            targets(examples),
        )

    def size(self, example: Example) -> int:
        """The tokens of context and persona."""
        self._split([example])
        return len(self._context(example)[0])

    def _split(self, examples: Sequence[Example]) -> None:
        """Sees to it that the tokens of all texts are known."""
        check("persona", self.persona, Whose)
        self.encoder.tokens(
            text
            for example in examples
            for text in (
                *example.facts(self.persona),
                *(turn.text for turn in example.context.turns[-self.utterances :]),
                *example.target.candidates,
            )
        )

    def _reply(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a reply, and their kinds."""
        tokens = [self.encoder.start, *self.encoder.tokens(())[text][: self.reply_tokens], self.encoder.end]
        return tokens, [REPLY] * len(tokens)

    def _context(self, example: Example) -> tuple[list[int], list[int]]:
        """The tokens of persona and context, and their kinds. What there is no room for is left out: the oldest
        utterances, then the last lines of the partner's persona, then of the replier's."""
        known = self.encoder.tokens(())
        parts: list[tuple[int, list[int]]] = []
        for kind, lines in zip((SELF, PARTNER), personas_read(example, self.persona, 2), strict=True):
            if told := [token for line in lines for token in known[line][: self.line_tokens]]:
                parts.append((kind, told))
        for turn in example.context.turns[-self.utterances :]:
            kind = OWN_TURN if turn.speaker == example.target.speaker else PARTNER_TURN
            parts.append((kind, list(known[turn.text][: self.utterance_tokens])))
        tokens, kinds = [self.encoder.start], [REPLY]
        for kind, part in self._fitting(parts):
            tokens += [self.encoder.end, *part]
            kinds += [kind] * (1 + len(part))
        return [*tokens, self.encoder.end], [*kinds, kinds[-1]]

    def _fitting(self, parts: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
        """What of the parts there is room for."""
        over = sum(1 + len(part) for _, part in parts) + 2 - self.longest
        told = [(kind, part) for kind, part in parts if kind in (SELF, PARTNER)]
        said = parts[len(told) :]
        while over > 0 and len(said) > 1:
            over -= 1 + len(said.pop(0)[1])
        while over > 0 and told:
            kind, part = told.pop()
            if len(part) > over:
                told.append((kind, part[: len(part) - over]))
            over -= len(part)
        return told + said

    def score(self, batch: Cases) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        known, vectors = self._contexts(batch.contexts)
        return self._apart(batch, vectors) + self._read(batch, known, vectors, batch.places)

    def loss(self, batch: Cases, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """Half of what `objective` makes of the bi-encoder's scores, and what it makes of the reader's of some
        candidates, the true reply first."""
        known, vectors = self._contexts(batch.contexts)
        apart = self._apart(batch, vectors)
        liked = apart.detach().scatter(1, batch.target[:, None], torch.inf)
        hardest = liked.topk(min(1 + self.hard, liked.shape[1]), 1).indices
        first = torch.arange(hardest.shape[1], 0, -1, dtype=liked.dtype, device=liked.device).expand_as(hardest) + 1
        order = torch.rand_like(liked).masked_fill(liked == -torch.inf, -1).scatter(1, hardest, first)
        chosen = order.topk(min(self.crossed, liked.shape[1]), 1).indices
        read = self._read(batch, known, vectors, batch.places.gather(1, chosen))
        return objective(apart, batch.target) / 2 + objective(read, torch.zeros_like(batch.target))

    def _contexts(self, contexts: Packed) -> tuple[list[Tensor], Tensor]:
        """Of the tokens of all contexts, queries, keys and values of each layer (T, 3H); and each one's unit vector
        (B, H)."""
        known, states = self.encoder.encode(contexts)
        return known, F.normalize(means(states, contexts), dim=1)

    def _apart(self, batch: Cases, contexts: Tensor) -> Tensor:
        """The bi-encoder's logits (B, N)."""
        vectors = F.normalize(means(self.encoder.encode(batch.replies)[1], batch.replies), dim=1)  # (U, H)
        with torch.autocast(vectors.device.type, enabled=False):
            similar = self.alone.exp() * contexts @ vectors.t()  # (B, U)
        return similar.gather(1, batch.places.clamp(min=0)).masked_fill(batch.places < 0, -torch.inf)

    def _read(self, batch: Cases, known: Sequence[Tensor], contexts: Tensor, places: Tensor) -> Tensor:
        """The reader's logits (B, N) of the replies at `places` (B, N)."""
        there = places >= 0
        pairs, blocks = _blocks(batch.replies, places)
        vectors = means(self.encoder.encode(pairs, known, batch.contexts.starts, blocks)[1], pairs)  # (pairs, H)
        similar = (F.normalize(vectors, dim=1) * contexts[there.nonzero()[:, 0]]).sum(1)
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.output(vectors).squeeze(1) + self.together.exp() * similar
        return logits.new_full(places.shape, -torch.inf).masked_scatter(there, logits)


def _blocks(replies: Packed, places: Tensor) -> tuple[Packed, Blocks]:
    """The replies at `places` (B, N), one after another, each with the context of its row, and in which blocks they are
    read."""
    chosen = places[places >= 0]
    lengths = replies.lengths()[chosen]  # (pairs,)
    ends = lengths.cumsum(0)
    owners = torch.repeat_interleave(lengths)  # (T,): the pair of each token
    first = torch.tensor(replies.starts, device=places.device)[chosen]
    within = torch.arange(len(owners), device=places.device) - (ends - lengths)[owners]
    source = F.pad(first[owners] + within, (0, -len(owners) % ROOM))
    pairs = Packed(replies.tokens[source], replies.kinds[source], replies.positions[source], (0, *ends.tolist()))
    starts, contexts, counts, block = [0], [], (places >= 0).sum(1).tolist(), 0
    for row, count in enumerate(counts):
        for _ in range(count):
            block += 1
            if pairs.starts[block] - starts[-1] > MOST and pairs.starts[block - 1] > starts[-1]:
                starts.append(pairs.starts[block - 1])
                contexts.append(row)
        starts.append(pairs.starts[block])
        contexts.append(row)
    parts = owners.split([end - start for start, end in itertools.pairwise(starts)])
    return pairs, Blocks(starts, contexts, [(part[:, None] == part).float() for part in parts])
