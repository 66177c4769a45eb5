"""Users: what each answered to which question, from dialogues in which the same people speak again and again.

As PER-CHAT is used in Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 5.1
(https://aclanthology.org/2021.gem-1.5): the most active users, questions that several of them answered, and of each
user some answers to select models on and as many to report."""

import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from personae.data import lines
from personae.data.candidates import examples
from personae.data.read import read_all
from personae.data.splits import people
from personae.data.texts import in_standard
from personae.names import nearest
from personae.text import line_key
from personae.types import Dialogue, Example, InputError, Speaker, Turn, check

By = Literal["speaker", "persona"]

HELD = ("dev", "valid")
"""The splits that are held out of "train"."""

HISTORIES, ASKED = "histories.jsonl", "asked.jsonl"
"""The files that `write` makes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The turns up to an answer, whose speaker is `side`; the users who the two speakers are, and the question by the
    name that the dialogue has for it, else by its text."""

    dialogue: Dialogue
    side: int
    users: tuple[str, str]
    question: str

    @property
    def user(self) -> str:
        return self.users[self.side]

    @property
    def key(self) -> str:
        return line_key(self.dialogue.turns[-1].text)

    @property
    def source(self) -> str:
        """The id of the dialogue that it is of."""
        return self.dialogue.id.rpartition("#")[0]

    def without(self, held: Container[tuple[str, str]]) -> "_Answer | None":
        """The same, without the turns up to the last one before that is held out, of a user with these letters; None
        where that is what is answered."""
        turns = self.dialogue.turns
        places = range(len(turns) - 2, -1, -1)
        last = next((p for p in places if (self.users[turns[p].speaker], line_key(turns[p].text)) in held), -1)
        if last == len(turns) - 2:
            return None
        return replace(self, dialogue=replace(self.dialogue, turns=turns[last + 1 :]))


