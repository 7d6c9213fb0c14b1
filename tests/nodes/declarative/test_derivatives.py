"""The general node's derivatives: every sample against its closed form, to any order, under all transformations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import jacfwd, jacrev, jvp, vmap  # noqa: E402

from cvxlayers.nodes import DeclarativeLayer  # noqa: E402
from tests.support import nodes  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

CLOSED = [
    nodes.Polynomial(), nodes.Circle(), nodes.RadiusCircle(), nodes.Sphere(), nodes.Ball(), nodes.BallBySolve(),
    nodes.TwoBalls(), nodes.CosineDistance(), nodes.Mean(), nodes.Softmin(), nodes.Simplex(), nodes.BoundedQuadratic(),
]  # fmt: skip


def name(node: Any) -> str:
    return type(node).__name__


def total(function: Callable[..., Any]) -> Callable[..., Any]:
    """The sum over the batch, whose derivatives of every order hold those of each element."""
    return lambda *xs: function(*xs).sum(0)


@pytest.mark.parametrize("node", CLOSED, ids=name)
def test_solutions_and_gradients_are_those_of_the_closed_form(node: Any) -> None:
    xs = [x.requires_grad_() for x in nodes.inputs(node)]
    layer = DeclarativeLayer(node)
    y, expected = layer(*xs), node.closed_form(*xs)
    assert_close(y.detach(), expected.detach(), 1e-9, "solution")
    assert layer.info.statuses.tolist() == ["optimal"] * 3
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    gradients = torch.autograd.grad(y, xs, cotangent)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, xs, cotangent), strict=True):
        assert_close(actual, wanted, 1e-8, "gradient")


@pytest.mark.parametrize("node", CLOSED, ids=name)
def test_single_precision_comes_back_and_is_as_good(node: Any) -> None:
    xs = [x.requires_grad_() for x in nodes.inputs(node, torch.float32)]
    y = DeclarativeLayer(node)(*xs)
    wide = [x.detach().double().requires_grad_() for x in xs]
    expected = node.closed_form(*wide)
    assert y.dtype == torch.float32
    assert_close(y.detach(), expected.detach(), 1e-6, "solution")
    wanted = torch.autograd.grad(expected.sum(), wide)
    for actual, other in zip(torch.autograd.grad(y.sum(), xs), wanted, strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual, other, 1e-5, "gradient")


ORDERS = {
    "reverse": jacrev,
    "forward": jacfwd,
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "forward over reverse": lambda f: jacfwd(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
    "forward over forward": lambda f: jacfwd(jacfwd(f)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("node", [nodes.Circle(), nodes.Ball(), nodes.TwoBalls(), nodes.Softmin()], ids=name)
def test_first_and_second_derivatives_under_the_transformations(node: Any, order: str) -> None:
    xs = nodes.inputs(node)
    actual = ORDERS[order](total(DeclarativeLayer(node)))(*xs)
    assert_close(actual, ORDERS[order](total(node.closed_form))(*xs), 1e-8, f"{order} of {name(node)}")


@pytest.mark.parametrize("order", ["reverse", "forward"])
def test_third_derivatives(order: str) -> None:
    node, operator = nodes.Softmin(), ORDERS[order]
    (x,) = nodes.inputs(node)
    actual = operator(operator(operator(total(DeclarativeLayer(node)))))(x[:1, :2])
    expected = operator(operator(operator(total(node.closed_form))))(x[:1, :2])
    assert_close(actual, expected, 1e-8, "third derivative")


@pytest.mark.parametrize("node", [nodes.TwoBallsBySolve(), nodes.RobustAverage()], ids=name)
def test_gradcheck_and_gradgradcheck(node: Any) -> None:
    layer = DeclarativeLayer(node)
    xs = [x.requires_grad_() for x in nodes.inputs(node)]
    assert gradcheck(layer, xs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(layer, xs, check_fwd_over_rev=True, fast_mode=True)


def test_vmap_is_a_loop_over_calls() -> None:
    node = nodes.Ball()
    layer = DeclarativeLayer(node)
    x, r = nodes.inputs(node)
    many = torch.stack([x, 2 * x, -x])
    assert_close(vmap(layer, (0, None))(many, r), torch.stack([layer(x, r) for x in many]), 1e-9, "vmap")
    jacobians = vmap(jacrev(lambda x: layer(x, r)), 0)(many)
    expected = vmap(jacrev(lambda x: node.closed_form(x, r)), 0)(many)
    assert_close(jacobians, expected, 1e-8, "vmap of jacrev")
    assert layer.info.statuses.shape == (9,)


def test_forward_and_reverse_mode_are_adjoint() -> None:
    node = nodes.TwoBalls()
    layer, (x,) = DeclarativeLayer(node), nodes.inputs(node)
    generator = torch.Generator().manual_seed(4)
    t, w = torch.randn(2, *x.shape, generator=generator, dtype=x.dtype)
    _, moved = jvp(layer, (x,), (t,))
    _, pullback = torch.func.vjp(layer, x)
    assert_close((moved * w).sum(), (pullback(w)[0] * t).sum(), 1e-12, "<Jt, w> and <t, J'w>")
