"""The barriers of exponential and power cones, and small matrices in lanes, beside differences, formulas and LAPACK."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from cvxlayers.cones import exponential as exponential_cone
from cvxlayers.cones import power as power_cone
from cvxlayers.cones import svec
from cvxlayers.ipm.cones import exponential, power
from cvxlayers.kernels import functions, jacobi
from cvxlayers.kernels.decorators import compiled
from cvxlayers.kernels.simd import load, store
from cvxlayers.program.structure import Array

LANES = 8
ALPHA = np.array([0.02, 0.1, 0.3, 0.5, 0.5, 0.7, 0.95, 0.99])

_V, _INT = numba.types.Array(numba.types.float64, 2, "C"), numba.types.int64


def run_exponential(V: Any) -> None:
    exponential.expand(V, 20, load(V, 3), load(V, 4), load(V, 5))
    a, b, c = exponential.conjugate_point(load(V, 0), load(V, 1), load(V, 2))
    d, e, f = exponential.gradient(a, b, c)
    p, q, r = exponential.third_derivative(
        load(V, 3), load(V, 4), load(V, 5), load(V, 6), load(V, 7), load(V, 8), load(V, 9), load(V, 10), load(V, 11)
    )
    store(V, 35, exponential.margin(load(V, 0), load(V, 1), load(V, 2)))
    store(V, 36, exponential.dual_margin(load(V, 3), load(V, 4), load(V, 5)))
    for k, value in enumerate((a, b, c, d, e, f, p, q, r)):
        store(V, 40 + k, value)


def run_power(V: Any) -> None:
    alpha = load(V, 12)
    power.expand(alpha, V, 20, load(V, 3), load(V, 4), load(V, 5))
    a, b, c = power.conjugate_point(alpha, load(V, 0), load(V, 1), load(V, 2))
    d, e, f = power.gradient(alpha, a, b, c)
    p, q, r = power.third_derivative(
        alpha, load(V, 3), load(V, 4), load(V, 5), load(V, 6), load(V, 7), load(V, 8), load(V, 9), load(V, 10),
        load(V, 11),
    )  # fmt: skip
    store(V, 35, power.margin(alpha, load(V, 0), load(V, 1), load(V, 2)))
    store(V, 36, power.dual_margin(alpha, load(V, 3), load(V, 4), load(V, 5)))
    for k, value in enumerate((a, b, c, d, e, f, p, q, r)):
        store(V, 40 + k, value)


def exponential_barrier(y: Array) -> Array:
    return -np.log(y[1] - y[0] - y[0] * np.log(-y[2] / y[0])) - np.log(-y[0]) - np.log(y[2])


def power_barrier(y: Array) -> Array:
    phi = (y[0] / ALPHA) ** (2 * ALPHA) * (y[1] / (1 - ALPHA)) ** (2 - 2 * ALPHA)
    return -np.log(phi - y[2] ** 2) - (1 - ALPHA) * np.log(y[0]) - ALPHA * np.log(y[1])


def exponential_points(rng: np.random.Generator, room: Array) -> tuple[Array, Array]:
    """Points inside K and inside K*, so far from their boundaries."""
    r, v = rng.uniform(-3, 3, LANES), rng.uniform(0.1, 3, LANES)
    u, w = -rng.uniform(0.1, 3, LANES), rng.uniform(0.1, 3, LANES)
    return np.stack([r * v, v, v * np.exp(r + room)]), np.stack([u, u + u * np.log(-w / u) + room, w])


def power_points(rng: np.random.Generator, room: Array) -> tuple[Array, Array]:
    s, y = rng.uniform(0.1, 3, (2, 3, LANES))
    s[2] = s[0] ** ALPHA * s[1] ** (1 - ALPHA) * np.exp(-room) * rng.choice([-1, 1], LANES)
    y[2] = (y[0] / ALPHA) ** ALPHA * (y[1] / (1 - ALPHA)) ** (1 - ALPHA) * np.exp(-room)
    return s, y


CONES = {
    "exponential": (run_exponential, exponential_points, exponential_barrier),
    "power": (run_power, power_points, power_barrier),
}


@functools.cache
def kernel_of(run: Callable[..., None]) -> Callable[..., None]:
    return compiled(numba.types.void(_V), run)


def evaluated(kind: str, room: Array) -> tuple[Array, Callable[[Array], Array]]:
    """V after the kernels have run at random points with random directions, and the barrier."""
    run, points, barrier = CONES[kind]
    rng = np.random.default_rng(0)
    V = np.zeros((50, LANES))
    V[0:3], V[3:6] = points(rng, room)
    V[6:12], V[12] = rng.standard_normal((6, LANES)), ALPHA
    kernel_of(run)(V)
    return V, barrier


@pytest.mark.parametrize("kind", CONES)
def test_derivatives_of_the_barrier(kind: str) -> None:
    V, barrier = evaluated(kind, np.linspace(0.1, 2.0, LANES))
    y, u, v = V[3:6], V[6:9], V[9:12]
    coefficients, vectors = V[23:26], V[26:35].reshape(3, 3, LANES)
    assert (coefficients > 0).all()
    h = 1e-3 * np.abs(y).min(axis=0)

    def slope(at: Array) -> Array:
        steps = np.eye(3)[:, :, None] * h
        near = [barrier(at + d) - barrier(at - d) for d in steps]
        far = [barrier(at + 2 * d) - barrier(at - 2 * d) for d in steps]
        return (8 * np.stack(near) - np.stack(far)) / (12 * h)

    np.testing.assert_allclose(V[20:23], slope(y), rtol=1e-6)
    size = h / np.abs(v).max(axis=0)
    hessian = np.einsum("kb,kib,kjb->ijb", coefficients, vectors, vectors)
    curved = (slope(y + size * v) - slope(y - size * v)) / (2 * size)
    np.testing.assert_allclose(np.einsum("ijb,jb->ib", hessian, v), curved, rtol=1e-3, atol=1e-3)
    # The barrier is homogeneous: f*''(y) y = -f*'(y) and f*'''(y)[u, y] = -2 f*''(y) u.
    np.testing.assert_allclose(np.einsum("ijb,jb->ib", hessian, y), -V[20:23], rtol=1e-10)
    moved = [evaluated_hessian(kind, V, sign * 1e-5) for sign in (1, -1)]
    third = np.einsum("ijb,jb->ib", (moved[0] - moved[1]) / 2e-5, u)
    np.testing.assert_allclose(V[46:49], third, rtol=1e-5, atol=1e-5 * np.abs(third).max())


def evaluated_hessian(kind: str, V: Array, length: float) -> Array:
    """f*'' at y + length v."""
    W = V.copy()
    W[3:6] += length * W[9:12]
    kernel_of(CONES[kind][0])(W)
    vectors = W[26:35].reshape(3, 3, LANES)
    return np.einsum("kb,kib,kjb->ijb", W[23:26], vectors, vectors)


@pytest.mark.parametrize("kind", CONES)
@pytest.mark.parametrize("decades", [-2, 0, 4, 8])
def test_the_shadow_has_the_gradient_asked_for(kind: str, decades: int) -> None:
    V, _ = evaluated(kind, 10.0 ** -np.linspace(0, decades, LANES))
    assert (V[35] > 0).all() and (V[36] > 0).all()
    # What is lost near the boundary is the rounding of the margin beside the margin.
    error = np.abs(V[43:46] + V[0:3]).max(axis=0) / np.abs(V[0:3]).max(axis=0)
    assert (error <= 1e-14 + 1e-13 / V[35]).all(), error


@pytest.mark.parametrize("kind", CONES)
def test_outside_the_margins_are_not_positive(kind: str) -> None:
    V, _ = evaluated(kind, np.full(LANES, -0.01))
    cone = exponential_cone if kind == "exponential" else power_cone
    more = () if kind == "exponential" else (ALPHA,)
    assert (cone.distance(V[0:3], *more) > 0).all() and (cone.dual_distance(V[3:6], *more) > 0).all()
    assert not (V[35] > 0).any() and not (V[36] > 0).any()


def test_logarithm_and_exponential_keep_their_digits() -> None:
    def run(V: Any) -> None:
        store(V, 1, functions.log_of_one_plus(load(V, 0)))
        store(V, 2, functions.one_minus_exp_neg(load(V, 0)))

    V = np.zeros((3, LANES))
    V[0] = 1e-300, 1e-12, 1e-3, 0.1, 0.249999, 0.250001, 3.0, 700.0
    compiled(numba.types.void(_V), run)(V)
    np.testing.assert_allclose(V[1], np.log1p(V[0]), rtol=1e-15)
    np.testing.assert_allclose(V[2], -np.expm1(-V[0]), rtol=1e-15)


@pytest.mark.parametrize("order", [1, 2, 5, 9])
def test_rotations_agree_with_lapack(order: int) -> None:
    def run(V: Any, k: int) -> None:
        square = k * k
        jacobi.unpack(V, 0, k, 100)
        jacobi.orthogonalize(V, 100, 100 + square, k)
        jacobi.unpack(V, 0, k, 100 + 2 * square)
        store(V, 99, jacobi.eigenvalues(V, 100 + 2 * square, k))
        jacobi.pack(V, 100 + 2 * square, k, 50)

    rng = np.random.default_rng(order)
    V, square = np.zeros((100 + 3 * order**2, LANES)), order**2
    X = rng.standard_normal((order, order, LANES)) * 10.0 ** np.arange(-4, 4)
    X = X + X.swapaxes(0, 1)
    V[: order * (order + 1) // 2] = svec.pack(X)
    V[100 + square : 100 + 2 * square] = np.repeat(np.eye(order).reshape(square, 1), LANES, axis=1)
    compiled(numba.types.void(_V, _INT), run)(V, order)
    M, Q = V[100 : 100 + 2 * square].reshape(2, order, order, LANES)
    values = np.linalg.eigvalsh(X.T)
    np.testing.assert_allclose(np.einsum("ijb,jkb->ikb", X, Q), M, atol=1e-13 * np.abs(X).max())
    np.testing.assert_allclose(np.sort(np.linalg.norm(M, axis=0).T), np.sort(np.abs(values)), rtol=1e-10)
    least = values[:, 0]
    assert (V[99] <= least + 1e-12 * np.abs(least)).all()
    assert (V[99] >= least - 2e-4 * np.maximum(np.abs(least), 1.0)).all()
