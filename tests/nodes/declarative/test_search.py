"""The default solver, and what is made of points that are no solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from cvxlayers.errors import SolveError  # noqa: E402
from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode  # noqa: E402
from tests.support import nodes  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64


def statuses(layer: DeclarativeLayer) -> list[str]:
    assert layer.info is not None
    return layer.info.statuses.tolist()


class QuadraticProgram(DeclarativeNode):
    """1/2 y'Qy + p'y with Gy <= h and Ay = b, in units of its own for the objective and the inequalities."""

    def __init__(self, unit: float = 1.0, units: float = 1.0) -> None:
        self.unit, self.units = unit, units

    def objective(self, Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return self.unit * (0.5 * torch.einsum("bi,bij,bj->b", y, Q, y) + (p * y).sum(-1))

    def inequality_constraints(
        self, Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor, y: Tensor
    ) -> Tensor:
        return self.units * (torch.einsum("bmn,bn->bm", G, y) - h)

    def equality_constraints(
        self, Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor, y: Tensor
    ) -> Tensor:
        return torch.einsum("bmn,bn->bm", A, y) - b

    def initial(self, Q: Tensor, p: Tensor, *others: Tensor) -> Tensor:
        return torch.zeros_like(p)


def quadratic_programs(batch: int, n: int, m: int, p: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=D)

    F, A, G, inside = normal(n, n), normal(p, n), normal(m, n), normal(n, 1)
    return [F @ F.mT, normal(n), G, (G @ inside)[..., 0] + normal(m).abs(), A, (A @ inside)[..., 0]]


@pytest.mark.parametrize(("unit", "units"), [(1.0, 1.0), (1e6, 1e-4), (1e-8, 1e3)])
def test_quadratic_programs_in_any_units(unit: float, units: float) -> None:
    """Against cvxpy's solution; neither the solver nor the tests depend on the units of f and g."""
    cp = pytest.importorskip("cvxpy")
    data = quadratic_programs(3, 6, 8, 2)
    layer = DeclarativeLayer(QuadraticProgram(unit, units))
    y = layer(*data)
    assert layer.info.active.sum() > 3
    for element, found in enumerate(y.numpy()):
        Q, p, G, h, A, b = (part[element].numpy() for part in data)
        u = cp.Variable(6)
        cp.Problem(cp.Minimize(cp.quad_form(u, cp.psd_wrap(Q)) / 2 + p @ u), [G @ u <= h, A @ u == b]).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
        )
        assert_close(found, u.value, 1e-7, "solution")


class HockSchittkowski71(DeclarativeNode):
    """A nonconvex program with a known solution (Hock and Schittkowski 1981, number 71)."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] * y[:, 3] * y[:, :3].sum(-1) + y[:, 2]

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return (y**2).sum(-1, keepdim=True) - 40

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([25 - y.prod(-1, keepdim=True), 1 - y, y - 5], -1)

    def initial(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 5.0, 5.0, 1.0], dtype=x.dtype).expand(len(x), 4)


def test_a_nonconvex_program_of_the_literature() -> None:
    y = DeclarativeLayer(HockSchittkowski71())(torch.zeros(1, dtype=D))
    assert_close(y[0], [1.0, 4.74299963, 3.82114998, 1.37940829], 1e-8, "solution")


def test_the_robust_average_balances_its_influences() -> None:
    node = nodes.RobustAverage()
    (x,) = nodes.inputs(node)
    away = DeclarativeLayer(node)(x)[:, None] - x
    assert_close((away / (1 + away**2).sqrt()).sum(-1), torch.zeros(3), 1e-12, "sum of influences")


class Valley(DeclarativeNode):
    """(|y|^2 - x)^2 + y2^2: a maximum at the default start y = 0, minima at (+- sqrt x, 0)."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y**2).sum(-1) - x) ** 2 + y[:, 1] ** 2


def test_the_solver_leaves_maxima_and_saddles() -> None:
    y = DeclarativeLayer(Valley())(torch.tensor([1.0, 4.0], dtype=D))
    assert_close(y.abs(), [[1.0, 0.0], [2.0, 0.0]], 1e-9, "solution")


