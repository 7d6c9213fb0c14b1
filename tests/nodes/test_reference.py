"""Facts that every implementation can be checked against, and defects of others that must not come back.

The formula is that of Gould, Hartley, Campbell 2019, Prop. 4.5; the facts are those of their examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.func import hessian, jacrev  # noqa: E402

from cvxlayers.errors import SolveError  # noqa: E402
from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode  # noqa: E402
from tests.support import nodes  # noqa: E402
from tests.support.differences import differentiate  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64


def test_a_linear_objective_on_the_unit_circle() -> None:
    y = DeclarativeLayer(nodes.RadiusCircle())(torch.ones(1, 1, dtype=D))
    assert_close(y[0], [-(0.5**0.5), -(0.5**0.5)], 1e-12, "solution")


class Tilted(DeclarativeNode):
    """The objective y1 + x y2 on the unit circle."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] + x[:, 0] * y[:, 1]

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * y).sum(-1, keepdim=True) - 1


def test_a_linear_objective_is_turned_towards_a_target() -> None:
    """With the target (-1, -1) the best x is 1, and y = -(1, 1) / sqrt(2)."""
    layer, x = DeclarativeLayer(Tilted()), torch.full((1, 1), 0.3, dtype=D, requires_grad=True)
    search = torch.optim.LBFGS([x], max_iter=50, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = ((layer(x) + 1) ** 2).sum()
        value.backward()
        return value

    search.step(loss)
    assert_close(x.detach(), [[1.0]], 1e-6, "x")
    assert_close(layer(x).detach()[0], [-(0.5**0.5), -(0.5**0.5)], 1e-6, "y")


class Divergence(DeclarativeNode):
    """The closest point of the simplex in the Kullback-Leibler divergence: y = x / sum(x)."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * (y / x).log() - y + x).sum(-1)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True) - 1

    def initial(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 1 / x.shape[1])


def test_the_divergence_from_the_simplex() -> None:
    x = torch.tensor([[0.2, 1.5, 0.7]], dtype=D)
    layer, total = DeclarativeLayer(Divergence()), x.sum()
    assert_close(layer(x), x / total, 1e-12, "solution")
    expected = torch.eye(3, dtype=D) / total - x.T.expand(3, 3) / total**2
    assert_close(jacrev(layer)(x)[0, :, 0], expected, 1e-12, "I / S - x 1' / S^2")


def test_a_quadratic_program_in_a_vertex_and_in_the_interior() -> None:
    layer = DeclarativeLayer(nodes.BoundedQuadratic())
    x = torch.tensor([[2.0, -1.0], [0.3, 0.8]], dtype=D)
    J = jacrev(layer)(x)
    assert_close(J[0, :, 0], np.zeros((2, 2)), 0, "vertex")
    assert_close(J[1, :, 1], np.eye(2), 1e-12, "interior")


@pytest.mark.parametrize(
    "node", [nodes.Sphere(), nodes.Softmin(), nodes.CosineDistance()], ids=lambda n: type(n).__name__
)
def test_the_formula_of_deep_declarative_networks(node: Any) -> None:
    """Dy = H^-1 A' (A H^-1 A')^-1 (A H^-1 B - C) - H^-1 B, with dense matrices and the multipliers of the report."""
    xs = nodes.inputs(node)
    layer = DeclarativeLayer(node)
    y = layer(*xs)
    for b in range(len(y)):
        point, nu = y[b], torch.from_numpy(layer.info.multipliers[b])
        rest = [x[b : b + 1] for x in xs[1:]]

        def f(x: Tensor, u: Tensor, rest: Any = rest) -> Tensor:
            return node.objective(x[None], *rest, y=u[None])[0]

        def h(x: Tensor, u: Tensor, rest: Any = rest) -> Tensor:
            return node.equality_constraints(x[None], *rest, y=u[None])[0]

        def lagrangian(x: Tensor, u: Tensor, f: Any = f, h: Any = h, nu: Tensor = nu) -> Tensor:
            return f(x, u) + nu @ h(x, u)

        x = xs[0][b]
        ((_, _), (B, H)) = hessian(lagrangian, argnums=(0, 1))(x, point)
        C, A = jacrev(h, argnums=(0, 1))(x, point)
        H, B = H + A.T @ A, B + A.T @ C  # the same tangents, with an H that has an inverse
        HA, HB = torch.linalg.solve(H, A.T), torch.linalg.solve(H, B)
        expected = HA @ torch.linalg.solve(A @ HA, A @ HB - C) - HB
        assert_close(jacrev(layer)(*xs)[b, :, b], expected, 1e-9, f"element {b}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(D, 1e-6), (torch.float32, 1e-3)], ids=["float64", "float32"])
@pytest.mark.parametrize("node", [nodes.RobustAverage(), nodes.TwoBalls()], ids=lambda n: type(n).__name__)
def test_finite_differences(node: Any, dtype: torch.dtype, tolerance: float) -> None:
    """Along random directions, by Richardson's extrapolation on the float64 layer."""
    layer = DeclarativeLayer(node)
    (x,) = nodes.inputs(node)
    generator = torch.Generator().manual_seed(11)
    directions = torch.randn(2, *x.shape, generator=generator, dtype=D)
    found = differentiate(
        lambda given: [layer(torch.from_numpy(given[0]).flatten(0, 1)).unflatten(0, (-1, 3)).numpy()],
        [x.numpy()],
        [[d.numpy()] for d in directions],
    )
    given = x.to(dtype).requires_grad_()
    cotangent = torch.randn(layer(x).shape, generator=generator, dtype=D)
    (gradient,) = torch.autograd.grad(layer(given), given, cotangent.to(dtype))
    for d, measured in zip(directions, found, strict=True):
        assert measured.agreement < 1e-7
        expected = (torch.from_numpy(measured.tangents[0]) * cotangent).sum()
        assert_close((gradient.double() * d).sum(), expected, tolerance, "directional derivative")


