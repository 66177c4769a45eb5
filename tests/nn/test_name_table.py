import pytest
import torch

from personae.nn.name_table import NameTable
from personae.types import InputError


def made() -> NameTable:
    torch.manual_seed(0)
    table = NameTable(width=4)
    table.prepare(["ann", "bob", "ann", "cid"])
    return table


def test_names_have_rows_in_the_order_of_their_first_mention() -> None:
    table = made()
    assert table.names == {"ann": 0, "bob": 1, "cid": 2}
    assert table.numbers(["cid", "ann", "eve", None]).tolist() == [2, 0, -1, -1]
    assert torch.equal(table(torch.tensor([2, 0, 2])), table.weight[[2, 0, 2]])


def test_who_is_not_known_has_the_mean_and_nobody_zeros() -> None:
    table = made()
    mean = table.weight.detach().numpy().mean(0)
    found = table(torch.tensor([1, -1])).detach()
    assert torch.equal(found[0], table.weight[1])
    assert found[1].numpy() == pytest.approx(mean, abs=1e-6)
    table(torch.tensor([-1])).sum().backward()
    torch.testing.assert_close(table.weight.grad, torch.full((3, 4), 1 / 3))
    assert NameTable(width=4)(torch.tensor([-1, -1])).tolist() == [[0] * 4] * 2


def test_vectors_are_drawn_around_one_in_common() -> None:
    torch.manual_seed(0)
    spread, common = NameTable(width=200, spread=0.5), NameTable(width=200, spread=0.3, common=2.0)
    for table in (spread, common):
        table.prepare([str(number) for number in range(300)])
    with torch.no_grad():
        assert float(spread.weight.std()) == pytest.approx(0.5, rel=0.03)
        assert float(spread.mean().std()) < 0.05
        assert float(common.mean().std()) == pytest.approx(2.0, rel=0.15)
        assert float((common.weight - common.mean()).std()) == pytest.approx(0.3, rel=0.03)


def test_vectors_may_be_given() -> None:
    table = NameTable(width=2)
    vectors = torch.tensor([[1.0, 2], [3, 4]])
    table.prepare(["ann", "bob"], vectors)
    assert torch.equal(table.weight, vectors)
    table.weight.data.zero_()
    assert vectors.any()  # they are copied


def test_a_name_is_added_or_has_another_vector() -> None:
    table = made()
    before, vector = table.weight.detach().clone(), torch.arange(4.0)
    assert table.add("eve", vector) == 3 == table.numbers(["eve"]).item()
    assert torch.equal(table.weight, torch.cat([before, vector[None]]))
    assert table.weight.requires_grad
    assert table.add("ann", vector) == 0
    assert torch.equal(table.weight[0], vector)
    assert len(table.weight) == 4
    table.add("ann", before[0])
    assert torch.equal(table.mean(), before.mean(0))  # who was added is not in it


def test_names_are_kept_with_the_weights() -> None:
    table, other = made(), NameTable(width=4)
    other.load_state_dict(table.state_dict())
    assert other.names == table.names
    assert torch.equal(other.weight, table.weight)
    again = made()
    again.add("eve", torch.zeros(4))
    table.load_state_dict(again.state_dict())  # of more names than it had
    assert table.numbers(["eve"]).tolist() == [3]
    assert torch.equal(table.mean(), again.mean())


def test_the_width_is_checked() -> None:
    with pytest.raises(InputError, match="width: 0 is not at least 1"):
        NameTable(width=0)


def test_names_that_it_has_from_another_keep_their_vectors() -> None:
    trained, table = made(), NameTable(width=4)
    table.inherit(trained)
    table.weight.data.copy_(trained.weight)
    torch.manual_seed(1)
    table.prepare(["eve", "cid", "ann"])
    assert list(table.names) == ["eve", "cid", "ann"]
    assert torch.equal(table.weight[1:], trained.weight[[2, 0]])
    torch.manual_seed(1)
    fresh = NameTable(width=4)
    fresh.prepare(["eve", "cid", "ann"])
    assert torch.equal(table.weight[0], fresh.weight[0])
