import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from personae.nn.lora import LowRank, adapt, adapters, choose, plain
from personae.types import InputError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.second(self.norm(self.first(states).tanh()))


def stirred(block: nn.Module) -> None:
    """Trains the adapters to something or other."""
    for layer in adapters(block):
        layer.up.data.normal_()


def adapted(*, seed: int = 0, many: int | None = None) -> tuple[Block, Block]:
    torch.manual_seed(seed)
    block, other = Block(), Block()
    other.load_state_dict(block.state_dict())
    adapt(other, rank=2, alpha=6.0, many=many)
    return block, other


def test_nothing_changes_at_first() -> None:
    block, other = adapted()
    states = torch.randn(2, 4, 5)
    assert len(list(adapters(other))) == 2
    assert torch.equal(block(states), other(states))


def test_merged_weights_do_the_same() -> None:
    block, other = adapted()
    stirred(other)
    states = torch.randn(2, 4, 5)
    before = block(states)
    with torch.no_grad():
        block.first.weight.copy_(plain(other.first))
        block.second.weight.copy_(plain(other.second))
    assert torch.allclose(block(states), other(states), atol=1e-5)
    assert not torch.allclose(before, other(states), atol=0.1)
    layer = other.second
    assert isinstance(layer, LowRank)
    assert torch.allclose(layer.merged() - layer.weight, 3.0 * (layer.up @ layer.down), atol=1e-6)
    assert torch.linalg.matrix_rank(layer.merged() - layer.weight) == 2


def test_only_adapters_are_trained() -> None:
    _, other = adapted()
    stirred(other)
    other(torch.randn(2, 4, 5)).sum().backward()
    trained = {name for name, weight in other.named_parameters() if weight.requires_grad}
    assert trained == {"first.down", "first.up", "second.down", "second.up"}
    assert {name for name, weight in other.named_parameters() if weight.grad is not None} == trained


def test_names_of_weights_stay() -> None:
    block, other = adapted()
    assert set(block.state_dict()) < set(other.state_dict())
    other.load_state_dict(block.state_dict(), strict=False)


def test_each_row_has_its_own_adapter() -> None:
    _, many = adapted(many=3)
    stirred(many)
    states = torch.randn(3, 4, 5)
    apart = many(states)
    choose(many, torch.tensor([2, 0, 2, 1]))
    chosen = many(states[[2, 0, 1, 1]])
    for row, number in enumerate((2, 0, 2, 1)):
        _, one = adapted()
        for layer, single in zip(adapters(many), adapters(one), strict=True):
            single.down.data, single.up.data = layer.down.data[number], layer.up.data[number]
        assert torch.allclose(chosen[row], one(states[[2, 0, 1, 1][row]]), atol=1e-6)
        assert torch.allclose(apart[number], one(states[number]), atol=1e-6)
    choose(many, None)
    assert torch.equal(many(states), apart)


def test_many_adapters_are_trained_apart() -> None:
    _, many = adapted(many=3)
    stirred(many)
    many(torch.randn(3, 4, 5))[1].sum().backward()
    for layer in adapters(many):
        assert layer.up.grad is not None
        assert layer.up.grad[1].abs().sum() > 0
        assert layer.up.grad[[0, 2]].abs().sum() == 0


def test_the_linear_layers_of_gpt2() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(Conv1D(3, 5))
    states = torch.randn(2, 5)
    before = part(states)
    adapt(part, rank=1)
    assert torch.allclose(part(states), before, atol=1e-6)
    assert list(part.state_dict()) == ["0.weight", "0.bias", "0.down", "0.up"]


def test_a_rank_is_at_least_1() -> None:
    with pytest.raises(InputError, match=r"task\.model\.rank: 0"):
        adapt(Block(), rank=0)