def test_the_gradient_of_a_linear_equality_stays_in_its_plane() -> None:
    """A defect of the reference: the gradient ignored A y = d. Moving x must leave sum y at one."""
    layer, (x,) = DeclarativeLayer(nodes.Softmin()), nodes.inputs(nodes.Softmin())
    J = jacrev(lambda x: layer(x).sum(-1))(x)
    assert_close(J, torch.zeros(3, 3, 4), 1e-12, "motion out of the plane")


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_active_set_is_found_in_single_precision_at_every_scale(scale: float) -> None:
    """A defect of the reference: an absolute test took points of the ball for points inside it."""
    node = nodes.BallBySolve()
    x, r = (t * scale for t in nodes.inputs(node, torch.float32))
    layer = DeclarativeLayer(node, dtype=None)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x, r).sum(), x)
    assert layer.info.active[:, 0].tolist() == [False, True, True]
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(node.closed_form(wide, r.double()).sum(), wide)
    assert_close(gradient, expected, 1e-3, "gradient")


class Counted(DeclarativeNode):
    """Counts the evaluations of its objective."""

    def __init__(self) -> None:
        self.evaluations = 0

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        return ((y - x) ** 2 + y**4).sum(-1)

    def solve(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for _ in range(60):
            y = y - (2 * (y - x) + 4 * y**3) / (2 + 12 * y**2)
        return y


@pytest.mark.parametrize("shape", [(1, 1), (20, 2), (2, 30)])
def test_nothing_loops_over_the_batch_or_the_unknowns(shape: tuple[int, int]) -> None:
    """A defect of the reference: Hessians by Python loops. Here the count of evaluations does not depend on sizes."""
    node = Counted()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(12), dtype=D, requires_grad=True)
    DeclarativeLayer(node)(x).sum().backward()
    assert node.evaluations <= 10


class Careless(nodes.Sphere):
    """A node whose own solver forgets the constraint."""

    def solve(self, x: Tensor, r: Tensor) -> Tensor:
        return x


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does the error of a broken constraint hold whole arrays."""
    layer = DeclarativeLayer(nodes.Sphere(), on_failure="nan", polish=False)
    layer(*nodes.inputs(nodes.Sphere()))
    lax = DeclarativeLayer(Careless(), on_failure="nan", polish=False)
    lax(*nodes.inputs(nodes.Sphere()))
    assert "optimal" not in lax.info.statuses
    with pytest.raises(SolveError) as raised:
        DeclarativeLayer(Careless(), polish=False)(*nodes.inputs(nodes.Sphere()))
    assert len(str(raised.value)) < 500
    assert "tensor(" not in str(raised.value)
    DeclarativeLayer(nodes.Ball())(*nodes.inputs(nodes.Ball()))
    assert capfd.readouterr() == ("", "")


def test_nodes_are_composed_like_other_modules() -> None:
    """One after the other, side by side, and the better of two; each against the closed forms."""
    x = torch.tensor([[1.5, -0.3, 0.4], [0.2, 0.1, -0.9]], dtype=D, requires_grad=True)
    circle, simplex = DeclarativeLayer(nodes.Circle()), DeclarativeLayer(nodes.Simplex())
    closed, flat = nodes.Circle().closed_form, nodes.Simplex().closed_form

    def same(actual: Tensor, expected: Tensor, what: str) -> None:
        assert_close(actual.detach(), expected.detach(), 1e-9, what)
        gradient, wanted = (torch.autograd.grad((t**2 * x).sum(), x)[0] for t in (actual, expected))
        assert_close(gradient, wanted, 1e-8, f"gradient, {what}")

    same(torch.nn.Sequential(simplex, circle)(x), closed(flat(x)), "composed")
    same(circle(x) + simplex(x), closed(x) + flat(x), "parallel")
    nearer = ((circle(x) - x) ** 2).sum(-1, keepdim=True) < ((simplex(x) - x) ** 2).sum(-1, keepdim=True)
    same(torch.where(nearer, circle(x), simplex(x)), torch.where(nearer, closed(x), flat(x)), "selected")


def test_a_network_learns_through_a_node() -> None:
    """Recover the metric of a projection from its results."""

    class Weighted(DeclarativeNode):
        def objective(self, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
            return (w * (y - x) ** 2).sum(-1)

        def equality_constraints(self, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
            return y.sum(-1, keepdim=True) - 1

        def initial(self, x: Tensor, w: Tensor) -> Tensor:
            return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(13)
    x, true = torch.randn(16, 3, generator=generator, dtype=D), torch.tensor([[1.0, 2.0, 4.0]], dtype=D)
    layer, logw = DeclarativeLayer(Weighted()), torch.zeros(1, 3, dtype=D, requires_grad=True)
    target = layer(x, true)
    optimizer = torch.optim.LBFGS([logw], max_iter=30, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = ((layer(x, logw.exp()) - target) ** 2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    ratios = (logw - logw[:, :1]).exp().detach()
    assert_close(ratios, true, 1e-3, "learned metric")
