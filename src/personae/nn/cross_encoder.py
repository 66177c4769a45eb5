"""A BERT, RoBERTa or ELECTRA that reads several texts as one sequence: what every cross-encoder is built of.

Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding. NAACL 2019. https://arxiv.org/abs/1810.04805

RoBERTa (Liu et al., 2019, https://arxiv.org/abs/1907.11692), also that of many languages, and ELECTRA (Clark et al.,
ICLR 2020, https://arxiv.org/abs/2003.10555) are BERT with other weights. The first has but one segment, and two texts
are told apart by the separator between them alone, of which there is one here; the second has no pooler, and is given
BERT's, untrained.

The weights are those of transformers' module, and so is the result; only what nobody reads is not computed. Sequences
of like length are read together, so that almost nothing is padded, each distinct one once, and in the last layer [CLS]
alone is followed, since nothing else is read of it.

Letters: B cases, N candidates, F passes over a candidate, S distinct sequences of a batch, L tokens of the longest, W
distinct tokens, H hidden units.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.bert.modeling_bert import BertPooler

from personae.nn.dialogue_batch import targets
from personae.nn.pretrained import FAMILY, keep, load, packaged, readable, require_weights, room, skipped
from personae.text import Kept
from personae.types import Example, InputError

log = logging.getLogger(__name__)

FIELD = "task.model.backbone"
"""The argument of a recipe that names a source."""

STEP = 16
"""The lengths of padded sequences are multiples of it: attention over others takes a processor up to three times as
long."""

Piece = tuple[int, Sequence[int]]
"""The subtype of a text, and its tokens."""

Keys = tuple[tuple[int, ...], tuple[int, ...]]
"""A sequence: its tokens and the kind of each, twice the subtype plus the segment."""


@dataclass(frozen=True)
class Sequences:
    """S sequences of tokens, the shortest first. `tokens` (S, L) are places in `distinct` (W,), which holds the
    vocabulary's numbers; `kinds` (S, L) are twice the subtype plus the segment, -1 beyond the end of a sequence."""

    distinct: Tensor
    tokens: Tensor
    kinds: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.distinct.to(device), self.tokens.to(device), self.kinds.to(device), self.lengths)

    def chunks(self, most: int) -> Iterator[tuple[slice, int]]:
        """Parts of at most so many tokens with padding, but at least one sequence, and the length they are padded
        to."""
        start = 0
        for place, length in enumerate(map(stepped, self.lengths)):
            if place > start and (place + 1 - start) * length > most:
                yield slice(start, place), stepped(self.lengths[place - 1])
                start = place
        yield slice(start, len(self.lengths)), stepped(self.lengths[-1])


@dataclass(frozen=True)
class Passes:
    """The input of a cross-encoder: `places` (F, B, N) are the sequences that are read for each candidate, in so many
    passes, -1 where there is no candidate; `target` (B,) is the place of the true reply, -1 where it is not known."""

    sequences: Any
    places: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.sequences.to(device), self.places.to(device), self.target.to(device))


