from typing import Any

import pytest

from personae.agent import Agent
from personae.types import InputError


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load("tfidf")


def test_thousands_of_candidates_are_ranked(agent: Agent) -> None:
    candidates = [f"reply {number}" for number in range(1000)]
    ranked = agent.rank(candidates=[*candidates, "the cats sleep"], context=["where are the cats ?"], explain=1)
    assert len(ranked) == 1001
    assert ranked[0].text == "the cats sleep"
    assert sorted(reply.index for reply in ranked) == list(range(1001))


@pytest.mark.parametrize(
    "given",
    [
        {"candidates": "abc"},
        {"candidates": [1]},
        {"candidates": ["a"], "persona": "abc"},
        {"candidates": ["a"], "context": [None]},
        {"candidates": ["a"], "persona": None},
    ],
)
def test_what_is_no_list_of_texts_is_refused(agent: Agent, given: dict[str, Any]) -> None:
    name = list(given)[-1]
    with pytest.raises(InputError, match=f"{name}: a list of texts is wanted"):
        agent.rank(**given)


def test_texts_may_come_from_any_iterable(agent: Agent) -> None:
    texts = {"candidates": ["I sail.", "I ski."], "persona": ["I own a boat."], "context": ["What do you do?"]}
    assert agent.rank(**{name: iter(listed) for name, listed in texts.items()}, explain=2) == agent.rank(
        **texts, explain=2
    )


def test_nothing_to_rank_is_refused(agent: Agent) -> None:
    with pytest.raises(InputError, match="candidates: there are none to rank"):
        agent.rank(candidates=[])
