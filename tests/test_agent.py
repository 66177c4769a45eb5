import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from personae import catalogue
from personae.agent import Agent
from personae.nn.dialogue_batch import Limits
from personae.tasks.selection import Selection
from personae.types import Effect, Example, InputError, Turn, Whose


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


@pytest.mark.parametrize("name", ["candidates", "persona", "context", "partner"])
@pytest.mark.parametrize("blank", ["", " \n"])
def test_an_empty_text_is_refused(name: str, blank: str, agent: Agent) -> None:
    with pytest.raises(InputError, match=f"{name}: number 1, counted from 0, is empty; leave it out"):
        agent.rank(**{"candidates": ["a", "b"], name: ["c", blank]})


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


def test_what_is_too_long_is_named_once(build: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(utterances=1, utterance_words=4, line_words=3, reply_words=2)
    agent = Agent(Selection(model=build("hre", limits=limits)))
    fits = {"candidates": ["a cat", "dogs swim"], "context": ["my cat sings ?"], "persona": ["i like cats"]}
    agent.rank(**fits)
    assert not caplog.messages
    agent.rank(**{**fits, "context": ["one more", "my cat sings ?"]})
    agent.rank(**{**fits, "context": ["my cat sings too ?"]})
    agent.rank(**{**fits, "persona": ["i like cats ."]})
    agent.rank(**{**fits, "candidates": ["a cat sings"]})
    expected = [
        f"this model reads {what} is left out (task.model.limits)"
        for what in (
            "the last 1 utterances; what was said before",
            "the first 4 words of an utterance; the rest",
            "the first 3 words of a persona line; the rest",
            "the first 2 words of a candidate; the rest",
        )
    ]
    assert caplog.messages == expected
    agent.rank(**{**fits, "candidates": ["a cat sings"], "persona": ["i like cats ."]})
    assert caplog.messages == expected


def test_the_line_that_weighed_most_is_one_that_was_read(build: Callable[..., Any]) -> None:
    """Leaving a line out does not let in one beyond the limit."""
    agent = Agent(Selection(model=build("hre", limits=Limits(lines=2))))
    persona = ["i like my cat", "a dog sings", "two small brothers swim near the river", "birds"]
    given: dict[str, Any] = {"candidates": ["a cat sings", "a dog swims", "birds"], "context": ["my cat ?"]}
    ranked = agent.rank(**given, persona=persona, explain=3)
    assert ranked == agent.rank(**given, persona=persona[:2], explain=3)
    assert any(reply.fact for reply in ranked)


@pytest.mark.parametrize("name", ["hre", "tfidf"])
def test_what_the_persona_moved(build: Callable[..., Any], name: str) -> None:
    agent = Agent(Selection(model=build(name))) if name == "hre" else Agent.load(name)
    told = agent.rank(**GIVEN, persona=PERSONA, explain=1)
    untold = {one.text: one.score for one in agent.rank(**GIVEN)}
    assert {one.moved for one in agent.rank(**GIVEN, persona=PERSONA)} == {None}
    scores = torch.tensor([[one.score, untold[one.text]] for one in told])
    shares = scores.log_softmax(0) if agent.scale == "logit" else scores
    assert [one.moved for one in told] == pytest.approx((shares[:, 0] - shares[:, 1]).tolist(), abs=1e-6)
    assert any(one.moved for one in told)


PERSONA = ["i like my cat", "a dog sings", "birds"]
PARTNER = ["two small brothers swim near the river", "my cat"]
GIVEN: dict[str, Any] = {
    "candidates": ["a cat sings", "a dog swims near my brothers", "birds", "i like the river"],
    "context": ["do you swim ?", "all day", "my cat ?"],
}


@pytest.mark.parametrize("name", ["tfidf", "hre", "imn", "dim"])
@pytest.mark.parametrize("whose", ["self", "partner", "both"])
def test_an_effect_is_the_score_without_the_line_less_the_score_with_it(
    name: str, whose: Whose, build: Callable[..., Any]
) -> None:
    agent = Agent(Selection(model=build(name, persona=whose)))
    agent.task.model.persona = whose

    def told(persona: Sequence[str], partner: Sequence[str]) -> dict[str, float]:
        """The scores, or the logarithms of their shares."""
        ranked = agent.rank(**GIVEN, persona=persona, partner=partner)
        scores = torch.tensor([reply.score for reply in ranked], dtype=torch.float64)
        shares = scores.log_softmax(0) if agent.scale == "logit" else scores
        return dict(zip([reply.text for reply in ranked], shares.tolist(), strict=True))

    def less(lines: list[str], line: str) -> list[str]:
        return [other for other in lines if other != line]

    explained = agent.explain(agent.case(**GIVEN, persona=PERSONA, partner=PARTNER), top=9)
    whole = told(PERSONA, PARTNER)
    assert [one.text for one in explained] == [
        one.text for one in agent.rank(**GIVEN, persona=PERSONA, partner=PARTNER)
    ]
    assert [one.rank for one in explained] == [1, 2, 3, 4]
    lines = [("self", line) for line in PERSONA if whose != "partner"]
    lines += [("partner", line) for line in PARTNER if whose != "self"]
    for one in explained:
        assert one.text == GIVEN["candidates"][one.index]
        assert (one.score if one.log_share is None else one.log_share) == pytest.approx(whole[one.text], abs=1e-6)
        assert [(effect.whose, effect.line) for effect in one.effects] == lines
        for effect in one.effects:
            left = told(
                less(PERSONA, effect.line) if effect.whose == "self" else PERSONA,
                less(PARTNER, effect.line) if effect.whose == "partner" else PARTNER,
            )
            assert effect.change == pytest.approx(left[one.text] - whole[one.text], abs=1e-6)
    assert max(abs(effect.change) for one in explained for effect in one.effects) > 1e-4


@pytest.mark.parametrize("name", [model["name"] for model in catalogue.models() if model["families"][0] == "selection"])
def test_every_model_can_be_asked(name: str, build: Callable[..., Any], cases: Sequence[Example]) -> None:
    agent = Agent(Selection(model=build(name)))
    for example in cases[1:4]:
        explained = agent.explain(example, top=4)
        scores = [one.score for one in explained]
        assert scores == sorted(scores, reverse=True)
        for one in explained:
            assert [effect.line for effect in one.effects] == list(example.facts(agent.task.model.persona))
            changes = [effect.change for effect in one.effects]
            assert name == "p5" or None not in changes  # which reads but the lines that are most like a reply
            assert all(math.isfinite(change) for change in changes if change is not None)


@pytest.mark.parametrize("candidates", [["a cat sings"], ["a cat sings"] * 3])
def test_without_a_choice_the_logit_itself_is_told(candidates: list[str], build: Callable[..., Any]) -> None:
    """A share among equals is always the same, whatever the persona."""
    agent = Agent(Selection(model=build("hre")))
    case = agent.case(candidates=candidates, persona=PERSONA, context=GIVEN["context"])
    first, *_ = agent.explain(case)
    without = agent.rank(candidates=candidates, persona=PERSONA[1:], context=GIVEN["context"])[0].score
    assert first.log_share is None
    assert first.effects[0].change == pytest.approx(without - first.score, abs=1e-6)
    assert abs(first.effects[0].change) > 1e-4


@pytest.mark.parametrize("name", ["tfidf", "hre"])
def test_rank_names_the_line_that_explain_finds_to_weigh_most(name: str, build: Callable[..., Any]) -> None:
    agent = Agent(Selection(model=build(name)))
    explained = agent.explain(agent.case(**GIVEN, persona=PERSONA), top=4)
    for reply, one in zip(agent.rank(**GIVEN, persona=PERSONA, explain=3), explained, strict=True):
        most = min(one.effects, key=lambda effect: effect.change)
        assert reply.fact == (most.line if most.change < -1e-6 and one.rank <= 3 else None)
    assert any(reply.fact for reply in agent.rank(**GIVEN, persona=PERSONA, explain=3))


@pytest.mark.parametrize(
    ("name", "arguments", "weighed", "looks_at"),
    [
        ("hre", {}, ["self"], []),
        ("hre", {"persona": "both"}, ["self", "partner"], []),
        ("imn", {}, ["self"], ["context"]),
        ("imn", {"persona": "both"}, ["self", "partner"], ["context"]),
        ("imn", {"fusion": "none"}, [], ["context"]),
        ("imn", {"fusion": "ctx"}, [], ["context"]),
        ("dim", {}, [], ["context", "self"]),
    ],
)
def test_a_line_has_the_weight_that_persona_fusion_gives_it(
    name: str, arguments: dict[str, Any], weighed: list[str], looks_at: list[str], build: Callable[..., Any]
) -> None:
    agent = Agent(Selection(model=build(name, **arguments, limits=Limits(lines=2))))
    for one in agent.explain(agent.case(**GIVEN, persona=PERSONA, partner=PARTNER), top=4):
        assert [part.to for part in one.attention] == looks_at
        weights = [(effect.whose, effect.weight) for effect in one.effects if effect.weight is not None]
        assert [whose for whose, _ in weights] == [whose for whose in weighed for _ in range(2)]
        assert sum(weight for _, weight in weights) == pytest.approx(len(weighed), abs=1e-6)


def test_what_is_not_there_is_not_looked_at(build: Callable[..., Any]) -> None:
    """A model reads an empty line in its place, of which there is nothing to tell."""
    agent = Agent(Selection(model=build("dim")))
    (one,) = agent.explain(agent.case(candidates=["a cat", "birds"]))
    assert one.attention == ()
    (one,) = agent.explain(agent.case(candidates=["a cat", "birds"], context=["my cat ?"]))
    assert one.effects == ()
    assert [part.to for part in one.attention] == ["context"]


@pytest.mark.parametrize("name", ["tfidf", "hre", "dim"])
def test_of_a_corpus_the_true_reply_is_explained_too(
    name: str, build: Callable[..., Any], cases: Sequence[Example]
) -> None:
    agent = Agent(Selection(model=build(name, limits=Limits(lines=2))))
    for example in cases:
        replies = [one.text for one in agent.explain(example, top=4)]
        for reply in replies:
            explained = agent.explain(replace(example, target=replace(example.target, text=reply)))
            assert [one.text for one in explained] == list(dict.fromkeys([replies[0], reply]))
            assert [one.rank for one in explained] == sorted({1, replies.index(reply) + 1})
            lines = example.facts("self") if name == "tfidf" else example.facts("self")[:2]
            assert [effect.line for effect in explained[0].effects] == list(lines)


def test_thousands_of_candidates_are_explained(agent: Agent) -> None:
    candidates = [*(f"reply {number}" for number in range(1000)), "the cats sleep"]
    first, second = agent.explain(agent.case(candidates=candidates, persona=["my cats", "a dog"]), top=2)
    assert [effect.line for effect in first.effects] == ["my cats", "a dog"]
    assert first.effects[0].change < -0.1
    assert second.effects == (Effect("self", "my cats", 0.0), Effect("self", "a dog", 0.0))


def test_of_many_candidates_the_best_are_the_company(build: Callable[..., Any], cases: Sequence[Example]) -> None:
    model = Agent(Selection(model=build("dim")))
    candidates = tuple(f"{word} {number}" for number in range(75) for word in ("cat", "river"))
    case = replace(cases[2], target=Turn(1, "", candidates))
    scores = model._scores(case)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    (best,) = model.explain(case, top=1)
    few = replace(case, target=Turn(1, "", tuple(candidates[place] for place in order[:100])))
    (expected,) = model.explain(few, top=1)
    assert len(best.effects) == 5
    for effect, other in zip(best.effects, expected.effects, strict=True):
        assert effect.change == pytest.approx(other.change, abs=1e-5)


def test_none_at_all_is_refused(agent: Agent) -> None:
    with pytest.raises(InputError, match="top: 0 is not at least 1"):
        agent.explain(agent.case(candidates=["a"]), top=0)
    with pytest.raises(InputError, match="explain: -1 is less than 0"):
        agent.rank(candidates=["a"], explain=-1)
    case = agent.case(candidates=["a"])
    with pytest.raises(InputError, match="example: dialogue#0 has no candidates; give it some"):
        agent.explain(replace(case, target=replace(case.target, candidates=())))
