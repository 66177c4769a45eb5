"""Persona reranker: a small pretrained encoder that reads persona and context once for all candidates.

Not of a paper. What it is made of: replies attend to a context that does not attend to them, as documents to a query in
PreTTR (MacAvaney et al., SIGIR 2020, https://arxiv.org/abs/2004.14255), the other way round; the score of a bi-encoder
is added, which chooses the wrong replies to learn from (Karpukhin et al., EMNLP 2020, https://arxiv.org/abs/2004.04906);
among them, the true reply is told apart by a softmax (Humeau et al., Poly-encoders, ICLR 2020,
https://arxiv.org/abs/1905.01969). The encoder is MiniLM (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957).

A context has parts: first [CLS] and the lines of the replier's persona and of the partner's, then each utterance; a
[SEP] ends each line and utterance. A token sees its own part and those before it, so that what has been read of a
conversation stays as it is while that goes on: in chat, only the last utterance is new, and in training, all replies of
a conversation learn from one reading of it. A reply is [CLS], its tokens and [SEP]; beside a context, its positions
count on from there. What a token is of is told by an embedding: whose persona, or who spoke. The embeddings of words
stay as they were pretrained.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.cross_encoder import Keys
from personae.nn.dialogue_batch import personas_read, rows, targets
from personae.nn.objective import Objective
from personae.nn.packed import ROOM, Packed, Seen, pack
from personae.nn.packed_encoder import PackedEncoder, means
from personae.types import Example, InputError, Whose, check

REPLY, SELF, PARTNER, OWN_TURN, PARTNER_TURN = range(5)
"""What a token is of."""

MOST = 512
"""So many tokens may the replies of a block have, if they are more than one."""


FAR = 1e4
"""More than any two logits differ by."""

MOST_WEIGHT = 20.0
"""The logarithm of a token's weight in the mean of a context is at most so large."""


@dataclass(frozen=True)
class Cases:
    """B cases, of whose contexts those that are the beginning of another are read with it.

    `contexts` have the parts that are numbered in `parts` (T,), over all of them, and see what `seen` says. Of each
    case, `spans` is where its context begins and ends, `first` and `last` (B,) are its parts. Of U distinct `replies`,
    `places` (B, N) are its candidates, -1 where there is none, and `target` (B,) is the place of the true one among
    them, -1 where it is not known.
    """

    contexts: Packed
    parts: Tensor
    seen: Seen
    spans: Sequence[tuple[int, int]]
    first: Tensor
    last: Tensor
    replies: Packed
    places: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        names = ("contexts", "parts", "seen", "first", "last", "replies", "places", "target")
        return replace(self, **{name: getattr(self, name).to(torch.device(device)) for name in names})


