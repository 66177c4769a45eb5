"""New users: the most probable vectors by what they said and by what users are like."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personae.models.generation.memory import Memory
from personae.nn import newcomers
from personae.nn.encoder_decoder import Sizes
from personae.nn.name_table import NameTable
from personae.nn.personalization import Factorization
from personae.nn.recall import Recall
from personae.nn.speakers import Speakers
from personae.nn.user_writer import UserWriter
from personae.types import Dialogue, Example, InputError, Speaker, Turn


class Batch:
    def __init__(self, users: Tensor, seen: Tensor) -> None:
        self.users, self.seen = users, seen

    def to(self, device: torch.device) -> "Batch":
        return self


class Line(nn.Module):
    """What a user says are three numbers, a linear map of their vector and noise of a standard deviation of 1."""

    def __init__(self, users: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.speakers = Speakers(width=4, start="random")
        self.speakers.table.prepare([f"user-{place}" for place in range(users)], torch.randn(users, 4) + 2)
        self.map = nn.Linear(4, 3, bias=False)
        self.dropout = nn.Dropout(0.9)

    def collate(self, examples: list[Example]) -> Batch:
        seen = torch.tensor([[float(number) for number in example.target.text.split()] for example in examples])
        return Batch(self.speakers.table.numbers([example.user.id for example in examples]), seen)

    def log_likelihood(self, batch: Batch) -> tuple[Tensor, Tensor]:
        away = batch.seen - self.map(self.dropout(self.speakers.table(batch.users)))
        return -away.square().sum(1) / 2, torch.full((len(away),), 3)


def messages(user: str, seen: Tensor) -> list[Example]:
    speakers = (Speaker("partner"), Speaker(user))
    texts = [" ".join(f"{number:.6f}" for number in row) for row in seen.tolist()]
    return [Example(Dialogue(f"{place}", speakers, ()), Turn(1, text)) for place, text in enumerate(texts)]


@pytest.mark.parametrize("users", [3, 12])  # fewer than the vectors have features, and more
@pytest.mark.parametrize("count", [1, 5, 200])
def test_a_new_user_is_the_most_probable_one(users: int, count: int) -> None:
    model = Line(users)
    table = model.speakers.table
    seen = torch.randn(count, 3) + 1
    vectors, weight = table.weight.detach().double(), model.map.weight.detach().double()
    newcomers.fit(model, "eve", messages("eve", seen), steps=40)
    mean = vectors.mean(0)
    covariance = torch.cov(vectors.t())
    gain = covariance @ weight.t() @ torch.linalg.inv(weight @ covariance @ weight.t() + torch.eye(3) / count)
    expected = mean + gain @ (seen.double().mean(0) - weight @ mean)
    assert table.weight[table.names["eve"]].detach().double() == pytest.approx(expected, abs=2e-3)


def test_without_messages_it_is_the_mean_and_stays_it_whoever_is_added() -> None:
    model = Line(5)
    table = model.speakers.table
    mean = table.mean().detach().clone()
    newcomers.fit(model, "ann", messages("ann", torch.full((4, 3), 9.0)))
    newcomers.fit(model, "eve", [])
    assert torch.equal(table.weight[table.names["eve"]], mean)
    assert torch.equal(table.mean(), mean)


def test_all_else_is_as_before() -> None:
    model = Line(5).train()
    model.map.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    newcomers.fit(model, "eve", messages("eve", torch.ones(2, 3)))
    after = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    after["speakers.table.weight"] = after["speakers.table.weight"][:5]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.training
    assert model.dropout.training
    assert not model.map.weight.requires_grad
    assert model.speakers.table.weight.requires_grad


def test_users_do_not_depend_on_one_another_and_a_second_time_is_as_the_first() -> None:
    seen = torch.randn(3, 3)
    found = []
    for others in ([], ["ann", "bob"], ["eve"]):
        model = Line(5)
        for other in others:
            newcomers.fit(model, other, messages(other, -seen))
        newcomers.fit(model, "eve", messages("eve", seen))
        found.append(model.speakers.table.weight[model.speakers.table.names["eve"]].detach())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_said_becomes_likelier() -> None:
    before, after = newcomers.fit(Line(12), "eve", messages("eve", torch.ones(5, 3)))
    assert after > before


@pytest.mark.parametrize(("memories", "speakers", "tensor"), [(0, True, True), (3, False, True), (2, True, False)])
def test_what_a_writer_has_of_users_is_found(memories: int, speakers: bool, tensor: bool) -> None:
    model: Any = nn.Module()
    model.writer = UserWriter(
        sizes=Sizes(width=4, hidden=4),
        speakers=Speakers(width=2, start="random") if speakers else None,
        memories=memories,
        tensor=Factorization(ranks=(2, 3, 2)) if tensor else None,
    )
    names = [*(["writer.speakers.table"] if speakers else []), *(["writer.personal.users"] if tensor else [])]
    assert list(newcomers.tables(model)) == names
    assert all(isinstance(table, NameTable) for table in newcomers.tables(model).values())
    found = newcomers.memory(model)
    assert (found is None) == (memories == 0)
    assert found is None or found is model.writer.histories


def test_a_model_that_learns_nothing_of_users() -> None:
    with pytest.raises(InputError, match="nothing is learnt of users"):
        newcomers.fit(nn.Linear(2, 2), "eve", [])


def test_no_message_is_among_what_its_user_is_remembered_to_have_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Turn(0, "what do you like")]
    trained = [
        Dialogue(f"{place}", (Speaker("partner"), Speaker(f"user-{place}")), (*asked, Turn(1, f"i like {place}")))
        for place in range(3)
    ]
    model = Memory(sizes=Sizes(width=4, hidden=4, min_count=1), speakers=Speakers(width=2, start="random"), memories=2)
    model.prepare(trained)
    said = ("tea", "a walk", "to like it")
    context = Dialogue("new", (Speaker("partner"), Speaker("eve", history=said)), tuple(asked))
    left_out = []
    like = Recall.like
    monkeypatch.setattr(Recall, "like", lambda *given, **more: (left_out.append(more), like(*given, **more))[1])
    for training in (True, False):
        newcomers.fit(model.train(training), "eve", [Example(context, Turn(1, text)) for text in said], steps=2)
        assert model.training == training
    assert [more["leave_out"] for more in left_out] == [*said, *said]
