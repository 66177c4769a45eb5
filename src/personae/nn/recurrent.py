"""A bidirectional LSTM over sequences of real lengths, fed with gates that its caller has already projected.

`torch.nn.LSTM` multiplies every input by its input weight itself, so a caller that could project a shared part of the
input once (a context that meets twenty candidates) pays for it twenty times. Here the projection is the caller's
(`BiLSTM.project`, or any sum that equals it), no step is spent on padding, and the gradients are written out, since
autograd over the steps of a recurrence costs more than the steps.

Letters: S sequences, T tokens of all of them together, R rows of input, H hidden units a direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from personae.types import InputError

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


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


def _steps(sizes: list[int], *, reverse: bool) -> list[tuple[int, int, int, int]]:
    """Each step in the order in which a direction reads them: its packed tokens are [start, end), and the first
    `carried` of them go on from the tokens that begin at `before`."""
    starts = [0, *accumulate(sizes)]
    order = range(len(sizes))[:: -1 if reverse else 1]
    steps, before, running = [], 0, 0
    for step in order:
        steps.append((starts[step], starts[step + 1], before, min(sizes[step], running)))
        before, running = starts[step], sizes[step]
    return steps


class _Recurrence(torch.autograd.Function):
    """An LSTM in both directions, from the input's share of the gates, R rows of 8H in several pieces, to the hidden
    states (T, 2H)."""

    @staticmethod
    def forward(ctx, weight: Tensor, packing: Packing, *pieces: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        hidden, tokens, rows = weight.shape[2], len(packing.rows), sum(map(len, pieces))
        slots = packing.rows.new_full((rows,), tokens)  # one slot more than tokens, for rows that are left out
        slots[packing.rows] = torch.arange(tokens, device=slots.device)
        activations = pieces[0].new_empty(tokens + 1, 8 * hidden)  # i, f, g, o of each direction
        for slot, piece in zip(slots.split([len(piece) for piece in pieces]), pieces, strict=True):
            activations.index_copy_(0, slot, piece)
        output, cells = activations.new_empty(tokens, 2 * hidden), activations.new_empty(tokens, 2 * hidden)
        for direction, (gates, states, kept) in enumerate(
            zip(activations.chunk(2, 1), output.chunk(2, 1), cells.chunk(2, 1), strict=True)
        ):
            transposed = weight[direction].t()
            for start, end, before, carried in _steps(packing.sizes, reverse=direction == 1):
                now, h, c = gates[start:end], states[start:end], kept[start:end]
                if carried:
                    now[:carried].addmm_(states[before : before + carried], transposed)
                now[:, : 2 * hidden].sigmoid_()
                now[:, 2 * hidden : 3 * hidden].tanh_()
                now[:, 3 * hidden :].sigmoid_()
                i, f, g, o = now.chunk(4, 1)
                torch.mul(i, g, out=c)
                c[:carried].addcmul_(f[:carried], kept[before : before + carried])
                torch.tanh(c, out=h)
                h.mul_(o)
        ctx.save_for_backward(activations, weight, output, cells, slots)
        ctx.sizes, ctx.pieces = packing.sizes, [len(piece) for piece in pieces]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):  # type: ignore[no-untyped-def]
        activations, weight, output, cells, slots = ctx.saved_tensors
        hidden, most = weight.shape[2], ctx.sizes[0]
        grad_gates, grad_weight = torch.empty_like(activations), torch.empty_like(weight)
        grad_gates[-1] = 0  # what is left out
        for direction, (gates, grads, states, kept, grad_states) in enumerate(
            zip(*(each.chunk(2, 1) for each in (activations, grad_gates, output, cells, grad_output)), strict=True)
        ):
            previous = output.new_zeros(len(output), hidden)  # the state that each token goes on from
            grad_h, grad_c, squashed = output.new_zeros(3, most, hidden)
            for start, end, before, carried in reversed(_steps(ctx.sizes, reverse=direction == 1)):
                h, c, t = grad_h[: end - start], grad_c[: end - start], squashed[: end - start]
                i, f, g, o = gates[start:end].chunk(4, 1)
                d_i, d_f, d_g, d_o = grads[start:end].chunk(4, 1)
                h += grad_states[start:end]
                torch.tanh(kept[start:end], out=t)
                torch.mul(h, t, out=d_o)
                c += _tanh_backward(h.mul_(o), t, grad_input=t)
                torch.mul(c, g, out=d_i)
                torch.mul(c, i, out=d_g)
                torch.mul(c[:carried], kept[before : before + carried], out=d_f[:carried])
                d_f[carried:] = 0
                _sigmoid_backward(d_i, i, grad_input=d_i)
                _sigmoid_backward(d_f, f, grad_input=d_f)
                _tanh_backward(d_g, g, grad_input=d_g)
                _sigmoid_backward(d_o, o, grad_input=d_o)
                c.mul_(f)
                torch.mm(grads[start:end], weight[direction], out=h)
                previous[start : start + carried] = states[before : before + carried]
            torch.mm(grads[:-1].t(), previous, out=grad_weight[direction])
        return grad_weight, None, *(grad_gates.index_select(0, slot) for slot in slots.split(ctx.pieces))


class BiLSTM(nn.Module):
    """One bidirectional LSTM layer. Its weights have the layout of `torch.nn.LSTM` (gates i, f, g, o), the two
    directions stacked: `input` (8H, width), `recurrent` (2, 4H, H), `bias` (8H,). The first input weights are Xavier's
    times `gain`, of which there may be one for each of as many equal parts of the input; the recurrent ones are
    orthogonal, and forget gates start open."""

    def __init__(self, *, width: int, hidden: int, gain: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        if hidden < 1:
            raise InputError(f"task.model.hidden: {hidden} is not at least 1")
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
        gains = (gain,) if isinstance(gain, int | float) else gain
        for part, times in zip(self.input.data.chunk(len(gains), 1), gains, strict=True):
            part.mul_(times)

    def project(self, inputs: Tensor) -> Tensor:
        """The input's share of the gates: (..., width) to (..., 8H)."""
        return F.linear(inputs, self.input, self.bias)

    def forward(self, gates: Tensor | Sequence[Tensor], packing: Packing) -> Tensor:
        """Hidden states (T, 2H), packed, from the input's share of the gates (R, 8H), whose rows may come in several
        pieces. Steps are taken in single precision at least: half precision would lose what the cell adds up."""
        pieces = [gates] if isinstance(gates, Tensor) else gates
        single = [piece.float() if piece.dtype in (torch.bfloat16, torch.float16) else piece for piece in pieces]
        output: Tensor = _Recurrence.apply(self.recurrent, packing, *single)  # type: ignore[no-untyped-call]
        return output


