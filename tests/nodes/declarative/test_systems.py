"""The linear systems behind the derivatives: singular ones, regularized ones, and those solved by products alone."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.func import jacfwd, jacrev  # noqa: E402

from cvxlayers.errors import DerivativeError  # noqa: E402
from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode  # noqa: E402
from cvxlayers.nodes.declarative.dense import solve_symmetric  # noqa: E402
from cvxlayers.nodes.declarative.krylov import solve_products  # noqa: E402
from tests.support import nodes  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64
SECOND = {
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "forward over reverse": lambda f: jacfwd(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
    "forward over forward": lambda f: jacfwd(jacfwd(f)),
}


class OnlyTheSum(DeclarativeNode):
    """(y1 + y2 - x^2)^2: a line of minima; the least-norm motion is that of y = (x^2, x^2) / 2."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (y.sum(-1) - x**2) ** 2

    def closed_form(self, x: Tensor) -> Tensor:
        return 0.5 * (x**2)[:, None].expand(-1, 2)


class Underdetermined(DeclarativeNode):
    """|A(x) y - b(x)|^2 with two rows and three unknowns: the null space turns with x."""

    shape = (3,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        first = y[:, 0] + x[:, 0] * y[:, 1] - x[:, 1]
        second = y[:, 0] * x[:, 1] + y[:, 2] - x[:, 2]
        return first**2 + second**2


class Single(DeclarativeNode):
    """A strictly convex objective with sum y = 1."""

    shape = (3,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2 * torch.tensor([1.0, 2.0, 3.0]).to(y)).sum(-1) + (y**4).sum(-1)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True) - 1


class Twice(Single):
    """The same, with the constraint stated twice."""

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return super().equality_constraints(x, y) * torch.tensor([1.0, 2.0]).to(y)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=D)


@pytest.mark.parametrize("matrix_free", [False, True], ids=["factors", "products"])
@pytest.mark.parametrize("order", SECOND)
def test_minima_that_are_not_unique_move_as_little_as_possible(order: str, matrix_free: bool) -> None:
    layer, node = DeclarativeLayer(OnlyTheSum(), matrix_free=matrix_free), OnlyTheSum()
    x = torch.tensor([0.7, 1.2], dtype=D)
    assert_close(jacrev(layer)(x), jacrev(node.closed_form)(x), 1e-10, "first derivative")
    assert layer.info.derivative.fallback.all()
    assert_close(SECOND[order](layer)(x), SECOND[order](node.closed_form)(x), 1e-10, order)


def test_where_the_null_space_turns_all_modes_agree(x: Tensor) -> None:
    layer = DeclarativeLayer(Underdetermined())
    first = jacrev(layer)(x)
    assert_close(jacfwd(layer)(x), first, 1e-12, "forward and reverse")
    step = 1e-6
    y = layer(x).detach()
    for k in range(3):  # the motion meets the conditions, and has no part in the null space
        moved = x.clone()
        moved[:, k] += step
        motion = torch.stack([first[b, :, b, k] for b in range(2)])
        residual = Underdetermined().objective(moved, y + step * motion).sqrt() / step
        assert residual.max() < 1e-5
    results = [SECOND[order](layer)(x) for order in SECOND]
    for other in results[1:]:
        assert_close(other, results[0], 1e-9, "second derivatives")


@pytest.mark.parametrize("matrix_free", [False, True], ids=["factors", "products"])
def test_redundant_constraints_change_nothing(x: Tensor, matrix_free: bool) -> None:
    layer, plain = DeclarativeLayer(Twice(), matrix_free=matrix_free), DeclarativeLayer(Single())
    assert_close(layer(x), plain(x), 1e-10, "solution")
    assert_close(jacrev(layer)(x), jacrev(plain)(x), 1e-9, "gradient")
    for order in list(SECOND) if not matrix_free else ["forward over reverse"]:
        assert_close(SECOND[order](layer)(x), SECOND[order](plain)(x), 1e-9, order)


def test_regularization_damps_the_derivative_and_not_the_solution() -> None:
    """min (y - x)^2 has H = 2, so the derivative becomes 2 / (2 + regularization)."""
    xs = [x.requires_grad_() for x in nodes.inputs(nodes.Mean())]
    layer = DeclarativeLayer(nodes.Mean(), regularization=0.5)
    y = layer(*xs)
    expected = nodes.Mean().closed_form(*xs)
    assert_close(y.detach(), expected.detach(), 1e-12, "solution")
    total = 2 * xs[1].detach().sum(-1, keepdim=True)
    wanted = torch.autograd.grad(expected.sum(), xs[0])[0] * total / (total + 0.5)
    assert_close(torch.autograd.grad(y.sum(), xs[0])[0], wanted, 1e-12, "gradient")


