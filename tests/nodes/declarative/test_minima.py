"""Points that are no minima, and points that are, whatever the units of the objective's parts, of y, of constraints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from cvxlayers.errors import SolveError  # noqa: E402
from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode  # noqa: E402
from cvxlayers.nodes.declarative.faces import lowest_direction  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64
HORN = torch.tensor(
    [[1, -1, 1, 1, -1], [-1, 1, -1, 1, 1], [1, -1, 1, -1, 1], [1, 1, -1, 1, -1], [-1, 1, 1, -1, 1]], dtype=D
)


class Corner(DeclarativeNode):
    """A function of y in a box from zero on, and zero as its alleged minimum: every lower bound is weakly active."""

    def __init__(self, f: Callable[[Tensor], Tensor], n: int, search: bool = False) -> None:
        self.f, self.shape, self.search = f, (n,), search

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return x * self.f(y / x[:, None])  # y in units of x

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([-y, y - 3 * x[:, None]], -1)

    def solve(self, x: Tensor) -> Tensor | None:
        return None if self.search else x.new_zeros((len(x), *self.shape))


def quadratic(H: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.einsum("bi,ij,bj->b", y, H.to(y), y)


FUNCTIONS: list[tuple[str, Callable[[Tensor], Tensor], int, bool]] = [
    ("maximum", lambda y: -3 * y[:, 0] ** 2, 1, False),
    ("minimum", lambda y: 3 * y[:, 0] ** 2, 1, True),
    ("product", lambda y: y[:, 0] * y[:, 1], 2, True),  # indefinite, and nowhere negative in the corner
    ("negative product", lambda y: -y[:, 0] * y[:, 1], 2, False),
    ("only across", lambda y: y[:, 0] ** 2 + y[:, 1] ** 2 - 2.1 * y[:, 0] * y[:, 1], 2, False),
    ("held by a multiplier", lambda y: y[:, 0] - y[:, 0] ** 2 + y[:, 1] ** 2, 2, True),
    ("beside a multiplier", lambda y: y[:, 0] + y[:, 1] ** 2 - 0.1 * y[:, 2] ** 2, 3, False),
    ("multiplier of rounding", lambda y: 1e-17 * y[:, 0] - y[:, 0] ** 2, 1, False),
    ("small beside large", lambda y: 1e9 * y[:, 0] ** 2 - 1e-7 * y[:, 1] ** 2, 2, False),
    ("small product", lambda y: 1e9 * y[:, 0] ** 2 + 1e-7 * y[:, 1] * y[:, 2], 3, True),
    ("Horn's form", quadratic(HORN), 5, True),  # copositive, not a sum of a semidefinite and a nonnegative one
    ("a little less than Horn's form", quadratic(HORN - 0.01 * torch.eye(5, dtype=D)), 5, False),
    ("rotated maximum", lambda y: (y[:, 0] - y[:, 1]) ** 2 - 1e-3 * y.sum(-1) ** 2, 2, False),
]


@pytest.mark.parametrize(("f", "n", "minimal"), [row[1:] for row in FUNCTIONS], ids=[row[0] for row in FUNCTIONS])
@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_weakly_active_inequalities_leave_room_to_one_side(
    f: Callable[[Tensor], Tensor], n: int, minimal: bool, dtype: torch.dtype
) -> None:
    layer = DeclarativeLayer(Corner(f, n), on_failure="nan", dtype=None)
    layer(torch.tensor([1e-3, 1.0, 1e4], dtype=dtype))
    assert set(layer.info.statuses) == {"optimal" if minimal else "failed"}
    assert layer.info.residuals.worst.max() == 0  # of first order all is well


@pytest.mark.parametrize(("f", "n"), [row[1:3] for row in FUNCTIONS if not row[3] and "small" not in row[0]])
def test_the_search_leaves_such_points(f: Callable[[Tensor], Tensor], n: int) -> None:
    layer = DeclarativeLayer(Corner(f, n, search=True))
    y = layer(torch.tensor([0.5, 20.0], dtype=D))
    assert set(layer.info.statuses) == {"optimal"}
    assert (y > 0).any(-1).all()
    assert (layer.info.objective < 0).all()


def test_directions_are_in_the_cone_and_go_down() -> None:
    """Against the best of many random directions in random cones."""
    generator, found = torch.Generator().manual_seed(8), []
    for _ in range(40):
        S = torch.randn(4, 4, generator=generator, dtype=D)
        S = S + S.T + 1.5 * torch.eye(4, dtype=D)
        A, W = (torch.randn(k, 4, generator=generator, dtype=D) for k in (1, 4))
        sure, d = lowest_direction(S, A, W)
        u = torch.randn(20000, 4, generator=generator, dtype=D)
        u = u - (u @ A.T) @ torch.linalg.pinv(A.T)
        u = u[(u @ W.T <= 0).all(-1)]
        if sure:
            assert not ((u @ S) * u).sum(-1).lt(0).any()
        else:
            assert d @ S @ d < 0
            assert (A @ d).abs().max() < 1e-12
            assert (W @ d).max() < 1e-8
        found.append(sure)
    assert 5 < sum(found) < 35


def test_what_cannot_be_decided_is_not_passed() -> None:
    """Fourteen weak inequalities have too many faces to look at all; a convex objective needs none of them."""
    nonnegative = torch.rand(14, 14, generator=torch.Generator().manual_seed(2), dtype=D)
    for f, status in ((quadratic(nonnegative), "failed"), (quadratic(torch.eye(14, dtype=D)), "optimal")):
        layer = DeclarativeLayer(Corner(f, 14), on_failure="nan")
        layer(torch.ones(1, dtype=D))
        assert layer.info.statuses.tolist() == [status]


class Parts(DeclarativeNode):
    """Two separate parts: the first with 1e7 and the second with 1e-7 of the weight, in units of their own.

    ``kind`` says of which shape they are, ``sign`` whether the second is to be as large as possible, ``guess`` what the
    node's own solver says, relative to the truth.
    """

    shape = (2,)

    def __init__(self, kind: str, bound: float | None = None, sign: float = 1.0, guess: Any = None) -> None:
        self.kind, self.bound, self.sign, self.guess = kind, bound, sign, guess

    def objective(self, x: Tensor, unit: Tensor, y: Tensor) -> Tensor:
        away = y / unit[:, None] - x
        part = {"squares": away**2, "roots": (16 + away**2).sqrt(), "linear": away}[self.kind]
        if self.kind == "linear":
            part = torch.stack([part[:, 0], away[:, 1] ** 2], -1)
        return unit * (1e7 * part[:, 0] + self.sign * 1e-7 * part[:, 1])

    def inequality_constraints(self, x: Tensor, unit: Tensor, y: Tensor) -> Tensor | None:
        if self.kind == "linear":
            return 1e5 * (x[:, :1] * unit[:, None] - y[:, :1])
        return None if self.bound is None else torch.tensor([1e6, 1e-6]).to(y) * (y - self.bound * unit[:, None])

    def solve(self, x: Tensor, unit: Tensor) -> Tensor | None:
        return None if self.guess is None else x * unit[:, None] * torch.tensor(self.guess).to(x)


X = torch.tensor([[1.5, 2.5], [2.0, 1.0], [-2.0, 3.0]], dtype=D)
UNIT = torch.tensor([1e-6, 1.0, 1e6], dtype=D)


@pytest.mark.parametrize(
    ("node", "scale"),
    [(Parts("squares"), None), (Parts("roots"), None), (Parts("linear"), None), (Parts("squares", 0.75), 0.75)],
    ids=["squares", "roots", "linear", "bounds"],
)
def test_both_parts_are_right_in_any_units(node: Parts, scale: float | None) -> None:
    x, unit = X.clone().requires_grad_(), UNIT.clone()
    layer = DeclarativeLayer(node)
    y = layer(x, unit) / unit[:, None]
    assert_close(y.detach(), X if scale is None else X.clamp(max=scale), 1e-9, "solution")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    expected = torch.ones_like(X) if scale is None else X.lt(scale).double()
    assert_close(gradient, expected, 1e-9, "gradient")
    assert not layer.info.derivative.fallback.any()


@pytest.mark.parametrize(
    ("node", "options"),
    [
        (Parts("squares", guess=(1.0, 1.001)), {"polish": False}),
        (Parts("squares", guess=(1.0, 1.0), sign=-1.0), {}),
        (Parts("squares", 10.0, guess=(1.0, 1.0), sign=-1.0), {}),
        (Parts("roots", guess=(1.0, 0.99)), {"polish": False}),
        (Parts("squares", 0.75, guess=(0.5, 1.0)), {"polish": False}),
    ],
    ids=["inexact", "maximum", "maximum in bounds", "inexact root", "beyond its bound"],
)
def test_a_small_part_that_is_wrong_is_found_out(node: Parts, options: dict[str, Any]) -> None:
    layer = DeclarativeLayer(node, **options)
    for unit in UNIT:
        with pytest.raises(SolveError) as caught:
            layer(X[:1], unit[None])
        assert caught.value.indices == (0,)


def test_a_flat_circle_of_minima_is_no_saddle() -> None:
    """Curvature that should be zero and is rounding, of either sign, is not blown up by the equilibration."""

    class Circle(DeclarativeNode):
        def objective(self, x: Tensor, y: Tensor) -> Tensor:
            return (y.square().sum(-1) - x.square().sum(-1)) ** 2

        def initial(self, x: Tensor) -> Tensor:
            return x + 0.1

        def solve(self, x: Tensor) -> Tensor | None:
            return None if self.free else x.flip(-1)

    angles = torch.linspace(0, 6, 61, dtype=D)
    x = torch.stack([angles.cos(), angles.sin()], -1)
    for Circle.free in (True, False):
        for unit in (1e-3, 1.0, 1e3):
            layer = DeclarativeLayer(Circle())
            y = layer(unit * x)
            assert_close(y.norm(dim=-1) / unit, torch.ones(61, dtype=D), 1e-7, "radius")


class BoxInUnits(DeclarativeNode):
    """A convex quadratic program in a box, each entry of y and the objective in units of their own."""

    def objective(self, Q: Tensor, p: Tensor, units: Tensor, unit: Tensor, y: Tensor) -> Tensor:
        v = y / units
        return unit * (0.5 * torch.einsum("bi,bij,bj->b", v, Q, v) + (p * v).sum(-1))

    def inequality_constraints(self, Q: Tensor, p: Tensor, units: Tensor, unit: Tensor, y: Tensor) -> Tensor:
        v = y / units
        return unit[:, None] * torch.cat([-v, v - 1], -1)

    def initial(self, Q: Tensor, p: Tensor, units: Tensor, unit: Tensor) -> Tensor:
        return 0.5 * units


def test_units_map_answers_as_algebra_says_or_are_refused() -> None:
    generator, B, n = torch.Generator().manual_seed(6), 20, 4
    F, p = (torch.randn(B, n, k, generator=generator, dtype=D) for k in (n, 1))
    Q, p, one = F @ F.mT, 3 * p[..., 0], torch.ones(B, n, dtype=D)
    layer = DeclarativeLayer(BoxInUnits(), on_failure="nan")
    expected = layer(Q, p, one, one[:, 0])
    assert set(layer.info.statuses) == {"optimal"}
    for reach, share in ((2, 1.0), (6, 0.5)):
        units, unit = (
            10 ** (reach * (2 * torch.rand(shape, generator=generator, dtype=D) - 1)) for shape in ((B, n), (B,))
        )
        y = layer(Q, p, units, unit) / units
        fine = torch.from_numpy(layer.info.statuses == "optimal")
        assert fine.double().mean() >= share
        assert_close(y[fine], expected[fine], 1e-9, f"units of 1e{reach}")
