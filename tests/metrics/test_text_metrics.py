import math
import random
import string
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from scipy import stats

from personae.metrics import per_hits
from personae.metrics.compare import Interval, interval
from personae.metrics.ranking import ranks
from personae.metrics.text import Statistic, ceiling, corpus, focused, measure, per_reply
from personae.text import words
from personae.types import InputError, Spoken

CORPUS = ("bleu-4/corpus", "distinct-1/corpus", "distinct-2/corpus", "perplexity/word")


def said(text: str, reference: str = "", *, user: str = "ann", nll: float = 6.0, tokens: int = 3) -> Spoken:
    return Spoken(id=f"{user}: {text}", user=user, text=text, reference=reference, nll=nll, tokens=tokens)


def drawn(generator: np.random.Generator, *, users: int, each: int = 3, copied: float = 0.5) -> list[Spoken]:
    """Replies that share words with their reference, the more, the more is copied. Users have words, and a perplexity,
    of their own."""
    found = []
    for user in range(users):
        level, own = generator.normal(3, 0.3), generator.integers(400, size=4)
        for number in range(each):
            length = int(generator.integers(2, 9))
            real = (400 * generator.random(length) ** 3).astype(int)
            other = np.where(generator.random(length) < 0.5, generator.choice(own, length), generator.permutation(real))
            text = np.where(generator.random(length) < copied, real, other)
            found.append(
                Spoken(
                    id=f"{user}#{number}",
                    user=f"u{user}",
                    text=" ".join(f"w{word}" for word in text) + ".",
                    reference=" ".join(f"w{word}" for word in real) + ".",
                    nll=(length + 1) * level,
                    tokens=length + 1,
                )
            )
    return found


def distinct(replies: Sequence[Spoken], n: int) -> float:
    """As it is defined, with all n-grams in one list."""
    every = [tuple(w[i : i + n]) for w in (words(reply.text) for reply in replies) for i in range(len(w) - n + 1)]
    return len(set(every)) / len(every)


def reference_f1(text: str, reference: str) -> float:
    """Precision and recall of bags of tokens, and their harmonic mean."""
    bags = []
    for each in (text, reference):
        cleaned = "".join(" " if character in string.punctuation else character for character in each.lower())
        bags.append(Counter(token for token in cleaned.split() if token not in ("a", "an", "the")))
    same = sum(min(count, bags[1][token]) for token, count in bags[0].items())
    if not same:
        return 0.0
    precision, recall = same / sum(bags[0].values()), same / sum(bags[1].values())
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (
            "I like the sea!",
            "i like a boat",
            2 * (2 / 3) * (2 / 3) / (4 / 3),
        ),  # i, like of i, like, sea | i, like, boat
        ("so so so", "so", 2 * (1 / 3) * 1 / (4 / 3)),
        ("I'm here", "i m here", 1.0),
        ("then", "the n", 0.0),
        ("the", "the", 0.0),
        ("", "hello", 0.0),
        ("hello", "", 0.0),
        ("?!", "...", 0.0),
    ],
)
def test_f1_by_hand(text: str, reference: str, expected: float) -> None:
    (found,) = per_reply([said(text, reference)])["f1"]
    assert found == pytest.approx(expected)
    assert reference_f1(text, reference) == pytest.approx(expected)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    generator = random.Random(0)
    tokens = ["sea", "Boat", "the", "a", "an", "wind,", "it's", "--", "up."]
    replies = [
        said(*(" ".join(generator.choices(tokens, k=generator.randrange(9))) for _ in range(2))) for _ in range(300)
    ]
    expected = [reference_f1(reply.text, reply.reference) for reply in replies]
    assert per_reply(replies)["f1"] == pytest.approx(expected)
    assert len({round(value, 6) for value in expected}) > 20


