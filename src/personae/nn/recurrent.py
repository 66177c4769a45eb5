"""A bidirectional LSTM over sequences of real lengths, fed with gates that its caller has already projected.

`torch.nn.LSTM` multiplies every input by its input weight itself, so a caller that could project a shared part of the
input once (a context that meets twenty candidates) pays for it twenty times. Here the projection is the caller's
(`BiLSTM.project`, or any sum that equals it), no step is spent on padding, and the gradients are written out, since
autograd over the steps of a recurrence costs more than the steps.

Letters: S sequences, T tokens of all of them together, R rows of input, H hidden units a direction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Where the tokens of S sequences lie: step by step, the longest sequence first, as in torch's `PackedSequence`.

    `rows` (T,) is the input row of each packed token; `sizes` the number of sequences that still run at each step;
    `places` (S,) the packed place of each sequence; `last` (S,) the packed token that ends the sequence at each place.
    """

    rows: Tensor
    sizes: list[int]
    places: Tensor
    last: Tensor


def pack(starts: Tensor, lengths: Tensor) -> Packing:
    """Packs sequences of which number s occupies the rows `starts[s]` to `starts[s] + lengths[s] - 1`; both (S,), every
    length at least 1. No two may share a row, but rows may be left out."""
    order = torch.argsort(lengths, descending=True, stable=True)
    lengths, starts = lengths[order], starts[order]
    steps = torch.arange(int(lengths[0]), device=lengths.device)
    runs = steps[:, None] < lengths  # (steps, S), True at the front of each row
    sizes: list[int] = runs.sum(1).tolist()
    rows = (starts + steps[:, None])[runs]
    offsets = torch.tensor([0, *sizes], device=lengths.device).cumsum(0)
    last = offsets[lengths - 1] + torch.arange(len(order), device=lengths.device)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return Packing(rows, sizes, places, last)


def _spans(sizes: list[int], *, reverse: bool) -> list[tuple[int, int]]:
    """The packed tokens [start, end) of each step, in the order in which a direction reads them."""
    spans, start = [], 0
    for size in sizes:
        spans.append((start, start + size))
        start += size
    return spans[::-1] if reverse else spans


class _Recurrence(torch.autograd.Function):
    """One direction of an LSTM, from the input's share of the gates (R, 4H) to the hidden states (T, H)."""

    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, rows: Tensor, sizes: list[int], reverse: bool) -> Tensor:  # type: ignore[no-untyped-def]
        hidden = weight.shape[1]
        gates_at = gates.index_select(0, rows)  # (T, 4H), becomes the activations i, f, g, o
        output, cells = gates_at.new_empty(len(rows), hidden), gates_at.new_empty(len(rows), hidden)
        state, cell = gates_at.new_zeros(sizes[0], hidden), gates_at.new_zeros(sizes[0], hidden)
        transposed = weight.t()
        for start, end in _spans(sizes, reverse=reverse):
            now, h, c = gates_at[start:end], state[: end - start], cell[: end - start]
            now.addmm_(h, transposed)
            now[:, : 2 * hidden].sigmoid_()
            now[:, 2 * hidden : 3 * hidden].tanh_()
            now[:, 3 * hidden :].sigmoid_()
            i, f, g, o = now.split(hidden, 1)
            c.mul_(f).addcmul_(i, g)
            torch.tanh(c, out=h)
            h.mul_(o)
            output[start:end] = h
            cells[start:end] = c
        ctx.save_for_backward(gates_at, weight, rows, output, cells)
        ctx.sizes, ctx.reverse, ctx.input_rows = sizes, reverse, len(gates)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):  # type: ignore[no-untyped-def]
        activations, weight, rows, output, cells = ctx.saved_tensors
        sizes, hidden = ctx.sizes, weight.shape[1]
        grad_gates = torch.empty_like(activations)
        grad_weight = torch.zeros_like(weight)
        grad_h, grad_c = output.new_zeros(sizes[0], hidden), output.new_zeros(sizes[0], hidden)
        spans = _spans(sizes, reverse=ctx.reverse)
        for step in range(len(spans) - 1, -1, -1):
            start, end = spans[step]
            size = end - start
            before = spans[step - 1] if step else (0, 0)
            carried = min(size, before[1] - before[0])  # sequences that had a state to continue from
            i, f, g, o = activations[start:end].split(hidden, 1)
            d_i, d_f, d_g, d_o = grad_gates[start:end].split(hidden, 1)
            h, c = grad_h[:size], grad_c[:size]
            h += grad_output[start:end]
            squashed = torch.tanh(cells[start:end])
            torch.mul(h, squashed, out=d_o)
            c += torch.ops.aten.tanh_backward(h * o, squashed)
            torch.mul(c, g, out=d_i)
            torch.mul(c, i, out=d_g)
            d_f.zero_()
            if carried:
                torch.mul(c[:carried], cells[before[0] : before[0] + carried], out=d_f[:carried])
            d_i.copy_(torch.ops.aten.sigmoid_backward(d_i, i))
            d_f.copy_(torch.ops.aten.sigmoid_backward(d_f, f))
            d_g.copy_(torch.ops.aten.tanh_backward(d_g, g))
            d_o.copy_(torch.ops.aten.sigmoid_backward(d_o, o))
            c.mul_(f)
            torch.mm(grad_gates[start:end], weight, out=h)
            if carried:
                grad_weight.addmm_(grad_gates[start : start + carried].t(), output[before[0] : before[0] + carried])
        grad_input = grad_gates.new_zeros(ctx.input_rows, grad_gates.shape[1]).index_copy_(0, rows, grad_gates)
        return grad_input, grad_weight, None, None, None


