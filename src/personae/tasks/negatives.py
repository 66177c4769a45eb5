"""Wrong replies to learn from: which candidates a training reply is told apart from."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import Example, InputError


class Negatives(Protocol):
    """Gives the replies of a training batch their candidates. What it gives depends on what it was started with, the
    epoch and `drawn`, on nothing else, so that training can be resumed."""

    def start(self, examples: Sequence[Example]) -> None:
        """Learns the training examples. InputError where nothing can be drawn from them."""
        ...

    def fill(self, batch: Sequence[Example], *, epoch: int, drawn: random.Random) -> list[Example]:
        """The batch with candidates, the true reply among them."""
        ...


class Drawn:
    """The candidates that a reply comes with; where it comes without, each epoch draws `candidates` - 1 others for it,
    from replies of other dialogues. The draws of a batch share a pool of `pool` replies, so that fewer sentences have
    to be encoded."""

    def __init__(self, *, candidates: int = 20, pool: int = 64) -> None:
        if not 2 <= candidates <= pool:
            raise InputError(f"task.negatives: candidates must be between 2 and pool ({pool}), not {candidates}")
        self.candidates, self.pool = candidates, pool

    def start(self, examples: Sequence[Example]) -> None:
        """Learns the replies to draw from."""
        self._replies = _replies(examples, given=True)

    def fill(self, batch: Sequence[Example], *, epoch: int, drawn: random.Random) -> list[Example]:
        """New candidates for each example that has none."""
        pool = drawn.choices(self._replies, k=self.pool)
        return [
            example
            if example.target.candidates
            else _with(example, _sample(_drawn(example, pool, self._replies), self.candidates - 1, drawn), drawn)
            for example in batch
        ]


class Rotating:
    """One wrong reply at a time, another one in each epoch, as the persona-fusion paper trains BERT: epoch k takes the
    k-th of the `candidates` - 1 wrong ones that a reply comes with, or that are drawn for it once, by `seed`."""

    def __init__(self, *, candidates: int = 20, seed: int = 0) -> None:
        if candidates < 2:
            raise InputError(f"task.negatives: candidates must be at least 2, not {candidates}")
        self.candidates, self.seed = candidates, seed

    def start(self, examples: Sequence[Example]) -> None:
        """Learns the replies to draw from."""
        self._replies = _replies(examples, given=True)

    def fill(self, batch: Sequence[Example], *, epoch: int, drawn: random.Random) -> list[Example]:
        """The true reply and one other for each example."""
        return [_with(example, [self._wrong(example)[epoch % (self.candidates - 1)]], drawn) for example in batch]

    def _wrong(self, example: Example) -> list[str]:
        own = random.Random(f"{self.seed}/{example.id}")
        some = [text for text in example.target.candidates if text != example.target.text]
        some = some or _drawn(example, own.choices(self._replies, k=4 * self.candidates), self._replies)
        some = _sample(some, len(some), own)
        return [some[place % len(some)] for place in range(self.candidates - 1)]


class InBatch:
    """The true replies of the other examples of the batch, which cost nothing where a reply is encoded apart from its
    context."""

    def start(self, examples: Sequence[Example]) -> None:
        """Learns nothing. InputError where all examples are of one dialogue."""
        _replies(examples)

    def fill(self, batch: Sequence[Example], *, epoch: int, drawn: random.Random) -> list[Example]:
        """The batch's own replies for each example; where they are all of its dialogue, it is left out."""
        pool = [(example.context.id, example.target.text) for example in batch]
        filled = [_with(example, _others(example, pool), drawn) for example in batch]
        return [example for example in filled if len(example.target.candidates) > 1]


class Hard:
    """The `candidates` - 1 that a bi-encoder finds best among `pool` replies of other dialogues, drawn anew for each
    batch: the larger the pool, the harder they are, and the more of them are right. The bi-encoder rates a reply by
    its cosine with the last utterance plus the greatest with a line of the replier's persona. `encoder` is a folder or
    a hub id, None for MiniLM's package."""

    def __init__(self, *, candidates: int = 5, pool: int = 200, encoder: str | None = None) -> None:
        if not 2 <= candidates <= pool:
            raise InputError(f"task.negatives: candidates must be between 2 and pool ({pool}), not {candidates}")
        self.candidates, self.pool, self.encoder = candidates, pool, encoder

    def start(self, examples: Sequence[Example]) -> None:
        """Learns the replies to draw from, and encodes every sentence."""
        self._replies = _replies(examples)
        self._encoder = SentenceEncoder(self.encoder, field="task.negatives.encoder")
        sentences = {text for example in examples for text in (*_asked(example), *example.facts("self"))}
        self._encoder.encode(sentences.union(text for _, text in self._replies))

    def fill(self, batch: Sequence[Example], *, epoch: int, drawn: random.Random) -> list[Example]:
        """The hardest of a pool for each example."""
        pool = list(dict.fromkeys(drawn.choices(self._replies, k=self.pool)))
        replies = self._vectors([text for _, text in pool])  # (pool, width)
        filled = []
        for example in batch:
            scores = torch.zeros(len(pool))
            for texts in (_asked(example), example.facts("self")):
                if texts:
                    scores += (replies @ self._vectors(texts).T).amax(1)
            order = scores.argsort(descending=True, stable=True).tolist()
            others = _others(example, [pool[place] for place in order])
            others = others or _sample(_drawn(example, (), self._replies), self.candidates - 1, drawn)
            filled.append(_with(example, others[: self.candidates - 1], drawn))
        return filled

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._encoder.vectors[text] for text in texts])


def _asked(example: Example) -> tuple[str, ...]:
    """The last utterance, if there is one."""
    return tuple(turn.text for turn in example.context.turns[-1:])


def _replies(examples: Sequence[Example], *, given: bool = False) -> list[tuple[str, str]]:
    """Every reply and the dialogue that it is of. InputError where they are all of one, though wrong ones must be
    drawn, for those that have none where candidates that are `given` are kept."""
    replies = [(example.context.id, example.target.text) for example in examples]
    bare = [example for example in examples if not (given and example.target.candidates)]
    if bare and len({dialogue for dialogue, _ in replies}) < 2:
        without = ", and its replies have no candidates" if given else ""
        raise InputError(
            f"corpus: dialogue {bare[0].context.id} is the only one to train on{without}; give more dialogues, to draw "
            "wrong replies from"
        )
    return replies


def _drawn(example: Example, pool: Sequence[tuple[str, str]], replies: Sequence[tuple[str, str]]) -> list[str]:
    """Wrong replies of the pool; of all `replies` where it has none. InputError where these have none either."""
    others = _others(example, pool) or _others(example, replies)
    if not others:
        raise InputError(
            f"corpus: {example.id}: no other dialogue has another reply, to tell this one from; give more dialogues, "
            "or candidates"
        )
    return others


def _others(example: Example, pool: Sequence[tuple[str, str]]) -> list[str]:
    """Those of the pool that are of other dialogues and other than the true reply, each once, in its order."""
    others = (text for dialogue, text in pool if dialogue != example.context.id and text != example.target.text)
    return list(dict.fromkeys(others))


def _sample(texts: Sequence[str], n: int, drawn: random.Random) -> list[str]:
    return drawn.sample(sorted(texts), min(n, len(texts)))


def _with(example: Example, wrong: Sequence[str], drawn: random.Random) -> Example:
    candidates = [example.target.text, *wrong]
    drawn.shuffle(candidates)
    return replace(example, target=replace(example.target, candidates=tuple(candidates)))
