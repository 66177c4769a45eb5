import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from personae.data import toy
from personae.types import Corpus, Dialogue, Example, InputError, Persona

Guess = Callable[[Example], int]


def examples(dialogues: int = 1200, seed: int = 0, split: str = "valid") -> list[Example]:
    return [
        Example(Dialogue(d.id, d.speakers, d.turns[:i]), turn)
        for d in toy.Selection(dialogues=dialogues, seed=seed).split(split)
        for i, turn in enumerate(d.turns)
        if turn.candidates
    ]


def hits(cases: list[Example], guess: Guess) -> float:
    return sum(case.target.candidates[guess(case)] == case.target.text for case in cases) / len(cases)


def value_of(reply: str) -> toy.Value:
    return next(v for values in toy.VALUES.values() for v in values if set(reply.split()) & set(v.reply))


def fits(case: Example, reply: str, *, persona: bool, context: bool) -> bool:
    value = value_of(reply)
    own = any(set(fact.split()) & set(value.persona) for fact in case.facts("self"))
    asked = bool(set(case.context.turns[-1].text.split()) & set(toy.QUESTION_WORDS[value.domain]))
    return (own or not persona) and (asked or not context)


def oracle(case: Example, *, persona: bool = True, context: bool = True) -> int:
    return next(i for i, r in enumerate(case.target.candidates) if fits(case, r, persona=persona, context=context))


def longest(case: Example) -> int:
    return case.target.candidates.index(max(case.target.candidates, key=len))


def shortest(case: Example) -> int:
    return case.target.candidates.index(min(case.target.candidates, key=len))


def tfidf(cases: list[Example], *, persona: bool) -> Guess:
    seen = Counter(word for case in cases for reply in case.target.candidates for word in set(reply.split()))
    total = sum(len(case.target.candidates) for case in cases)

    def vector(text: str) -> dict[str, float]:
        return {w: n * math.log(total / (1 + seen[w])) for w, n in Counter(text.split()).items()}

    def guess(case: Example) -> int:
        said = [turn.text for turn in case.context.turns]
        query = vector(" ".join([*(case.facts("self") if persona else ()), *said]))
        scores = []
        for reply in case.target.candidates:
            weights = vector(reply)
            norm = math.sqrt(sum(x * x for x in weights.values()))
            scores.append(sum(x * query.get(w, 0.0) for w, x in weights.items()) / norm)
        return scores.index(max(scores))

    return guess


