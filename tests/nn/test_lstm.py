import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from personae.nn.lstm import LSTM
from personae.types import InputError

LENGTHS = [5, 1, 9, 3]


def reference(ours: LSTM, width: int) -> nn.LSTM:
    """PyTorch's with the same weights."""
    theirs = nn.LSTM(width, ours.hidden, len(ours.biases), batch_first=True).to(ours.biases[0])
    for layer, (weight, recurrent, bias) in enumerate(zip(ours.inputs, ours.recurrents, ours.biases, strict=True)):
        for name, value in {"weight_ih": weight, "weight_hh": recurrent, "bias_ih": bias}.items():
            getattr(theirs, f"{name}_l{layer}").data.copy_(value.detach())
        getattr(theirs, f"bias_hh_l{layer}").data.zero_()
    return theirs


def sequences(width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of `LENGTHS` as they stand at the front (4, 9, width), at the end, and what is absent there (4, 9)."""
    torch.manual_seed(0)
    front = torch.randn(len(LENGTHS), max(LENGTHS), width, dtype=torch.float64)
    end = torch.randn_like(front) * 100  # what stands where nothing is
    absent = torch.ones(front.shape[:2], dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        end[row, -length:] = front[row, :length]
        absent[row, -length:] = False
    return front, end, absent


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_is_pytorchs_of_packed_sequences(layers: int) -> None:
    front, end, absent = sequences()
    ours = LSTM(width=6, hidden=7, layers=layers).double()
    for bias in ours.biases:
        bias.data.normal_()
    theirs = reference(ours, 6)
    packed = pack_padded_sequence(front, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    states, last = theirs(packed)
    expected, _ = pad_packed_sequence(states, batch_first=True)
    found, after = ours(end, absent=absent)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, -length:], expected[row, :length])
        assert not found[row, :-length].any()  # exactly zero where nothing is
    for one, other in zip(after, last, strict=True):
        torch.testing.assert_close(one, other)
    mixed = torch.randn_like(after[1])
    (expected.sum() + (last[1] * mixed).sum()).backward()
    (found.sum() + (after[1] * mixed).sum()).backward()
    for layer in range(layers):
        for name, own in {"weight_ih": ours.inputs, "weight_hh": ours.recurrents, "bias_ih": ours.biases}.items():
            torch.testing.assert_close(own[layer].grad, getattr(theirs, f"{name}_l{layer}").grad)


def test_it_goes_on_from_states() -> None:
    front, *_ = sequences()
    model = LSTM(width=6, hidden=7, layers=2).double()
    whole, last = model(front)
    states, pieces = None, []
    for token in front.split(1, dim=1):
        piece, states = model(token, states)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    assert states is not None
    for one, other in zip(states, last, strict=True):
        torch.testing.assert_close(one, other)


def test_in_single_and_half_precision_padding_changes_nothing() -> None:
    front, end, absent = sequences()
    model = LSTM(width=6, hidden=7, layers=2)
    with torch.no_grad():
        found, _ = model(end.float(), absent=absent)
        for row, length in enumerate(LENGTHS):
            alone, _ = model(front[row : row + 1, :length].float())
            torch.testing.assert_close(found[row, -length:], alone[0], atol=1e-6, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = model(end.float(), absent=absent)
    torch.testing.assert_close(rounded.float(), found, atol=0.02, rtol=0.02)
    assert not rounded[absent].any()


def test_dropout_is_between_layers_in_training() -> None:
    front, *_ = sequences()
    for layers, changes in ((1, False), (2, True)):
        model = LSTM(width=6, hidden=7, layers=layers, dropout=0.5).double()
        expected, _ = reference(model, 6)(front)
        torch.testing.assert_close(model.eval()(front)[0], expected)
        assert torch.allclose(model.train()(front)[0], expected) != changes


def test_what_it_begins_as() -> None:
    model = LSTM(width=6, hidden=7, layers=2)
    for recurrent, bias in zip(model.recurrents, model.biases, strict=True):
        for gate in recurrent.detach().chunk(4):
            torch.testing.assert_close(gate @ gate.t(), torch.eye(7), atol=1e-5, rtol=1e-5)
        assert [gate.unique().tolist() for gate in bias.detach().chunk(4)] == [[0], [1], [0], [0]]
    for weight, bound in zip(model.inputs, ((6 / 13) ** 0.5, (6 / 14) ** 0.5), strict=True):
        assert weight.abs().max() <= bound


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match=r"task\.model\.sizes\.hidden: 0 is not at least 1"):
        LSTM(width=6, hidden=0, layers=1)
    with pytest.raises(InputError, match=r"task\.model\.sizes\.layers: 0 is not at least 1"):
        LSTM(width=6, hidden=3, layers=0)
