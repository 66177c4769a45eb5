import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from personae.data.candidates import examples
from personae.data.toy import Selection as Toy
from personae.nn.objective import Objective
from personae.tasks.base import Batch, Batches, bucketed
from personae.tasks.negatives import Drawn, InBatch
from personae.tasks.selection import SCORED, Selection, texts
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn


@dataclass(frozen=True)
class Inputs:
    examples: Sequence[Example]

    def to(self, device: torch.device | str) -> "Inputs":
        return self


class Longest(nn.Module):
    """Prefers long replies."""

    persona = "none"

    def prepare(self, texts: Iterable[str]) -> None:
        self.read = list(texts)

    def size(self, example: Example) -> int:
        return len(example.context.turns)

    def collate(self, examples: Sequence[Example]) -> Inputs:
        return Inputs(examples)

    def score(self, batch: Inputs) -> Tensor:
        most = max(len(example.target.candidates) for example in batch.examples)
        rows = [[len(text) for text in example.target.candidates] for example in batch.examples]
        return torch.tensor([row + [-torch.inf] * (most - len(row)) for row in rows], dtype=torch.float64)

    def loss(self, batch: Inputs, objective: Objective) -> Tensor:
        return objective(self.score(batch), torch.zeros(len(batch.examples), dtype=torch.long))


def dialogues(count: int = 30) -> list[Dialogue]:
    """Of 2 to 9 turns, every text its own."""
    speakers = (Speaker("0"), Speaker("1"))
    return [
        Dialogue(f"d{number}", speakers, tuple(Turn(i % 2, f"text {number} {i}") for i in range(2 + number % 8)))
        for number in range(count)
    ]


def cases(count: int = 30) -> list[Example]:
    return examples(dialogues(count), sides="both")


def made(*, seed: int = 0, batch_size: int = 8, candidates: int = 5, pool: int = 20) -> Selection:
    task = Selection(model=Longest(), batch_size=batch_size, negatives=Drawn(candidates=candidates, pool=pool))
    task.seed = seed
    return task


def ids(batches: Iterable[Batch]) -> list[list[str]]:
    return [[example.id for example in batch.examples] for batch in batches]


def offered(batches: Iterable[Batch]) -> list[list[tuple[str, ...]]]:
    return [[example.target.candidates for example in batch.examples] for batch in batches]


def test_an_epoch_has_every_example_once_and_the_next_another_order() -> None:
    wanted = Counter(example.id for example in cases())
    batches = made().batches(cases())
    epochs = [ids(batches) for _ in range(3)]
    for epoch in epochs:
        assert len(epoch) == len(batches)
        assert Counter(name for batch in epoch for name in batch) == wanted
        assert {len(batch) for batch in epoch[:-1]} <= {8, len(cases()) % 8}
    assert epochs[0] != epochs[1] != epochs[2]


def test_training_goes_on_from_every_place() -> None:
    whole = made().batches(cases())
    expected = [list(zip(ids([batch]), offered([batch]), strict=True)) for _ in range(3) for batch in whole]
    for place in range(len(expected)):
        first = made().batches(cases())
        taken = 0
        while taken < place:
            for _ in first:
                taken += 1
                if taken == place:
                    break
        resumed = made().batches(cases())
        resumed.load_state_dict(first.state_dict())
        rest: list[list[tuple[list[str], list[tuple[str, ...]]]]] = []
        while len(rest) < len(expected) - place:
            rest += [list(zip(ids([batch]), offered([batch]), strict=True)) for batch in resumed]
        assert rest == expected[place:]


