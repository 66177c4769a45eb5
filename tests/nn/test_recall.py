import math
import random
import time

import numpy as np
import pytest

from personae.nn.recall import Recall
from personae.text import words

TEXTS = ["i like cats", "cats like me !", "the sea is cold", "i like the cold sea", "cats cats cats"]


def cosine(recall: Recall, one: str, other: str) -> float:
    """The cosine of two texts, written down once more: times of a word, by the logarithm of 1 + texts / those with
    it."""
    known = sorted({word for text in (*TEXTS, one, other) for word in words(text)})
    counts = {word: sum(word in words(text) for text in TEXTS) for word in known}
    weights = {word: math.log(1 + len(TEXTS) / (counts[word] or 1)) for word in known}
    vectors = [np.array([words(text).count(word) * weights[word] for word in known]) for text in (one, other)]
    return float(vectors[0] @ vectors[1] / (np.linalg.norm(vectors[0]) * np.linalg.norm(vectors[1])))


@pytest.fixture
def recall() -> Recall:
    recall = Recall()
    recall.prepare(TEXTS)
    return recall


def test_weights_are_of_unit_length(recall: Recall) -> None:
    rarity = {word: math.log(1 + 5 / count) for word, count in {"cats": 3, "i": 2, "me": 1}.items()}
    assert {word: recall.rarity[word] for word in rarity} == pytest.approx(rarity)
    weights = recall.weights("cats cats me zebra")
    length = math.sqrt(4 * rarity["cats"] ** 2 + 2 * rarity["me"] ** 2)
    wanted = {"cats": 2 * rarity["cats"], "me": rarity["me"], "zebra": rarity["me"]}  # unseen: as rare as any
    assert weights == pytest.approx({word: weight / length for word, weight in wanted.items()})
    assert recall.weights("") == {}


@pytest.mark.parametrize("question", ["do you like cats ?", "how cold is the sea", "me", "a zebra"])
def test_the_most_like_the_question_come_first(recall: Recall, question: str) -> None:
    scores = [cosine(recall, question, text) for text in TEXTS]
    wanted = sorted(
        range(len(TEXTS)), key=lambda place: (-round(scores[place], 9), -place)
    )  # of those alike the latest
    assert recall.like(question, TEXTS, most=5) == [TEXTS[place] for place in wanted]
    assert recall.like(question, TEXTS, most=2) == [TEXTS[place] for place in wanted[:2]]


def test_the_text_that_is_to_be_written_is_left_out(recall: Recall) -> None:
    history = [*TEXTS, "cats cats cats"]
    assert recall.like("cats", history, most=10, leave_out="cats cats cats") == recall.like("cats", TEXTS[:4], most=10)
    assert recall.like("cats", ["cats"], most=3, leave_out="cats") == []


def test_of_nothing_said_nothing_is_recalled(recall: Recall) -> None:
    assert recall.like("cats", [], most=3) == []
    assert recall.like("", ["", "me"], most=3) == ["me"]
    assert Recall().like("me", TEXTS, most=1) == ["cats like me !"]  # before it is prepared


def test_histories_that_read_alike_are_told_apart(recall: Recall) -> None:
    one, other = ["i like cats\nthe sea"], ["i like cats", "the sea"]
    assert recall.like("the sea", one, most=2) == one
    assert recall.like("the sea", other, most=2) == other[::-1]
    assert recall.like("cats", ["cats\nme", "me"], most=1) == ["cats\nme"]
    assert recall.like("cats", ["cats", "me\nme"], most=1) == ["cats"]


def test_words_are_weighed_anew_when_texts_are(recall: Recall) -> None:
    history, found = ["one left", "two right"], []
    for rare, frequent in (("left", "right"), ("right", "left")):
        recall.prepare(["one", "two", rare, *[frequent] * 8])
        found.append(recall.like("one two", history, most=2))
    assert found == [history[::-1], history]  # the word beside it that is less rare takes less of a length of one


def test_a_hundred_thousand_messages_are_quick() -> None:
    drawn = random.Random(0)
    vocabulary = [f"word{number}" for number in range(5000)]
    history = tuple(" ".join(drawn.choices(vocabulary, k=5)) for _ in range(100_000))
    recall = Recall()
    recall.prepare(history[:1000])
    start = time.process_time()
    recall.like("word1 word2", history, most=10)
    assert time.process_time() - start < 30  # once
    start = time.process_time()
    for number in range(20):
        found = recall.like(f"word{number} word7", history, most=10, leave_out=history[0])
        assert len(found) == 10
        assert {f"word{number}", "word7"} & set(words(found[0]))
    assert time.process_time() - start < 10
