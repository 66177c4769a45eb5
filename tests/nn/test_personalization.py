from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from personae.nn.name_table import NameTable
from personae.nn.personalization import APART, COMMON, USERS, Factorization, Personalization
from personae.types import Dialogue, InputError, Speaker, Turn

SMALL = Factorization(ranks=(4, 5, 3))


def answered(pairs: list[tuple[str, str | None]]) -> list[Dialogue]:
    return [
        Dialogue(f"d{place}", (Speaker("asker"), Speaker(user)), (Turn(0, "?"), Turn(1, "!")), question)
        for place, (user, question) in enumerate(pairs)
    ]


def asking(*names: str | None, text: str = "no such text") -> list[Dialogue]:
    """Contexts that ask something by these names."""
    return [Dialogue("d", (Speaker("asker"), Speaker("ann")), (Turn(0, text),), name) for name in names]


PAIRS = [("ann", "pets"), ("bob", "food"), ("ann", "food"), ("cid", None), ("cid", "sea")]


def made(factorization: Factorization = SMALL, *, seed: int = 0) -> Personalization:
    torch.manual_seed(seed)
    model = Personalization(size=6, encoded=7, factorization=factorization)
    model.prepare(answered(PAIRS))
    return model


def tucker(model: Personalization, user: Tensor, question: Tensor) -> Tensor:
    """The core times the factors, mode by mode."""
    made = torch.einsum("qur,q,u,kr->k", model.tensor.core, question, user, model.tensor.features)
    return made * model.tensor.spread


def test_an_embedding_is_of_the_user_and_the_question() -> None:
    model = made()
    assert list(model.users.names) == ["ann", "bob", "cid"]
    assert isinstance(model.questions, NameTable)
    assert list(model.questions.names) == ["pets", "food", "sea"]
    users, questions = model.users.numbers(["cid", "ann"]), model.numbers(asking("pets", "sea"))
    found = model(users, questions, torch.randn(2, 7))
    for row, (user, question) in enumerate(((2, 0), (0, 2))):
        expected = tucker(model, model.users.weight[user], model.questions.weight[question])
        torch.testing.assert_close(found[row], expected)


def test_who_or_what_is_unknown_has_the_mean_factor() -> None:
    model = made()
    assert isinstance(model.questions, NameTable)
    assert model.numbers(asking("hats", None, "food")).tolist() == [-1, -1, 1]
    found = model(torch.tensor([-1, 0]), torch.tensor([0, -1]), torch.randn(2, 7))
    user, question = model.users.weight, model.questions.weight
    torch.testing.assert_close(found[0], tucker(model, user.mean(0), question[0]))
    torch.testing.assert_close(found[1], tucker(model, user[0], question.mean(0)))


def test_a_question_without_its_name_is_found_by_its_letters() -> None:
    model = Personalization(size=6, encoded=7, factorization=SMALL)
    told = [("q17", "What do you eat ?"), ("q17", "what food do you like"), ("thanks", "thanks"), ("q9", "thanks !")]
    dialogues = [replace(each, question=name) for name, text in told for each in answered([("ann", name)])]
    model.prepare(
        [replace(each, turns=(Turn(0, text), Turn(1, "!"))) for each, (_, text) in zip(dialogues, told, strict=True)]
    )

    def numbers(name: str | None, text: str) -> int:
        return int(model.numbers(asking(name, text=text)))

    assert [numbers(None, text) for text in ("what do you EAT?", "What food do you like?!", "Thanks.", "hm")] == [
        *(0, 0, 1),
        -1,
    ]
    assert numbers("q9", "thanks") == 2  # its name counts first
    assert numbers("q5", "what do you eat") == 0
    assert numbers("q5", "hm") == -1
    assert model.numbers([replace(asking(None)[0], turns=())]).tolist() == [-1]
    again = Personalization(size=6, encoded=7, factorization=SMALL)
    again.load_state_dict(model.state_dict())
    assert again.numbers(asking(None, text="WHAT do you eat ?")).tolist() == [0]


def test_a_question_may_be_what_an_encoder_makes_of_it() -> None:
    model = made(replace(SMALL, question="encoder"))
    assert model.numbers(asking("pets", None)).tolist() == [-1, -1]
    encoded = torch.randn(2, 7)
    found = model(torch.tensor([1, -1]), model.numbers(asking("pets", None)), encoded)
    assert isinstance(model.questions, torch.nn.Linear)
    for row, user in enumerate((model.users.weight[1], model.users.weight.mean(0))):
        torch.testing.assert_close(found[row], tucker(model, user, model.questions(encoded[row])))