class Farthest(nodes.Sphere):
    """A node whose own solver returns the maximum."""

    def solve(self, x: Tensor, r: Tensor) -> Tensor:
        return -self.closed_form(x, r)


class Careless(nodes.Sphere):
    """A node whose own solver forgets the constraint."""

    def solve(self, x: Tensor, r: Tensor) -> Tensor:
        return x


class Rough(nodes.Sphere):
    """A node whose own solver is good to two digits."""

    def solve(self, x: Tensor, r: Tensor) -> Tensor:
        return self.closed_form(x, r) + 0.01


@pytest.mark.parametrize("node", [Farthest(), Careless()], ids=["maximum", "infeasible point"])
def test_what_a_node_returns_is_verified(node: Any) -> None:
    layer = DeclarativeLayer(node)
    with pytest.raises(SolveError, match="failed") as caught:
        layer(*nodes.inputs(node))
    assert caught.value.indices == (0, 1, 2)
    assert statuses(layer) == ["failed"] * 3


def test_what_a_node_returns_is_sharpened_only_where_asked() -> None:
    node, xs = Rough(), nodes.inputs(nodes.Sphere())
    assert_close(DeclarativeLayer(node)(*xs), node.closed_form(*xs), 1e-12, "polished")
    with pytest.raises(SolveError, match="3 of 3"):
        DeclarativeLayer(node, polish=False)(*xs)
    loose = DeclarativeLayer(node, polish=False, tolerance=0.1)
    assert torch.equal(loose(*xs), node.solve(*xs))


class Between(DeclarativeNode):
    """The closest y with 1 <= y1 <= x1, which has no solution for x1 < 1."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2).sum(-1)

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0] - x[:, 0], 1 - y[:, 0]], -1)


class Linear(DeclarativeNode):
    """x'y without constraints: no minimum unless x is zero."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1)


class LinearBox(Linear):
    """A linear program: x'y with 0 <= y <= 1."""

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([-y, y - 1], -1)


def test_infeasible_and_unbounded_elements_are_named() -> None:
    layer = DeclarativeLayer(Between(), on_failure="nan")
    y = layer(torch.tensor([[2.0, 3.0], [0.5, 0.0]], dtype=D))
    assert statuses(layer) == ["optimal", "infeasible"]
    assert y[0].tolist() == [2.0, 3.0]
    assert y[1].isnan().all()
    layer = DeclarativeLayer(Linear())
    with pytest.raises(SolveError, match="bound y or regularize") as caught:
        layer(torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=D))
    assert (caught.value.indices, caught.value.statuses) == ((1,), ("unbounded",))


def test_a_linear_program_sits_in_a_vertex_and_does_not_move() -> None:
    layer = DeclarativeLayer(LinearBox())
    x = torch.tensor([[1.0, -2.0], [-0.3, 0.4]], dtype=D, requires_grad=True)
    y = layer(x)
    assert_close(y.detach(), [[0.0, 1.0], [1.0, 0.0]], 1e-12, "vertices")
    assert torch.autograd.grad(y.sum(), x)[0].abs().max() == 0
    assert layer.info.active.tolist() == [[True, False, False, True], [False, True, True, False]]
    assert_close(layer.info.multipliers, [[1.0, 0, 0, 2.0], [0, 0.4, 0.3, 0]], 1e-12, "multipliers")


def test_more_constraints_than_dimensions_may_meet_in_a_point() -> None:
    class Corner(DeclarativeNode):
        shape = (2,)

        def objective(self, x: Tensor, y: Tensor) -> Tensor:
            return ((y - x) ** 2).sum(-1)

        def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[:, 0], 2 * y[:, 0], y.sum(-1), y[:, 1]], -1)

    x = torch.tensor([[1.0, 2.0], [0.3, 0.1]], dtype=D, requires_grad=True)
    layer = DeclarativeLayer(Corner())
    y = layer(x)
    assert_close(y.detach(), np.zeros((2, 2)), 1e-12, "corner")
    assert_close(torch.autograd.grad(y.sum(), x)[0], np.zeros((2, 2)), 1e-12, "gradient")
