import pytest
import torch

from personae.tasks.averaging import Average
from personae.types import InputError


def test_the_mean_follows_the_weights() -> None:
    average = Average(0.5)
    weight = torch.zeros(3)
    for step, value in enumerate((4.0, 8.0, 2.0), start=1):
        weight.fill_(value)
        average.update([weight], step=step)
        average.update([weight.new_full((3,), torch.nan)], step=step)  # of a step that was taken
    average.swap([weight])
    # The first steps weigh 9 / (10 + step), as far as that is more than 1 - decay.
    second = 4 + (8 - 4) * 9 / 12
    assert weight.tolist() == pytest.approx([second + (2 - second) * 9 / 13] * 3)
    assert average.swapped
    average.swap([weight])
    assert weight.tolist() == [2.0] * 3
    assert not average.swapped


def test_later_steps_weigh_one_less_the_decay() -> None:
    average = Average(0.75)
    weight = torch.zeros(1)
    average.update([weight], step=1)
    average.update([weight + 1], step=1000)
    average.swap([weight])
    assert weight.item() == 0.25


def test_a_mean_is_kept_and_taken_up() -> None:
    average, other = Average(0.5), Average(0.5)
    weight = torch.ones(2)
    average.update([weight], step=1)
    weight.fill_(5)
    average.swap([weight])
    other.load_state_dict(average.state_dict())
    assert other.swapped
    other.swap([weight])
    assert weight.tolist() == [5.0, 5.0]


def test_without_a_step_nothing_changes_places() -> None:
    weight = torch.ones(2)
    Average(0.5).swap([weight])
    assert weight.tolist() == [1.0, 1.0]


def test_decay() -> None:
    with pytest.raises(InputError, match=r"task\.average: 1\.5 is not at least 0 and less than 1"):
        Average(1.5)
