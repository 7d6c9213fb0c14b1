"""The analytic centre: optimality, closed forms, gradients in A and b, and sets that have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError, SolveError
from cvxlayers.nodes import AnalyticCentre, analytic_centre
from tests.support import differences
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def polytopes(batch: int, m: int, n: int, away: float = 3.0, slack: float = 1.0) -> tuple[Tensor, Tensor]:
    """Bounded sets with an interior (or, with a negative slack, empty ones) around a point far from zero."""
    rng = np.random.default_rng(11)
    A = rng.normal(size=(batch, m, n))
    A[:, 0] = -A[:, 1:].sum(1)
    inside = away * rng.normal(size=(batch, n, 1))
    b = (A @ inside)[..., 0] + slack * rng.uniform(0.1, 1, size=(batch, m))
    return torch.as_tensor(A), torch.as_tensor(b)


@pytest.mark.parametrize(("m", "n"), [(2, 1), (6, 2), (20, 5), (60, 20)])
@pytest.mark.parametrize("unit", [1.0, 1e-5, 1e5])
def test_the_gradient_of_the_barrier_vanishes_inside(m: int, n: int, unit: float) -> None:
    A, b = polytopes(8, m, n)
    y = analytic_centre(A, unit * b)
    s = unit * b - (A @ y[..., None])[..., 0]
    assert (s > 0).all()
    pull = A / s[..., None]
    assert float(pull.sum(1).abs().max() / pull.abs().max()) < 1e-8


def test_closed_forms() -> None:
    low, high = torch.tensor([-1.0, 2.0, 0.0]), torch.tensor([3.0, 2.5, 1e3])
    box = torch.cat([torch.eye(3), -torch.eye(3)])
    assert_close(analytic_centre(box, torch.cat([high, -low])), (low + high) / 2, 1e-6, "box")
    simplex = torch.cat([-torch.eye(4), torch.ones(1, 4)]).double()
    b = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert_close(analytic_centre(simplex, b), [0.2] * 4, 1e-9, "corner of the simplex")
    scale = torch.tensor([1.0, 10.0, 1e-6, 1e4, 3.0], dtype=torch.float64)
    assert_close(analytic_centre(scale[:, None] * simplex, scale * b), [0.2] * 4, 1e-9, "scaled rows")


def test_derivatives_vmap_and_single_precision() -> None:
    A, b = polytopes(1, 4, 2)

    def centre(A: Tensor, b: Tensor) -> Tensor:
        return analytic_centre(A, b, tolerance=1e-12)

    assert_derivatives(centre, (A, b))
    A, b = polytopes(3, 6, 2)
    assert_vmap(centre, (A, b))
    assert_single_precision(analytic_centre, polytopes(3, 6, 2, away=0.5))


def test_the_gradient_in_A_against_differences() -> None:
    """The reference's fails this."""
    A, b = (x[0] for x in polytopes(1, 7, 3))
    rng = np.random.default_rng(12)
    ways = [0.1 * rng.normal(size=A.shape), 0 * b.numpy()]

    def value(batch: list[np.ndarray]) -> list[np.ndarray]:
        return [analytic_centre(*(torch.as_tensor(x) for x in batch), tolerance=1e-12).numpy()]

    (expected,) = differences.differentiate(value, [A.numpy(), b.numpy()], [ways])
    _, found = torch.func.jvp(lambda A: analytic_centre(A, b), (A,), (torch.as_tensor(ways[0]),))
    assert_close(found, expected.tangents[0], 1e-7, "tangent")
    w = torch.linspace(-1, 1, 3, dtype=torch.float64)
    (pulled,) = torch.func.vjp(lambda A: analytic_centre(A, b), A)[1](w)
    assert_close((pulled * torch.as_tensor(ways[0])).sum(), (w * found).sum(), 1e-10, "<Jv, w> = <v, J'w>")


@pytest.mark.parametrize(("m", "n"), [(4, 1), (8, 3), (30, 10)])
@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e4])
def test_empty_sets_are_infeasible(m: int, n: int, unit: float) -> None:
    A, b = polytopes(6, m, n, slack=-1.0)
    node = AnalyticCentre(on_failure="nan")
    assert node(A, unit * b).isnan().all()
    assert node.info is not None
    assert set(node.info.statuses.tolist()) == {"infeasible"}


def test_sets_without_an_interior_are_infeasible() -> None:
    A, b = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    with pytest.raises(SolveError, match=r"0 \(infeasible\)"):
        analytic_centre(A, b)
    with pytest.raises(SolveError, match=r"0 \(infeasible\)"):  # 0'y <= -1
        analytic_centre(torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([1.0, 1.0, -1.0]))
    assert_close(analytic_centre(torch.tensor([[1.0], [-1.0], [0.0]]), torch.ones(3)), torch.zeros(1), 1e-6, "0 <= 1")


@pytest.mark.parametrize(
    "rows",
    [
        [[-1.0, 0.0], [0.0, -1.0]],  # a quadrant
        [[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]],  # half a strip
        [[1.0, 0.0], [-1.0, 0.0]],  # a strip
        [[1.0, 1.0], [1.0, -1.0], [2.0, 0.5]],  # a cone cut at its tip
        [[1.0, 2.0]],  # a half space
    ],
)
def test_unbounded_sets_say_so(rows: list[list[float]]) -> None:
    A = torch.tensor(rows, dtype=torch.float64)
    for shift in (0.0, 5.0):  # zero inside, and not
        b = torch.ones(len(A), dtype=torch.float64) + shift * A.sum(1)
        with pytest.raises(SolveError, match=r"0 \(unbounded\).*add bounds on y"):
            analytic_centre(A, b)


def test_an_iteration_limit_is_no_silent_wrong_answer() -> None:
    A, b = polytopes(2, 8, 3)
    with pytest.raises(SolveError):
        analytic_centre(A, b, max_iterations=1)


@pytest.mark.parametrize(
    ("A", "b", "message"),
    [
        (torch.ones(3), torch.ones(3), r"A: got shape \(3,\)"),
        (torch.ones(3, 2), torch.ones(2), r"b: got shape \(2,\), expected \(..., 3\)"),
        (torch.ones(3, 2), torch.ones(3).double(), "b: got torch.float64"),
        (torch.full((3, 2), torch.nan), torch.ones(3), "A: got NaN or infinite entries"),
    ],
)
def test_bad_arguments_are_named(A: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        analytic_centre(A, b)