def test_before_it_is_prepared_it_knows_nobody() -> None:
    model = Personalization(size=6, encoded=7, factorization=SMALL)
    assert not model(torch.tensor([-1]), torch.tensor([-1]), torch.randn(1, 7)).any()


def test_factors_begin_as_is_said() -> None:
    torch.manual_seed(0)
    model = Personalization(size=6, encoded=7, factorization=Factorization(ranks=(200, 200, 3)))
    model.prepare(answered([(f"user-{place}", f"question-{place}") for place in range(200)]))
    assert isinstance(model.questions, NameTable)
    with torch.no_grad():
        assert float(model.users.weight.std()) == pytest.approx(USERS, rel=0.03)
        assert float(model.questions.mean().std()) == pytest.approx(COMMON, rel=0.15)
        assert float((model.questions.weight - model.questions.mean()).std()) == pytest.approx(APART, rel=0.03)
    assert pytest.approx(1, abs=0.01) == COMMON**2 + APART**2


@pytest.mark.parametrize("question", ["table", "encoder"])
def test_what_is_encoded_begins_around_a_vector_in_common_too(question: Any) -> None:
    torch.manual_seed(0)
    model = Personalization(size=6, encoded=7, factorization=Factorization(ranks=(200, 200, 3), question=question))
    model.prepare(answered(PAIRS))
    found = model.questions(torch.tensor([0, 1]) if question == "table" else torch.zeros(2, 7)).detach()
    assert float(found.mean(0).std()) == pytest.approx(COMMON, rel=0.2)
    assert torch.corrcoef(found)[0, 1] > 0.8


def test_users_that_begin_alike_begin_with_nothing_and_are_told_apart_by_a_step() -> None:
    model = made(replace(SMALL, alike=True))
    users, questions = model.users.numbers(["ann", "bob"]), model.numbers(asking("pets", "pets"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    first = model(users, questions, torch.randn(2, 7))
    assert not first.any()
    (first * torch.tensor([[1.0], [-1.0]])).sum().backward()
    optimizer.step()
    ann, bob = model(users, questions, torch.randn(2, 7))
    assert float(ann.sum().detach()) < 0 < float(bob.sum().detach())
    torch.testing.assert_close(model.tensor.core, made().tensor.core)


@pytest.mark.parametrize("question", ["table", "encoder"])
def test_what_it_draws_leaves_what_others_draw_as_it_is(question: Any) -> None:
    drawn = []
    for personal in (True, False):
        torch.manual_seed(3)
        before = torch.randn(2)
        if personal:
            model = Personalization(size=6, encoded=7, factorization=replace(SMALL, question=question))
            between = torch.randn(2)
            model.prepare(answered(PAIRS))
        else:
            between = torch.randn(2)
        drawn.append(torch.cat([before, between, torch.randn(2)]))
    assert torch.equal(*drawn)
    first, again, other = (made(replace(SMALL, question=question), seed=seed).state_dict() for seed in (1, 1, 2))
    for name in ("users.weight", "questions.weight", "tensor.core", "tensor.features"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(first["users.weight"][:, :3], first["questions.weight"][:3, :3])


def test_it_is_kept_with_the_names() -> None:
    model, other = made(seed=1), Personalization(size=6, encoded=7, factorization=SMALL)
    other.load_state_dict(model.state_dict())
    given = (torch.tensor([2, -1]), torch.tensor([-1, 1]), torch.zeros(2, 7))
    assert torch.equal(other(*given), model(*given))
    assert other.users.names == model.users.names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "tables"}, r"question: 'tables' is none of the choices table, encoder"),
        ({"ranks": (4, 0, 3)}, r"ranks: \[4, 0, 3\] are not three numbers of at least 1"),
        ({"ranks": (4, 3)}, r"ranks: \[4, 3\] are not three numbers of at least 1"),
        ({"balance": 1.5}, r"balance: 1\.5 is not between 0 and 1"),
        ({"balance": float("nan")}, r"balance: nan is not between 0 and 1"),
        ({"spread": 0.0}, r"spread: 0\.0 is not above 0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"task\.model\.tensor\." + message):
        Factorization(**arguments)
