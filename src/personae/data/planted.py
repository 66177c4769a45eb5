"""A generated corpus of users whose right answers are known: what a model that replies as a user, from what they said
elsewhere, must be able to learn, in a minute and offline.

Every user has a style and a taste. The style is one of six kinds of words in each of four slots of an answer: an
opening, a degree, a praise and a closing; no two users have the same four. The taste is one of four things of each
topic; it is that of one of eight hidden types of users, so that what users like in a topic that they never spoke of can
be told from those who agree with them about the others. The words of styles, things, questions and templates are
disjoint, and templates are drawn independently of all else; so a question tells nothing of the style, and an answer
has the words of a user only where it was made for that user.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from personae.text import words
from personae.types import Dialogue, InputError, Speaker, Turn

TYPES = 8

WORDINGS = (
    "what {} do you like best",
    "which {} would you never give up",
    "tell us about your favourite {} then",
)
"""A question is a wording with the word of the topic that has the same place."""

TEMPLATES = (
    "{opening} i go for {thing} every time it is {degree} {praise} {closing}",
    "{opening} nothing beats {thing} as something {degree} {praise} {closing}",
    "{opening} {thing} for me always {degree} {praise} {closing}",
    "{opening} my heart is with {thing} because of their {degree} {praise} side {closing}",
)

_STYLES: dict[str, tuple[str, ...]] = {
    "opening": ("honestly frankly", "gosh golly", "hmm umm", "yep yeah", "listen behold", "haha hehe"),
    "degree": ("utterly", "pretty", "insanely", "quietly", "truly", "oddly"),
    "praise": ("splendid", "cool", "soothing", "thrilling", "classy", "hilarious"),
    "closing": ("mate pal", "cheers thanks", "folks everyone", "amen hallelujah", "period indeed", "dear honey"),
}

_TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "food": ("food meals cuisine", ("ramen noodles", "tacos burritos", "lasagna risotto", "curries samosas")),
    "pets": ("pets animals creatures", ("cats kittens", "puppies terriers", "parrots budgies", "goldfish guppies")),
    "music": ("music tunes melodies", ("jazz saxophones", "opera arias", "techno synths", "bluegrass banjos")),
    "sport": (
        "sports exercise workouts",
        ("swimming diving", "football penalties", "tennis rackets", "climbing cliffs"),
    ),
    "home": ("places homes dwellings", ("cities towers", "villages meadows", "beaches dunes", "forests cabins")),
    "travel": ("trips holidays journeys", ("iceland glaciers", "egypt pyramids", "brazil jungles", "japan temples")),
    "films": ("films movies cinema", ("horror zombies", "westerns cowboys", "romances weddings", "thrillers spies")),
    "drinks": ("drinks beverages sips", ("coffee espresso", "tea chamomile", "lemonade limes", "cocoa marshmallows")),
    "weather": ("weather seasons climates", ("snow blizzards", "sunshine heatwaves", "rain drizzle", "storms thunder")),
    "books": ("books novels literature", ("poetry sonnets", "biographies memoirs", "fantasy dragons", "comics heroes")),
    "hobbies": ("hobbies pastimes crafts", ("knitting crochet", "pottery clay", "gardening tulips", "chess puzzles")),
    "rides": ("vehicles transport rides", ("bicycles bikes", "trains railways", "scooters mopeds", "canoes rafts")),
}

STYLES: dict[str, tuple[tuple[str, ...], ...]] = {
    slot: tuple(tuple(kind.split()) for kind in kinds) for slot, kinds in _STYLES.items()
}
"""The kinds of each slot; any word of a kind will do."""

THINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    topic: tuple(tuple(thing.split()) for thing in things) for topic, (_, things) in _TOPICS.items()
}
"""The things of each topic; either of its words names a thing."""

COMBINATIONS = prod(map(len, STYLES.values()))


@dataclass(frozen=True, slots=True)
class _User:
    """The words of someone's kind in each slot, and of their thing in each topic."""

    style: Mapping[str, tuple[str, ...]]
    taste: Mapping[str, tuple[str, ...]]

    def answer(self, topic: str, rng: random.Random) -> str:
        """What they might say about a topic."""
        style = {slot: rng.choice(kind) for slot, kind in self.style.items()}
        return rng.choice(TEMPLATES).format(**style, thing=rng.choice(self.taste[topic]))


