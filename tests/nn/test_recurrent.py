from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence
from torch.nn.utils.rnn import pack_padded_sequence as pack_padded

from personae.nn.recurrent import BiLSTM, Packing, pack, pool

HIDDEN, WIDTH = 5, 3
LENGTHS = [
    [1],
    [4],
    [1, 1, 1],
    [3, 3, 3],
    [1, 7, 2, 7, 1, 4],
    [9, 8, 7, 1],
    torch.randint(1, 12, (30,), generator=torch.Generator().manual_seed(0)).tolist(),
]
sizes = pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: "-".join(map(str, lengths))[:20])


def laid_out(lengths: Sequence[int]) -> tuple[Tensor, Packing]:
    """The first row of each sequence, one after the other, and the packing."""
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    return starts, pack(starts, sizes)


def inputs(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layers() -> tuple[BiLSTM, nn.LSTM]:
    """The layer and torch's with the same weights."""
    torch.manual_seed(2)
    ours = BiLSTM(width=WIDTH, hidden=HIDDEN).double()
    nn.init.normal_(ours.bias)
    theirs = nn.LSTM(WIDTH, HIDDEN, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for direction, suffix in enumerate(("", "_reverse")):
            rows = slice(4 * HIDDEN * direction, 4 * HIDDEN * (direction + 1))
            getattr(theirs, f"weight_ih_l0{suffix}").copy_(ours.input[rows])
            getattr(theirs, f"weight_hh_l0{suffix}").copy_(ours.recurrent[direction])
            getattr(theirs, f"bias_ih_l0{suffix}").copy_(ours.bias[rows])
            getattr(theirs, f"bias_hh_l0{suffix}").zero_()
    return ours, theirs


def torch_pack(tokens: Tensor, lengths: Sequence[int]) -> PackedSequence:
    padded = pad_sequence(list(tokens.split(list(lengths))), batch_first=True)
    return pack_padded(padded, torch.tensor(lengths), batch_first=True, enforce_sorted=False)


@sizes
def test_packing_is_torchs(lengths: list[int]) -> None:
    _, packing = laid_out(lengths)
    rows = torch.arange(sum(lengths), dtype=torch.float64)[:, None]
    theirs = torch_pack(rows, lengths)
    assert packing.sizes == theirs.batch_sizes.tolist()
    order = torch.argsort(packing.places)  # the sequences, longest first; ties may come in another order than torch's
    sizes = torch.tensor(lengths)
    assert sizes[order].tolist() == sorted(lengths, reverse=True)
    starts = sizes.cumsum(0) - sizes
    expected = [int(starts[s]) + step for step in range(max(lengths)) for s in order.tolist() if step < lengths[s]]
    assert packing.rows.tolist() == expected
    assert packing.rows[packing.last][packing.places].tolist() == (starts + sizes - 1).tolist()


def test_rows_may_be_left_out_and_come_in_any_order() -> None:
    packing = pack(torch.tensor([5, 1, 0]), torch.tensor([2, 3, 1]))
    assert packing.sizes == [3, 2, 1]
    assert packing.rows.tolist() == [1, 5, 0, 2, 6, 3]
    assert packing.places.tolist() == [1, 0, 2]
    assert packing.last.tolist() == [5, 4, 2]


@sizes
def test_outputs_and_gradients_are_those_of_torchs_lstm(lengths: list[int]) -> None:
    ours, theirs = layers()
    tokens = inputs(sum(lengths)).requires_grad_()
    same = tokens.detach().clone().requires_grad_()
    _, packing = laid_out(lengths)
    output = ours(ours.project(tokens), packing)
    expected, _ = pad_packed_sequence(theirs(torch_pack(same, lengths))[0], batch_first=True)
    rows = torch.cat([row[:length] for row, length in zip(expected, lengths, strict=True)])  # (T, 2H), in order
    torch.testing.assert_close(output, rows[packing.rows], atol=1e-12, rtol=1e-10)

    weight = torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    names, parameters = zip(*theirs.named_parameters(), strict=True)
    token_gradient, *gradients = torch.autograd.grad((rows * weight).sum(), [same, *parameters])
    of = dict(zip(names, gradients, strict=True))
    wanted = {
        "input": torch.cat([of["weight_ih_l0"], of["weight_ih_l0_reverse"]]),
        "recurrent": torch.stack([of["weight_hh_l0"], of["weight_hh_l0_reverse"]]),
        "bias": torch.cat([of["bias_ih_l0"], of["bias_ih_l0_reverse"]]),
    }
    (output * weight[packing.rows]).sum().backward()
    torch.testing.assert_close(tokens.grad, token_gradient, atol=1e-10, rtol=1e-10)
    assert {name for name, _ in ours.named_parameters()} == set(wanted)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-10, rtol=1e-10)


def test_gradients_are_those_of_finite_differences_and_rows_left_out_get_none() -> None:
    ours, _ = layers()
    packing = pack(torch.tensor([5, 1, 0]), torch.tensor([2, 3, 1]))
    gates = ours.project(inputs(8)).detach().requires_grad_()
    recurrent = ours.recurrent.detach().clone().requires_grad_()

    def run(gates: Tensor, recurrent: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(ours, {"recurrent": recurrent}, (gates, packing))
        return output

    assert torch.autograd.gradcheck(run, (gates, recurrent))
    run(gates, recurrent).sum().backward()
    assert gates.grad is not None
    assert gates.grad.abs().sum(1).gt(0).tolist() == [True, True, True, True, False, True, True, False]


def test_gates_may_come_in_pieces() -> None:
    ours, _ = layers()
    packing = pack(torch.tensor([5, 1, 0]), torch.tensor([2, 3, 1]))
    whole = ours.project(inputs(8)).detach().requires_grad_()
    pieces = [piece.detach().clone().requires_grad_() for piece in whole.split([2, 1, 5])]
    output, same = ours(whole, packing), ours(pieces, packing)
    assert torch.equal(output, same)
    (gradient,) = torch.autograd.grad(output.square().sum(), whole)
    assert torch.equal(torch.cat(torch.autograd.grad(same.square().sum(), pieces)), gradient)


@sizes
def test_pool_is_the_maximum_and_where_each_direction_ends(lengths: list[int]) -> None:
    starts, packing = laid_out(lengths)
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(sum(lengths), 2 * HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
    pooled = pool(tokens[packing.rows], packing)
    expected = torch.stack(
        [torch.cat([row.max(0).values, row[-1, :HIDDEN], row[0, HIDDEN:]]) for row in tokens.split(lengths)]
    )
    torch.testing.assert_close(pooled, expected, atol=0, rtol=0)
    weight = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    (ours,) = torch.autograd.grad((pooled * weight).sum(), tokens)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert pooled.shape == (len(starts), 4 * HIDDEN)


def test_a_maximum_that_occurs_twice_passes_its_gradient_once() -> None:
    tokens = torch.zeros(3, 2, requires_grad=True)
    pool(tokens, pack(torch.tensor([0]), torch.tensor([3])))[0, :2].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.sum(0).tolist() == [1, 1]


def test_half_precision_steps_in_single_precision() -> None:
    ours, _ = layers()
    ours.float()
    _, packing = laid_out([3, 2])
    gates = ours.project(inputs(5).float())
    assert torch.equal(ours(gates.bfloat16(), packing), ours(gates.bfloat16().float(), packing))
    assert ours(gates.bfloat16(), packing).dtype == torch.float32


def test_a_forget_gate_starts_open() -> None:
    layer = BiLSTM(width=WIDTH, hidden=HIDDEN)
    gates = layer.bias.view(2, 4, HIDDEN)
    assert gates[:, 1].eq(1).all()
    assert gates[:, [0, 2, 3]].eq(0).all()
    square = layer.recurrent.view(8, HIDDEN, HIDDEN)
    torch.testing.assert_close(square @ square.transpose(1, 2), torch.eye(HIDDEN).expand(8, -1, -1))


def test_the_parts_of_the_input_start_at_their_own_gains() -> None:
    torch.manual_seed(0)
    plain = BiLSTM(width=6, hidden=4)
    torch.manual_seed(0)
    scaled = BiLSTM(width=6, hidden=4, gain=(0.5, 1.0, 2.0))
    times = torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0])
    torch.testing.assert_close(scaled.input, plain.input * times)
    assert torch.equal(scaled.recurrent, plain.recurrent)
