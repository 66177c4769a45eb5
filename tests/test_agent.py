from collections.abc import Callable
from typing import Any

import pytest

from personae.agent import Agent
from personae.nn.dialogue_batch import Limits
from personae.tasks.selection import Selection
from personae.types import InputError, Whose


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


@pytest.mark.parametrize(
    ("whose", "reads_none_of"),
    [("none", ["the one who replies", "the other speaker"]), ("self", ["the other speaker"]), ("both", [])],
)
def test_a_persona_that_is_not_read_is_named(
    whose: Whose, reads_none_of: list[str], build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(Selection(model=build("hre", persona=whose, limits=Limits(lines=2))))
    given = {"candidates": ["a cat sings", "a dog swims"], "context": ["my cat ?"]}
    agent.rank(**given, persona=["i like cats"] * 2, partner=["i like birds"] * 2)
    assert caplog.messages == [
        f"this model reads no persona of {owner} (persona: {whose}); it is left out" for owner in reads_none_of
    ]
    caplog.clear()
    agent.rank(**given)
    assert not caplog.messages
    agent.rank(**given, persona=["i like cats"] * 3, partner=["i like birds"] * 3)
    assert len(caplog.messages) == 2
    assert [message for message in caplog.messages if "reads no persona of" not in message] == [
        f"this model reads the first 2 lines about {owner}; the rest is left out"
        for owner in ("the one who replies", "the other speaker")
        if owner not in reads_none_of
    ]


def test_the_line_that_weighed_most_is_one_that_was_read(build: Callable[..., Any]) -> None:
    """Leaving a line out does not let in one beyond the limit."""
    agent = Agent(Selection(model=build("hre", limits=Limits(lines=2))))
    persona = ["i like my cat", "a dog sings", "two small brothers swim near the river", "birds"]
    given: dict[str, Any] = {"candidates": ["a cat sings", "a dog swims", "birds"], "context": ["my cat ?"]}
    ranked = agent.rank(**given, persona=persona, explain=3)
    assert ranked == agent.rank(**given, persona=persona[:2], explain=3)
    assert any(reply.fact for reply in ranked)
