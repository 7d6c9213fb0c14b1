"""Rows of the table that test the way in and out: DGP, complex numbers, attributes, shapes."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from tests.contracts.case import Built, Case, Sample

__all__ = ["CASES"]


def _box_volume() -> Built:
    """The largest box in walls and floor of given area, with bounded proportions (Boyd et al. 2007, section 2.4)."""
    h, w, d = (cp.Variable(pos=True, name=name) for name in "hwd")
    wall, floor, low, high = (cp.Parameter(pos=True) for _ in range(4))
    constraints = [
        2 * (h * w + h * d) <= wall,
        w * d <= floor,
        h / w >= low,
        h / w <= high,
        d / w >= low,
        d / w <= high,
    ]
    return Built(cp.Problem(cp.Maximize(h * w * d), constraints), [wall, floor, low, high], [h, w, d])


def _box_volume_sample(rng: np.random.Generator) -> Sample:
    values = np.array([100.0, 10.0, 0.8, 2.0]) * rng.uniform(0.98, 1.02, 4)
    return tuple(np.array(v) for v in values)


def _posynomial() -> Built:
    """A posynomial objective with a parameter vector as coefficients and one as an exponent."""
    x, c, power = cp.Variable(3, pos=True), cp.Parameter(3, pos=True), cp.Parameter(pos=True)
    cost = cp.sum(cp.multiply(c, x)) + 1 / (x[0] * x[1]) + 1 / x[2] ** 2
    return Built(cp.Problem(cp.Minimize(cost), [x[0] * x[2] <= power]), [c, power], [x])


def _complex_vector() -> Built:
    """The nearest vector whose first two entries lie in the unit disc."""
    z, c = cp.Variable(3, complex=True), cp.Parameter(3, complex=True)
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(z - c)), [cp.abs(z[:2]) <= 1]), [c], [z])


def _complex_vector_sample(rng: np.random.Generator) -> Sample:
    return (np.array([2.0, 0.5, 1.5]) * np.exp(1j * rng.uniform(0, 2 * np.pi, 3)),)


def _complex_vector_solution(c: np.ndarray) -> Sample:
    return (np.append(c[:2] / np.maximum(np.abs(c[:2]), 1.0), c[2]),)


def _hermitian() -> Built:
    """The nearest positive semidefinite Hermitian matrix."""
    X, C = cp.Variable((3, 3), hermitian=True), cp.Parameter((3, 3), hermitian=True)
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), [C], [X])


def _hermitian_sample(rng: np.random.Generator) -> Sample:
    Q = np.linalg.qr(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)))[0]
    C = (Q * np.array([1.5, 0.7, -1.0])) @ Q.conj().T
    return ((C + C.conj().T) / 2,)


def _hermitian_solution(C: np.ndarray) -> Sample:
    values, Q = np.linalg.eigh(C)
    return ((Q * np.maximum(values, 0)) @ Q.conj().T,)


_PLACES = ((0, 1, 2, 3), (1, 2, 0, 2))


def _attributes() -> Built:
    """Parameters and variables with every attribute that shortens or constrains them."""
    S = cp.Variable((3, 3), symmetric=True)
    D, P = cp.Variable((3, 3), diag=True), cp.Variable((2, 2), PSD=True)
    u, v = cp.Variable(3, nonneg=True), cp.Variable(3, bounds=[-0.5, 0.5])
    A, B = cp.Parameter((3, 3), symmetric=True), cp.Parameter((3, 3), diag=True)
    sparse = cp.Parameter((4, 3), sparsity=_PLACES)
    bounded, low = cp.Parameter(3, bounds=[-3, 3]), cp.Parameter(3, nonpos=True)
    cost = (
        cp.sum_squares(S - A) + cp.sum_squares(D - B - A) + cp.sum_squares(u - bounded) + cp.sum_squares(v - low)
        + cp.sum_squares(sparse @ v - 1) + cp.sum_squares(P - A[:2, :2])
    )  # fmt: skip
    return Built(cp.Problem(cp.Minimize(cost), [cp.sum(u) + S[0, 1] == 1]), [A, B, sparse, bounded, low],
                 [S, D, P, u, v])  # fmt: skip


def _attributes_sample(rng: np.random.Generator) -> Sample:
    A = rng.normal(size=(3, 3))
    A = A + A.T
    A[:2, :2] = np.array([[1.0, 0.9], [0.9, -0.5]]) + 0.05 * A[:2, :2]
    A[0, 1] = A[1, 0]
    sparse = np.zeros((4, 3))
    sparse[_PLACES] = rng.uniform(0.5, 1.5, 4)
    return (A, np.diag(rng.normal(size=3)), sparse, np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=3),
            np.array([-0.3, -2.0, -0.1]))  # fmt: skip


def _n_dimensional() -> Built:
    x, c, bound = cp.Variable((2, 3, 2)), cp.Parameter((2, 3, 2)), cp.Parameter((2, 2))
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x, axis=1) <= bound]), [c, bound], [x])


def _n_dimensional_solution(c: np.ndarray, bound: np.ndarray) -> Sample:
    return (c - np.maximum(c.sum(axis=1) - bound, 0)[:, None, :] / 3,)


def _n_dimensional_sample(rng: np.random.Generator) -> Sample:
    c = rng.normal(size=(2, 3, 2))
    return c, c.sum(axis=1) + np.array([[1.0, -1.0], [-0.5, 0.5]])


def _transport() -> Built:
    """Columns and rows of a matrix must not be mixed up: an entropic transport with a soft second marginal."""
    X, C, r, k = cp.Variable((2, 3)), cp.Parameter((2, 3)), cp.Parameter(2, pos=True), cp.Parameter(3, pos=True)
    rows = cp.sum(X, axis=1) == r
    gain = cp.sum(cp.multiply(C, X)) + cp.sum(cp.entr(X)) - cp.sum_squares(cp.sum(X, axis=0) - k)
    return Built(cp.Problem(cp.Maximize(gain), [rows]), [C, r, k], [X, rows.dual_variables[0]])


CASES = (
    Case("dgp_box", _box_volume, _box_volume_sample, {"nonneg", "exponential"}, gp=True, loose=True),
    Case("dgp_posynomial", _posynomial, lambda rng: (rng.uniform(0.5, 2.0, 3), np.array(0.4)),
         {"nonneg", "exponential"}, gp=True),
    Case("complex_vector", _complex_vector, _complex_vector_sample, {"zero", "nonneg", "second_order"},
         quadratic=True, closed_form=_complex_vector_solution, loose=True),
    Case("hermitian", _hermitian, _hermitian_sample, {"zero", "psd"}, quadratic=True, closed_form=_hermitian_solution,
         loose=True),
    Case("attributes", _attributes, _attributes_sample, {"zero", "nonneg", "psd"}, quadratic=True),
    Case("n_dimensional", _n_dimensional, _n_dimensional_sample, {"zero", "nonneg"}, quadratic=True,
         closed_form=_n_dimensional_solution),
    Case("transport", _transport,
         lambda rng: (rng.normal(size=(2, 3)), rng.uniform(1, 2, 2), rng.uniform(0.5, 1.5, 3)),
         {"zero", "exponential"}, quadratic=True),
)  # fmt: skip
