"""Who answers what, as the personalized response embedding: the factors of users and questions, and the tensor's core.

Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, sections 4.1 and 4.2
(https://aclanthology.org/2021.gem-1.5). Differs from the paper: a question may also be what an encoder makes of it,
mapped to R1 features, so that one that was never seen has a vector. A user or, in a table, a question that is not known
has the mean factor. Not stated in the paper: users' factors are drawn from a normal distribution around 0, or all begin
there; those of questions are drawn from one around a vector in common, which is drawn once (where they are encoded, it
is the bias), so that what is learnt of a user at one question tells something of all from the first step on.

Letters: B pairs, K features of an embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from personae.nn.name_table import NameTable
from personae.nn.tensor_factorization import Ranks, TensorFactorization
from personae.text import line_key
from personae.types import Dialogue, InputError, check

Question = Literal["table", "encoder"]
"""What stands for a question: a row of a table, as in the paper, or what the model's own encoder makes of its words."""

USERS = 0.1
"""The standard deviation of users' factors: by the step of an optimizer like Adam they move the faster, compared with
what they are, the smaller it is."""

COMMON, APART = 0.95, 0.3
"""The standard deviations of what questions' factors have in common and of their own, together 1."""


@dataclass(frozen=True)
class Factorization:
    """The size of the core, R1 of questions, R2 of users and R3 of features, what stands for a question, the standard
    deviation of what it first gives, and, in models with an encoder, its share in the decoder's first state (lambda of
    equation 1). Users that begin `alike` have factors of 0, so that it first gives nothing, which does not disturb a
    model that was trained before; `spread` is then by the factors that others begin with. The defaults are the paper's
    (section 5.4), but for the last two, which it does not state."""

    ranks: Ranks = (50, 50, 50)
    question: Question = "table"
    balance: float = 0.2
    spread: float = 1.0
    alike: bool = False

    def __post_init__(self) -> None:
        check("task.model.tensor.question", self.question, Question)
        if len(self.ranks) != 3 or min(self.ranks) < 1:
            raise InputError(f"task.model.tensor.ranks: {list(self.ranks)} are not three numbers of at least 1")
        if not 0 <= self.balance <= 1:
            raise InputError(f"task.model.tensor.balance: {self.balance} is not between 0 and 1")
        if not self.spread > 0:
            raise InputError(f"task.model.tensor.spread: {self.spread} is not above 0")


class Questions(NameTable):
    """The vectors of questions, by the names that dialogues have for them. A question whose name is not known, or that
    has none, is the one of training that was asked in the same letters (`line_key`)."""

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width, spread=APART, common=COMMON)
        self.asked: dict[str, str] = {}

    def learn(self, dialogues: Sequence[Dialogue]) -> None:
        """Takes the questions of dialogues, each of which ends with an answer to one."""
        named = [(dialogue.question, dialogue.turns[:-1]) for dialogue in dialogues if dialogue.question]
        self.prepare([name for name, _ in named])
        self.asked = {}
        for name, before in named:
            if before:
                self.asked.setdefault(line_key(before[-1].text), name)

    def of(self, contexts: Sequence[Dialogue]) -> Tensor:
        """The number of what each asks last, -1 where it is not known: (B,)."""
        return self.numbers([self._name(context) for context in contexts])

    def _name(self, context: Dialogue) -> str | None:
        if context.question in self.names or not context.turns:
            return context.question
        return self.asked.get(line_key(context.turns[-1].text))

    def get_extra_state(self) -> dict[str, Any]:
        """What a name table keeps, and the letters that questions were asked in."""
        return {**super().get_extra_state(), "asked": self.asked}

    def _resize(self, state: Mapping[str, Any]) -> None:
        super()._resize(state)
        self.asked = dict(state["asked"])


class Personalization(nn.Module):
    """The personalized response embedding p_ij (B, `size`) of the users and questions of a training; `encoded` is the
    number of features that the model's encoder makes of a question. Before `prepare` it knows nobody. What it draws
    leaves what others draw as it is, so that a model with and one without it begin alike."""

    def __init__(self, *, size: int, encoded: int, factorization: Factorization) -> None:
        super().__init__()
        of_questions, of_users, _ = factorization.ranks
        with _apart(1):
            self.users = NameTable(width=of_users, spread=0.0 if factorization.alike else USERS)
            self.questions: nn.Module = Questions(width=of_questions)
            if factorization.question == "encoder":
                self.questions = nn.Linear(encoded, of_questions)
                nn.init.normal_(self.questions.bias, std=COMMON)
            ranks, spread = factorization.ranks, factorization.spread
            self.tensor = TensorFactorization(size=size, ranks=ranks, spread=spread, of_users=USERS)

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns who answers (speaker 1), and what."""
        with _apart(2):
            self.users.prepare([dialogue.speakers[1].id for dialogue in dialogues])
            if isinstance(self.questions, Questions):
                self.questions.learn(dialogues)

    def numbers(self, contexts: Sequence[Dialogue]) -> Tensor:
        """The numbers (B,) of what contexts ask last; -1 for what is not known, and where there is no table."""
        if isinstance(self.questions, Questions):
            return self.questions.of(contexts)
        return torch.full((len(contexts),), -1)

    def forward(self, users: Tensor, questions: Tensor, encoded: Tensor) -> Tensor:
        """The embeddings (B, K) of the users' and the questions' numbers (B,), the latter or what the encoder makes of
        them (B, `encoded`)."""
        table = isinstance(self.questions, Questions)
        personal: Tensor = self.tensor(self.users(users), self.questions(questions if table else encoded))
        return personal


@contextmanager
def _apart(number: int) -> Iterator[None]:
    """Random numbers of its own, by the seed that others draw from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + number)
        yield
