"""MiniLM writes: one transformer reads persona and context both ways, and writes the reply from left to right.

Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner Matters! An Empirical Study on Fusing
Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR 2021. https://arxiv.org/abs/2105.09050
(section 5.7, figure 3: context-aware persona fusion)

The transformer is MiniLM (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957), fine-tuned to write as UniLM is
(Dong et al., NeurIPS 2019, https://arxiv.org/abs/1905.03197): [CLS] persona [SEP] utterance [SEP] ... utterance [SEP]
is the source, of the first segment, whose tokens attend to one another; the reply and its [SEP] are of the second, and
attend to the source and to what is before them. A token of the reply is told by a [MASK] in its place, which sees what
the token would; in training all tokens and all masks are read at once (pseudo-masked fine-tuning, Bao et al., s2s-ft,
2021, https://arxiv.org/abs/2110.13640). The output's weights are those of the word embeddings.

Differs from the paper: the six layers are those of a sentence encoder where no backbone is named, and the transform
before the output is not pretrained, but the identity at first. Of a source that is too long the oldest utterances are
left out. Not in the paper: both personas, the replier's first, with a [SEP] after each.

Not stated in the paper: how it is fine-tuned, and which of MiniLM's sizes it is; decoding (the recipes search with 4
beams); what stands between the lines of a persona, here nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.cross_encoder import FIELD, CrossEncoder, Piece, told_apart
from personae.nn.decoding import Decoding, decode, spelled, stream
from personae.nn.dialogue_batch import personas_read
from personae.nn.pretrained import room
from personae.text import joined
from personae.types import Dialogue, Example, InputError, Whose, check

NAME = "minilm"
"""What the tokens of the package's MiniLM are called."""


@dataclass(frozen=True)
class Pages:
    """`source` (B, S) and `reply` (B, T), its [SEP] among it, as tokens, and how many there are of them (B,); beyond
    them a row is filled up. `names` are the examples' ids."""

    names: tuple[str, ...]
    source: Tensor
    read: Tensor
    reply: Tensor
    written: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        names, *numbers = vars(self).values()
        return type(self)(names, *(each.to(device) for each in numbers))


@dataclass(frozen=True)
class Place:
    """Where rows are that are decoded: the cases they are of (`whose`, N); the keys and values `kept` (N, layers, 2,
    heads, S + room, width) of S tokens that were `read` and those that were written after them, so many in all
    (`filled`); where rows have tokens there (N, S + room); the position of the next token (N,)."""

    whose: Tensor
    kept: Tensor
    read: int
    filled: int
    there: Tensor
    position: Tensor

    def select(self, rows: Tensor) -> Self:
        """That of these rows; this one is used up."""
        whose = self.whose[rows]
        if torch.equal(whose, self.whose):  # the beams of a case have changed places, what was read has not
            written = self.kept[..., self.read : self.filled, :]
            written.copy_(written[rows])
            return self
        kept = self.kept.index_select(0, rows)
        return replace(self, whose=whose, kept=kept, there=self.there[rows], position=self.position[rows])