class PersonaReranker(nn.Module):
    """A reader of persona, context and replies. B cases, N candidates, U distinct replies, T tokens, G parts, H hidden
    units.

    `backbone` is a folder or a hub id of a BERT, None for MiniLM's package. So many tokens are read of each line,
    utterance and reply; of a context, `longest`, at most half of them of personas. Where there is no room for an
    utterance, the oldest are left out until what stays fills half of the room. In training, each reply is told apart by
    the bi-encoder from all candidates, and by the reader from `crossed` of them: the `hard` ones that the bi-encoder
    likes best of a share `among` all, and others by chance. Where none are crossed, the bi-encoder learns alone. Of the
    features of an embedded token, so many are left out (`dropout`).
    """

    scale = "logit"
    shares_contexts = True

    def __init__(
        self,
        *,
        backbone: str | None = None,
        persona: Whose = "both",
        utterance_tokens: int = 48,
        line_tokens: int = 24,
        reply_tokens: int = 48,
        longest: int = 384,
        crossed: int = 8,
        hard: int = 5,
        among: float = 0.3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"utterance_tokens": utterance_tokens, "line_tokens": line_tokens, "reply_tokens": reply_tokens}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"task.model.{name}: {value} is not at least 1")
        if longest < 4 * (1 + max(utterance_tokens, line_tokens)):
            raise InputError(
                f"task.model.longest: {longest} is less than four times a line or an utterance with its end"
            )
        if crossed and not 1 <= hard < crossed:
            raise InputError(f"task.model: crossed ({crossed}) must be more than hard ({hard}), and that at least 1")
        if not 0 < among <= 1:
            raise InputError(f"task.model.among: {among} is not above 0 and at most 1")
        self.persona: Whose = persona
        self.utterance_tokens, self.line_tokens = utterance_tokens, line_tokens
        self.reply_tokens, self.longest = reply_tokens, longest
        self.crossed, self.hard, self.among = crossed, hard, among
        self.encoder = PackedEncoder(backbone, longest=longest + reply_tokens + 2, dropout=dropout, subtypes=5)
        nn.init.zeros_(self.encoder.subtypes.weight)  # type: ignore[union-attr]
        self.encoder.backbone.embeddings.word_embeddings.requires_grad_(False)
        width = self.encoder.width
        self.weight = nn.Linear(width, 1, bias=False)
        self.recent, self.whole = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.weight.weight)
        for part in (self.recent, self.whole):
            part.weight.data.copy_(torch.eye(width) / 2)
        self.alone = nn.Parameter(torch.tensor(math.log(20.0)))
        self.together = nn.Parameter(torch.tensor(math.log(10.0)))
        self.output = nn.Linear(width, 1)
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
        return cases(
            [self._context(example) for example in examples],
            pack(list(map(self._reply, replies))),
            rows(found),
            targets(examples),
        )

    def size(self, example: Example) -> int:
        """The tokens of context and persona."""
        self._split([example])
        return sum(len(tokens) for tokens, _ in self._context(example))

    def _split(self, examples: Sequence[Example]) -> None:
        """Sees to it that the tokens of all texts are known."""
        check("persona", self.persona, Whose)
        self.encoder.tokens(
            text
            for example in examples
            for text in (
                *example.facts(self.persona),
                *(turn.text for turn in example.context.turns),
                *example.target.candidates,
            )
        )

    def _reply(self, text: str) -> Keys:
        """The tokens of a reply, and their kinds."""
        tokens = (self.encoder.start, *self.encoder.tokens(())[text][: self.reply_tokens], self.encoder.end)
        return tokens, (REPLY,) * len(tokens)

    def _context(self, example: Example) -> tuple[Keys, ...]:
        """The parts of persona and context: the tokens of each, and their kinds."""
        known, end = self.encoder.tokens(()), self.encoder.end
        tokens, kinds = [self.encoder.start], [REPLY]
        for kind, facts in zip((SELF, PARTNER), personas_read(example, self.persona, 2), strict=True):
            for line in facts:
                told = (*known[line][: self.line_tokens], end)
                if len(tokens) + len(told) <= self.longest // 2:
                    tokens += told
                    kinds += [kind] * len(told)
        room = self.longest - len(tokens)
        turns: list[Keys] = []
        for turn in example.context.turns:
            said = (*known[turn.text][-self.utterance_tokens :], end)
            kind = OWN_TURN if turn.speaker == example.target.speaker else PARTNER_TURN
            turns.append((said, (kind,) * len(said)))
            filled = sum(len(said) for said, _ in turns)
            if filled > room:
                while filled > room // 2:
                    filled -= len(turns.pop(0)[0])
        return ((tuple(tokens), tuple(kinds)), *turns)

    def score(self, batch: Cases) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        known, vectors = self._contexts(batch)
        return self._apart(batch, vectors) + self._read(batch, known, vectors, batch.places)

    def loss(self, batch: Cases, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """Half of what `objective` makes of the bi-encoder's scores, and what it makes of the reader's of some
        candidates, the true reply first."""
        known, vectors = self._contexts(batch)
        apart = self._apart(batch, vectors)
        if not self.crossed:
            return objective(apart, batch.target)
        liked = apart.detach() - FAR * (torch.rand_like(apart) > self.among)
        liked = liked.scatter(1, batch.target[:, None], torch.inf)
        hardest = liked.topk(min(1 + self.hard, liked.shape[1]), 1).indices
        first = torch.arange(hardest.shape[1], 0, -1, dtype=liked.dtype, device=liked.device).expand_as(hardest) + 1
        order = torch.rand_like(liked).masked_fill(liked == -torch.inf, -1).scatter(1, hardest, first)
        chosen = order.topk(min(self.crossed, liked.shape[1]), 1).indices
        read = self._read(batch, known, vectors, batch.places.gather(1, chosen))
        return objective(apart, batch.target) / 2 + objective(read, torch.zeros_like(batch.target))

    def _contexts(self, batch: Cases) -> tuple[list[Tensor], Tensor]:
        """Of the tokens of all contexts, queries, keys and values of each layer (T, 3H); and each case's unit vector
        (B, H), of the mean of its last part and of a weighted mean of all."""
        known, states = self.encoder.encode(batch.contexts, batch.seen)
        with torch.autocast(states.device.type, enabled=False):
            exact = states[: len(batch.parts)].to(torch.promote_types(states.dtype, torch.float32))
            weights = self.weight(exact).clamp(max=MOST_WEIGHT).exp()  # (T, 1)
            each = torch.cat([exact, torch.ones_like(weights), weights * exact, weights], 1)  # (T, 2H + 2)
            sums = each.new_zeros(int(batch.parts[-1]) + 1, each.shape[1]).index_add(0, batch.parts, each)
            recent, whole = (
                sums[batch.last].tensor_split(2, 1)[0],
                sums.tensor_split(2, 1)[1].cumsum(0),
            )  # (B or G, H + 1)
            whole = whole[batch.last] - F.pad(whole, (0, 0, 1, 0))[batch.first]
            vectors = self.recent(recent[:, :-1] / recent[:, -1:]) + self.whole(whole[:, :-1] / whole[:, -1:])
            return known, F.normalize(vectors, dim=1)

    def _apart(self, batch: Cases, contexts: Tensor) -> Tensor:
        """The bi-encoder's logits (B, N)."""
        vectors = F.normalize(means(self.encoder.encode(batch.replies)[1], batch.replies), dim=1)  # (U, H)
        with torch.autocast(vectors.device.type, enabled=False):
            similar = self.alone.exp() * contexts @ vectors.t()  # (B, U)
        return similar.gather(1, batch.places.clamp(min=0)).masked_fill(batch.places < 0, -torch.inf)

    def _read(self, batch: Cases, known: Sequence[Tensor], contexts: Tensor, places: Tensor) -> Tensor:
        """The reader's logits (B, N) of the replies at `places` (B, N)."""
        there = places >= 0
        pairs, seen = _pairs(batch.replies, places, batch.spans)
        vectors = means(self.encoder.encode(pairs, seen, known)[1], pairs)  # (pairs, H)
        similar = (F.normalize(vectors, dim=1) * contexts[there.nonzero()[:, 0]]).sum(1)
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.output(vectors).squeeze(1) + self.together.exp() * similar
        return logits.new_full(places.shape, -torch.inf).masked_scatter(there, logits)


def cases(contexts: Sequence[tuple[Keys, ...]], replies: Packed, places: Tensor, target: Tensor) -> Cases:
    """The input of so many cases with these contexts, each in parts."""
    distinct: list[tuple[Keys, ...]] = []
    longer: dict[tuple[Keys, ...], int] = {}
    for context in sorted(set(contexts), reverse=True):  # what is longer comes first
        if not distinct or distinct[-1][: len(context)] != context:
            distinct.append(context)
        longer[context] = len(distinct) - 1
    packed = pack([_joined(parts) for parts in distinct])
    firsts = [0, *itertools.accumulate(map(len, distinct))]
    parts = torch.tensor(
        [
            first + number
            for first, context in zip(firsts, distinct, strict=False)
            for number, (tokens, _) in enumerate(context)
            for _ in tokens
        ]
    )
    own = [parts[start:end, None] >= parts[start:end] for start, end in itertools.pairwise(packed.starts)]
    begins = [packed.starts[longer[context]] for context in contexts]
    spans = [
        (begin, begin + sum(len(tokens) for tokens, _ in context))
        for begin, context in zip(begins, contexts, strict=True)
    ]
    first = [firsts[longer[context]] for context in contexts]
    last = [place + len(context) - 1 for place, context in zip(first, contexts, strict=True)]
    return Cases(
        packed,
        parts,
        Seen(packed.starts, [each.float() for each in own]),
        spans,
        torch.tensor(first),
        torch.tensor(last),
        replies,
        places,
        target,
    )


def _joined(parts: Sequence[Keys]) -> Keys:
    """The tokens and the kinds of all parts."""
    tokens, kinds = (tuple(itertools.chain(*each)) for each in zip(*parts, strict=True))
    return tokens, kinds


def _pairs(replies: Packed, places: Tensor, spans: Sequence[tuple[int, int]]) -> tuple[Packed, Seen]:
    """The replies at `places` (B, N), one after another, each behind the context of its row, and what they see."""
    chosen = places[places >= 0]
    row = (places >= 0).nonzero()[:, 0]  # (pairs,)
    lengths = replies.lengths()[chosen]
    ends = lengths.cumsum(0)
    owners = torch.repeat_interleave(lengths)  # (T,): the pair of each token
    first = torch.tensor(replies.starts, device=places.device)[chosen]
    within = torch.arange(len(owners), device=places.device) - (ends - lengths)[owners]
    behind = torch.tensor([end - start for start, end in spans], device=places.device)[row]
    fill = (0, -len(owners) % ROOM)
    source = F.pad(first[owners] + within, fill)
    positions = F.pad(within + behind[owners], fill)
    pairs = Packed(replies.tokens[source], replies.kinds[source], positions, (0, *ends.tolist()))
    starts, read, block = [0], [], 0
    for span, count in zip(spans, (places >= 0).sum(1).tolist(), strict=True):
        for _ in range(count):
            block += 1
            if pairs.starts[block] - starts[-1] > MOST and pairs.starts[block - 1] > starts[-1]:
                starts.append(pairs.starts[block - 1])
                read.append(span)
        starts.append(pairs.starts[block])
        read.append(span)
    parts = owners.split([end - start for start, end in itertools.pairwise(starts)])
    return pairs, Seen(starts, [(part[:, None] == part).float() for part in parts], read)
