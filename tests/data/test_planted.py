import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from personae.data import planted
from personae.data.planted import Planted
from personae.metrics import per_hits
from personae.metrics.ngram import NgramModels
from personae.text import words
from personae.types import Corpus, Dialogue, InputError

SPLITS = ("train", "dev", "valid")


@pytest.fixture(scope="module")
def corpus() -> Planted:
    return Planted()


def answers(corpus: Planted, *names: str) -> list[Dialogue]:
    return [dialogue for name in names or SPLITS for dialogue in corpus.split(name)]


def user(dialogue: Dialogue) -> str:
    return dialogue.speakers[1].id


def asked(dialogue: Dialogue) -> str:
    assert dialogue.question is not None
    return dialogue.question


def said(dialogue: Dialogue) -> str:
    return dialogue.turns[-1].text


def topic(dialogue: Dialogue) -> str:
    """The topic of the thing that an answer names."""
    (found,) = (t for t, things in planted.THINGS.items() for thing in things if {*thing} & {*said(dialogue).split()})
    return found


def hits(corpus: Planted, texts: Sequence[str], owners: Sequence[str], *, most: int = 1) -> float:
    """Per-Hits@`most` of texts under trigram models of what each user says in train."""
    history = {user(dialogue): dialogue.speakers[1].history for dialogue in corpus.split("train")}
    models = NgramModels([[words(text) for text in each] for each in history.values()])
    rows = per_hits.rows(models.perplexities([words(text) for text in texts]), list(history), owners)
    return float(np.mean(per_hits.metrics(rows, most=most)[f"per-hits@{most}/{len(history)}"]))


def test_the_users_questions_and_answers(corpus: Planted) -> None:
    assert isinstance(corpus, Corpus)
    assert corpus.counts() == {
        "users": 100,
        "questions": 36,
        "answers": {"train": 2000, "dev": 300, "valid": 300},
        "filled": 2600,
        "density": pytest.approx(2600 / 3600),
    }
    for name, each in {"train": 20, "dev": 3, "valid": 3}.items():
        assert set(Counter(map(user, corpus.split(name))).values()) == {each}
    assert len({dialogue.id for dialogue in answers(corpus)}) == 2600


def test_a_dialogue_is_a_question_and_the_answer_of_a_user_who_has_a_history(corpus: Planted) -> None:
    own: dict[str, list[str]] = defaultdict(list)
    for dialogue in corpus.split("train"):
        own[user(dialogue)].append(said(dialogue))
    for dialogue in answers(corpus):
        assert [turn.speaker for turn in dialogue.turns] == [0, 1]
        assert dialogue.turns[0].text == dialogue.question
        assert dialogue.speakers[0].id not in own
        assert list(dialogue.speakers[1].history) == own[user(dialogue)]
        assert 8 <= len(said(dialogue).split()) <= 14


@pytest.mark.parametrize(
    "arguments", [{}, {"users": 7, "seed": 3}, {"users": 40, "topics": 2, "answers": 1, "held_out": 2}]
)
def test_what_is_held_out_was_never_said_and_others_were_asked_it(arguments: dict[str, Any]) -> None:
    corpus = Planted(**arguments)
    every = answers(corpus)
    assert len(set(map(said, every))) == len(every)
    assert len({(user(dialogue), dialogue.question) for dialogue in every}) == len(every)
    trained: dict[str, set[str]] = defaultdict(set)
    for dialogue in corpus.split("train"):
        trained[asked(dialogue)].add(user(dialogue))
    assert all(trained[asked(dialogue)] - {user(dialogue)} for dialogue in answers(corpus, "dev", "valid"))