class _MaxOverTime(torch.autograd.Function):
    """The greatest value of each feature in each sequence, from packed tokens (T, F) to (S, F)."""

    @staticmethod
    def forward(ctx, tokens: Tensor, sizes: list[int]) -> Tensor:  # type: ignore[no-untyped-def]
        greatest = tokens[: sizes[0]].clone()
        where = torch.arange(sizes[0], device=tokens.device)[:, None].repeat(1, tokens.shape[1])
        for start, end in _spans(sizes, reverse=False)[1:]:
            now, best = tokens[start:end], greatest[: end - start]
            higher = now > best
            places = torch.arange(start, end, device=tokens.device)[:, None]
            where[: end - start] = torch.where(higher, places, where[: end - start])
            torch.maximum(now, best, out=best)
        ctx.save_for_backward(where)
        ctx.tokens = len(tokens)
        return greatest

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (where,) = ctx.saved_tensors
        return grad.new_zeros(ctx.tokens, grad.shape[1]).scatter_(0, where, grad), None


class BiLSTM(nn.Module):
    """One bidirectional LSTM layer. Its weights have the layout of `torch.nn.LSTM` (gates i, f, g, o), the two
    directions stacked: `input` (8H, width), `recurrent` (2, 4H, H), `bias` (8H,)."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Parameter(torch.empty(8 * hidden, width))
        self.recurrent = nn.Parameter(torch.empty(2, 4 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(8 * hidden))
        for direction in range(2):
            for gate in range(4):
                place = (direction * 4 + gate) * hidden
                nn.init.xavier_uniform_(self.input.data[place : place + hidden])
                nn.init.orthogonal_(self.recurrent.data[direction, gate * hidden : (gate + 1) * hidden])
            self.bias.data[(direction * 4 + 1) * hidden : (direction * 4 + 2) * hidden] = 1  # keep at first

    def project(self, inputs: Tensor) -> Tensor:
        """The input's share of the gates: (..., width) to (..., 8H)."""
        return F.linear(inputs, self.input, self.bias)

    def forward(self, gates: Tensor, packing: Packing) -> Tensor:
        """Hidden states (T, 2H), packed, from the input's share of the gates (R, 8H). Steps are taken in single
        precision at least: half precision would lose what the cell adds up."""
        if gates.dtype in (torch.bfloat16, torch.float16):
            gates = gates.float()
        forth, back = gates.split(4 * self.hidden, 1)
        return torch.cat(
            [
                _Recurrence.apply(forth, self.recurrent[0], packing.rows, packing.sizes, False),  # type: ignore[no-untyped-call]
                _Recurrence.apply(back, self.recurrent[1], packing.rows, packing.sizes, True),  # type: ignore[no-untyped-call]
            ],
            1,
        )


def pool(tokens: Tensor, packing: Packing) -> Tensor:
    """Max over time and the state in which each direction ends, concatenated: packed (T, 2H) to (S, 4H), in the order
    in which the sequences were given to `pack`."""
    hidden = tokens.shape[1] // 2
    greatest = _MaxOverTime.apply(tokens, packing.sizes)  # type: ignore[no-untyped-call]  # (S, 2H)
    ends = torch.cat([tokens[:, :hidden].index_select(0, packing.last), tokens[: len(packing.last), hidden:]], 1)
    return torch.cat([greatest, ends], 1).index_select(0, packing.places)
