"""Each node's gradient in all of its inputs along a random direction: 1e-6 in float64, and 1e-3 in float32.

The reference are Richardson's differences of the solution in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from cvxlayers.nodes import (  # noqa: E402
    DeclarativeAttention,
    DeclarativeLayer,
    DeclarativeNode,
    analytic_centre,
    entmax,
    optimal_transport,
    perspective_n_point,
    project_l1_ball,
    project_l1_sphere,
    project_l2_ball,
    project_l2_sphere,
    project_linf_ball,
    project_linf_sphere,
    project_simplex,
    project_simplex_kl,
    robust_mean,
    robust_pool,
    robust_vector_pool,
    total_variation,
)
from tests.support.differences import differentiate  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64
SMOOTH = ("quadratic", "pseudo-huber", "huber", "welsch")


class Affine(DeclarativeNode):
    """The closest point to x, by entropy and distance, with A y = d; A and d are inputs."""

    shape = (4,)

    def objective(self, x: Tensor, A: Tensor, d: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2).sum(-1) + (y**4).sum(-1)

    def equality_constraints(self, x: Tensor, A: Tensor, d: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bmn,bn->bm", A, y) - d


class TwoCurves(DeclarativeNode):
    """The closest point to x on the intersection of a sphere of radius r with a paraboloid."""

    def objective(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2).sum(-1)

    def equality_constraints(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        sphere, paraboloid = (y * y).sum(-1) - r[:, 0] ** 2, y[:, 2] - 0.3 * y[:, 0] ** 2 - 0.2 * y[:, 1]
        return torch.stack([sphere, paraboloid], -1)

    def initial(self, x: Tensor, r: Tensor) -> Tensor:
        return x


def random(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.standard_normal(shape) for shape in shapes]


def marginals(M: Tensor, r: Tensor, c: Tensor, gamma: Tensor) -> Tensor:
    return optimal_transport(M, r / r.sum(-1, keepdim=True), c / c.sum(-1, keepdim=True), gamma)


def cases() -> dict[str, tuple[Callable[..., Tensor], list[np.ndarray]]]:
    """Functions of a batch, and the inputs of one element."""
    found: dict[str, tuple[Callable[..., Tensor], list[np.ndarray]]] = {}
    x, values, weights = random((6,), (5, 3), (2, 5))
    one, share = np.ones(1), np.abs(weights) + 0.2
    for penalty in SMOOTH:
        found[f"pool {penalty}"] = (
            lambda x, alpha, penalty=penalty: robust_pool(x[:, None], penalty, alpha[:, 0]), [0.6 * x, 1.3 * one]
        )  # fmt: skip
        found[f"vector pool {penalty}"] = (
            lambda x, penalty=penalty: robust_vector_pool(x.mT, penalty, 1.3), [0.6 * values]
        )  # fmt: skip
        if penalty != "quadratic":
            found[f"robust mean {penalty}"] = (
                lambda w, v, penalty=penalty: robust_mean(w, v, 1.3, penalty), [share, 0.6 * values]
            )  # fmt: skip
            found[f"attention {penalty}"] = (
                lambda q, k, v, penalty=penalty: DeclarativeAttention(penalty=penalty, alpha=1.3)(q, k, v),
                random((2, 4), (5, 4), (5, 3)),
            )
    for project in (
        project_simplex, project_simplex_kl, project_l1_sphere, project_l1_ball, project_l2_sphere, project_l2_ball,
        project_linf_sphere, project_linf_ball,
    ):  # fmt: skip
        point = np.abs(x) + 0.1 if project is project_simplex_kl else 2 * x
        found[project.__name__] = lambda x, r, project=project: project(x, r[:, 0]), [point, 1.1 * one]
    found["transport"] = (
        marginals,
        [*random((3, 4)), np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.3, 0.4]), np.array(1.0)],
    )
    rows = random((6, 2))[0]
    rows[0] = -rows[1:].sum(0)
    found["centre"] = analytic_centre, [rows, 1 + 0.1 * np.arange(6.0)]
    found["total variation"] = (
        lambda x, lam, w: total_variation(x, lam, w), [2 * random((7,))[0], np.array(0.3), 1 + 0.1 * np.arange(6.0)]
    )  # fmt: skip
    for order in (1.0, 1.3, 1.5, 2.0):
        found[f"entmax {order}"] = lambda z, order=order: entmax(z, order), [0.3 * x]
    found["entmax's order"] = lambda z, order: entmax(z, order), [x, 1.4 * one]
    for name in ("softmax", "sparsemax", "entmax", "sinkhorn"):
        found[f"attention by {name}"] = DeclarativeAttention(name), random((2, 4), (5, 4), (5, 3))
    for kind in ("reprojection", "huber", "cosine"):
        found[f"pose {kind}"] = (lambda *given, kind=kind: perspective_n_point(*given, objective=kind), scene())
    A, d, p = random((2, 4), (2,), (4,))
    found["linear equalities"] = DeclarativeLayer(Affine()), [p, A, 0.3 * d]
    found["two curves"] = DeclarativeLayer(TwoCurves()), [np.array([0.8, 0.5, 0.3]), 1.2 * one]
    return found


def scene() -> list[np.ndarray]:
    """A camera's view of seven points, with noise; weights and the camera's matrix."""
    rng = np.random.default_rng(6)
    p3d, K = rng.standard_normal((7, 3)), np.array([[2.0, 0.1, 0.3], [0.0, 2.2, -0.2], [0.0, 0.0, 1.0]])
    h = (p3d + np.array([0.2, -0.3, 7.0])) @ K.T
    return [h[:, :2] / h[:, 2:] + 0.02 * rng.standard_normal((7, 2)), p3d, rng.uniform(0.5, 1.5, 7), K]


def way_of(name: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """A random direction, which leaves the last row of a camera's matrix."""
    rng = np.random.default_rng(7)
    way = [0.1 * rng.standard_normal(x.shape) for x in inputs]
    if name.startswith("pose"):
        way = [0.2 * step for step in way]
        way[3][1:, 0] = way[3][2] = 0
    return way


@pytest.mark.parametrize(("dtype", "tolerance"), [(D, 1e-6), (torch.float32, 1e-3)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", list(cases()))
def test_gradients_against_differences(name: str, dtype: torch.dtype, tolerance: float) -> None:
    function, inputs = cases()[name]
    way = way_of(name, inputs)
    found = differentiate(
        lambda given: [function(*map(torch.from_numpy, given)).detach().numpy()], inputs, [way]
    )[0]  # fmt: skip
    assert found.agreement < 1e-7
    given = [torch.as_tensor(x[None], dtype=dtype).requires_grad_() for x in inputs]
    y = function(*given)
    cotangent = torch.as_tensor(np.random.default_rng(8).standard_normal(y.shape), dtype=dtype)
    gradients = torch.autograd.grad(y, given, cotangent)
    measured = sum(float((g.double()[0] * torch.as_tensor(step)).sum()) for g, step in zip(gradients, way, strict=True))
    expected = float((torch.as_tensor(found.tangents[0]) * cotangent.double()[0]).sum())
    assert abs(expected) > 1e-3
    assert_close(measured, expected, tolerance, name)