class MiniLMSeq2Seq(nn.Module):
    """A BERT that writes, of a folder or a hub id, None for MiniLM's package. At most `longest` tokens are read, of the
    last `utterances`, all that there is room for if None, and of a reply the first `reply` tokens are learnt. B cases,
    S tokens of a source, T of a reply, Q that are asked of, H hidden units."""

    def __init__(
        self,
        *,
        backbone: str | None = None,
        persona: Whose = "self",
        dropout: float = 0.1,
        longest: int = 320,
        utterances: int | None = None,
        reply: int = 64,
    ) -> None:
        super().__init__()
        check("task.model.persona", persona, Whose)
        for name, value in (("utterances", utterances), ("reply", reply)):
            if value is not None and value < 1:
                raise InputError(f"task.model.{name}: {value} is not at least 1")
        self.persona: Whose = persona
        self.utterances, self.reply = utterances or 0, reply
        self.encoder = CrossEncoder(backbone, longest=longest, dropout=dropout)
        self.encoder.backbone.pooler = None
        config = self.encoder.backbone.config
        self.room = room(config) - longest
        if self.room <= reply:
            raise InputError(
                f"task.model.reply: the backbone has room for {room(config)} tokens, not for {longest} "
                f"(task.model.longest), a reply of {reply} and its end"
            )
        self.mask: int | None = self.encoder.tokenizer.mask_token_id
        if self.mask is None:
            raise InputError(f"{FIELD}: {backbone} has no token [MASK]; name one that was trained with it")
        config.tokens = getattr(config, "tokens", config.model_type if backbone else NAME)
        self.tokens: str = config.tokens
        words: Tensor = self.encoder.backbone.embeddings.word_embeddings.weight
        self.transform = nn.Sequential(
            nn.Linear(self.encoder.width, words.shape[1]), nn.GELU(), nn.LayerNorm(words.shape[1])
        )
        nn.init.eye_(self.transform[0].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.transform[0].bias)  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.zeros(len(words)))
        special = {*self.encoder.tokenizer.all_special_ids, *range(len(self.encoder.tokenizer), len(words))}
        self.forbidden = sorted(special - {self.encoder.end})

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.encoder.require_weights()

    def collate(self, examples: Sequence[Example]) -> Pages:
        """The model's input."""
        sources = [torch.tensor(source) for source in map(self._source, examples)]
        replies = [torch.tensor([*self._reply(example), self.encoder.end]) for example in examples]
        return Pages(
            tuple(example.id for example in examples),
            nn.utils.rnn.pad_sequence(sources, batch_first=True),
            torch.tensor(list(map(len, sources))),
            nn.utils.rnn.pad_sequence(replies, batch_first=True),
            torch.tensor(list(map(len, replies))),
        )

    def size(self, example: Example) -> int:
        """How many tokens are read and written."""
        return len(self._source(example)) + len(self._reply(example))

    def _reply(self, example: Example) -> Sequence[int]:
        text = example.target.text
        return self.encoder.tokens([text])[text][: self.reply]

    def _source(self, example: Example) -> list[int]:
        """[CLS] persona [SEP] utterance [SEP] ... utterance [SEP]; a persona without lines is left out, but where both
        are read."""
        end = (self.encoder.end,)
        personas = personas_read(example, self.persona, 2)
        said = [turn.text for turn in example.context.turns][-self.utterances :]
        tokens = self.encoder.tokens([*personas[0], *personas[1], *said])
        lines: list[Piece] = [(whose, tokens[line]) for whose, persona in enumerate(personas) for line in persona]
        kept, turns, _ = self.encoder.fit(lines, [(0, tokens[text] + end) for text in said], [])
        source = [self.encoder.start]
        for whose in (0, 1):
            own = [token for number, line in kept if number == whose for token in line]
            source += [*own, *end] if own or self.persona == "both" else []
        source += [token for _, turn in turns for token in turn]
        return source if len(source) > 1 else [*source, *end]

    def loss(self, batch: Pages) -> Tensor:
        """The mean negative log-likelihood of a token of the replies."""
        return -self._log_probabilities(batch)[0].mean()

    def log_likelihood(self, batch: Pages) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many tokens they have, the end among them: both (B,)."""
        each, whose = self._log_probabilities(batch)
        return each.new_zeros(len(batch.names)).index_add(0, whose, each), batch.written

    def _log_probabilities(self, batch: Pages) -> tuple[Tensor, Tensor]:
        """The log-probability (N,) of each of the N tokens of all replies, their ends among them, and whose it is."""
        read = self._read(batch)
        length = batch.reply.shape[1]
        there = _before(batch.source, batch.read)  # (B, S)
        masks = torch.full_like(batch.reply, self.mask or 0)
        places = torch.arange(length, device=there.device)
        earlier = places[:, None] > places  # (T, T)
        same = places[:, None] == places
        sees = torch.cat([torch.cat([earlier | same, earlier]), torch.cat([torch.zeros_like(same), same])], 1)
        seen = torch.cat([there[:, None].expand(-1, 2 * length, -1), sees.expand(len(there), -1, -1)], 2)

        def beside(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([read[number][0], key], 2), torch.cat([read[number][1], value], 2)

        positions = (batch.read[:, None] + places).repeat(1, 2)
        tokens = torch.cat([batch.reply, masks], 1)
        states = self._written(tokens, positions, seen, beside, masks=length)  # (B, T, H)
        real = _before(batch.reply, batch.written)
        logits = self._logits(states[real])
        return -F.cross_entropy(logits.float(), batch.reply[real], reduction="none"), real.nonzero()[:, 0]

    def generate(self, batch: Pages, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first. InputError where there is no room for
        them."""
        logits, place = self._begin(batch, decoding)
        found = decode(logits, place, self._step, names=batch.names, decoding=decoding, **self._closed())
        return [[self._text(reply.tokens) for reply in case] for case in found]

    def stream(self, batch: Pages, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece. InputError where there is no room for it."""
        logits, place = self._begin(batch, decoding)
        tokens = stream(logits, place, self._step, name=batch.names[0], decoding=decoding, **self._closed())
        return spelled(tokens, self._text)

    def _closed(self) -> dict[str, Any]:
        """What ends a reply, and what is never written."""
        return {"end": self.encoder.end, "forbidden": self.forbidden}

    def _text(self, tokens: Sequence[int]) -> str:
        return joined(self.encoder.tokenizer.decode(tokens).split())

    @torch.no_grad()
    def _begin(self, batch: Pages, decoding: Decoding) -> tuple[Tensor, Place]:
        """What a reply may begin with, as logits (B, V), and where that is decoded from."""
        if decoding.longest >= self.room:
            raise InputError(f"decoding.longest: {decoding.longest} tokens do not fit in; {self.room - 1} do")
        kept = torch.stack([torch.stack(pair, 1) for pair in self._read(batch)], 1)
        kept = F.pad(kept, (0, 0, 0, decoding.longest + 1))
        there = F.pad(_before(batch.source, batch.read), (0, decoding.longest + 1), value=True)
        length = batch.source.shape[1]
        place = Place(torch.arange(len(kept), device=kept.device), kept, length, length, there, batch.read)
        return self._asked(batch.source[:, :0], place), place

    def _step(self, tokens: Tensor, at: Place) -> tuple[Tensor, Place]:
        """What follows tokens (N,), as logits (N, V), and the place after them: the keys and values of the mask that
        asked stand where the next token's will."""
        logits = self._asked(tokens[:, None], at)
        return logits, replace(at, filled=at.filled + 1, position=at.position + 1)

    def _asked(self, tokens: Tensor, at: Place) -> Tensor:
        """The logits (N, V) of what follows tokens (N, Q - 1), by a mask after them; all of them are kept."""
        new = tokens.shape[1] + 1
        full = at.filled + new
        tokens = torch.cat([tokens, tokens.new_full((len(tokens), 1), self.mask or 0)], 1)
        order = torch.arange(full, device=tokens.device)
        seen = at.there[:, None, :full] & (order <= order[-new:, None])

        def beside(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = at.kept[:, number].unbind(1)
            keys[:, :, at.filled : full], values[:, :, at.filled : full] = key, value
            return keys[:, :, :full], values[:, :, :full]

        positions = at.position[:, None] + torch.arange(new, device=tokens.device)
        return self._logits(self._written(tokens, positions, seen, beside, masks=1)[:, 0])

    def _read(self, batch: Pages) -> list[tuple[Tensor, Tensor]]:
        """The keys and values (B, heads, S, width) of each layer by which the sources are attended to."""
        encoder = self.encoder
        positions = torch.arange(batch.source.shape[1], device=batch.source.device)
        states = self._embedded(batch.source, torch.zeros_like(batch.source), positions)
        bias = _closed(_before(batch.source, batch.read)[:, None], states)
        *layers, last = encoder.backbone.encoder.layer
        known = []
        for layer in layers:
            known.append(encoder.known(layer, states))
            states = encoder.attending(layer, states, *known[-1], bias)
        return [*known, encoder.known(last, states)]

    def _written(
        self,
        tokens: Tensor,
        positions: Tensor,
        seen: Tensor,
        beside: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
        *,
        masks: int,
    ) -> Tensor:
        """The last states (B, masks, H) of the masks at the end of a reply's tokens (B, Q); what they attend to is
        their own keys and values with those `beside` them, where it is `seen` (B, Q, all)."""
        states = self._embedded(tokens, torch.ones_like(tokens), positions)
        bias = _closed(seen, states)
        layers = self.encoder.backbone.encoder.layer
        for number, layer in enumerate(layers):
            known = beside(number, *self.encoder.known(layer, states))
            if number == len(layers) - 1:
                states, bias = states[:, -masks:], bias[:, :, -masks:]
            states = self.encoder.attending(layer, states, *known, bias)
        return states

    def _embedded(self, tokens: Tensor, kinds: Tensor, positions: Tensor) -> Tensor:
        distinct, places = told_apart(tokens)
        return self.encoder.embed(distinct)(places, kinds, positions)

    def _logits(self, states: Tensor) -> Tensor:
        embeddings: Any = self.encoder.backbone.embeddings
        return F.linear(self.transform(states), embeddings.word_embeddings.weight, self.bias)


def _before(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Where tokens (B, L) are there (B, L), of which each row has so many (B,)."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]


def _closed(seen: Tensor, like: Tensor) -> Tensor:
    """What is added to similarities (B, heads, Q, L), so that only what is `seen` (B, Q, L) is attended to."""
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, -torch.inf)[:, None]