def test_it_is_a_corpus_of_three_splits_that_share_no_persona() -> None:
    corpus = toy.Selection(dialogues=40)
    assert isinstance(corpus, Corpus)
    splits = {name: list(corpus.split(name)) for name in ("train", "dev", "valid")}
    assert [len(dialogues) for dialogues in splits.values()] == [40, 10, 10]
    every = [dialogue for dialogues in splits.values() for dialogue in dialogues]
    assert len({dialogue.id for dialogue in every}) == 60
    assert len({frozenset(dialogue.speakers[1].persona.facts) for dialogue in every}) == 60
    assert {len(speaker.persona.facts) for dialogue in every for speaker in dialogue.speakers} == {3, 4, 5}
    assert {len(dialogue.turns) for dialogue in every} == {2, 4, 6}
    assert all([t.speaker for t in d.turns] == [0, 1] * (len(d.turns) // 2) for d in every)


def test_the_seed_decides_everything() -> None:
    first = list(toy.Selection(dialogues=20, seed=3).split("train"))
    assert first == list(toy.Selection(dialogues=20, seed=3).split("train"))
    assert [d.turns for d in first] != [d.turns for d in toy.Selection(dialogues=20, seed=4).split("train")]


def test_the_lexicon_uses_every_content_word_once_and_none_in_a_template() -> None:
    values = [value for values in toy.VALUES.values() for value in values]
    words = [w for v in values for w in v.persona + v.reply] + [w for ws in toy.QUESTION_WORDS.values() for w in ws]
    assert len(values) == 40
    assert len(words) == len(set(words)) == 264
    templates = toy.PERSONA_TEMPLATES + toy.QUESTION_TEMPLATES + toy.REPLY_TEMPLATES
    function_words = {word for template in templates for word in template.split()} - {"{}"}
    assert not function_words & set(words)
    assert len(function_words | set(words)) < 330


def test_no_candidate_shares_a_content_word_with_persona_or_context() -> None:
    templates = toy.PERSONA_TEMPLATES + toy.QUESTION_TEMPLATES + toy.REPLY_TEMPLATES
    function_words = {word for template in templates for word in template.split()}
    for case in examples():
        given = " ".join([*case.facts("both"), *(turn.text for turn in case.context.turns)])
        offered = " ".join(case.target.candidates)
        assert not set(given.split()) & set(offered.split()) - function_words


def test_word_overlap_stays_at_chance() -> None:
    cases = examples(dialogues=2000)
    assert len(cases) >= 600
    assert {len(case.target.candidates) for case in cases} == {round(1 / toy.CHANCE)}
    for persona in (False, True):
        assert 0.02 < hits(cases, tfidf(cases, persona=persona)) < 0.09


def test_surface_cues_stay_at_chance() -> None:
    cases = examples(dialogues=2000, split="train")
    places = Counter(case.target.candidates.index(case.target.text) for case in cases)
    assert len(places) == 20
    assert max(abs(n / len(cases) - toy.CHANCE) for n in places.values()) < 0.02
    right = Counter(value_of(case.target.text) for case in cases)
    offered = Counter(value_of(reply) for case in cases for reply in case.target.candidates)
    assert len(right) == 40
    assert all(abs(n / offered[value] - toy.CHANCE) < 0.02 for value, n in right.items())
    for guess in (longest, shortest):
        assert hits(cases, guess) == pytest.approx(toy.CHANCE, abs=0.02)


def test_persona_and_context_are_both_needed_and_enough() -> None:
    cases = examples()
    assert hits(cases, oracle) == 1.0
    for persona, context, low, high in ((False, True, 5, 5), (True, False, 3, 5)):
        fitting = [sum(fits(c, r, persona=persona, context=context) for r in c.target.candidates) for c in cases]
        assert (min(fitting), max(fitting)) == (low, high)
        expected = sum(1 / n for n in fitting) / len(fitting)
        found = hits(cases, partial(oracle, persona=persona, context=context))
        assert found == pytest.approx(expected, abs=0.06)


def test_candidates_are_twenty_values_one_of_them_right() -> None:
    for case in examples(dialogues=200):
        assert case.target.candidates.count(case.target.text) == 1
        assert len({value_of(reply) for reply in case.target.candidates}) == 20


def counterfactual(example: Example) -> Example:
    """The same conversation and candidates under another persona: the line that was asked about tells of the next value
    of its domain, so that another candidate is the right reply."""
    asked = set(example.context.turns[-1].text.split())
    domain = next(domain for domain, words in toy.QUESTION_WORDS.items() if asked & set(words))
    facts = example.facts("self")
    place, old = next(
        (i, v) for v in toy.VALUES[domain] for i, fact in enumerate(facts) if set(fact.split()) & set(v.persona)
    )
    new = toy.VALUES[domain][(toy.VALUES[domain].index(old) + 1) % len(toy.VALUES[domain])]
    to_new = dict(zip(old.persona, new.persona, strict=True))
    fact = " ".join(to_new.get(word, word) for word in facts[place].split())
    partner, replier = example.context.speakers
    replier = replace(replier, persona=Persona((*facts[:place], fact, *facts[place + 1 :])))
    right = next(text for text in example.target.candidates if set(text.split()) & set(new.reply))
    return Example(replace(example.context, speakers=(partner, replier)), replace(example.target, text=right))


def test_another_persona_makes_another_candidate_right() -> None:
    cases = examples(dialogues=200)
    others = [counterfactual(case) for case in cases]
    assert hits(others, oracle) == 1.0
    for case, other in zip(cases, others, strict=True):
        assert other.target.text != case.target.text
        assert other.target.candidates == case.target.candidates
        assert other.context.turns == case.context.turns
        assert sum(a != b for a, b in zip(case.facts("self"), other.facts("self"), strict=True)) == 1


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="dialogues: 0 is not between"):
        toy.Selection(dialogues=0)
    with pytest.raises(InputError, match="no 'test'; choose one of train, dev, valid"):
        toy.Selection(dialogues=1).split("test")