class Users:
    """Splits "train", "dev" and "valid" of the answers of the `most` active users of some files, in any form that
    `read` knows. Each is a dialogue that ends with an answer, which one user gave to what another speaker said just
    before; speaker 1 is that user, with the answers that they have in "train" as `history`.

    A user is a speaker's id by which answers in several dialogues are given or, `by` persona, a speaker, those whose
    personas have two lines in common being one. Questions are the same where their letters are (`line_key`), and with
    `near` also where the similarity of their MiniLM vectors to that of a more frequent one is at least so much; those
    that a dialogue names (`question`), where the name is. Only questions count that at least `answered_by` users
    answered, and only users who have `fewest` answers to them.

    Turns are told in `standard` form (`personae.text.standard`), or as they are; what the users `leave_out` say and
    answer is left out, and a warning names those who are not there.

    Of each user, `held_out` answers are "dev" and as many "valid", drawn with `seed` from those whose question another
    user answers in "train", if there are enough; no answer of "train" has the same letters as one of them. A dialogue
    of "train" begins after the last turn of a user with the letters of what is held out of that user, and one that
    answers such a turn is left out.

    Of `cold` users, the next most active ones, no answer is to be written in these splits, which do not depend on them:
    what others have in "train" is in "cold-train", and what they have in "dev" and "valid" in "cold". What they said to
    the users of the training is read there, as what was asked."""

    def __init__(
        self,
        *,
        files: list[str],
        by: By = "speaker",
        most: int = 500,
        answered_by: int = 1,
        fewest: int = 10,
        near: float | None = None,
        held_out: int = 3,
        cold: int = 0,
        standard: bool = True,
        leave_out: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        check("corpus.by", by, By)
        for name, value in {"most": most, "answered_by": answered_by, "held_out": held_out}.items():
            if value < 1:
                raise InputError(f"corpus.{name}: {value} is not at least 1")
        if cold < 0:
            raise InputError(f"corpus.cold: {cold} is less than 0")
        if fewest <= 2 * held_out:
            raise InputError(
                f"corpus.fewest: {fewest} leaves nothing to train on with {2 * held_out} held out of each user"
            )
        if near is not None and not 0 < near <= 1:
            raise InputError(f"corpus.near: {near} is not above 0 and at most 1")
        self.files, self.by, self.most, self.answered_by, self.fewest = files, by, most, answered_by, fewest
        self.near, self.held_out, self.cold, self.seed = near, held_out, cold, seed
        self.standard, self.leave_out = standard, frozenset(leave_out or ())

    def split(self, name: str) -> Iterator[Dialogue]:
        """The answers of "train", "dev" or "valid", and of cold users those of "cold-train" or "cold". InputError on
        any other name, and where no user is left."""
        if name not in ("train", "dev", "valid", *(("cold-train", "cold") if self.cold else ())):
            raise InputError(f"split {name!r}: ask for train, dev or valid, or with corpus.cold for cold-train or cold")
        return iter(self._parts[name])

    def counts(self) -> dict[str, Any]:
        """Users, questions, answers of each split, of the cells of the table of questions and users how many are
        filled, and which share that is, and of what is held out the share whose question others answer in training."""
        every = [dialogue for part in self._parts.values() for dialogue in part]
        users, questions = {_user(dialogue) for dialogue in every}, {dialogue.question for dialogue in every}
        filled = len({(_user(dialogue), dialogue.question) for dialogue in every})
        return {
            "users": len(users),
            "questions": len(questions),
            "answers": {name: len(part) for name, part in self._parts.items()},
            "filled": filled,
            "density": filled / (len(users) * len(questions)),
            "near": self.near,
            "seen": self._seen(),
        }

    def _seen(self) -> dict[str, float]:
        """Of the answers that are held out, the share whose question another user answers in "train"."""
        answering: dict[str | None, set[str]] = defaultdict(set)
        for dialogue in self._parts["train"]:
            answering[dialogue.question].add(_user(dialogue))
        return {
            name: sum(bool(answering[each.question] - {_user(each)}) for each in self._parts[name])
            / len(self._parts[name])
            for name in HELD
        }

    @cached_property
    def _parts(self) -> dict[str, list[Dialogue]]:
        answers = self._answers()
        names = self._questions(answers)
        users: dict[str, set[str]] = defaultdict(set)
        for answer in answers:
            users[names[answer.question]].add(answer.user)
        by_user: dict[str, list[_Answer]] = defaultdict(list)
        for answer in answers:
            if len(users[names[answer.question]]) >= self.answered_by:
                by_user[answer.user].append(answer)
        ordered = sorted(by_user.items(), key=lambda item: -len(item[1]))
        recurring = [(user, own) for user, own in ordered if self.by == "persona" or len({a.source for a in own}) > 1]
        active = [(user, own) for user, own in recurring if len({answer.key for answer in own}) >= self.fewest]
        chosen, cold = dict(active[: self.most]), dict(active[self.most : self.most + self.cold])
        if not chosen:
            raise InputError(f"corpus.files: {self._why_none(recurring)}")
        parts = self._told(chosen, names)
        if not parts["train"]:
            raise InputError(
                f"corpus.held_out: with {2 * self.held_out} answers of each user held out none is left to train on, as "
                "all of them answer one of these; hold out fewer, or give more dialogues"
            )
        if len(cold) < self.cold:
            raise InputError(
                f"corpus.cold: {self.cold} users are wanted beside the {len(chosen)} most active, and {len(cold)} have "
                f"{self.fewest} different answers (corpus.fewest): take fewer, or leave more of them by corpus.most"
            )
        if cold:
            told = self._told(cold, names)
            parts |= {"cold-train": told["train"], "cold": told["dev"] + told["valid"]}
        return parts

    def _why_none(self, recurring: Sequence[tuple[str, Sequence[_Answer]]]) -> str:
        """Why nobody is a user, and what to do."""
        named = "name speakers by the same id in all their dialogues, or take users by persona (corpus.by)"
        if self.by == "speaker" and not recurring and self.answered_by == 1:
            return f"no speaker has answers in several dialogues: {named}"
        most = max((len({answer.key for answer in own}) for _, own in recurring), default=0)
        return (
            f"no user has {self.fewest} different answers (corpus.fewest) to questions that {self.answered_by} or more "
            f"answered (corpus.answered_by), the most that anyone has are {most}: ask for fewer"
            f"{f', {named}' if self.by == 'speaker' else ''}"
        )

    def _told(self, chosen: Mapping[str, Sequence[_Answer]], names: Mapping[str, str]) -> dict[str, list[Dialogue]]:
        """The dialogues of some users in each split."""
        divided = self._divided(chosen, names)
        held = {(answer.user, answer.key) for each in divided.values() for name in HELD for answer in each[name]}
        parts: dict[str, list[Dialogue]] = {"train": [], **{name: [] for name in HELD}}
        for each in divided.values():
            left = [answer for one in each["train"] if (answer := one.without(held)) is not None]
            history = tuple(answer.dialogue.turns[-1].text for answer in left)
            for name, answers in {**each, "train": left}.items():
                parts[name] += [_told(answer, names[answer.question], history) for answer in answers if history]
        return parts

    def _divided(
        self, chosen: Mapping[str, Sequence[_Answer]], names: Mapping[str, str]
    ) -> dict[str, dict[str, list[_Answer]]]:
        """The answers of each user in each split. They are held out in turn, one of each user at a time."""
        alike: dict[str, dict[str, list[_Answer]]] = {user: defaultdict(list) for user in chosen}
        answering: dict[str, Counter[str]] = defaultdict(Counter)  # of each question, the users with answers in train
        relying: dict[str, set[str]] = defaultdict(set)  # and those who have an answer held out
        for user, own in chosen.items():
            for answer in own:
                alike[user][answer.key].append(answer)
                answering[names[answer.question]][user] += 1
        drawn = {user: random.Random(f"{self.seed}/{user}") for user in chosen}
        orders = {user: drawn[user].sample(list(keys), len(keys)) for user, keys in alike.items()}
        held: dict[str, list[str]] = {user: [] for user in chosen}

        def spared(user: str, key: str, *more: str) -> bool:
            """Whether others answer the question in train when this is held out, for each who relies on it."""
            name = names[alike[user][key][0].question]
            left = {other for other, count in answering[name].items() if count and other != user}
            return all(left - {one} for one in (*more, *relying[name]))

        for wanted in (lambda user, key: spared(user, key, user), spared, lambda *_: True):
            for _ in range(2 * self.held_out):
                for user, order in orders.items():
                    if len(held[user]) == 2 * self.held_out:
                        continue
                    key = next((key for key in order if wanted(user, key)), None)
                    if key is None:
                        continue
                    order.remove(key)
                    held[user].append(key)
                    for answer in alike[user][key]:
                        answering[names[answer.question]][user] -= 1
                    relying[names[alike[user][key][0].question]].add(user)
        parts = {}
        for user, keys in alike.items():
            order = drawn[user].sample(held[user], len(held[user]))
            left = [answer for key in keys if key not in order for answer in keys[key]]
            each = {name: order[place * self.held_out :][: self.held_out] for place, name in enumerate(HELD)}
            parts[user] = {"train": left, **{name: [keys[key][0] for key in each[name]] for name in HELD}}
        return parts

    def _answers(self) -> list[_Answer]:
        """Every answer of the files."""
        found, there = [], set[str]()
        dialogues = read_all(self.files)
        owners = people(dialogues) if self.by == "persona" else [[s.id for s in d.speakers] for d in dialogues]
        for dialogue, users in zip(dialogues, owners, strict=True):
            there.update(users)
            if self.leave_out.intersection(users):
                continue
            if self.standard:
                dialogue = in_standard(dialogue)
            for place in range(1, len(dialogue.turns)):
                asked, said = dialogue.turns[place - 1 : place + 1]
                last = place == len(dialogue.turns) - 1
                if asked.speaker == said.speaker or (dialogue.question is not None and not last):
                    continue
                before = replace(dialogue, id=f"{dialogue.id}#{place}", turns=dialogue.turns[: place + 1])
                both = users[0], users[1]
                found.append(_Answer(before, said.speaker, both, dialogue.question or asked.text))
        for user in sorted(self.leave_out - there):
            meant = nearest(user, there)
            log.warning("%s is to be left out, but speaks nowhere%s", user, f"; did you mean {meant}?" if meant else "")
        return found

    def _questions(self, answers: Sequence[_Answer]) -> dict[str, str]:
        """The name of each question: that of its dialogue, else the most frequent text of those that are the same."""
        named = {answer.question for answer in answers if answer.dialogue.question is not None}
        counts = Counter(answer.question for answer in answers if answer.question not in named)
        first: dict[str, str] = {}
        for text, _ in counts.most_common():
            first.setdefault(line_key(text), text)
        names = {text: first[line_key(text)] for text in counts}
        if self.near is not None:
            leaders = _near([first[line_key(text)] for text in first.values()], self.near)
            names = {text: leaders[name] for text, name in names.items()}
        return names | {name: name for name in named}


def write(corpus: Users, out: Path) -> None:
    """Writes to a folder what the users said in "train", and what each of them is to answer in "valid" and really said,
    as JSON lines with the id by which a run's predictions.jsonl names it."""
    out.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", HISTORIES), ("valid", ASKED)):
        lines.save((json.dumps(_record(example)) for example in examples(corpus.split(split))), out / name)


def _record(example: Example) -> dict[str, Any]:
    context = [turn.text for turn in example.context.turns]
    return {"id": example.id, "user": example.user.id, "context": context, "text": example.target.text}


def _near(texts: Sequence[str], least: float) -> dict[str, str]:
    """For each text, the first one before it whose similarity is at least so much, of those that have none
    themselves; else itself."""
    from personae.nn.sentence_encoder import SentenceEncoder

    if not texts:
        return {}
    encoder = SentenceEncoder(field="corpus.near")
    encoder.encode(texts)
    leaders: list[str] = []
    vectors = np.empty((len(texts), len(encoder.vectors[texts[0]])), np.float32)
    found = {}
    for text in texts:
        vector = encoder.vectors[text].numpy()
        similar = vectors[: len(leaders)] @ vector
        best = int(similar.argmax()) if leaders else -1
        if leaders and similar[best] >= least:
            found[text] = leaders[best]
        else:
            vectors[len(leaders)] = vector
            leaders.append(text)
            found[text] = text
    return found


def _told(answer: _Answer, question: str, history: tuple[str, ...]) -> Dialogue:
    """The answer as a dialogue whose speaker 1 is the user."""
    asker, user = answer.dialogue.speakers[1 - answer.side], answer.dialogue.speakers[answer.side]
    turns = tuple(Turn(int(turn.speaker == answer.side), turn.text) for turn in answer.dialogue.turns)
    speakers = (asker, Speaker(answer.user, user.persona, history))
    return Dialogue(answer.dialogue.id, speakers, turns, question)


def _user(dialogue: Dialogue) -> str:
    return dialogue.speakers[1].id
