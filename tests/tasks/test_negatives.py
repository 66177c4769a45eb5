import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from personae.data.candidates import examples
from personae.nn.sentence_encoder import SentenceEncoder
from personae.tasks.negatives import Drawn, Hard, InBatch, Negatives, Rotating
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn

Case = Callable[..., Example]


def cases(count: int = 30) -> list[Example]:
    """Of dialogues of 6 turns, every text its own."""
    speakers = (Speaker("0"), Speaker("1"))
    turns = [tuple(Turn(i % 2, f"text {number} {i}") for i in range(6)) for number in range(count)]
    return examples([Dialogue(f"d{number}", speakers, said) for number, said in enumerate(turns)], sides="both")


def filled(negatives: Negatives, found: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> list[Example]:
    negatives.start(found)
    return negatives.fill(found, epoch=epoch, drawn=random.Random(seed))


def wrong(example: Example) -> set[str]:
    return set(example.target.candidates) - {example.target.text}


@pytest.mark.parametrize("negatives", [Drawn(candidates=4, pool=20), Rotating(candidates=4), InBatch()])
def test_the_true_reply_is_among_others_of_other_dialogues(negatives: Negatives) -> None:
    owner = {example.target.text: example.context.id for example in cases()}
    places = Counter[int]()
    for example in filled(negatives, cases()):
        assert len(set(example.target.candidates)) == len(example.target.candidates) > 1
        assert example.context.id not in {owner[text] for text in wrong(example)}
        places[example.target.candidates.index(example.target.text)] += 1
    assert max(places.values()) < 0.7 * places.total()


@pytest.mark.parametrize("negatives", [Drawn(), Rotating(), InBatch()])
def test_a_single_dialogue_has_no_wrong_replies(negatives: Negatives) -> None:
    with pytest.raises(InputError, match="dialogue d0 is the only one to train on"):
        negatives.start(cases(1))


def with_candidates(found: Sequence[Example], *texts: str) -> list[Example]:
    return [replace(example, target=replace(example.target, candidates=texts)) for example in found]


@pytest.mark.parametrize("negatives", [Drawn(), Rotating()])
def test_a_single_dialogue_that_has_candidates_needs_no_others(negatives: Negatives) -> None:
    found = [example for example in cases(1) if example.target.text == "text 0 5"]
    (example,) = filled(negatives, with_candidates(found, "text 0 5", "no"))
    assert set(example.target.candidates) == {"text 0 5", "no"}
    with pytest.raises(InputError, match=r"dialogue d0 is the only one to train on; give more dialogues"):
        InBatch().start(with_candidates(cases(1), "no"))


@pytest.mark.parametrize("negatives", [Drawn(candidates=2, pool=2), Rotating(candidates=2)])
def test_a_reply_finds_others_however_few_there_are(negatives: Negatives) -> None:
    """Of a dialogue of most of the replies, whose draws are its own."""
    large = [replace(example, context=replace(example.context, id="large")) for example in cases(40)]
    small = [replace(example, context=replace(example.context, id="small")) for example in cases(41)[-1:]]
    for seed in range(20):
        for example in filled(negatives, [*large, *small], seed=seed):
            assert len(wrong(example)) == 1
    alike = [replace(example, target=replace(example.target, text="same")) for example in cases()]
    for candidates in ((), ("same", "same")) if isinstance(negatives, Rotating) else ((),):
        with pytest.raises(InputError, match=r"corpus: d0#1: no other dialogue has another reply"):
            filled(negatives, with_candidates(alike, *candidates))


def test_epoch_k_takes_the_kth_wrong_reply() -> None:
    given = [
        replace(example, target=replace(example.target, candidates=("a", "b", example.target.text, "c")))
        for example in cases()
    ]
    negatives = Rotating(candidates=4)
    epochs = [{example.id: wrong(example) for example in filled(negatives, given, epoch=epoch)} for epoch in range(4)]
    for example in given:
        assert [len(epoch[example.id]) for epoch in epochs] == [1, 1, 1, 1]
        assert set.union(*(epoch[example.id] for epoch in epochs[:3])) == {"a", "b", "c"}
        assert epochs[3][example.id] == epochs[0][example.id]
    assert len({next(iter(one)) for one in epochs[0].values()}) == 3  # not the same one for all


def test_drawn_wrong_replies_rotate_too() -> None:
    negatives = Rotating(candidates=5)
    seen = [wrong(filled(negatives, cases(), epoch=epoch)[7]) for epoch in range(8)]
    assert len(set.union(*seen[:4])) == 4
    assert seen[:4] == seen[4:]
    assert [wrong(filled(Rotating(candidates=5), cases(), epoch=epoch, seed=9)[7]) for epoch in range(8)] == seen


def test_in_a_batch_the_replies_of_the_others_are_wrong() -> None:
    batch = cases(4)
    negatives = InBatch()
    negatives.start(cases())
    for example in negatives.fill(batch, epoch=0, drawn=random.Random(0)):
        others = {other.target.text for other in batch if other.context.id != example.context.id}
        assert wrong(example) == others
    assert negatives.fill(cases(1), epoch=0, drawn=random.Random(0)) == []


def test_hard_ones_are_those_that_a_bi_encoder_mistakes() -> None:
    speakers = (Speaker("0"), Speaker("1", Persona(("i have two dogs",))))
    replies = ["i walk my dogs in the park", "my puppy chews my shoes", "i paint houses", "we sail to norway", "no"]
    asked = "do you have a pet ?"
    found = [
        Example(Dialogue(f"d{place}", speakers, (Turn(0, asked),)), Turn(1, reply))
        for place, reply in enumerate(replies)
    ]
    try:
        SentenceEncoder()
    except InputError as error:
        pytest.skip(str(error))
    negatives = Hard(candidates=2, pool=200)
    first, *_, last = filled(negatives, found)
    assert wrong(first) == {"my puppy chews my shoes"}
    assert wrong(last) == {"i walk my dogs in the park"}


def test_where_a_pool_is_of_ones_own_dialogue_others_are_drawn_from_all() -> None:
    speakers = (Speaker("0"), Speaker("1"))
    said = [("long", f"reply {number}") for number in range(60)] + [("short", "the only other")]
    found = [Example(Dialogue(name, speakers, (Turn(0, "and ?"),)), Turn(1, reply)) for name, reply in said]
    try:
        SentenceEncoder()
    except InputError as error:
        pytest.skip(str(error))
    negatives = Hard(candidates=2, pool=2)
    for example in filled(negatives, found):
        assert len(example.target.candidates) == 2


@pytest.mark.parametrize("made", [Drawn, Hard])
def test_too_few_candidates_are_refused(made: Callable[..., Negatives]) -> None:
    with pytest.raises(InputError, match=r"task\.negatives: candidates must be between 2 and pool \(20\), not 21"):
        made(candidates=21, pool=20)
    with pytest.raises(InputError, match=r"task\.negatives: candidates must be between 2 and pool \(20\), not 1"):
        made(candidates=1, pool=20)
    with pytest.raises(InputError, match=r"task\.negatives: candidates must be at least 2, not 1"):
        Rotating(candidates=1)
