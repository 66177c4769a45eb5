"""A causal language model with two heads: it goes on with a reply, and says how well a reply fits.

Wolf et al., TransferTransfo, 2019 (https://arxiv.org/abs/1901.08149). It reads the replier's persona, what was said and
a reply as one text; beside each token stands who says it, or whose persona it is of. Before each persona and utterance
there is an end of text, which is of the one who comes next, and so before the reply; another one ends it, and of what
the model makes of that a linear layer says how well the reply fits.

A context is read once for all replies to it.

Letters: B cases, L tokens of the longest context, R replies, T tokens of the longest, its end among them, N candidates
of a case, H hidden units, V tokens of the vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personae.nn.causal import Causal, Place
from personae.nn.decoding import Decoding, decode, spelled, stream
from personae.nn.dialogue_batch import personas_read, rows, targets
from personae.nn.lora import adapt
from personae.nn.objective import Objective
from personae.types import Example, InputError, Whose, check

Tune = Literal["full", "lora"]
"""Whether all weights are trained, or adapters of the layers."""

OWN, PARTNERS, SELF, PARTNER = range(4)
"""Of what a token is: the replier's persona, their partner's, what the replier says, what the partner does."""

AT_ONCE = 512
"""So many tokens' logits are made at once: each is as long as the vocabulary."""

ROOM = 8192
"""Replies are read in parts of so many tokens, those of their contexts and of padding among them, where nothing is
trained."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replies:
    """`tokens` (R, T) of replies, an end behind each, and how many each has (R,); `whose` (R,) is the case of each."""

    tokens: Tensor
    written: Tensor
    whose: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.tokens.to(device), self.written.to(device), self.whose.to(device))

    def chunks(self, most: int) -> Iterator[Self]:
        """Parts of so many replies."""
        for part in zip(self.tokens.split(most), self.written.split(most), self.whose.split(most), strict=True):
            yield type(self)(*part)


@dataclass(frozen=True)
class Asked:
    """The `context` (B, L) of each case with the `kinds` of its tokens, of which it has so many (`read`, B); the `true`
    reply of each case, and the distinct `offered` ones, None where no case has candidates: those of a case are at
    `places` (B, N), -1 where it has fewer, and `target` (B,) is the place of the true one, -1 where it is not known.
    `names` are the examples' ids."""

    names: tuple[str, ...]
    context: Tensor
    kinds: Tensor
    read: Tensor
    true: Replies
    offered: Replies | None
    places: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        parts = {name: part.to(device) for name, part in vars(self).items() if part is not None and name != "names"}
        return replace(self, **parts)