def test_the_place_is_that_of_the_next_epoch_as_soon_as_the_last_batch_is_out() -> None:
    batches = made().batches(cases())
    places = [batches.state_dict() for _ in batches]
    assert places[0] == {"epoch": 0, "done": 1}
    assert places[-2] == {"epoch": 0, "done": len(batches) - 1}
    assert places[-1] == {"epoch": 1, "done": 0}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch(processes: int) -> None:
    alone = ids(made().batches(cases()))
    shared = [made().batches(cases(), rank=rank, processes=processes) for rank in range(processes)]
    assert {len(batches) for batches in shared} == {len(alone) // processes}
    parts = [ids(batches) for batches in shared]
    together = [parts[i % processes][i // processes] for i in range(len(alone) // processes * processes)]
    assert together == alone[: len(together)]


def test_a_seed_fixes_order_and_candidates() -> None:
    first, same, other = (made(seed=seed).batches(cases()) for seed in (1, 1, 2))
    assert offered(first) == offered(same)
    assert ids(same) != ids(other)


def test_examples_of_a_batch_are_alike_in_size() -> None:
    numbers = cases(200)
    batches = bucketed(
        [[number] for number in numbers], lambda example: len(example.context.turns), batch_size=8, seed="0"
    )
    spread = [len({len(example.context.turns) for example in batch}) for batch in batches]
    assert sum(spread) / len(spread) < 2
    means = [len(batch[0].context.turns) for batch in batches]
    assert means not in (sorted(means), sorted(means, reverse=True))


def test_only_so_many_batches_are_sorted_together() -> None:
    batches = bucketed(
        [[case] for case in cases(200)], lambda example: len(example.context.turns), batch_size=4, seed="0", span=1
    )
    spread = [len({len(example.context.turns) for example in batch}) for batch in batches]
    assert sum(spread) / len(spread) > 2


def test_candidates_are_the_reply_and_others_of_other_dialogues() -> None:
    owner = {turn.text: dialogue.id for dialogue in dialogues() for turn in dialogue.turns}
    places = Counter[int]()
    for batch in made().batches(cases()):
        pool = {text for example in batch.examples for text in example.target.candidates} - {
            example.target.text for example in batch.examples
        }
        assert len(pool) <= 20
        for example in batch.examples:
            candidates = example.target.candidates
            assert len(set(candidates)) == len(candidates) == 5
            places[candidates.index(example.target.text)] += 1
            others = set(candidates) - {example.target.text}
            assert example.context.id not in {owner[text] for text in others}
    assert set(places) == set(range(5))
    assert max(places.values()) < 0.4 * places.total()


def test_each_epoch_draws_anew() -> None:
    batches = made().batches(cases())
    drawn: list[dict[str, set[str]]] = [
        {example.id: set(example.target.candidates) for batch in batches for example in batch.examples}
        for _ in range(2)
    ]
    same = [name for name in drawn[0] if drawn[0][name] == drawn[1][name]]
    assert len(same) < 0.2 * len(drawn[0])


def test_candidates_that_are_given_are_kept() -> None:
    given = [
        replace(example, target=replace(example.target, candidates=("x", example.target.text))) for example in cases()
    ]
    for batch in made().batches(given):
        for example in batch.examples:
            assert example.target.candidates == ("x", example.target.text)


def test_few_replies_make_few_candidates() -> None:
    for batch in made().batches(cases(2)):
        for example in batch.examples:
            assert 2 <= len(example.target.candidates) <= 5
            assert example.target.text in example.target.candidates


@pytest.mark.parametrize(("candidates", "pool"), [(1, 20), (21, 20), (0, 0)])
def test_a_number_of_candidates_that_cannot_be_is_refused(candidates: int, pool: int) -> None:
    with pytest.raises(
        InputError, match=rf"task\.negatives: candidates must be between 2 and pool \({pool}\), not {candidates}"
    ):
        made(candidates=candidates, pool=pool)


def test_a_single_dialogue_has_no_wrong_replies_to_draw_from() -> None:
    with pytest.raises(InputError, match="dialogue d0 is the only one to train on, and its replies have no candidates"):
        made().batches(cases(1))


def test_held_out_examples_come_once_each_and_again_when_asked() -> None:
    batches = made().held_out(cases())
    for _ in range(2):
        names = [name for batch in ids(batches) for name in batch]
        assert Counter(names) == Counter(example.id for example in cases())
    assert sorted(len(batch.examples) for batch in batches) == [len(cases()) % 32] + [32] * (len(cases()) // 32)


def test_the_first_held_out_batches_are_a_sample_of_all_sizes() -> None:
    sizes = [len(batch.examples[0].context.turns) for batch in made().held_out(cases(300))]
    assert sizes != sorted(sizes)
    assert set(sizes[: len(sizes) // 2]) == set(sizes)


def test_rows_hold_the_scores_of_the_examples_candidates() -> None:
    context = cases()[0].context
    batch = [
        Example(context, Turn(1, "no", ("longer", "no"))),
        Example(context, Turn(1, "yes", ("yes", "a", "ab", "abcd"))),
    ]
    task = made()
    short, long = task.rows_of(task.held_out(batch)[0])
    assert (short.scores, short.target, short.dialogue, short.id) == ((6, 2), 1, "d0", "d0#1")
    assert (long.scores, long.target) == ((3, 1, 2, 4), 0)
    values = task.metrics([long, replace(long, target=3)])
    assert values["hits@1/4"] == [0, 1]
    assert values["mrr/4"] == [0.5, 1]


def test_one_reply_a_batch_has_no_other_in_its_batch() -> None:
    message = r"task\.batch_size: 1 leaves InBatch \(task\.negatives\) no wrong reply in any batch; give more, or other"
    with pytest.raises(InputError, match=message):
        Selection(model=Longest(), batch_size=1, negatives=InBatch()).batches(cases())


def test_many_candidates_are_scored_some_at_a_time() -> None:
    task, context = made(), cases()[0].context
    many = tuple("a" * length for length in range(1, 2 * SCORED + 3))
    found = [Example(replace(context, id=f"d{n}"), Turn(1, "aaaa", many[: max(n, 4)])) for n in (0, 4, 300, 400)]
    found.append(Example(replace(context, id="many"), Turn(1, many[-1], many)))
    batches = list(task.held_out(found))
    assert sorted(len(batch.examples) for batch in batches) == [1, 1, 1, 2]
    rows = {row.id: row for batch in batches for row in task.rows_of(batch)}
    for example in found:
        assert rows[example.id].scores == tuple(range(1, 1 + len(example.target.candidates)))
    parts = next(batch.inputs for batch in batches if batch.examples[0].target.candidates == many)
    assert [task.model.score(part).shape[1] for part in parts] == [SCORED, SCORED, 2]


def test_what_is_learnt_from_texts_does_not_know_the_true_reply() -> None:
    speakers = (Speaker("0"), Speaker("1"))
    read = [
        Counter(texts([Dialogue("d", speakers, (Turn(0, "hi"), Turn(1, true, ("yes", "no", "oh"))))]))
        for true in ("yes", "no", "oh")
    ]
    assert read[0] == read[1] == read[2]


def test_the_model_reads_every_sentence_as_often_as_it_occurs() -> None:
    speakers = (Speaker("0", Persona(("i like cats",))), Speaker("1", Persona(("i like dogs", "i sing"))))
    dialogue = Dialogue("d", speakers, (Turn(0, "hi"), Turn(1, "hi", ("hi", "no"))))
    assert Counter(texts([dialogue, dialogue])) == {"i like cats": 2, "i like dogs": 2, "i sing": 2, "hi": 4, "no": 2}
    task = made()
    task.prepare([dialogue])
    assert Counter(task.model.read) == {"i like cats": 1, "i like dogs": 1, "i sing": 1, "hi": 2, "no": 1}


def test_a_plan_asked_twice_for_an_epoch_is_the_same() -> None:
    rng = random.Random(0)
    shuffled = rng.sample(cases(), len(cases()))
    plan = made().batches(shuffled).plan
    assert plan(3) == plan(3) != plan(4)


def test_batches_of_the_toy_corpus_keep_its_candidates() -> None:
    found = examples(Toy(dialogues=10).split("train"), sides="both")
    task = Selection(model=Longest())
    batches: Batches = task.batches(found)
    seen = {example.id: example.target.candidates for batch in batches for example in batch.examples}
    assert seen == {example.id: example.target.candidates for example in found}


class Sharing(Longest):
    """Reads the contexts of one side of a dialogue as one."""

    shares_contexts = True


def test_a_side_of_a_dialogue_stays_together_where_its_contexts_are_shared() -> None:
    task = Selection(model=Sharing(), batch_size=10)
    batches = task.batches(cases())
    seen: dict[tuple[str, int], set[int]] = {}
    for number, batch in enumerate(batches):
        for example in batch.examples:
            seen.setdefault((example.context.id, example.target.speaker), set()).add(number)
    assert sum(len(batch.examples) for batch in task.batches(cases())) == len(cases())
    assert all(len(numbers) == 1 for numbers in seen.values())
    sizes = [len(batch.examples) for batch in task.batches(cases())]
    assert sorted(sizes)[1] >= 10  # all but the last one
    held = [example.id for batch in task.held_out(cases()) for example in batch.examples]
    assert sorted(held) == sorted(example.id for example in cases())
