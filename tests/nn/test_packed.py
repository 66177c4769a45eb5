"""Attention over packed sequences is the attention of the textbook."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from personae.nn.packed import COLUMNS, ROOM, ROWS, Attention, Seen, pack, upto

HEADS, WIDTH = 2, 8


def textbook(queries: Tensor, keys: Tensor, values: Tensor, sees: Tensor) -> Tensor:
    """Softmax attention by heads of (L, H) to (C, H), where `sees` (L, C)."""
    by_heads = [each.view(len(each), HEADS, -1).transpose(0, 1) for each in (queries, keys, values)]
    similar = (by_heads[0] @ by_heads[1].transpose(1, 2)).masked_fill(~sees, -torch.inf)
    return (similar.softmax(-1) @ by_heads[2]).transpose(0, 1).reshape(queries.shape)


def parts(states: Tensor, start: int, end: int) -> Sequence[Tensor]:
    return states[start:end].split(WIDTH, 1)


@pytest.fixture
def own() -> Tensor:
    return torch.randn(100, 3 * WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def contexts() -> Tensor:
    return torch.randn(90, 3 * WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def alike(found: Tensor, wanted: Tensor, *leaves: Tensor) -> None:
    """The same, and so are its gradients."""
    torch.testing.assert_close(found, wanted)
    weights = torch.arange(found.numel(), dtype=found.dtype).view_as(found).cos()
    mine, theirs = (torch.autograd.grad((each * weights).sum(), leaves) for each in (found, wanted))
    torch.testing.assert_close(mine, theirs)


def test_each_sequence_attends_to_itself(own: Tensor) -> None:
    starts = (0, 1, 40, 93)
    found = Attention.apply(own, HEADS, Seen(starts), None)
    wanted = torch.cat(
        [
            textbook(*parts(own, start, end), torch.ones(end - start, end - start).bool())
            for start, end in itertools.pairwise(starts)
        ]
    )
    alike(found[:93], wanted, own)
    assert not found[93:].any()


def masks(starts: Sequence[int]) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(2)
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    return [torch.rand(size, size, generator=drawn).gt(0.5).fill_diagonal_(True) for size in sizes]


def test_each_query_attends_to_what_it_sees(own: Tensor) -> None:
    starts = (0, 30, 37, 93)
    sees = masks(starts)
    found = Attention.apply(own, HEADS, Seen(starts, [each.double() for each in sees]), None)
    blocks = zip(itertools.pairwise(starts), sees, strict=True)
    alike(found[:93], torch.cat([textbook(*parts(own, *block), mask) for block, mask in blocks]), own)


def test_blocks_attend_to_a_span_of_others_too(own: Tensor, contexts: Tensor) -> None:
    starts, spans = (0, 30, 37, 93), ((3, 90), (0, 3), (0, 50))
    sees = masks(starts)
    found = Attention.apply(own, HEADS, Seen(starts, [each.double() for each in sees], spans), contexts)
    wanted = []
    for block, span, mask in zip(itertools.pairwise(starts), spans, sees, strict=True):
        queries, keys, values = parts(own, *block)
        _, keys_before, values_before = parts(contexts, *span)
        before = torch.ones(len(queries), len(keys_before)).bool()
        keys, values = torch.cat([keys_before, keys]), torch.cat([values_before, values])
        wanted.append(textbook(queries, keys, values, torch.cat([before, mask], 1)))
    alike(found[:93], torch.cat(wanted), own, contexts)


def test_similarities_may_be_of_any_size() -> None:
    own = torch.full((3, 3 * WIDTH), 1e3)
    assert Attention.apply(own, HEADS, Seen((0, 3)), None).isfinite().all()


def test_packing() -> None:
    packed = pack([([5, 6, 7], [1, 1, 2]), ([8], [3])])
    assert packed.starts == (0, 3, 4)
    assert packed.tokens[:4].tolist() == [5, 6, 7, 8]
    assert packed.kinds[:4].tolist() == [1, 1, 2, 3]
    assert packed.positions[:4].tolist() == [0, 1, 2, 0]
    assert packed.lengths().tolist() == [3, 1]
    assert len(packed.tokens) == len(packed.kinds) == len(packed.positions) == ROOM


@pytest.mark.parametrize("step", [ROWS, COLUMNS])
def test_filling_up(step: int) -> None:
    assert [upto(number, step) for number in (0, 1, step, step + 1)] == [0, step, step, 2 * step]
