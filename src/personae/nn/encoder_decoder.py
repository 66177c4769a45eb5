"""A recurrent encoder-decoder with attention, which reads a context and writes a reply word by word.

Sutskever, Vinyals and Le, NeurIPS 2014 (https://arxiv.org/abs/1409.3215), with the attention of Luong, Pham and
Manning, EMNLP 2015 (https://arxiv.org/abs/1508.04025, section 3.1, "general"): the decoder's state h_t looks at the
encoder's states, and what it sees, beside h_t, gives the next word. Two things may be added for a person: a vector
beside every word that the decoder reads (Li et al., ACL 2016, https://aclanthology.org/P16-1094), and memories, which
h_t looks at, too (Zhang et al., ACL 2018, https://arxiv.org/abs/1801.07243, section 4.3, where the state before does).

Letters: B cases, S words of a context, T words of a reply, M memories, E features of a word, H hidden units, L layers,
V words of the vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.attention import weighted
from personae.nn.decoding import Decoding, decode, spelled, stream
from personae.nn.lstm import LSTM, States
from personae.nn.resizable import Resizable
from personae.text import Kept, Vocabulary, joined, words
from personae.types import Example, InputError

SPREAD = 0.5
"""The standard deviation of the features of words, at first: with much less the decoder learns to write before it
learns to look at what was said."""

START, END = "<s>", "</s>"
"""What stands before and after a reply, and, END, after each utterance of a context."""


@dataclass(frozen=True)
class Sizes:
    """Features of a word, hidden units and layers of encoder and decoder, dropout, how often a word must occur in
    training texts, how many utterances are read, and how many words of each and of a reply. The defaults are the
    paper's (Wu et al. 2021, section 5.4), which does not state features, dropout and words."""

    width: int = 300
    hidden: int = 512
    layers: int = 2
    dropout: float = 0.2
    min_count: int = 4
    utterances: int = 1
    words: int = 40

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "dropout" and value < 1:
                raise InputError(f"task.model.sizes.{name}: {value} is not at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"task.model.sizes.dropout: {self.dropout} is not at least 0 and less than 1")


@dataclass(frozen=True)
class Texts:
    """`context` (B, S) and `reply` (B, T) as numbers of words: a context stands at the end of its row, a reply at the
    front, END behind it; 0 elsewhere. `names` are the examples' ids."""

    names: tuple[str, ...]
    context: Tensor
    reply: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.names, self.context.to(device), self.reply.to(device))


@dataclass(frozen=True)
class Place:
    """Where a decoder is: the `states` of its layers, and what it looks at and reads at every step."""

    states: States
    keys: Tensor
    seen: Tensor
    there: Tensor
    beside: Tensor | None
    memories: Tensor | None

    def select(self, rows: Tensor) -> Self:
        """That of these rows."""
        hidden, cells = self.states
        chosen: dict[str, Any] = {
            name: None if each is None else each[rows] for name, each in vars(self).items() if name != "states"
        }
        return type(self)(states=(hidden[:, rows], cells[:, rows]), **chosen)


