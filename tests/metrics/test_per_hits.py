import numpy as np
import pytest

from personae.metrics import per_hits
from personae.types import InputError

USERS = ["ann", "bob", "cid", "dan"]


def test_a_response_hits_where_its_own_user_is_least_surprised() -> None:
    perplexities = np.array([[2.0, 9, 8, 7], [5, 3, 4, 9], [9, 8, 4, 5], [1, 1, 1, 1]])
    rows = per_hits.rows(perplexities, USERS, ["ann", "ann", "dan", "bob"])
    found = per_hits.metrics(rows, most=3)
    assert found == {  # ranks 1, 3, 2 and, of four that tie, 2.5
        "per-hits@1/4": [1, 0, 0, 0],
        "per-hits@2/4": [1, 0, 1, 0],
        "per-hits@3/4": [1, 1, 1, 1],
        "per-hits-avg/4": [1, pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3)],
    }
    assert [row.dialogue for row in rows] == ["ann", "ann", "dan", "bob"]


def test_chance_is_what_random_perplexities_reach() -> None:
    drawn = np.random.default_rng(0).random((20_000, 4))
    found = per_hits.metrics(per_hits.rows(drawn, USERS, USERS * 5000), most=3)
    expected = per_hits.chance(4, most=3)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert np.mean(values) == pytest.approx(expected[name], abs=0.01)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="user 'eve' has a response but no history"):
        per_hits.rows(np.ones((1, 4)), USERS, ["eve"])
    rows = per_hits.rows(np.ones((1, 4)), USERS, ["ann"])
    for most in (0, 5):
        with pytest.raises(InputError, match=rf"k: {most} is not between 1 and the number of users, 4"):
            per_hits.metrics(rows, most=most)


def test_of_each_user_some_last_messages_are_held_out() -> None:
    texts = [[str(number)] for number in range(40)]
    assert per_hits.parted([texts]) == ([texts[:37]], [texts[37:]])  # three at most
    users = [texts[:29], texts[:10], texts[:9], []]  # a tenth at most
    assert per_hits.parted(users) == (
        [texts[:27], texts[:9], texts[:9], []],
        [texts[27:29], texts[9:10], [], []],
    )
    again = [*texts[:8], [], ["lol"], ["lol"]]  # the last one that was said but once; empty ones do not count
    assert per_hits.parted([again]) == ([[*texts[:7], [], ["lol"], ["lol"]]], [[texts[7]]])
    assert per_hits.parted([again[1:], [["lol"]] * 30]) == ([again[1:], [["lol"]] * 30], [[], []])
