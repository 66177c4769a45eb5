import math
import random

import numpy as np
import pytest

from personae.metrics.ngram import NgramModels
from personae.types import InputError

SAILOR = """i sail when the wind is up
the wind is up and i am happy
my boat is red and my boat is fast
i sail my red boat
when the wind is down i am at home
i am at home when it rains
the red boat is my boat
is the wind up
the sea is deep
i like the sea and the wind
the sea and the wind like me
fast boat
i am fast when the wind is with me"""
COOK = """i cook soup
soup is good
my soup is hot"""
ASKED = [
    "i sail my boat",
    "the wind is up",
    "soup",
    "my red soup is good",
    "",
    "unheard words only",
    "i am at sea when the wind is down",
]
KENLM = [  # `lmplz -o 3 --discount_fallback`, log10; of the sailor, the discounts of pairs and triples are estimated
    [-3.11619, -2.47825, -2.98679, -9.16216, -1.18117, -6.59802, -7.62407],
    [-5.83626, -6.1235, -1.48135, -4.18397, -1.04442, -4.81024, -12.11262],
]


def split(text: str) -> list[list[str]]:
    return [line.split(" ") if line else [] for line in text.split("\n")]


def drawn(count: int, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices("abcdefghijklmnop"[: rng.choice((3, 8, 16))], k=rng.choice((1, 2, 5, 9))) for _ in range(count)]


def test_probabilities_are_those_of_kenlm() -> None:
    models = NgramModels([split(SAILOR), split(COOK)])
    found = models.log_probabilities(split("\n".join(ASKED))) / math.log(10)
    assert np.abs(found.T - KENLM).max() < 2e-5


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_of_what_may_follow_sum_to_one(order: int) -> None:
    said = [drawn(200, 0), drawn(8, 1)]
    models = NgramModels(said, order=order)
    for before in ([], ["a"], ["c", "a", "b"], ["unheard", "a"]):
        for user, each in enumerate(said):
            known = sorted({word for sentence in each for word in sentence})
            follows = [[*before, word] for word in [*known, "unheard"]]
            end = models.log_probabilities([before])[0, user]
            so_far = end - _last(models, before)[user]
            total = np.exp(_last(models, before)[user])
            for sentence in follows:
                whole = models.log_probabilities([sentence])[0, user]
                total += np.exp(whole - _last(models, sentence)[user] - so_far)
            assert total == pytest.approx(1)


def _last(models: NgramModels, sentence: list[str]) -> np.ndarray:
    """The logarithm of the end's probability after a sentence."""
    words, place = models._flat([sentence])
    found: np.ndarray = np.log(models._events(words, place, np.array([len(words) - 1])))[0]
    return found


def test_models_of_several_users_do_not_see_one_another() -> None:
    said = [drawn(30, 0), drawn(200, 1), drawn(3, 2)]
    asked = [*drawn(20, 3), ["unheard"]]
    together = NgramModels(said).log_probabilities(asked)
    for user, each in enumerate(said):
        assert np.allclose(NgramModels([each]).log_probabilities(asked)[:, 0], together[:, user])


def test_sentences_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    models = NgramModels([drawn(30, 0), drawn(20, 1)])
    asked = drawn(50, 2)
    whole = models.log_probabilities(asked)
    monkeypatch.setattr("personae.metrics.ngram.AT_ONCE", 50)
    assert np.allclose(models.log_probabilities(asked), whole)


def test_perplexity_counts_the_end_as_a_word() -> None:
    models = NgramModels([split(SAILOR)])
    (perplexity,) = models.perplexities([["the", "wind", "is", "up"]])
    assert perplexity[0] == pytest.approx(10 ** (2.47825 / 5), rel=1e-4)


def test_a_discount_of_nothing_counts_where_all_can_still_be_said() -> None:
    """As in lmplz: of four words said once, one said twice and one thrice, twice is discounted 2 - 3 * 4 / 6 = 0."""
    models = NgramModels([split("a b c e e f f f")], order=1)
    words, place = models._flat(split("a e f unheard"))
    found = models._events(words, place, np.arange(1, 6))[:, 0]
    left = (4 * (1 - 2 * 4 / 6 / 4) + 0 + 3) / 9  # to the uniform distribution, of six words and an unknown one
    own = [1 - 2 / 3, 2 - 0, 3 - 3, 0, 1 - 2 / 3]
    assert found == pytest.approx([each / 9 + left / 7 for each in own])


def test_nothing_is_impossible_after_any_word() -> None:
    """Of pairs four are counted once, one twice and one thrice; the one that is counted twice, b and the end, would
    leave nothing for other words after b. So pairs have the discounts of small data."""
    left = NgramModels([split("a\na a b\nb\na")]).orders[1].left
    assert left == pytest.approx([(1.5 + 0.5) / 4, 1, 3 * 0.5 / 3, 1 / 2])  # after the mark before, the end, a and b


def test_no_sentence_is_as_long_as_the_longest_ngram() -> None:
    alone = NgramModels([[["a"]]], order=3).perplexities([["a"], ["b"], []])
    for order in (4, 9):
        assert (NgramModels([[["a"]]], order=order).perplexities([["a"], ["b"], []]) == alone).all()


def test_who_said_nothing_has_no_model() -> None:
    with pytest.raises(InputError, match="user 1, counted from 0, said no word"):
        NgramModels([[["a"]], [[]]])
    with pytest.raises(InputError, match="there is no user"):
        NgramModels([])
    with pytest.raises(InputError, match="order: 0 is not at least 1"):
        NgramModels([[["a"]]], order=0)
