from collections.abc import Callable
from typing import Any

import pytest
import torch

from personae.nn.processor import eight_bits, fastest

Told = Callable[..., None]


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True, "avx512_vnni": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "avx512_vnni": True}, "int8"),
        ({"avx_vnni": True}, "int8"),
        ({"avx2": True}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_the_fastest_is_what_there_are_instructions_for(
    able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert fastest() == expected


@pytest.mark.parametrize(("half", "eight", "expected"), [(1, 1, "bf16-mixed"), (0, 1, "int8"), (0, 0, "32-true")])
def test_an_older_torch_is_asked_otherwise(
    half: int, eight: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    told: dict[str, Any] = {"_is_avx512_bf16_supported": lambda: half, "_is_vnni_supported": lambda: eight}
    for name, answer in told.items():
        monkeypatch.setattr(torch.cpu, name, answer, raising=False)
    assert fastest() == expected


def test_eight_bits_are_the_nearest() -> None:
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(5, 40), torch.zeros(1, 40)])
    numbers, scales = eight_bits(rows)
    assert numbers.abs().amax(1).tolist() == [127] * 5 + [0]
    assert ((numbers * scales - rows).abs() <= scales / 2 + 1e-6).all()
