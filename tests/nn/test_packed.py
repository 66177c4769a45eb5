"""Attention over packed sequences is the attention of the textbook."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from personae.nn.packed import COLUMNS, LONG, ROOM, ROWS, SHORT, TOGETHER, Attention, Seen, groups, pack, upto

HEADS, WIDTH = 2, 8


def textbook(queries: Tensor, keys: Tensor, values: Tensor, sees: Tensor) -> Tensor:
    """Softmax attention by heads of (L, H) to (C, H), where `sees` (L, C)."""
    by_heads = [each.view(len(each), HEADS, WIDTH // HEADS).transpose(0, 1) for each in (queries, keys, values)]
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


def attention(own: Tensor, seen: Seen, others: Tensor | None = None) -> Tensor:
    found: Tensor = Attention.apply(own, HEADS, groups(seen, own), seen.spans, others)  # type: ignore[no-untyped-call]
    return found


STARTS = (0, 1, 31, 38, 38, 93, 96)


def test_each_sequence_attends_to_itself(own: Tensor) -> None:
    found = attention(own, Seen(STARTS))
    blocks = itertools.pairwise(STARTS)
    wanted = [textbook(*parts(own, start, end), torch.ones(end - start, end - start).bool()) for start, end in blocks]
    alike(found[:96], torch.cat(wanted), own)
    assert not found[96:].any()


def test_a_token_sees_no_later_part(own: Tensor) -> None:
    of = torch.randint(3, (96,), generator=torch.Generator().manual_seed(2))
    found = attention(own, Seen(STARTS, of))
    wanted = [
        textbook(*parts(own, start, end), of[start:end, None] >= of[start:end])
        for start, end in itertools.pairwise(STARTS)
    ]
    alike(found[:96], torch.cat(wanted), own)


def test_some_see_others_too(own: Tensor, contexts: Tensor) -> None:
    spans = ((0, 20, 3, 90), (20, 31, 0, 3), (31, 60, 0, 90), (90, 96, 7, 7))
    found = attention(own, Seen(STARTS, spans=spans), contexts)
    wanted = []
    for block in itertools.pairwise(STARTS):
        queries, keys, values = parts(own, *block)
        _, keys_before, values_before = parts(contexts, 0, 90)
        keys, values = torch.cat([keys_before, keys]), torch.cat([values_before, values])
        sees = torch.ones(len(queries), len(keys)).bool()
        sees[:, :90] = False
        for place in range(*block):
            for start, end, first, last in spans:
                if start <= place < end:
                    sees[place - block[0], first:last] = True
        wanted.append(textbook(queries, keys, values, sees))
    alike(found[:96], torch.cat(wanted), own, contexts)


def test_sequences_of_any_length_in_groups(own: Tensor) -> None:
    seen = Seen(STARTS)
    found = groups(seen, own)
    assert [tuple(group.index.shape) for group in found] == [(TOGETHER, SHORT), (TOGETHER, 2 * SHORT), (TOGETHER, LONG)]
    assert torch.cat([group.tokens for group in found]).sort().values.tolist() == list(range(96))
    long = Seen((0, LONG + 1, 90))
    assert [tuple(group.index.shape) for group in groups(long, own)] == [(TOGETHER, 2 * SHORT), (1, 2 * LONG)]


def test_similarities_may_be_of_any_size() -> None:
    own = torch.full((3, 3 * WIDTH), 1e3)
    assert attention(own, Seen((0, 3))).isfinite().all()


def test_large_similarities_are_told_apart() -> None:
    own = torch.ones(3, 3 * WIDTH)
    width = WIDTH // HEADS
    own[:, WIDTH : 2 * WIDTH] = torch.tensor([100.0, 99.0, 0.0])[:, None] / width
    own[:, 2 * WIDTH :] = torch.eye(3, WIDTH)
    shares = torch.tensor([100.0, 99.0, 0.0]).softmax(0)
    expected = torch.zeros(WIDTH).scatter(0, torch.arange(3), shares).expand(3, WIDTH)
    assert torch.allclose(attention(own, Seen((0, 3))), expected, atol=1e-5)


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
