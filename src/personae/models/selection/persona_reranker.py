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
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.cross_encoder import Keys
from personae.nn.dialogue_batch import personas_read, rows, targets
from personae.nn.objective import Objective
from personae.nn.packed import Packed
from personae.nn.packed_cases import Cases, Readings, cases, pairs, rest
from personae.nn.packed_encoder import PackedEncoder, means
from personae.nn.processor import Numbers
from personae.text import ROOM, Kept
from personae.types import Example, InputError, Whose, check

log = logging.getLogger(__name__)

REPLY, SELF, PARTNER, OWN_TURN, PARTNER_TURN = range(5)
"""What a token is of."""

CONVERSATIONS = 8
"""What was read of so many conversations is kept, so that of what goes on only the new is read."""

FAR = 1e4
"""More than any two logits differ by."""

MOST_WEIGHT = 20.0
"""The logarithm of a token's weight in the mean of a context is at most so large."""


class PersonaReranker(nn.Module):
    """A reader of persona, context and replies. B cases, N candidates, U distinct replies, T tokens, G parts, H hidden
    units.

    `backbone` is a folder or a hub id of a BERT, None for MiniLM's package. So many tokens are read of each line,
    utterance and reply; of a context, `longest`, at most half of them of personas. Where there is no room for an
    utterance, the oldest are left out until what stays fills half of the room. In training, each reply is told apart by
    the bi-encoder from all candidates, and by the reader from `crossed` of them: the `hard` ones that the bi-encoder
    likes best of a share `among` all, and others by chance. Where none are crossed, the bi-encoder learns alone. Of the
    features that a layer adds, so many are left out (`dropout`).
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
        self._memory: Any = None, None
        self._said: set[str] = set()

    def train(self, mode: bool = True) -> Self:
        """Forgets what it has read, as the encoder forgets its weights."""
        self._memory = None, None
        return super().train(mode)

    def prepare(self, texts: Iterable[str]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.encoder.require_weights()

    def compute_in(self, numbers: Numbers) -> None:
        """Says in which numbers it is to score; those of 16 bits are autocast's."""
        self.encoder.rounds = numbers == "int8"

    def collate(self, examples: Sequence[Example]) -> Cases:
        """The model's input."""
        self._split(examples)
        replies: dict[str, int] = {}
        found = [[replies.setdefault(text, len(replies)) for text in example.target.candidates] for example in examples]
        return cases(
            [self._context(example) for example in examples],
            {text: self._reply(text) for text in replies},
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

    def sequences(self, examples: Sequence[Example]) -> list[list[tuple[Keys, ...]]]:
        """What is read of each candidate of each example: the parts of its context, and the reply."""
        self._split(examples)
        return [
            [(*self._context(example), self._reply(text)) for text in example.target.candidates] for example in examples
        ]

    def _reply(self, text: str) -> Keys:
        """The tokens of a reply, and their kinds."""
        said = self.encoder.tokens(())[text]
        self._tell(len(said) > self.reply_tokens, f"the first {self.reply_tokens} tokens of a reply", "reply_tokens")
        tokens = (self.encoder.start, *said[: self.reply_tokens], self.encoder.end)
        return tokens, (REPLY,) * len(tokens)

    def _tell(self, cut: bool, what: str, option: str) -> None:
        """Logs, once, what is read where something is `cut`."""
        if cut and what not in self._said:
            self._said.add(what)
            log.warning("the persona reranker reads %s; the rest is left out (task.model.%s)", what, option)

    def heard(self, example: Example) -> list[tuple[int, str]]:
        """The persona lines and then the utterances that there is room for, and the kind of each. Their tokens must be
        known (`collate`)."""
        known = self.encoder.tokens(())
        lines: list[tuple[int, str]] = []
        filled = 1
        for kind, facts in zip((SELF, PARTNER), personas_read(example, self.persona, 2), strict=True):
            for line in facts:
                more = 1 + min(len(known[line]), self.line_tokens)
                there = filled + more <= self.longest // 2
                if there:
                    lines.append((kind, line))
                    filled += more
                self._tell(
                    len(known[line]) > self.line_tokens, f"the first {self.line_tokens} tokens of a line", "line_tokens"
                )
                self._tell(not there, f"persona lines of {self.longest // 2} tokens in all", "longest")
        room = self.longest - filled
        turns: list[tuple[int, str]] = []
        sizes: list[int] = []
        for turn in example.context.turns:
            turns.append((OWN_TURN if turn.speaker == example.target.speaker else PARTNER_TURN, turn.text))
            sizes.append(1 + min(len(known[turn.text]), self.utterance_tokens))
            long = len(known[turn.text]) > self.utterance_tokens
            self._tell(long, f"the last {self.utterance_tokens} tokens of an utterance", "utterance_tokens")
            if sum(sizes) > room:
                self._tell(True, f"the last utterances, of {room} tokens at most", "longest")
                while sum(sizes) > room // 2:
                    del turns[0], sizes[0]
        return [*lines, *turns]

    def _context(self, example: Example) -> tuple[Keys, ...]:
        """The parts of persona and context: the tokens of each, and their kinds."""
        known, end = self.encoder.tokens(()), self.encoder.end
        tokens, kinds = [self.encoder.start], [REPLY]
        turns: list[Keys] = []
        for kind, text in self.heard(example):
            if kind in (SELF, PARTNER):
                told = (*known[text][: self.line_tokens], end)
                tokens += told
                kinds += [kind] * len(told)
            else:
                said = (*known[text][-self.utterance_tokens :], end)
                turns.append((said, (kind,) * len(said)))
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
        if torch.is_grad_enabled() or len(batch.contexts.starts) != 2:
            known, states = self.encoder.encode(batch.contexts, batch.seen)
            sums = self._sums(states, batch.parts)
        else:
            known, sums = self._conversation(batch)
        with torch.autocast(sums.device.type, enabled=False):
            recent, of_all = sums.tensor_split(2, 1)  # (G, H + 1)
            of_all = of_all.cumsum(0)
            recent, whole = recent[batch.last], of_all[batch.last] - F.pad(of_all, (0, 0, 1, 0))[batch.first]
            vectors = self.recent(recent[:, :-1] / recent[:, -1:]) + self.whole(whole[:, :-1] / whole[:, -1:])
            return known, F.normalize(vectors, dim=1)

    def _sums(self, states: Tensor, parts: Tensor) -> Tensor:
        """Of the tokens of each part, the sum of their states and their number, each weighted or not: (G, 2H + 2)."""
        with torch.autocast(states.device.type, enabled=False):
            exact = states[: len(parts)].to(torch.promote_types(states.dtype, torch.float32))
            weights = self.weight(exact).clamp(max=MOST_WEIGHT).exp()  # (T, 1)
            each = torch.cat([exact, torch.ones_like(weights), weights * exact, weights], 1)
            return each.new_zeros(int(parts[-1] - parts[0]) + 1, each.shape[1]).index_add(0, parts - parts[0], each)

    def _conversation(self, batch: Cases) -> tuple[list[Tensor], Tensor]:
        """What `_contexts` makes of a single context, the beginning of which it may have read before: `known` and the
        sums."""
        readings, length = self._remembered()[1], len(batch.parts)
        sizes = batch.parts.unique_consecutive(return_counts=True)[1].tolist()
        tokens = zip(batch.contexts.tokens[:length].tolist(), batch.contexts.kinds[:length].tolist(), strict=True)
        context = tuple(tuple(itertools.islice(tokens, size)) for size in sizes)
        there, known, sums = readings.beginning(context)
        count = sum(sizes[:there])
        if count < length:
            new, parts, seen = rest(batch, count)
            found, states = self.encoder.encode(new, seen, known)
            found = [each[: length - count] for each in found]
            made = self._sums(states, parts)
            known = [torch.cat(pair) for pair in zip(known, found, strict=True)] if there else found
            sums = torch.cat([sums, made]) if there else made
        readings.keep(context, known, sums)
        return known, sums

    def _remembered(self) -> tuple[Kept[Tensor], Readings]:
        """The vectors of replies, and what was read of conversations; of other weights, or in another precision, they
        are forgotten."""
        if self._memory[0] != (now := self.encoder.state(self)):
            self._memory = now, (Kept(ROOM // 4), Readings(CONVERSATIONS))
        return self._memory[1]

    def _vectors(self, batch: Cases) -> Tensor:
        """The unit vector of each reply alone (U, H), which are kept where nothing is trained."""
        if torch.is_grad_enabled():
            return self._encoded(batch.replies)
        kept = self._remembered()[0]
        if new := kept.new(batch.said):
            places = {said: place for place, said in enumerate(batch.said)}
            replies = batch.replies.chosen(torch.tensor([places[said] for said in new], device=batch.places.device))
            kept.update(zip(new, self._encoded(replies), strict=True))
        return torch.stack([kept[said] for said in batch.said])

    def _encoded(self, replies: Packed) -> Tensor:
        return F.normalize(means(self.encoder.encode(replies)[1], replies), dim=1)

    def _apart(self, batch: Cases, contexts: Tensor) -> Tensor:
        """The bi-encoder's logits (B, N)."""
        vectors = self._vectors(batch)
        with torch.autocast(vectors.device.type, enabled=False):
            similar = self.alone.exp() * contexts @ vectors.t()  # (B, U)
        return similar.gather(1, batch.places.clamp(min=0)).masked_fill(batch.places < 0, -torch.inf)

    def _read(self, batch: Cases, known: Sequence[Tensor], contexts: Tensor, places: Tensor) -> Tensor:
        """The reader's logits (B, N) of the replies at `places` (B, N)."""
        there = places >= 0
        replies, seen = pairs(batch, places)
        vectors = means(self.encoder.encode(replies, seen, known)[1], replies)  # (pairs, H)
        similar = (F.normalize(vectors, dim=1) * contexts[there.nonzero()[:, 0]]).sum(1)
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.output(vectors).squeeze(1) + self.together.exp() * similar
        return logits.new_full(places.shape, -torch.inf).masked_scatter(there, logits)
