"""An encoder-decoder that writes as a user, by any of three ways to know them: a vector beside every word, memories of
what they said, and the personalized response embedding of a tensor factorization.

Letters: B cases, M memories, E features of a word, H hidden units.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.decoding import Decoding
from personae.nn.encoder_decoder import EncoderDecoder, Place, Sizes, Texts
from personae.nn.name_table import NameTable
from personae.nn.personalization import Factorization, Personalization
from personae.nn.recall import Recall
from personae.nn.speakers import Speakers
from personae.types import Dialogue, Example


@dataclass(frozen=True)
class Memories:
    """The numbers (W,) of all words of B x M memories, their weights (W,), and where each memory begins (B * M,); one
    that is not there has no word."""

    words: Tensor
    weights: Tensor
    starts: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.words.to(device), self.weights.to(device), self.starts.to(device))


@dataclass(frozen=True)
class Addressed:
    """Contexts and replies, the numbers (B,) of users and questions, -1 for those that are not known, and memories."""

    texts: Texts
    users: Tensor
    questions: Tensor
    memories: Memories | None

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        memories = None if self.memories is None else self.memories.to(device)
        return type(self)(self.texts.to(device), self.users.to(device), self.questions.to(device), memories)


class UserWriter(nn.Module):
    """`speakers` are the vectors, `memories` how many there are at most, and `tensor` the size of the factorization. In
    training a reply is not among its own memories."""

    def __init__(
        self,
        *,
        sizes: Sizes,
        speakers: Speakers | None = None,
        memories: int = 0,
        tensor: Factorization | None = None,
    ) -> None:
        super().__init__()
        self.speakers, self.memories = speakers, memories
        self.words = EncoderDecoder(sizes=sizes, beside=speakers.width if speakers else 0, memories=memories > 0)
        self.personal: Personalization | None = None
        self.balance = 0.0
        if tensor is not None:
            self.personal = Personalization(size=sizes.hidden, encoded=sizes.hidden, factorization=tensor)
            self.balance = tensor.balance
        self.recall = Recall()
        self.histories: dict[str, tuple[str, ...]] = {}

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns the vocabulary of all turns, who answers (speaker 1) to what, and what they said."""
        told = [turn.text for dialogue in dialogues for turn in dialogue.turns]
        self.words.prepare(told)
        if self.speakers is not None:
            self.speakers.prepare(dialogues)
        if self.personal is not None:
            self.personal.prepare(dialogues)
        if self.memories:
            self.recall.prepare(told)
            self.histories = {dialogue.speakers[1].id: dialogue.speakers[1].history for dialogue in dialogues}

    def get_extra_state(self) -> dict[str, Any]:
        """What is remembered of users, saved as JSON beside the weights."""
        return {"histories": {user: list(said) for user, said in self.histories.items()}, "rarity": self.recall.rarity}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_extra_state` gave."""
        self.histories = {user: tuple(said) for user, said in state["histories"].items()}
        self.recall.know(state["rarity"])

    def tables(self) -> list[NameTable]:
        """What is learnt of each user."""
        return [
            *([self.speakers.table] if self.speakers is not None else []),
            *([self.personal.users] if self.personal is not None else []),
        ]

    def collate(self, examples: Sequence[Example]) -> Addressed:
        """The model's input."""
        tables = self.tables()
        users = [example.user.id for example in examples]
        unknown = torch.full((len(examples),), -1)
        contexts = [example.context for example in examples]
        return Addressed(
            self.words.collate(examples),
            tables[0].numbers(users) if tables else unknown,
            self.personal.numbers(contexts) if self.personal is not None else unknown,
            self._remembered(examples) if self.memories else None,
        )

    def _remembered(self, examples: Sequence[Example]) -> Memories:
        vocabulary = self.words.vocabulary
        numbers: list[int] = []
        weights: list[float] = []
        starts: list[int] = []
        for example in examples:
            history = example.user.history or self.histories.get(example.user.id, ())
            question = example.context.turns[-1].text if example.context.turns else ""
            told = example.target.text if self.training else ""
            found = self.recall.like(question, history, most=self.memories, leave_out=told)
            for text in [*found, *[""] * (self.memories - len(found))]:
                starts.append(len(numbers))
                for word, weight in self.recall.weights(text).items():
                    numbers.append(vocabulary[word])
                    weights.append(weight)
        return Memories(torch.tensor(numbers, dtype=torch.long), torch.tensor(weights), torch.tensor(starts))

    def loss(self, batch: Addressed) -> Tensor:
        """The mean negative log-likelihood of a word."""
        return -self.words.log_probabilities(batch.texts, self._begin(batch))[0].mean()

    def log_likelihood(self, batch: Addressed) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many words they have, the end among them: both (B,)."""
        each, whose = self.words.log_probabilities(batch.texts, self._begin(batch))
        sums = each.new_zeros(len(batch.texts.names)).index_add(0, whose, each)
        return sums, whose.bincount(minlength=len(sums))

    def generate(self, batch: Addressed, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first."""
        return self.words.generate(batch.texts, self._begin(batch), decoding)

    def stream(self, batch: Addressed, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece."""
        return self.words.stream(batch.texts, self._begin(batch), decoding)

    def _begin(self, batch: Addressed) -> Place:
        """Where the decoder starts: equation 1 of Wu et al. 2021, on every layer alike."""
        states, (hidden, cells) = self.words.read(batch.texts.context)
        if self.personal is not None and self.balance:  # else it gets no gradient that clipping would count
            own = self.balance * self.personal(batch.users, batch.questions, hidden[-1])  # (B, H)
            hidden, cells = (1 - self.balance) * hidden + own, (1 - self.balance) * cells + own
        beside = self.speakers.table(batch.users) if self.speakers is not None else None
        memories = None
        if batch.memories is not None:
            each = F.embedding_bag(
                batch.memories.words,
                self.words.weight,
                batch.memories.starts,
                mode="sum",
                per_sample_weights=batch.memories.weights.to(self.words.weight.dtype),
            )  # (B * M, E)
            memories = each.view(len(batch.users), self.memories, -1)
        return self.words.place(batch.texts.context, states, (hidden, cells), beside=beside, memories=memories)