def pool(tokens: Tensor, packing: Packing) -> Tensor:
    """Max over time and the state in which each direction ends, concatenated: packed (T, 2H) to (S, 4H), in the order
    in which the sequences were given to `pack`."""
    hidden, most = tokens.shape[1] // 2, packing.sizes[0]
    places = torch.arange(len(tokens), device=tokens.device)[:, None]
    greatest, where = tokens.detach()[:most].clone(), places[:most].repeat(1, 2 * hidden)
    for start, end, _, _ in _steps(packing.sizes, reverse=False)[1:]:
        now, best, at = tokens.detach()[start:end], greatest[: end - start], where[: end - start]
        torch.where(now > best, places[start:end], at, out=at)
        torch.maximum(now, best, out=best)
    ends = torch.cat([packing.last[:, None].expand(-1, hidden), places[:most].expand(-1, hidden)], 1)
    chosen = torch.stack([where, ends]).index_select(1, packing.places)  # (2, S, 2H)
    return tokens.gather(0, chosen.flatten(0, 1)).unflatten(0, (2, most)).transpose(0, 1).flatten(1)


def aggregate(layer: BiLSTM, vectors: Tensor, rows: Tensor, dropout: nn.Module) -> Tensor:
    """Each sequence of vectors, read by `layer` and pooled, as one vector (S, 4H). `rows` (S, M) are the places of its
    members among `vectors` (R, width), at least one, -1 behind the last."""
    there = rows >= 0
    lengths = there.sum(1)
    packing = pack(lengths.cumsum(0) - lengths, lengths)
    gates = layer.project(vectors).index_select(0, rows[there])
    aggregated: Tensor = dropout(pool(dropout(layer(gates, packing)), packing))
    return aggregated