def test_distinct_and_length_of_a_reply_by_hand() -> None:
    found = per_reply([said("So so, so so."), said("one"), said(""), said("no no no")])
    assert found["length"] == [6, 1, 0, 3]  # so so , so so .
    assert found["distinct-1/reply"] == pytest.approx([3 / 6, 1, 0, 1 / 3])
    assert found["distinct-2/reply"] == pytest.approx([4 / 5, 0, 0, 1 / 2])


def test_distinct_of_the_corpus_by_hand() -> None:
    found = corpus([said("I see the sea"), said("I see you", user="bob"), said("", user="cid")], tokens="word")
    assert found["distinct-1/corpus"].value == pytest.approx(5 / 7)
    assert found["distinct-2/corpus"].value == pytest.approx(4 / 5)
    without = [3 / 3, 4 / 4, 5 / 7]  # ann, bob, cid
    expected = [5 / 7 + 2 * (sum(without) / 3 - each) for each in without]
    assert list(found["distinct-1/corpus"].pseudo) == ["ann", "bob", "cid"]
    assert list(found["distinct-1/corpus"].pseudo.values()) == pytest.approx(expected)


def test_perplexity_by_hand() -> None:
    replies = [said("a", nll=2.0, tokens=1), said("b", nll=7.0, tokens=5, user="bob")]
    found = corpus(replies, tokens="smollm2")["perplexity/smollm2"]
    assert found.value == pytest.approx(math.exp(9 / 6))
    half = (math.exp(7 / 5) - math.exp(2 / 1)) / 2
    assert list(found.pseudo.values()) == pytest.approx([found.value - half, found.value + half])
    assert "perplexity/word" not in corpus([*replies, said("c", nll=0.0, tokens=0)], tokens="word")


@pytest.mark.parametrize("seed", range(3))
def test_bleu_is_sacrebleu_s(seed: int) -> None:
    replies = drawn(np.random.default_rng(seed), users=20, copied=0.8)
    replies += [said("", "Not a word?"), said("What's that - a BOAT?", "what's that, a boat?"), said("Mm.", "")]
    theirs = BLEU(lowercase=True).corpus_score(
        [reply.text for reply in replies], [[reply.reference for reply in replies]]
    )
    assert theirs.score > 5
    assert corpus(replies, tokens="word")["bleu-4/corpus"].value == pytest.approx(theirs.score / 100, rel=1e-12)


def test_bleu_of_few_words_is_smoothed_as_sacrebleu_s() -> None:
    replies = [said("the sea is up", "the sea is down"), said("my boat", "my red boat", user="bob")]
    theirs = BLEU(lowercase=True).corpus_score(
        [reply.text for reply in replies], [[reply.reference for reply in replies]]
    )
    assert theirs.counts[3] == 0  # no four words are right
    assert theirs.score > 0
    assert corpus(replies, tokens="word")["bleu-4/corpus"].value == pytest.approx(theirs.score / 100, rel=1e-12)


def scratch(name: str) -> Callable[[Sequence[Spoken]], float]:
    """A number of the corpus, computed from its replies."""
    bleu = BLEU(lowercase=True)
    return {
        "bleu-4/corpus": lambda some: (
            bleu.corpus_score([each.text for each in some], [[each.reference for each in some]]).score / 100
        ),
        "distinct-1/corpus": lambda some: distinct(some, 1),
        "distinct-2/corpus": lambda some: distinct(some, 2),
        "perplexity/word": lambda some: math.exp(sum(x.nll for x in some) / sum(x.tokens for x in some)),
    }[name]


@pytest.mark.parametrize("name", CORPUS)
def test_pseudo_values_are_those_of_measuring_without_each_user(name: str) -> None:
    replies = drawn(np.random.default_rng(5), users=12)
    replies = replies[:-2]  # users of three replies, and one of one
    random.Random(0).shuffle(replies)
    found, measured = corpus(replies, tokens="word")[name], scratch(name)
    assert found.value == pytest.approx(measured(replies))
    users = list(found.pseudo)
    without = np.array([measured([reply for reply in replies if reply.user != user]) for user in users])
    assert len(set(without)) > 8
    assert list(found.pseudo.values()) == pytest.approx(found.value + 11 * (without.mean() - without))
    assert np.mean(list(found.pseudo.values())) == pytest.approx(found.value)
    assert found.error == pytest.approx(math.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum()))