class EncoderDecoder(Resizable):
    """Encoder, attention, decoder and output, whose weights are those of the word vectors (Press and Wolf, EACL 2017,
    https://arxiv.org/abs/1608.05859). `beside` are the features of the vector beside every word that is written, and
    with `memories` there are some to look at."""

    def __init__(self, *, sizes: Sizes, beside: int = 0, memories: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.vocabulary = Vocabulary([START, END])
        self.weight = nn.Parameter(torch.empty(len(self.vocabulary), sizes.width))
        self.bias = nn.Parameter(torch.zeros(len(self.vocabulary)))
        recurrent = {"hidden": sizes.hidden, "layers": sizes.layers, "dropout": sizes.dropout}
        self.encoder = LSTM(width=sizes.width, **recurrent)  # type: ignore[arg-type]
        self.decoder = LSTM(width=sizes.width + beside, **recurrent)  # type: ignore[arg-type]
        self.look = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.remember = nn.Linear(sizes.hidden, sizes.width, bias=False) if memories else None
        self.output = nn.Linear(2 * sizes.hidden + memories * sizes.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self._split: Kept[list[str]] = Kept()

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary from training texts; the words that it has already, from others, keep their vectors.
        InputError where no word is frequent enough to be in it."""
        found = Vocabulary.of(map(words, texts), min_count=self.sizes.min_count).words[2:]
        if not found:
            raise InputError(
                f"task.model.sizes.min_count: no word of the training texts occurs {self.sizes.min_count} times; give "
                "fewer, or more texts"
            )
        before, weight, bias = self.vocabulary, self.weight.detach(), self.bias.detach()
        self._know([*before.words[4:], *(word for word in found if word not in before)])
        if len(before) > 4:
            self.weight.data[: len(weight)], self.bias.data[: len(bias)] = weight, bias

    def _know(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = Vocabulary([START, END, *vocabulary])
        self.weight = nn.Parameter(torch.randn(len(self.vocabulary), self.sizes.width).to(self.weight) * SPREAD)
        self.bias = nn.Parameter(torch.zeros(len(self.vocabulary)).to(self.bias))

    def get_extra_state(self) -> dict[str, list[str]]:
        """The words of the vocabulary, saved as JSON beside the weights."""
        return {"vocabulary": self.vocabulary.words[4:]}

    def _resize(self, state: dict[str, list[str]]) -> None:
        self._know(state["vocabulary"])

    def numbers(self, text: str) -> list[int]:
        """The words of a text as numbers, the first so many."""
        if text not in self._split:
            self._split.update((new, words(new)) for new in self._split.new([text]))
        return [self.vocabulary[word] for word in self._split[text][: self.sizes.words]]

    def collate(self, examples: Sequence[Example]) -> Texts:
        """What is read and what is to be written."""
        end = self.vocabulary[END]
        told = [example.context.turns[-self.sizes.utterances :] for example in examples]
        contexts = [[word for turn in turns for word in (*self.numbers(turn.text), end)] or [end] for turns in told]
        replies = [[*self.numbers(example.target.text), end] for example in examples]
        longest = max(map(len, contexts))
        return Texts(
            tuple(example.id for example in examples),
            torch.tensor([[0] * (longest - len(each)) + each for each in contexts]),
            nn.utils.rnn.pad_sequence([torch.tensor(each) for each in replies], batch_first=True),
        )

    def size(self, example: Example) -> int:
        """How many words are read and written."""
        texts = [*(turn.text for turn in example.context.turns[-self.sizes.utterances :]), example.target.text]
        return sum(len(self.numbers(text)) for text in texts)

    def read(self, context: Tensor) -> tuple[Tensor, States]:
        """The encoder's upper states (B, S, H) of a context (B, S), and the last ones of all layers."""
        states, last = self.encoder(self.dropout(self.weight[context]), absent=context == 0)
        return states, last

    def place(
        self, context: Tensor, states: Tensor, last: States, *, beside: Tensor | None, memories: Tensor | None
    ) -> Place:
        """Where the decoder starts from the states `last`, the context (B, S) read as `states` (B, S, H), with a vector
        `beside` (B, W) every word, and memories (B, M, E), zeros where there is none."""
        return Place(last, self.look(states), states, context > 0, beside, memories)

    def write(self, tokens: Tensor, place: Place) -> tuple[Tensor, Place]:
        """What follows each of the words `tokens` (B, T), as features (B, T, E), and where the decoder is then."""
        inputs = self.dropout(self.weight[tokens])
        if place.beside is not None:
            inputs = torch.cat([inputs, place.beside[:, None].expand(-1, tokens.shape[1], -1)], 2)
        hidden, states = self.decoder(inputs, place.states)
        seen = [hidden, weighted(hidden @ place.keys.transpose(1, 2), place.seen, place.there)]
        if self.remember is not None:
            assert place.memories is not None
            likeness = self.remember(hidden) @ place.memories.transpose(1, 2)  # (B, T, M)
            seen.append(weighted(likeness, place.memories, place.memories.any(2)))
        features = self.dropout(torch.tanh(self.output(torch.cat(seen, 2))))
        return features, replace(place, states=states)

    def log_probabilities(self, texts: Texts, place: Place) -> tuple[Tensor, Tensor]:
        """The log-probability (N,) of each of the N words of all replies, their ends among them, and whose it is."""
        start = texts.reply.new_full((len(texts.reply), 1), self.vocabulary[START])
        features, _ = self.write(torch.cat([start, texts.reply[:, :-1]], 1), place)
        real = texts.reply > 0
        logits = self._logits(features[real])
        return -F.cross_entropy(logits, texts.reply[real], reduction="none"), real.nonzero()[:, 0]

    def generate(self, texts: Texts, place: Place, decoding: Decoding) -> list[list[str]]:
        """Of each case so many texts as `decoding` says, the best first."""
        logits, first = self._step(texts.context.new_full((len(texts.names),), self.vocabulary[START]), place)
        found = decode(logits, first, self._step, names=texts.names, decoding=decoding, **self._closed())
        return [[self._text(one.tokens) for one in each] for each in found]

    def stream(self, texts: Texts, place: Place, decoding: Decoding) -> Iterator[str]:
        """The same of one case, piece by piece."""
        logits, first = self._step(texts.context.new_full((1,), self.vocabulary[START]), place)
        tokens = stream(logits, first, self._step, name=texts.names[0], decoding=decoding, **self._closed())
        return spelled(tokens, self._text)

    def _text(self, tokens: Sequence[int]) -> str:
        return joined([self.vocabulary.words[token] for token in tokens])

    def _step(self, tokens: Tensor, place: Place) -> tuple[Tensor, Place]:
        """What follows tokens (N,), as logits (N, V), and where the decoder is then."""
        features, after = self.write(tokens[:, None], place)
        return self._logits(features[:, 0]), after

    def _closed(self) -> dict[str, Any]:
        """What ends a reply, and what is never written."""
        return {"end": self.vocabulary[END], "forbidden": [0, 1, self.vocabulary[START]]}

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)
