"""Who answers what, as the personalized response embedding: the factors of users and questions, and the tensor's core.

Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, sections 4.1 and 4.2
(https://aclanthology.org/2021.gem-1.5). Differs from the paper: a question may also be what an encoder makes of it,
mapped to R1 features, so that one that was never seen has a vector. A user or, in a table, a question that is not known
has the mean factor. Not stated in the paper: users' factors are drawn from a normal distribution around 0, or all begin
there; those of questions are drawn from one around a vector in common, which is drawn once (where they are encoded, it
is the bias), so that what is learnt of a user at one question tells something of all from the first step on.

Letters: B pairs, K features of an embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from personae.nn.name_table import NameTable
from personae.nn.tensor_factorization import Ranks, TensorFactorization
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


class Personalization(nn.Module):
    """The personalized response embedding p_ij (B, `size`) of the users and questions of a training; `encoded` is the
    number of features that the model's encoder makes of a question. Before `prepare` it knows nobody. What it draws
    leaves what others draw as it is, so that a model with and one without it begin alike."""

    def __init__(self, *, size: int, encoded: int, factorization: Factorization) -> None:
        super().__init__()
        of_questions, of_users, _ = factorization.ranks
        with _apart(1):
            self.users = NameTable(width=of_users, spread=0.0 if factorization.alike else USERS)
            self.questions: nn.Module = NameTable(width=of_questions, spread=APART, common=COMMON)
            if factorization.question == "encoder":
                self.questions = nn.Linear(encoded, of_questions)
                nn.init.normal_(self.questions.bias, std=COMMON)
            ranks, spread = factorization.ranks, factorization.spread
            self.tensor = TensorFactorization(size=size, ranks=ranks, spread=spread, of_users=USERS)

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns who answers (speaker 1), and what."""
        with _apart(2):
            self.users.prepare([dialogue.speakers[1].id for dialogue in dialogues])
            if isinstance(self.questions, NameTable):
                self.questions.prepare([question for dialogue in dialogues if (question := dialogue.question)])

    def numbers(self, questions: Sequence[str | None]) -> Tensor:
        """The numbers (B,) of questions by their names; -1 for one that is not known, and where there is no table."""
        if isinstance(self.questions, NameTable):
            return self.questions.numbers(questions)
        return torch.full((len(questions),), -1)

    def forward(self, users: Tensor, questions: Tensor, encoded: Tensor) -> Tensor:
        """The embeddings (B, K) of the users' and the questions' numbers (B,), the latter or what the encoder makes of
        them (B, `encoded`)."""
        table = isinstance(self.questions, NameTable)
        personal: Tensor = self.tensor(self.users(users), self.questions(questions if table else encoded))
        return personal


@contextmanager
def _apart(number: int) -> Iterator[None]:
    """Random numbers of its own, by the seed that others draw from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + number)
        yield