def test_the_jackknife_of_a_mean_is_the_usual_standard_error() -> None:
    """Perplexity of one token a user: its logarithm is a mean, and of small differences so is it."""
    nll = 1 + 1e-6 * np.random.default_rng(0).normal(size=50)
    replies = [said("x", user=f"u{i}", nll=value, tokens=1) for i, value in enumerate(nll.tolist())]
    found = corpus(replies, tokens="word")["perplexity/word"]
    assert found.error == pytest.approx(math.e * stats.sem(nll), rel=1e-4)
    one = found.interval()
    assert one.high is not None
    assert one.high - one.value == pytest.approx(1.959964 * found.error, rel=1e-5)
    half = found.interval(level=0.5)
    assert half.high is not None
    assert half.high - half.value == pytest.approx(0.67449 * found.error, rel=1e-4)


def test_intervals_of_the_corpus_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    found = [corpus(drawn(generator, users=60, each=2, copied=0.8), tokens="word") for _ in range(250)]
    for name in CORPUS:
        truth = np.mean([each[name].value for each in found])
        intervals = [each[name].interval() for each in found]
        covered = np.mean([each.low <= truth <= each.high for each in intervals if each.low and each.high])
        assert 0.9 <= covered <= (0.999 if "distinct" in name else 0.98), name
        ratio = np.mean([each[name].error for each in found]) / np.std([each[name].value for each in found])
        assert 0.9 <= ratio <= (1.4 if "distinct" in name else 1.1), (
            name
        )  # of distinct n-grams it errs to the safe side


def test_intervals_stay_within_what_can_be() -> None:
    wide = Statistic(value=0.02, pseudo={"ann": -0.5, "bob": 0.54}, n=2, least=0.0, most=1.0)
    assert wide.interval() == Interval(value=0.02, low=0.0, high=1.0, n=2)
    replies = [said("ja", nll=0.0, tokens=1), said("ja", nll=2.0, tokens=1, user="bob")]
    assert measure(replies, tokens="word")["perplexity/word"].low == 1.0


def test_measure() -> None:
    replies = [
        replace(reply, rank=float(1 + place % 7), real=1.0, users=7)
        for place, reply in enumerate(drawn(np.random.default_rng(0), users=10))
    ]
    found = measure(replies, tokens="word", seed=3, resamples=200)
    assert list(found) == [
        *CORPUS,
        *("f1", "distinct-1/reply", "distinct-2/reply", "length"),
        *(f"per-hits@{k}/7" for k in range(1, 6)),
        "per-hits-avg/7",
    ]
    assert {each.n for each in found.values()} == {30}
    users = [reply.user for reply in replies]
    assert found["f1"] == interval(per_reply(replies)["f1"], users, seed=3, resamples=200)
    assert found["bleu-4/corpus"] == corpus(replies, tokens="word")["bleu-4/corpus"].interval()
    for each in found.values():
        assert each.low is not None
        assert each.high is not None
        assert each.low <= each.value <= each.high


def test_of_a_single_user_there_is_no_interval() -> None:
    found = measure([said("the sea", "a sea"), said("my boat", "the boat")], tokens="word")
    assert len(found) == 8
    for each in found.values():
        assert math.isfinite(each.value)
        assert (each.low, each.high) == (None, None)