@pytest.mark.parametrize(
    "node",
    [nodes.Ball(), nodes.TwoBalls(), nodes.Softmin(), nodes.BoundedQuadratic(), nodes.BallBySolve()],
    ids=lambda node: type(node).__name__,
)
def test_products_alone_give_what_factors_give(node: Any) -> None:
    layer = DeclarativeLayer(node, matrix_free=True)
    xs = [x.requires_grad_() for x in nodes.inputs(node)]
    y, expected = layer(*xs), node.closed_form(*xs)
    assert_close(y.detach(), expected.detach(), 1e-9, "solution")
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=D)
    first = torch.autograd.grad(y**2, xs, cotangent, create_graph=True)
    wanted = torch.autograd.grad(expected**2, xs, cotangent, create_graph=True)
    for actual, other in zip(first, wanted, strict=True):
        assert_close(actual.detach(), other.detach(), 1e-8, "gradient")
    second = torch.autograd.grad(sum((t**2).sum() for t in first), xs)
    wanted = torch.autograd.grad(sum((t**2).sum() for t in wanted), xs, allow_unused=True, materialize_grads=True)
    for actual, other in zip(second, wanted, strict=True):
        assert_close(actual, other, 1e-8, "second derivative")


class Smooth(DeclarativeNode):
    """A large separable problem with one equality: 1/2 |y - x|^2 + sum log cosh y with sum y = 0."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (0.5 * (y - x) ** 2 + torch.nn.functional.softplus(2 * y) - y).sum(-1)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True)

    def initial(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_large_problems_choose_products_by_themselves() -> None:
    """With n = 3000 the matrix alone would take 72 MB; the gradient has a closed form: H is diagonal."""
    x = torch.randn(1, 3000, generator=torch.Generator().manual_seed(6), dtype=D, requires_grad=True)
    layer = DeclarativeLayer(Smooth())
    y = layer(x)
    assert layer.info.statuses.tolist() == ["optimal"]
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=D)
    inverse = 1 / (1 + 1 / torch.cosh(y.detach()) ** 2)
    shift = (inverse * cotangent).sum() / inverse.sum()
    assert_close(torch.autograd.grad(y, x, cotangent)[0], inverse * (cotangent - shift), 1e-9, "gradient")


class Stiff(DeclarativeNode):
    """A quadratic whose Hessian spans ten decades: beyond conjugate gradients."""

    shape = (60,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        weights = torch.logspace(-4, 3, 60, dtype=D)
        turned = torch.cumsum(y, -1)
        return 0.5 * (weights * turned**2).sum(-1) - (x * y).sum(-1)

    def solve(self, x: Tensor) -> Tensor:
        weights = torch.logspace(-4, 3, 60, dtype=D)
        back = x - torch.nn.functional.pad(x[:, 1:], (0, 1))
        turned = back / weights
        return torch.diff(turned, dim=-1, prepend=torch.zeros_like(turned[:, :1]))


def test_conjugate_gradients_that_do_not_converge_are_an_error() -> None:
    x = torch.ones(1, 60, dtype=D, requires_grad=True)
    y = DeclarativeLayer(Stiff(), matrix_free=True, polish=False)(x)
    with pytest.raises(DerivativeError, match="pass matrix_free=False"):
        y[:, :5].sum().backward()


def indefinite(batch: int, n: int, m: int, rank: int) -> Tensor:
    """KKT matrices with m constraint rows of some rank."""
    generator = torch.Generator().manual_seed(8)
    F = torch.randn(batch, n, n, generator=generator, dtype=D)
    A = torch.randn(batch, m, rank, generator=generator, dtype=D) @ torch.randn(
        batch, rank, n, generator=generator, dtype=D
    )
    K = torch.zeros(batch, n + m, n + m, dtype=D)
    K[:, :n, :n], K[:, n:, :n], K[:, :n, n:] = F @ F.mT + torch.eye(n, dtype=D), A, A.mT
    return K


@pytest.mark.parametrize("rank", [3, 2], ids=["regular", "dependent rows"])
def test_both_ways_of_solving_agree_with_the_pseudo_inverse(rank: int) -> None:
    K = indefinite(4, 6, 3, rank)
    v = torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(9), dtype=D)
    v = K @ v if rank < 3 else v  # with a solution
    expected = (torch.linalg.pinv(K, hermitian=True, rtol=1e-10) @ v)[:, :6]
    u, singular = solve_symmetric(K, v, 6)
    assert_close(u[:, :6], expected, 1e-10, "factors")
    assert singular.tolist() == [rank < 3] * 4
    vectors = v.permute(2, 0, 1)
    u, _, residual = solve_products(lambda t: torch.einsum("bij,rbj->rbi", K, t), vectors, 6, 1e-13, 200)
    assert residual.max() < 1e-9
    assert_close(u[..., :6].permute(1, 2, 0), expected, 1e-9, "products")


def test_systems_in_wildly_different_units_are_not_called_singular() -> None:
    d = torch.tensor([1e9, 1.0, 1e-9, 1e6], dtype=D)
    K = indefinite(1, 3, 1, 1)
    u, singular = solve_symmetric(K * d[:, None] * d, (K @ torch.ones(4, 1, dtype=D)) * d[:, None], 3)
    assert not singular.any()
    assert_close(u[0, :, 0] * d, torch.ones(4), 1e-9, "solution")
