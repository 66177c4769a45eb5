"""How replies to one context are laid out; that the result is right is told by the equations of BERT."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from personae.nn.cross_encoder import Keys, stepped
from personae.nn.shared_context import CELLS, Block, Shared, SharedEncoder


@pytest.fixture
def encoder(backbone: str) -> SharedEncoder:
    torch.manual_seed(0)
    return SharedEncoder(backbone, longest=512, dropout=0.0, subtypes=3).eval()


def keys(encoder: SharedEncoder, firsts: Sequence[int], replies: Sequence[int]) -> list[Keys]:
    """Each first part with each reply, of so many tokens, in any order."""
    drawn = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [drawn.randrange(5, len(encoder.tokenizer)) for _ in range(length)]

    said, answers = [[(1, tokens(length))] for length in firsts], [[(2, tokens(length))] for length in replies]
    made = [encoder.sequence(first, answer) for first in said for answer in answers]
    return drawn.sample(made, len(made))


def states(encoder: SharedEncoder, given: Sequence[Keys]) -> Tensor:
    sequences, order = encoder.arrange(given)
    with torch.no_grad():
        found: Tensor = encoder(sequences)
    return found[order]


def test_each_sequence_is_where_it_is_said_to_be(encoder: SharedEncoder) -> None:
    given = [*keys(encoder, (4, 9), (2, 7, 3)), encoder.sequence([(1, [6])], None)]
    together = states(encoder, given)
    assert together.shape == (7, encoder.width)
    for row, key in zip(together, given, strict=True):
        torch.testing.assert_close(states(encoder, [key])[0], row, atol=1e-5, rtol=0)
    assert together.std(0).mean() > 0.01


def test_a_first_part_is_there_once(encoder: SharedEncoder) -> None:
    sequences, order = encoder.arrange(keys(encoder, (4, 9), (2, 7, 3)))
    assert sequences.first.shape == (2, stepped(9 + 2))
    assert sequences.reply.shape == (6, stepped(7 + 2))
    assert sorted(order.tolist()) == list(range(6))
    assert {block.offset for block in sequences.blocks} == {4 + 2, 9 + 2}


def test_a_long_reply_is_read_apart_from_the_short_ones(encoder: SharedEncoder) -> None:
    given = keys(encoder, (30,), [*(5 for _ in range(600)), 400])
    sequences, _ = encoder.arrange(given)
    assert sum(block.count for block in sequences.blocks) == 601
    assert all(block.count * block.longest <= CELLS for block in sequences.blocks)
    assert sequences.blocks[-1].count == 1
    assert sum(block.count * block.longest for block in sequences.blocks) == 600 * 7 + 402


@pytest.mark.parametrize("most", [1, 40, 100, 10_000])
def test_chunks_change_nothing_but_memory(encoder: SharedEncoder, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = keys(encoder, (4, 9, 6), (2, 7, 3))
    whole = states(encoder, given)
    sequences, _ = encoder.arrange(given)
    chunks = list(sequences.chunks(most))
    assert [block for chunk in chunks for block in chunk] == list(sequences.blocks)
    for chunk in chunks:
        cells = len(chunk) * max(block.count for block in chunk) * max(block.longest for block in chunk)
        assert cells <= most or len(chunk) == 1
    monkeypatch.setattr(Shared, "chunks", lambda self, given: iter(chunks))
    torch.testing.assert_close(states(encoder, given), whole, atol=1e-6, rtol=0)


def test_the_batch_moves_to_a_device(encoder: SharedEncoder) -> None:
    moved = encoder.arrange(keys(encoder, (4,), (2, 3)))[0].to("meta")
    assert isinstance(moved.blocks[0], Block)
    tensors = (moved.distinct, moved.first, moved.first_kinds, moved.reply, moved.reply_kinds)
    assert {part.device.type for part in tensors} == {"meta"}