def test_replies_without_a_word_are_measured() -> None:
    silent = [said("", "hello", user=user) for user in ("ann", "bob")]
    found = measure(silent, tokens="word")
    assert {name: each.value for name, each in found.items() if not name.startswith("perp")} == dict.fromkeys(
        [*CORPUS[:3], "f1", "distinct-1/reply", "distinct-2/reply", "length"], 0.0
    )
    mixed = [*silent, said("", "", user="cid"), said("hello hello", "", user="dan"), said(" ", "?", user="eve")]
    for each in measure(mixed, tokens="word").values():
        assert each.low is not None
        assert math.isfinite(each.value)
        assert math.isfinite(each.low)


def test_per_hits_are_those_of_the_ranks() -> None:
    """The same as `per_hits` finds in perplexities whose ranks these are, ties among them."""
    users = ["ann", "bob", "cid", "dan", "eve", "fay"]
    perplexities = np.random.default_rng(0).integers(1, 6, size=(60, 6)).astype(float)
    rows = per_hits.rows(perplexities, users, users * 10)
    replies = [
        replace(said("x", user=row.dialogue), rank=float(rank), real=float(7 - rank), users=6)
        for row, rank in zip(rows, ranks(rows), strict=True)
    ]
    expected = per_hits.metrics(rows)
    found = per_reply(replies)
    assert {name: found[name] for name in expected} == expected
    turned = per_reply(ceiling(replies))
    assert turned["per-hits@2/6"] == [float(reply.rank is not None and reply.rank >= 5) for reply in replies]
    assert "per-hits@1/6" not in per_reply([*replies, said("y")])
    assert list(per_reply([replace(said("x"), rank=1.5, users=2)]))[-3:] == [
        *("per-hits@1/2", "per-hits@2/2"),
        "per-hits-avg/2",
    ]


def test_the_ceiling_is_of_what_was_really_said() -> None:
    replies = [replace(said("the sea", "my boat is red"), rank=2.0, real=1.0, users=3)]
    found = measure(ceiling(replies), tokens="word")
    assert found["length"].value == 4
    assert found["per-hits@1/3"].value == 1.0
    assert (found["f1"].value, found["bleu-4/corpus"].value) == (1.0, pytest.approx(1.0))
    assert "perplexity/word" not in found
    assert "per-hits@1/3" not in per_reply(ceiling([replace(replies[0], real=None)]))


def test_focused() -> None:
    replies = [replace(said(f"w{real}"), real=real, users=9) for real in (1.0, 1.5, 2.0, 9.0)]
    assert focused(replies, 1) == replies[:1]
    assert focused(replies, 2) == replies[:3]
    assert focused(replies, 9) == replies
    with pytest.raises(InputError, match=r"ann: w7: the rank of its reference is not known"):
        focused([*replies, said("w7")], 2)
    with pytest.raises(InputError, match="most: 0 is not a rank"):
        focused(replies, 0)


def test_mistakes_are_named() -> None:
    for measured in (per_reply, lambda some: corpus(some, tokens="word"), lambda some: measure(some, tokens="word")):
        with pytest.raises(InputError, match="there is no reply to measure"):
            measured([])
    for nll in (math.nan, math.inf):
        with pytest.raises(InputError, match=rf"ann: x: nll is {nll}; the likelihood of a reference must be"):
            corpus([said("x", nll=nll)], tokens="word")
    first = replace(said("x"), rank=1.0, users=5)
    for wrong in ({"rank": 6.0, "users": 5}, {"rank": 0.0, "users": 5}, {"rank": 2.0, "users": 4}):
        expected = rf"ann: y: rank {wrong['rank']:g} among {wrong['users']} users, where ann: x is ranked among 5"
        with pytest.raises(InputError, match=expected):
            per_reply([first, replace(said("y"), **wrong)])
    with pytest.raises(InputError, match="rank 1 among 0 users"):
        per_reply([replace(first, users=0)])


def test_many_replies_take_seconds() -> None:
    replies = drawn(np.random.default_rng(0), users=5000)
    begin = time.process_time()
    found = measure(replies, tokens="word")
    assert time.process_time() - begin < 20
    assert found["bleu-4/corpus"].n == 15_000