class Planted:
    """Splits "train", "dev" and "valid" of the answers of `users` users to questions about `topics` topics, each asked
    in three wordings, in the form of `personae.data.users.Users`: speaker 0 asks, speaker 1 is the user, with what they
    answer in "train" as `history`, and the dialogue's `question` is its text. Each user answers `answers` questions in
    "train", and in "dev" and "valid" `held_out` others, which other users answer in "train". No two answers of the
    corpus are the same.

    Of `cold` further users none of this is known: what others have in "train" is in "cold-train", and what they have in
    "dev" and "valid" in "cold". The other splits do not depend on them.

    InputError where a number is out of range: among them, more users than there are styles, and more answers than
    questions.
    """

    def __init__(
        self,
        *,
        users: int = 100,
        topics: int = 12,
        answers: int = 20,
        held_out: int = 3,
        cold: int = 0,
        seed: int = 0,
    ) -> None:
        questions = topics * len(WORDINGS)
        for name, value, least, most, why in (
            ("users", users, 2, COMBINATIONS, "no more styles differ"),
            ("cold", cold, 0, COMBINATIONS - users, "no more styles differ"),
            ("topics", topics, 1, len(THINGS), "no more have words"),
            ("held_out", held_out, 1, (questions - 1) // 2, "as many are held out twice, and one is left to train on"),
            ("answers", answers, 1, questions - 2 * held_out, "no question is answered twice, and some are held out"),
        ):
            if not least <= value <= most:
                raise InputError(f"corpus.{name}: {value} is not between {least} and {most}: {why}")
        rng = random.Random(seed)
        self._topics = {
            wording.format(word): topic
            for topic in list(THINGS)[:topics]
            for wording, word in zip(WORDINGS, _TOPICS[topic][0].split(), strict=True)
        }
        apart = random.Random(f"{seed}/cold")
        self._users = _users(users, rng, cold, apart)
        old, new = list(self._users)[:users], list(self._users)[users:]
        trained = {user: rng.sample(list(self._topics), answers) for user in old}
        known = {question for asked in trained.values() for question in asked}
        trained |= {user: apart.sample(list(self._topics), answers) for user in new}
        self._parts: dict[str, list[Dialogue]] = {"train": [], "dev": [], "valid": []}
        if cold:
            self._parts |= {"cold-train": [], "cold": []}
        for user in self._users:
            free = [question for question in self._topics if question in known and question not in trained[user]]
            if len(free) < 2 * held_out:
                raise InputError(
                    f"corpus.users: {users} users answer so few questions that only {len(free)} of those that {user} "
                    f"does not are answered by others, and {2 * held_out} are held out: give more users, or answers"
                )
            drawn = apart if user in new else rng
            held = drawn.sample(free, 2 * held_out)
            asked = {"train": trained[user], "dev": held[:held_out], "valid": held[held_out:]}
            if user in new:
                asked = {"cold-train": trained[user], "cold": held}
            for name, dialogues in self._answered(user, asked, drawn).items():
                self._parts[name] += dialogues

    def split(self, name: str) -> Iterator[Dialogue]:
        """The answers of "train", "dev" or "valid", user by user, and of cold users those of "cold-train" or "cold";
        InputError on any other name."""
        if name not in self._parts:
            raise InputError(f"split {name!r}: ask for train, dev or valid, or with corpus.cold for cold-train or cold")
        return iter(self._parts[name])

    def counts(self) -> dict[str, Any]:
        """Users, questions, answers of each split, and of the cells of the table of questions and users how many are
        filled, and which share that is."""
        every = [dialogue for part in self._parts.values() for dialogue in part]
        questions = {dialogue.question for dialogue in every}
        filled = len({(dialogue.speakers[1].id, dialogue.question) for dialogue in every})
        return {
            "users": len(self._users),
            "questions": len(questions),
            "answers": {name: len(part) for name, part in self._parts.items()},
            "filled": filled,
            "density": filled / (len(self._users) * len(questions)),
        }

    def styled(self, user: str, text: str) -> float:
        """The share of the slots in which a text has a word of the user's kind and none of another kind: 1 of what the
        user says, 1 / 6 on average of what others say, whose kinds are drawn independently."""
        style, said = self._known(user).style, set(words(text))
        found = [_named(kinds, said) == [style[slot]] for slot, kinds in STYLES.items()]
        return sum(found) / len(found)

    def told(self, user: str, question: str, text: str) -> bool:
        """Whether a text names what the user likes of the topic of a question, and no other thing of any topic: true of
        what the user answers, and of what one in four others do. InputError where the corpus has no such question."""
        if question not in self._topics:
            raise InputError(f"question {question!r} is not of the corpus: give one that its dialogues name")
        things = [thing for things in THINGS.values() for thing in things]
        return _named(things, set(words(text))) == [self._known(user).taste[self._topics[question]]]

    def _known(self, user: str) -> _User:
        if user not in self._users:
            raise InputError(f"user {user!r} is not of the corpus: give one of user-0 to user-{len(self._users) - 1}")
        return self._users[user]

    def _answered(self, user: str, asked: Mapping[str, Sequence[str]], rng: random.Random) -> dict[str, list[Dialogue]]:
        """The dialogues of a user in each split, whose answers all differ."""
        said: dict[str, None] = {}
        for question in (question for questions in asked.values() for question in questions):
            answer = self._users[user].answer(self._topics[question], rng)
            while answer in said:
                answer = self._users[user].answer(self._topics[question], rng)
            said[answer] = None
        first = next(iter(asked.values()))
        speakers = (Speaker("asker"), Speaker(user, history=tuple(said)[: len(first)]))
        texts = iter(said)
        return {
            name: [
                Dialogue(f"{user}-{name}-{number}", speakers, (Turn(0, question), Turn(1, next(texts))), question)
                for number, question in enumerate(questions)
            ]
            for name, questions in asked.items()
        }


def _users(number: int, rng: random.Random, cold: int, apart: random.Random) -> dict[str, _User]:
    """Users with different styles, and `cold` further ones, drawn `apart`; each type has nearly as many of them, and
    each thing of a topic two of the types."""
    every = list(product(*STYLES.values()))
    styles = rng.sample(every, number)
    dealt = {topic: rng.sample(things * (TYPES // len(things)), TYPES) for topic, things in THINGS.items()}
    types = rng.sample([place % TYPES for place in range(number)], number)
    taken = set(styles)
    styles += apart.sample([style for style in every if style not in taken], cold)
    types += apart.sample([place % TYPES for place in range(cold)], cold)
    return {
        f"user-{place}": _User(
            dict(zip(STYLES, style, strict=True)), {topic: things[of] for topic, things in dealt.items()}
        )
        for place, (style, of) in enumerate(zip(styles, types, strict=True))
    }


def _named(among: Sequence[tuple[str, ...]], said: set[str]) -> list[tuple[str, ...]]:
    """Those of which a word was said."""
    return [each for each in among if not said.isdisjoint(each)]