class CrossEncoder(nn.Module):
    """One of the `FAMILY`, of a folder or a hub id, None for MiniLM's package, and its tokenizer. With `subtypes` rows
    of a third embedding, beside those of tokens and segments. A sequence has at most `longest` tokens."""

    def __init__(self, source: str | None, *, longest: int, dropout: float, subtypes: int = 0) -> None:
        super().__init__()
        if longest < 8:
            raise InputError(f"task.model.longest: {longest} is not at least 8")
        self.longest, self.rows = longest, max(subtypes, 1)
        source = source or packaged()
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        self.tokenizer, backbone = load(source, FIELD, FAMILY, **rates)
        if (most := room(backbone.config)) < longest:
            raise InputError(f"{FIELD}: {source} reads {most} tokens at most; set task.model.longest to that")
        self.backbone = _pooling(backbone).train()
        self.start: int = self.tokenizer.cls_token_id
        self.end: int = self.tokenizer.sep_token_id
        self.width: int = self.backbone.config.hidden_size
        self.subtypes: nn.Embedding | None = None
        if subtypes:
            self.subtypes = nn.Embedding(subtypes, self.backbone.embeddings.word_embeddings.embedding_dim)
            nn.init.trunc_normal_(self.subtypes.weight, std=0.02, a=-0.04, b=0.04)
        self._tokens: Kept[tuple[int, ...]] = Kept()
        self._said: set[str] = set()

    def keep(self, folder: Path) -> None:
        """Writes to a folder what it is besides weights, so that it can be made again without its source."""
        keep(self.backbone, self.tokenizer, folder)

    def require_weights(self) -> None:
        """InputError where its source is what `keep` wrote, and no weights were loaded since."""
        require_weights(self.backbone, FIELD)

    def tokens(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The tokens of texts, and of others met before that are kept, however many they are."""
        if new := self._tokens.new(texts):
            made = self.tokenizer(
                [f" {readable(text)}" if text.strip() else "" for text in new],  # RoBERTa's words begin with a space
                add_special_tokens=False,
                split_special_tokens=True,  # who writes "[SEP]" means five letters
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # of what is too long, `fit` tells
            )
            self._tokens.update(zip(new, map(tuple, made["input_ids"]), strict=True))
        return self._tokens

    def fit(
        self, persona: Sequence[Piece], context: Sequence[Piece], response: Sequence[Piece]
    ) -> tuple[list[Piece], list[Piece], list[Piece]]:
        """What there is room for beside three special tokens. What of the response is beyond half of all goes first,
        then the oldest turns of the context, of the last one its beginning, then the end of the persona; what is lost
        is logged, once each."""
        told, turns, reply = list(persona), list(context), list(response)
        over = sum(len(tokens) for part in (told, turns, reply) for _, tokens in part) + 3 - self.longest
        row, tokens = reply[0] if reply else (0, ())
        spare = min(over, len(tokens) - self.longest // 2)
        if spare > 0:
            reply[0] = (row, tokens[:-spare])
            over -= spare
            self._say("the end of a candidate does not fit in")
        while over > 0 and turns:
            row, tokens = turns.pop(0)
            if not turns and len(tokens) > over:
                turns = [(row, tokens[over:])]
                self._say("the beginning of the last utterance does not fit in")
            else:
                self._say("the oldest utterances do not fit in" if turns else "nothing is left for the context in")
            over -= len(tokens)
        while over > 0 and told:
            row, tokens = told.pop()
            if len(tokens) > over:
                told.append((row, tokens[: len(tokens) - over]))
            over -= len(tokens)
            self._say("the end of the persona does not fit in" if told else "nothing is left for the persona in")
        return told, turns, reply

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("some sequences are too long: %s %d tokens (task.model.longest)", what, self.longest)

    def sequence(self, first: Sequence[Piece], second: Sequence[Piece] | None) -> Keys:
        """[CLS] first [SEP], and second [SEP] if there is one: the tokens and their kinds. [CLS] is of the first
        subtype, the first [SEP] of the last but one, the second [SEP] of the last."""
        tokens, kinds = [self.start], [0]
        for segment, part in enumerate((first, second)):
            if part is None:
                continue
            for row, piece in part:
                tokens += piece
                kinds += [2 * row + segment] * len(piece)
            tokens.append(self.end)
            kinds.append(2 * max(self.rows - 2 + segment, 0) + segment)
        return tuple(tokens), tuple(kinds)

    def gather(self, examples: Sequence[Example], read: Sequence[Sequence[Sequence[Keys]]]) -> Passes:
        """The input in which each candidate of each example reads so many sequences, each of which is there once."""
        numbers: dict[Keys, int] = {}
        found = [[[numbers.setdefault(one, len(numbers)) for one in passes] for passes in case] for case in read]
        sequences, order = self.arrange(list(numbers))
        places = torch.full((len(found), max(map(len, found)), len(found[0][0])), -1)
        for row, case in enumerate(found):
            places[row, : len(case)] = order[torch.tensor(case)]
        return Passes(sequences, places.permute(2, 0, 1), targets(examples))

    def arrange(self, keys: Sequence[Keys]) -> tuple[Any, Tensor]:
        """What `forward` reads of distinct sequences, and where in its result each of them is (S,)."""
        shortest = sorted(range(len(keys)), key=lambda place: len(keys[place][0]))
        lengths = tuple(len(keys[place][0]) for place in shortest)
        order = torch.tensor(shortest).argsort()
        tokens, kinds = padded([keys[place] for place in shortest])
        distinct, places = told_apart(tokens.clamp(min=0))
        return Sequences(distinct, places, kinds, lengths), order

    def embed(self, distinct: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """What embeds tokens (...), which are places in `distinct` (W,), by their kinds and positions: (..., H). Kinds
        below 0 are beyond the end."""
        embeddings = self.backbone.embeddings
        words = embeddings.word_embeddings(distinct)  # (W, H)
        styles = embeddings.token_type_embeddings.weight[:2].expand(2, -1)  # (2, H): all may be of one segment
        if self.subtypes is not None:
            styles = (self.subtypes.weight[:, None] + styles).flatten(0, 1)  # (2 * subtypes, H)
        places = embeddings.position_embeddings.weight[skipped(self.backbone.config) :]

        def embedded(tokens: Tensor, kinds: Tensor, positions: Tensor) -> Tensor:
            there = positions.clamp(max=len(places) - 1)  # there may be more of padding
            states = F.embedding(tokens, words) + F.embedding(kinds.clamp(min=0), styles) + places[there]
            normal: Tensor = embeddings.dropout(embeddings.LayerNorm(states))
            project: Callable[[Tensor], Tensor] | None = getattr(self.backbone, "embeddings_project", None)
            return normal if project is None else project(normal)  # of ELECTRA, whose embeddings may be narrower

        return embedded

    def forward(self, sequences: Any) -> Tensor:
        """What the pooler makes of each sequence's [CLS]: (S, H)."""
        embed = self.embed(sequences.distinct)
        positions = torch.arange(sequences.tokens.shape[1], device=sequences.tokens.device)
        pooled = []
        for chunk, length in sequences.chunks(2048 if positions.device.type == "cpu" else 65536):
            kinds = sequences.kinds[chunk, :length]
            states = embed(sequences.tokens[chunk, :length], kinds, positions[:length])
            even = sequences.lengths[chunk.start] == length
            pooled.append(self._pooled(states, None if even else closed(kinds, states)[:, None, None]))
        return torch.cat(pooled)

    def _pooled(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Through all layers and the pooler: of the embedded tokens (s, l, H), with `bias` (s, 1, 1, l) -inf at padding
        unless there is none, to (s, H)."""
        *layers, last = self.backbone.encoder.layer
        for layer in layers:
            states = self._layer(layer, states, states, bias)
        return self.backbone.pooler(self._layer(last, states[:, :1], states, bias))

    def _layer(self, layer: Any, asking: Tensor, states: Tensor, bias: Tensor | None) -> Tensor:
        """One layer for the tokens that are `asking`, which attend to all."""
        return self.attending(layer, asking, *self.known(layer, states), bias)

    def known(self, layer: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values by which a layer attends to tokens (s, ..., H): (s, heads, ..., width) each."""
        own = layer.attention.self
        return self.heads(own.key(states)), self.heads(own.value(states))

    def attending(self, layer: Any, asking: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """One layer for tokens (s, l, H), which attend to what is `known`."""
        own = layer.attention.self
        found = attend(self.heads(own.query(asking)), key, value, bias, own.dropout.p if self.training else None)
        return self.after(layer, found.transpose(1, 2).flatten(2), asking)

    def heads(self, states: Tensor) -> Tensor:
        """(s, ..., H) to (s, heads, ..., width)."""
        return states.unflatten(-1, (self.backbone.config.num_attention_heads, -1)).movedim(-2, 1)

    @staticmethod
    def after(layer: Any, found: Tensor, asking: Tensor) -> Tensor:
        """The rest of a layer, for tokens (..., H) that have `found` so much (..., H)."""
        attended = layer.attention.output(found, asking)
        states: Tensor = layer.output(layer.intermediate(attended), attended)
        return states


def stepped(length: int) -> int:
    """The length to which a sequence is padded."""
    return -(-length // STEP) * STEP


def padded(keys: Sequence[Keys]) -> tuple[Tensor, Tensor]:
    """The tokens and the kinds of sequences (S, L), a row each, -1 beyond the end."""
    rows = np.full((2, len(keys), stepped(max(len(tokens) for tokens, _ in keys))), -1)
    for row, key in enumerate(keys):
        rows[:, row, : len(key[0])] = key
    tokens, kinds = torch.from_numpy(rows)
    return tokens, kinds


def told_apart(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones (W,) of tokens (...), in order, and the place of each token among them (...)."""
    used = tokens.flatten().bincount() > 0
    return used.nonzero().squeeze(1), (used.cumsum(0) - 1)[tokens]


def closed(kinds: Tensor, like: Tensor) -> Tensor:
    """What is added to similarities so that nothing is attended to beyond the end, where kinds are below 0."""
    return torch.zeros_like(kinds, dtype=like.dtype).masked_fill(kinds < 0, -torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float | None) -> Tensor:
    """Attention (..., queries, width), with `dropout` of its weights where it is trained."""
    bias = None if bias is None else bias.to(query.dtype)
    if dropout is None or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout or 0.0)
    similarity = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)  # a third of the time of torch's, in bfloat16
    weights = (similarity if bias is None else similarity + bias).softmax(-1)
    return F.dropout(weights, dropout).to(value.dtype) @ value


class Judge(nn.Module):
    """A logit of what so many passes over a candidate found out, each a vector of `width`."""

    def __init__(self, *, width: int, passes: int, dropout: float) -> None:
        super().__init__()
        self.passes = passes
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(passes * width, 1)
        nn.init.trunc_normal_(self.output.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.output.bias)

    def forward(self, pooled: Tensor, places: Tensor) -> Tensor:
        """Logits (B, N) of the candidates whose passes are at `places` (F, B, N) of the `pooled` sequences (S, H), -inf
        where there is no candidate."""
        weights = self.output.weight.view(self.passes, -1)
        shares = (self.dropout(pooled)[:, None] * weights).sum(2)  # (S, F): what each adds, not rounded
        chosen = shares.t().gather(1, places.clamp(min=0).flatten(1)).view_as(places)  # (F, B, N)
        return (chosen.sum(0) + self.output.bias).masked_fill(places[0] < 0, -torch.inf)


def _pooling(bert: Any) -> Any:
    """The same with a pooler, if it has none."""
    if getattr(bert, "pooler", None) is None:
        bert.pooler = BertPooler(bert.config)  # type: ignore[no-untyped-call]
        bert.pooler.dense.weight.data.normal_(std=bert.config.initializer_range)
        bert.pooler.dense.bias.data.zero_()
    return bert