class DoubleHeads(nn.Module):
    """A language model of a folder or a hub id, None for SmolLM2's package, with attention alone. The persona `whose`
    is read, the last `utterances`, all if None, of all this `longest` tokens at most, and the first `reply` ones of a
    reply; `tune` says what is trained, by adapters of so high a `rank` or not. InputError where one of these cannot
    be."""

    def __init__(
        self,
        *,
        backbone: str | None,
        whose: Whose,
        tune: Tune,
        rank: int,
        dropout: float,
        utterances: int | None,
        longest: int,
        reply: int,
    ) -> None:
        super().__init__()
        check("task.model.persona", whose, Whose)
        check("task.model.tune", tune, Tune)
        for name, value, least in (("utterances", utterances, 1), ("longest", longest, 8), ("reply", reply, 8)):
            if value is not None and value < least:
                raise InputError(f"task.model.{name}: {value} is not at least {least}")
        self.utterances, self.longest, self.reply = utterances or 0, longest, reply
        self.words = Causal(backbone)
        transformer = self.words.backbone
        if not all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=transformer.config).layers):
            raise InputError(
                f"task.model.backbone: {backbone} is no transformer that has attention alone; name another"
            )
        if (room := self.words.room()) is not None and room < longest + reply + 1:
            raise InputError(
                f"task.model.longest: the backbone has room for {room} tokens, not for {longest}, a reply of {reply} "
                "and its end"
            )
        if tune == "lora":
            self.words.requires_grad_(False)
            adapt(self.words.backbone, rank=rank)
        self.kinds = nn.Embedding(4, self.words.width)
        self.dropout = nn.Dropout(dropout)
        self.fit = nn.Linear(self.words.width, 1)
        for weight in (self.kinds.weight, self.fit.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.zeros_(self.fit.bias)
        self._said: set[str] = set()

    def collate(self, examples: Sequence[Example], whose: Whose) -> Asked:
        """The model's input, of which the persona `whose` is read."""
        contexts = [self._context(example, whose) for example in examples]
        true = [(case, example.target.text) for case, example in enumerate(examples)]
        offered, places = self._offered([example.target.candidates for example in examples])
        return Asked(
            tuple(example.id for example in examples),
            nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens, _ in contexts], batch_first=True),
            nn.utils.rnn.pad_sequence([torch.tensor(kinds) for _, kinds in contexts], batch_first=True),
            torch.tensor([len(tokens) for tokens, _ in contexts]),
            self._replies(true),
            offered,
            places,
            targets(examples),
        )

    def size(self, example: Example, whose: Whose) -> int:
        """How many tokens are read and written."""
        text = example.target.text
        return len(self._context(example, whose)[0]) + min(len(self.words.tokens([text])[text]), self.reply)

    def offer(self, batch: Asked, texts: Sequence[Sequence[str]]) -> Asked:
        """The same cases with other candidates, of which none is known to be true."""
        offered, places = self._offered(texts)
        made = replace(batch, offered=offered, places=places, target=torch.full((len(texts),), -1))
        return made.to(batch.context.device)

    def _offered(self, texts: Sequence[Sequence[str]]) -> tuple[Replies | None, Tensor]:
        """The distinct replies, and the places (B, N) of those to each case."""
        numbers: dict[tuple[int, str], int] = {}
        places = [[numbers.setdefault((case, text), len(numbers)) for text in some] for case, some in enumerate(texts)]
        return self._replies(list(numbers)) if numbers else None, rows(places)

    def _replies(self, texts: Sequence[tuple[int, str]]) -> Replies:
        known = self.words.tokens(text for _, text in texts)
        if any(len(known[text]) > self.reply for _, text in texts):
            self._say(f"the end of a reply is beyond {self.reply} tokens (task.model.reply)")
        tokens = [torch.tensor([*known[text][: self.reply], self.words.end]) for _, text in texts]
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=self.words.end)
        return Replies(padded, torch.tensor(list(map(len, tokens))), torch.tensor([case for case, _ in texts]))

    def _context(self, example: Example, whose: Whose) -> tuple[list[int], list[int]]:
        """The tokens of personas and of the last utterances, and their kinds. Of what is too long, the oldest
        utterances are left out, of the last one its beginning, and the end of the persona."""
        end, me = self.words.end, example.target.speaker
        personas = [[f" {line}" for line in lines] for lines in personas_read(example, whose, 2)]
        said = example.context.turns[-self.utterances :]
        known = self.words.tokens([*chain(*personas), *(turn.text for turn in said)])
        told = [([end, *chain(*(known[line] for line in lines))], kind) for kind, lines in enumerate(personas) if lines]
        parts = _cut(told, self.longest - len(self.words.start) - 1)
        left = self.longest - len(self.words.start) - 1 - sum(len(tokens) for tokens, _ in parts)
        kept: list[tuple[list[int], int]] = []
        for turn in reversed(said):
            spelled = known[turn.text]
            if len(spelled) + 1 > left and kept:
                break
            spelled = spelled[max(len(spelled) + 1 - left, 0) :] if left > 1 else ()
            kept.append(([end, *spelled] if left > 0 else [], SELF if turn.speaker == me else PARTNER))
            left -= len(kept[-1][0])
        if len(kept) < len(said) or sum(len(tokens) for tokens, _ in parts) < sum(len(tokens) for tokens, _ in told):
            self._say(f"a context has more than {self.longest} tokens (task.model.longest)")
        parts = [*parts, *reversed(kept), ([end], SELF)]
        kinds = [parts[0][1]] * len(self.words.start) + [kind for tokens, kind in parts for _ in tokens]
        return [*self.words.start, *chain(*(tokens for tokens, _ in parts))], kinds

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("some texts are too long: %s, and left out", what)

    def embed(self, tokens: Tensor, kinds: Tensor) -> Tensor:
        """The input embeddings (..., H) of tokens of their kinds."""
        embedded: Tensor = self.words.embed(tokens) + self.kinds(kinds)
        return embedded

    def read(self, batch: Asked) -> tuple[Any, Tensor]:
        """What is remembered of the contexts, and the state (B, H) of the end before a reply."""
        kept = DynamicCache(config=self.words.backbone.config)
        embedded = self.embed(batch.context, batch.kinds)
        states = self._through(embedded, kept)
        return kept, states[torch.arange(len(states), device=states.device), batch.read - 1]

    def states(self, batch: Asked, replies: Replies, read: tuple[Any, Tensor]) -> Tensor:
        """The states (R, 1 + T, H) of the end before each reply and of its tokens."""
        kept, before = read
        own = DynamicCache(config=self.words.backbone.config)
        for number, layer in enumerate(kept.layers):
            own.update(layer.keys[replies.whose], layer.values[replies.whose], number)
        lengths, places = batch.read[replies.whose][:, None], torch.arange(replies.tokens.shape[1])
        places = places.to(lengths.device)
        there = torch.arange(batch.context.shape[1], device=lengths.device) < lengths
        states = self._through(
            self.embed(replies.tokens, torch.full_like(replies.tokens, SELF)),
            own,
            attention_mask=torch.cat([there, torch.ones_like(replies.tokens, dtype=torch.bool)], 1).long(),
            position_ids=lengths + places,
        )
        return torch.cat([before[replies.whose][:, None], states], 1)

    def _through(self, embedded: Tensor, kept: Any, **where: Any) -> Tensor:
        """The last states of what comes after what is kept, which it is added to."""
        memory = {self.words.memory: kept}
        states: Tensor = self.words.backbone(
            inputs_embeds=embedded, use_cache=True, **memory, **where
        ).last_hidden_state
        return states

    def fits(self, states: Tensor, replies: Replies) -> Tensor:
        """How well replies fit (R,), of their states."""
        last = states[torch.arange(len(states), device=states.device), replies.written]
        logits: Tensor = self.fit(self.dropout(last)).squeeze(1)
        return logits

    def likelihoods(self, states: Tensor, replies: Replies) -> Tensor:
        """The log-likelihoods (R,) of replies, in nats."""
        each, whose = log_probabilities(self.words, states, replies)
        return each.new_zeros(len(states)).index_add(0, whose, each)

    def log_likelihood(self, batch: Asked) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of the true replies, in nats, and how many tokens they have, the end among them: (B,)."""
        return self.likelihoods(self.states(batch, batch.true, self.read(batch)), batch.true), batch.true.written

    def losses(self, batch: Asked, objective: Objective) -> tuple[Tensor, Tensor | None]:
        """The mean negative log-likelihood of a token of the true replies, and what `objective` makes of how well the
        candidates fit, None where there are none or not the true one."""
        read = self.read(batch)
        if batch.offered is None or bool((batch.target < 0).any()):
            states = self.states(batch, batch.true, read)
            return -log_probabilities(self.words, states, batch.true)[0].mean(), None
        states = self.states(batch, batch.offered, read)
        fits = self.fits(states, batch.offered)[batch.places.clamp(min=0)].masked_fill(batch.places < 0, -torch.inf)
        true = states[batch.places.gather(1, batch.target[:, None]).squeeze(1)]
        said = log_probabilities(self.words, true[:, : batch.true.tokens.shape[1] + 1], batch.true)[0]
        return -said.mean(), objective(fits, batch.target)

    def score(self, batch: Asked, *, likelihood: float) -> Tensor:
        """How well the candidates fit (B, N), -inf where a case has fewer, with a share of the mean log-likelihood of a
        token of theirs; where it has one, the logits of the other head are taken as log-probabilities."""
        assert batch.offered is not None
        read = self.read(batch)
        length = batch.context.shape[1] + batch.offered.tokens.shape[1]
        found = []
        for some in batch.offered.chunks(max(ROOM // length, 1)):
            states = self.states(batch, some, read)
            fits = self.fits(states, some)
            if likelihood:
                said = self.likelihoods(states, some) / some.written
                fits = (1 - likelihood) * F.logsigmoid(fits) + likelihood * said
            found.append(fits)
        return torch.cat(found)[batch.places.clamp(min=0)].masked_fill(batch.places < 0, -torch.inf)

    def generate(self, batch: Asked, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first. InputError where there is no room for
        them."""
        logits, place = self._begin(batch, decoding)
        found = decode(logits, place, self.words.step, names=batch.names, decoding=decoding, **self._closed())
        return [[self.words.text(reply.tokens) for reply in case] for case in found]

    def stream(self, batch: Asked, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece. InputError where there is no room for it."""
        logits, place = self._begin(batch, decoding)
        tokens = stream(logits, place, self.words.step, name=batch.names[0], decoding=decoding, **self._closed())
        return spelled(tokens, self.words.text)

    @torch.no_grad()
    def _begin(self, batch: Asked, decoding: Decoding) -> tuple[Tensor, Place]:
        """What a reply may begin with, as logits (B, V), and where that is decoded from."""
        room = self.words.room()
        if room is not None and self.longest + decoding.longest > room:
            raise InputError(f"decoding.longest: {decoding.longest} tokens do not fit in; {room - self.longest} do")
        beside = self.kinds.weight[SELF].expand(len(batch.names), -1)
        return self.words.begin(self.embed(batch.context, batch.kinds), batch.read, beside, decoding.longest)

    def _closed(self) -> dict[str, Any]:
        """What ends a reply, and what is never written."""
        return {"end": self.words.end, "forbidden": self.words.special}


def log_probabilities(words: Causal, states: Tensor, replies: Replies) -> tuple[Tensor, Tensor]:
    """The log-probability (M,) of each of the M tokens of all replies, their ends among them, and whose it is, of the
    `states` (R, 1 + T, H) of what is before each reply and of its tokens."""
    real = torch.arange(replies.tokens.shape[1], device=states.device) < replies.written[:, None]
    chosen, goals = states[:, :-1][real], replies.tokens[real]
    parts = [
        F.cross_entropy(words.logits(some).float(), goal, reduction="none")
        for some, goal in zip(chosen.split(AT_ONCE), goals.split(AT_ONCE), strict=True)
    ]
    return -torch.cat(parts), real.nonzero()[:, 0]


def _cut(parts: Sequence[tuple[list[int], int]], room: int) -> list[tuple[list[int], int]]:
    """What there is room for of parts of tokens, the end of the last first left out."""
    kept = []
    for tokens, kind in parts:
        kept.append((tokens[:room], kind))
        room -= len(kept[-1][0])
    return [part for part in kept if part[0]]