def test_the_seed_decides_everything() -> None:
    first, again, other = (answers(Planted(users=10, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert [dialogue.turns for dialogue in first] != [dialogue.turns for dialogue in other]


def test_the_words_of_styles_things_questions_and_templates_are_disjoint(corpus: Planted) -> None:
    style = [word for kinds in planted.STYLES.values() for kind in kinds for word in kind]
    things = [word for each in planted.THINGS.values() for thing in each for word in thing]
    questions = {word for dialogue in answers(corpus) for word in words(asked(dialogue))}
    templates = {word for template in planted.TEMPLATES for word in template.split() if not word.startswith("{")}
    assert len(style) == len(set(style)) == 36
    assert len(things) == len(set(things)) == 96
    assert len({*style, *things} | questions | templates) == 36 + 96 + len(questions) + len(templates) == 204
    assert all(words(word) == [word] for word in style + things)


@pytest.mark.parametrize("users", [100, 200, planted.COMBINATIONS])
def test_no_two_users_have_the_same_style(users: int) -> None:
    corpus = Planted(users=users, answers=1, held_out=1)
    kinds: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for dialogue in answers(corpus):
        spoken = set(said(dialogue).split())
        used = [[bool(spoken & {*kind}) for kind in slot] for slot in planted.STYLES.values()]
        assert [sum(each) for each in used] == [1] * len(used)
        kinds[user(dialogue)].add(tuple(each.index(True) for each in used))
    assert {len(each) for each in kinds.values()} == {1}
    assert len(set.union(*kinds.values())) == users


def test_what_users_say_is_right(corpus: Planted) -> None:
    for dialogue in answers(corpus):
        assert corpus.styled(user(dialogue), said(dialogue)) == 1
        assert corpus.told(user(dialogue), asked(dialogue), said(dialogue))
        assert not corpus.told(user(dialogue), asked(dialogue), asked(dialogue))
        assert corpus.styled(user(dialogue), asked(dialogue)) == 0


def test_what_others_say_is_right_by_chance(corpus: Planted) -> None:
    users = list(dict.fromkeys(map(user, answers(corpus))))
    pairs = [(dialogue, other) for dialogue in corpus.split("valid") for other in users if other != user(dialogue)]
    styled = np.mean([corpus.styled(other, said(dialogue)) for dialogue, other in pairs])
    told = np.mean([corpus.told(other, asked(dialogue), said(dialogue)) for dialogue, other in pairs])
    assert styled == pytest.approx(1 / 6, abs=0.02)
    assert told == pytest.approx(1 / 4, abs=0.02)


def test_saying_everything_is_not_right(corpus: Planted) -> None:
    dialogue = next(corpus.split("train"))
    one, question = user(dialogue), asked(dialogue)
    everything = " ".join(word for kinds in planted.STYLES.values() for kind in kinds for word in kind)
    assert corpus.styled(one, everything) == 0
    wrong = next(kind for kind in planted.STYLES["closing"] if not {*kind} & {*said(dialogue).split()})
    assert corpus.styled(one, f"{said(dialogue)} {wrong[0]}") == 3 / 4
    elsewhere = next(thing for t, things in planted.THINGS.items() if t != topic(dialogue) for thing in things)
    assert not corpus.told(one, question, f"{said(dialogue)} {elsewhere[0]}")
    assert corpus.told(one, question, f"{said(dialogue).upper()}.")
    assert corpus.styled(one, "") == 0
    assert not corpus.told(one, question, "")


def test_tastes_can_be_told_from_those_of_others_who_agree(corpus: Planted) -> None:
    """What a user likes of a topic that they never speak of in train is what those like who agree with them most."""
    tastes: dict[str, dict[str, str]] = defaultdict(dict)
    things = {word: thing[0] for each in planted.THINGS.values() for thing in each for word in thing}
    for dialogue in corpus.split("train"):
        (thing,) = (things[word] for word in said(dialogue).split() if word in things)
        assert tastes[user(dialogue)].setdefault(topic(dialogue), thing) == thing
    found: list[bool] = []
    most: list[bool] = []
    for dialogue in answers(corpus, "dev", "valid"):
        one, about = tastes[user(dialogue)], topic(dialogue)
        if about in one:
            continue
        votes: Counter[str] = Counter()
        for other in tastes.values():
            if about in other:
                agreed = [one[t] == other[t] for t in one.keys() & other.keys()]
                votes[other[about]] += all(agreed)
        liked = Counter(other[about] for other in tastes.values() if about in other)
        for guesses, counts in ((found, votes), (most, liked)):
            guesses.append(corpus.told(user(dialogue), asked(dialogue), counts.most_common(1)[0][0]))
    assert 0.1 < len(found) / 600 < 0.3
    assert np.mean(found) > 0.95
    assert np.mean(most) < 0.45


@pytest.mark.parametrize("users", [100, 200])
def test_a_language_model_of_what_users_said_knows_their_answers(users: int) -> None:
    corpus = Planted(users=users)
    held = answers(corpus, "dev", "valid")
    assert hits(corpus, list(map(said, held)), list(map(user, held))) > 0.93


@pytest.mark.parametrize("liked", [False, True])
def test_it_does_not_know_those_of_others_whatever_they_like(corpus: Planted, liked: bool) -> None:
    rng = random.Random(0)
    held = answers(corpus, "dev", "valid")
    texts, owners = [], []
    for dialogue in held:
        others = [
            said(other)
            for other in held
            if other.question == dialogue.question
            and user(other) != user(dialogue)
            and (not liked or corpus.told(user(dialogue), asked(dialogue), said(other)))
        ]
        if others:
            texts.append(rng.choice(others))
            owners.append(user(dialogue))
    assert len(texts) > 550
    assert hits(corpus, texts, owners) < 0.02
    assert hits(corpus, texts, owners, most=5) < 0.1
    assert 0.35 < hits(corpus, texts, owners, most=50) < 0.75


def test_cold_users_are_of_the_same_world_and_change_nothing_else(corpus: Planted) -> None:
    more = Planted(cold=20)
    assert answers(more) == answers(corpus)
    said_before, held = answers(more, "cold-train"), answers(more, "cold")
    new = set(map(user, held))
    assert new == {f"user-{place}" for place in range(100, 120)}
    assert Counter(map(user, said_before)) == dict.fromkeys(new, 20)
    assert Counter(map(user, held)) == dict.fromkeys(new, 6)
    assert not new & set(map(user, answers(corpus)))
    assert not set(map(said, said_before + held)) & set(map(said, answers(corpus)))
    for dialogue in held:
        own = [said(other) for other in said_before if user(other) == user(dialogue)]
        assert list(dialogue.speakers[1].history) == own
        assert said(dialogue) not in own
        assert more.styled(user(dialogue), said(dialogue)) == 1
        assert more.told(user(dialogue), asked(dialogue), said(dialogue))
    assert more.counts()["answers"] == {"train": 2000, "dev": 300, "valid": 300, "cold-train": 400, "cold": 120}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 1}, "corpus.users: 1 is not between 2 and 1296: no more styles differ"),
        ({"users": 1297}, "corpus.users: 1297 is not between 2 and 1296"),
        ({"users": 1290, "cold": 7}, "corpus.cold: 7 is not between 0 and 6: no more styles differ"),
        ({"topics": 13}, "corpus.topics: 13 is not between 1 and 12"),
        ({"held_out": 0}, "corpus.held_out: 0 is not between 1 and 17"),
        ({"answers": 31}, "corpus.answers: 31 is not between 1 and 30: no question is answered twice"),
        ({"users": 2, "answers": 3}, "corpus.users: 2 users answer so few questions that only . of those that user-0"),
    ],
)
def test_mistakes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Planted(**arguments)


def test_unknown_names(corpus: Planted) -> None:
    with pytest.raises(InputError, match="split 'test': ask for train, dev or valid"):
        corpus.split("test")
    with pytest.raises(InputError, match=r"split 'cold': .* with corpus.cold for cold-train or cold"):
        corpus.split("cold")
    with pytest.raises(InputError, match="user 'eve' is not of the corpus: give one of user-0 to user-99"):
        corpus.styled("eve", "")
    with pytest.raises(InputError, match="question 'why' is not of the corpus"):
        corpus.told("user-0", "why", "")
