from typing import get_args

import pytest
import torch
from torch import Tensor

from personae.nn.persona_fusion import Fusion, PersonaFusion

WIDTH, CASES, CANDIDATES, LINES = 6, 4, 3, 5
FUSIONS = tuple(fusion for fusion in get_args(Fusion) if fusion != "none")
COUNTS = (5, 1, 3, 0)
"""Persona lines of each case."""


def made(fusion: Fusion) -> PersonaFusion:
    torch.manual_seed(0)
    return PersonaFusion(fusion=fusion, width=WIDTH).double()


def fuse(part: PersonaFusion, persona: Tensor, there: Tensor, context: Tensor, response: Tensor) -> Tensor:
    (fused,) = part([(persona, there)], context, response)
    return fused


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Persona, which of its lines are there, context and response."""
    torch.manual_seed(1)
    persona = torch.randn(CASES, LINES, WIDTH, dtype=torch.float64)
    there = torch.arange(LINES) < torch.tensor(COUNTS)[:, None]
    context, response = torch.randn(2, CASES, CANDIDATES, WIDTH, dtype=torch.float64)
    return persona, there, context, response


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equations_9_to_16(fusion: Fusion) -> None:
    part = made(fusion)
    weight, bias = part.parameters() if fusion in ("na", "cra") else (torch.empty(0), torch.empty(0))
    persona, there, context, response = given()
    fused = fuse(part, persona, there, context, response)
    for case, count in enumerate(COUNTS):
        lines = persona[case, :count]
        for candidate in range(CANDIDATES):
            c, r = context[case, candidate], response[case, candidate]
            if fusion == "na":
                alpha = [weight[0] @ p + bias[0] for p in lines]  # (9)
            elif fusion == "ca":
                alpha = [c @ p for p in lines]  # (11)
            elif fusion == "ra":
                alpha = [r @ p for p in lines]  # (13)
            else:
                alpha = [(weight @ torch.cat([c, r]) + bias) @ p for p in lines]  # (15)
            total = sum(a.exp() for a in alpha)
            expected = sum(
                (a.exp() / total * p for a, p in zip(alpha, lines, strict=True)), torch.zeros(WIDTH).double()
            )  # (10)
            torch.testing.assert_close(fused[case, candidate], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_fused_persona_is_the_lines_by_their_weights(fusion: Fusion) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    (weights,) = part.weights([(persona, there)], context, response)
    assert weights.shape == (CASES, CANDIDATES, LINES)
    torch.testing.assert_close(weights @ persona, fuse(part, persona, there, context, response))
    torch.testing.assert_close(weights.sum(2), (there.any(1).double())[:, None].expand(-1, CANDIDATES))
    assert not weights.masked_select(~there[:, None]).any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_stands_where_no_line_is_has_no_effect(fusion: Fusion) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    noisy = torch.where(there[..., None], persona, 1e6 * torch.randn_like(persona))
    assert torch.equal(fuse(part, noisy, there, context, response), fuse(part, persona, there, context, response))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_without_any_line_gives_zeros(fusion: Fusion) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    fused = fuse(part, persona[:, :0], there[:, :0], context, response)
    assert fused.shape == response.shape
    assert fused.eq(0).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_order_of_lines_does_not_matter(fusion: Fusion) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        fuse(part, persona[:, order], there[:, order], context, response),
        fuse(part, persona, there, context, response),
        atol=1e-12,
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("fusion", "of_context", "of_response"),
    [("na", False, False), ("ca", True, False), ("ra", False, True), ("cra", True, True)],
)
def test_of_what_it_is_aware(fusion: Fusion, of_context: bool, of_response: bool) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    fused = fuse(part, persona, there, context, response)
    assert torch.equal(fuse(part, persona, there, context + 1, response), fused) != of_context
    assert torch.equal(fuse(part, persona, there, context, response + 1), fused) != of_response


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_are_finite_where_a_case_has_no_line(fusion: Fusion) -> None:
    part = made(fusion)
    persona, there, context, response = given()
    inputs = [tensor.requires_grad_() for tensor in (persona, context, response)]
    fuse(part, inputs[0], there, inputs[1], inputs[2]).square().sum().backward()
    for tensor in (inputs[0], *part.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert inputs[0].grad is not None
    assert torch.equal(inputs[0].grad.abs().sum(2) > 0, there)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_personas_are_fused_apart(fusion: Fusion) -> None:
    torch.manual_seed(0)
    part = PersonaFusion(fusion=fusion, width=WIDTH, personas=2).double()
    persona, there, context, response = given()
    other = persona.flip(1)
    first, second = part([(persona, there), (other, there.flip(1))], context, response)
    again, changed = part([(persona, there), (other + 1, there.flip(1))], context, response)
    assert torch.equal(first, again)
    assert not torch.equal(second, changed)
    assert torch.allclose(first, second) == (fusion in ("ca", "ra"))  # the others have weights of their own for each
