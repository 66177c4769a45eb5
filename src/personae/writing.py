"""The writer: a trained generator that replies as a user, known from training or welcomed since."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personae import catalogue, console, recipes, run
from personae.data import lines
from personae.data.texts import example_of, listed
from personae.names import hint
from personae.nn import newcomers
from personae.nn.decoding import Decoding
from personae.tasks.base import Task
from personae.tasks.generation import Generation
from personae.text import standard as standard_form
from personae.types import Dialogue, Example, InputError, Speaker, Turn

USERS = "users"
"""The folder of a run that holds users who were welcomed, a file each."""

_NAME = re.compile(r"\w[\w.@+-]{0,99}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What a user said, and the `context` that it answers, as far as it is known: the earlier utterances, the partner's
    last."""

    text: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, and the log-probability (nats) that the model gives its text."""

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Welcomed:
    """How well a new user is known: how many `messages` were read, and the mean log-likelihood of a token of them to
    the average user (`before`) and to this one (`after`); None where nothing is learnt of a user, only remembered."""

    messages: int
    before: float | None
    after: float | None


class Writer:
    """Replies with the generator of a task. `folder` is its run, where users are kept; with `standard`, what is said is
    read in the standard form (`personae.text.standard`), for a model that was trained on it. InputError where the model
    ranks replies, and writes none."""

    def __init__(
        self, task: Task, *, name: str | None = None, folder: Path | None = None, standard: bool = False
    ) -> None:
        self.name = name or type(task.model).__name__
        if not isinstance(task, Generation):
            raise InputError(f"{self.name}: ranks replies, and writes none; see `personae rank`")
        self.task, self.folder = task.eval(), folder
        self.model: Any = task.model
        self._read = standard_form if standard else str
        self._tables, self._memory = newcomers.tables(self.model), newcomers.memory(self.model)
        self._welcomed: set[str] = set()

    @classmethod
    def load(cls, model: str | Path) -> Self:
        """A writer with the generator of a run folder. InputError where there is none."""
        name = str(model)
        if not Path(model).exists() and name not in catalogue.shipped() and catalogue.untrained(name) is None:
            raise InputError(f"{name}: is no run folder; {_needed(name)}")
        return cls(run.load(name), name=name, folder=Path(model), standard=run.reads_standard(name))

    @property
    def knows_users(self) -> bool:
        """Whether it can tell one user from another."""
        return bool(self._tables) or self._memory is not None

    @property
    def users(self) -> list[str]:
        """Whom it knows: from training, and who was welcomed."""
        known = [name for table in self._tables.values() for name in table.names]
        return list(dict.fromkeys([*known, *(self._memory or ()), *self._kept()]))

    def reply(
        self,
        context: Sequence[str] = (),
        *,
        user: str | None = None,
        persona: Sequence[str] = (),
        partner: Sequence[str] = (),
        decoding: Decoding | None = None,
    ) -> list[Reply]:
        """Replies as a `user`, None for the average one, best first, so many as `decoding` says, by default the
        recipe's. `context` is what was said so far in turn, the partner's utterance last, `persona` the lines about the
        one who replies and `partner` those about the other; a model that reads none leaves them out, with a warning.
        InputError where the user is not known."""
        example = self._example(context, user, persona, partner)
        with torch.no_grad():
            (texts,) = self.model.generate(self._collated([example]), decoding or self.task.decoding)
            told = [replace(example, target=Turn(1, text)) for text in texts]
            likely = self.model.log_likelihood(self._collated(told))[0].tolist()
        return [Reply(text, value) for text, value in zip(texts, likely, strict=True)]

    def stream(
        self,
        context: Sequence[str] = (),
        *,
        user: str | None = None,
        persona: Sequence[str] = (),
        partner: Sequence[str] = (),
        decoding: Decoding | None = None,
    ) -> Iterator[str]:
        """The first reply that `reply` gives, piece by piece as it is written. InputError where the model, or what
        decodes, has none before the end."""
        if not hasattr(self.model, "stream"):
            raise InputError(f"--stream: {self.name} shows its reply at the end alone; leave it out")
        example = self._example(context, user, persona, partner)
        with torch.no_grad():
            pieces: Iterator[str] = self.model.stream(self._collated([example]), decoding or self.task.decoding)
        return pieces

    def welcome(self, user: str, messages: Sequence[Message], *, steps: int = newcomers.STEPS) -> Welcomed:
        """Gets to know a new user by what they said: their vectors are fitted to the latest messages
        (`personae.nn.newcomers`), which are looked at some `steps` times, and where the model remembers what users say,
        it remembers these. All else stays as it is, and without messages the user is the average one. InputError where
        the name is taken, or nothing can be known."""
        if not self.knows_users:
            raise InputError(f"{self.name}: knows nothing of users; take a model with a tensor, speakers or memories")
        if user in self.users and user not in self._welcomed - set(self._kept()):
            raise InputError(f"user {user!r} is known already; {self._free(user)}")
        if not user.strip():
            raise InputError("--user: a user has a name; give one")
        if steps < 1:
            raise InputError(f"--steps: {steps} is not at least 1")
        if any(not isinstance(message, Message) for message in messages):
            raise InputError('messages: a list of Message is wanted, such as [Message("i sail .")]')
        said = [message for message in messages if message.text.strip()]
        if len(said) < len(messages):
            log.warning("%s left out", console.counted(len(messages) - len(said), "empty message"))
        most = newcomers.latest(self.model)
        if len(said) > most:
            log.warning("of %d messages the latest %d are read", len(said), most)
        said = said[-most:]
        self._welcomed.add(user)
        history = tuple(self._read(message.text) for message in said)
        if self._memory is not None:
            self._memory[user] = history
        if not self._tables:
            return Welcomed(len(said), None, None)
        examples = [
            Example(self._dialogue(f"{user}-{number}", user, message.context, history), Turn(1, text))
            for number, (message, text) in enumerate(zip(said, history, strict=True))
        ]
        before, after = newcomers.fit(self.model, user, examples, steps=steps)
        return Welcomed(len(said), *((before, after) if said else (None, None)))

    def keep(self, user: str) -> Path:
        """Keeps a user who was welcomed with the run, so that whoever loads it knows them; the file. The weights of the
        run stay as they are. InputError where the name is none of a file."""
        if self.folder is None:
            raise InputError(f"{self.name}: is no run folder, in which users could be kept")
        path = self._file(user)
        if user not in self._welcomed:
            raise InputError(f"user {user!r}: was not welcomed; let `welcome` make them known first")
        path.parent.mkdir(exist_ok=True)
        vectors = {name: table.weight[table.names[user]].detach().clone() for name, table in self._tables.items()}
        told = {"user": user, "of": self._digest(), "history": json.dumps((self._memory or {}).get(user, ()))}
        with lines.whole(path) as file:
            file.write(save(vectors, metadata=told))
        return path

    def check_name(self, user: str, *, where: str = "--user") -> None:
        """InputError, which says `where` the name stands, where a user could not be kept by it."""
        if not _NAME.fullmatch(user):
            raise InputError(
                f"{where} {user!r}: is no name of a file; up to 100 letters, digits and any of . @ + - _ are wanted, "
                "of which the first is a letter or a digit"
            )

    def _file(self, user: str) -> Path:
        self.check_name(user)
        assert self.folder is not None
        return self.folder / USERS / f"{user}.safetensors"

    def _kept(self) -> list[str]:
        """Who is kept with the run."""
        if self.folder is None:
            return []
        return sorted(file.name.removesuffix(".safetensors") for file in (self.folder / USERS).glob("*.safetensors"))

    def _free(self, user: str) -> str:
        """What to do where a name is taken."""
        if user in self._kept():
            return f"take another name, or delete {self._file(user)} first"
        return "from training; take another name"

    def _admit(self, user: str) -> None:
        """Sees to it that a user is known. InputError where they are not."""
        if not self.knows_users:
            raise InputError(f"--user {user}: {self.name} knows nothing of users; leave it out")
        if any(user in table.names for table in self._tables.values()) or user in (self._memory or {}):
            return
        if user not in self._kept():
            known = self.users
            some = f", such as {' and '.join(known[:2])}" if known else ""
            raise InputError(
                f"--user {user}: {self.name} knows no such user; {hint(user, known, 'name another.')} It knows "
                f"{len(known):,}{some}. Make them known with `personae adapt`, give --history with what they said, or "
                "leave it out for the average user"
            )
        path = self._file(user)
        try:
            with safe_open(path, framework="pt") as file:
                told, vectors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            history = tuple(map(str, json.loads(told["history"])))
            if told["of"] != self._digest() or not all(map(self._fits, vectors.items())):
                raise ValueError("it is of another training")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is damaged ({error}); delete it, and adapt to the user again") from None
        for name, table in self._tables.items():
            table.add(user, vectors[name])
        if self._memory is not None:
            self._memory[user] = history

    def _fits(self, named: tuple[str, Tensor]) -> bool:
        name, vector = named
        return vector.shape == (self._tables[name].width,) and bool(vector.isfinite().all())

    def _digest(self) -> str:
        """Tells one training from another, by what it learnt of users."""
        learnt = [table.weight[: table.learnt].detach().cpu().numpy().tobytes() for table in self._tables.values()]
        names = [name for table in self._tables.values() for name in list(table.names)[: table.learnt]]
        return hashlib.sha256(b"".join([*learnt, json.dumps(names).encode()])).hexdigest()

    def _example(
        self, context: Sequence[str], user: str | None, persona: Sequence[str], partner: Sequence[str]
    ) -> Example:
        context, persona, partner = listed("context", context), listed("persona", persona), listed("partner", partner)
        if user is not None:
            self._admit(user)
        read = getattr(self.model, "persona", "none")
        for lines_of, whose, owner in ((persona, "self", "the one who replies"), (partner, "partner", "the other one")):
            if lines_of and read not in (whose, "both"):
                log.warning("this model reads no persona of %s (persona: %s); it is left out", owner, read)
        dialogue = self._dialogue("dialogue", user or "", context)
        personas = (each.persona for each in example_of((), persona, (), partner).context.speakers)
        speakers = [replace(each, persona=own) for each, own in zip(dialogue.speakers, personas, strict=True)]
        return Example(replace(dialogue, speakers=(speakers[0], speakers[1])), Turn(1, ""))

    def _dialogue(self, name: str, user: str, context: Sequence[str], history: tuple[str, ...] = ()) -> Dialogue:
        """What a user is to answer."""
        read = [self._read(said) for said in context]
        turns = tuple(Turn((len(read) - 1 - place) % 2, said) for place, said in enumerate(read))
        return Dialogue(name, (Speaker("partner"), Speaker(user, history=history)), turns)

    def _collated(self, examples: Sequence[Example]) -> Any:
        return self.model.collate(examples).to(self.task.device)


def _needed(name: str) -> str:
    """What to give in place of a name that is no run folder."""
    beside = [str(file.parent) for file in Path(name).parent.glob("*/config.json")]
    near = [title for title in recipes.shipped() if title.startswith(f"generation/{Path(name).name}")]
    recipe = min(near, key=len, default="generation/...")
    return hint(name, beside, f"give that of a model that writes replies: personae fit --config {recipe} --out RUN")
