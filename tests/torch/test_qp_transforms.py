"""The QP layer under torch.func, differentiated twice, and after its form has made room for others."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cvxlayers.layer.qp import CACHED  # noqa: E402
from cvxlayers.torch import QPFunction, QPLayer, solve_qp  # noqa: E402
from tests.support.quadratic import known_qp  # noqa: E402


def arguments(rng, batch: int = 3) -> list[torch.Tensor]:
    data = known_qp(rng, batch, 3, 2, 1, 1).data
    return [torch.tensor(data[name]) for name in ("Q", "p", "G", "h", "A", "b")]


def test_vmap_is_the_batch(rng) -> None:
    given = arguments(rng)
    right = solve_qp(*given, duals=True)
    found = torch.vmap(lambda *one: solve_qp(*one, duals=True))(*given)
    for part, expected in zip(found, right, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-8, rtol=1e-8)
    assert torch.vmap(lambda p: QPFunction()(given[0][0], p, *(part[0] for part in given[2:])))(given[1]).shape == (
        3,
        1,
        3,
    )


def test_jacobians_forward_and_backward_agree(rng) -> None:
    given = [part[0] for part in arguments(rng)]
    every = tuple(range(6))
    forward, backward = torch.func.jacfwd(solve_qp, every)(*given), torch.func.jacrev(solve_qp, every)(*given)
    for one, other in zip(forward, backward, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_second_derivatives(rng) -> None:
    given = [part[0].requires_grad_() for part in arguments(rng)]
    assert torch.autograd.gradgradcheck(solve_qp, given, eps=1e-5, atol=1e-4, rtol=1e-4)


def test_a_form_that_made_room_can_still_be_differentiated() -> None:
    layer, p = QPLayer(), torch.ones(1, requires_grad=True)
    x = layer(torch.eye(1), p)
    for n in range(2, CACHED + 3):
        layer(torch.eye(n), torch.ones(n))
    x.sum().backward()
    torch.testing.assert_close(p.grad, -torch.ones(1))
