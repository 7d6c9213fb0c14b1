"""The problems that are timed: each a CVXPY problem with seeded data for a batch.

The problems of the table of accuracy are those of the contract tests (tests/contracts/table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from benchmarks import closed
from benchmarks.closed import Answer, Array

__all__ = ["QUICK", "TIMED", "Array", "Family", "QPForm", "make"]

QPForm = Callable[..., tuple[Any, Any, Any, Any, Any, Any]]
"""Tensors -> Q, p, G, h, A, b (A and b None without equalities), for layers that take a QP's matrices:
minimize 1/2 z'Qz + p'z subject to Gz <= h, Az = b."""


@dataclass(frozen=True)
class Family:
    """One problem and the data of a batch.

    Attributes
    ----------
    name, size : str
        What it is called, and how large it is, in words.
    problem : cvxpy.Problem
    parameters, variables : tuples
        In the order of the data and of the answers.
    data : tuple of arrays
        One for each parameter, (B, *shape).
    gp : bool
        Whether the problem is a log-log convex program.
    closed : callable, optional
        (data, weights) -> solutions, gradients of the sum of weights times solutions (see ``closed``).
    qp : QPForm, optional
    solution : callable, optional
        The values of one element -> its solutions, in closed form.
    """

    name: str
    size: str
    problem: cp.Problem
    parameters: tuple[cp.Parameter, ...]
    variables: tuple[cp.Variable, ...]
    data: tuple[Array, ...]
    gp: bool = False
    closed: Callable[[tuple[Array, ...], tuple[Array, ...]], Answer] | None = None
    qp: QPForm | None = None
    solution: Callable[..., tuple[Any, ...]] | None = None

    @property
    def batch(self) -> int:
        """B."""
        return self.data[0].shape[0]

    def select(self, elements: NDArray[np.intp]) -> Family:
        """The same problem with some elements of the batch."""
        return replace(self, data=tuple(part[elements] for part in self.data))

    def weights(self, seed: int = 0) -> tuple[Array, ...]:
        """Random cotangents of the answers, (B, *shape) each."""
        rng = np.random.default_rng([seed, 1])
        return tuple(rng.standard_normal((self.batch, *variable.shape)) for variable in self.variables)


def simplex(n: int = 50, batch: int = 256, seed: int = 0) -> Family:
    """Projection onto the probability simplex."""
    x, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    data = np.random.default_rng(seed).standard_normal((batch, n))
    size = f"{n} variables, batch {batch}"
    return Family("simplex", size, problem, (c,), (x,), (data,), closed=closed.project, qp=_simplex_matrices)


def _simplex_matrices(c: Any) -> tuple[Any, ...]:
    n = c.shape[1]
    identity = c.new_zeros(n, n).fill_diagonal_(1.0)
    return 2 * identity, -2 * c, -identity, c.new_zeros(n), c.new_ones(1, n), c.new_ones(1)


def dense_qp(n: int = 64, m: int = 64, batch: int = 32, seed: int = 0) -> Family:
    """A dense QP with all of its data as parameters (Amos and Kolter 2017); the objective by its factor L."""
    rng = np.random.default_rng(seed)
    x, L, q, G, h = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ x) + q @ x), [G @ x <= h])
    factors = np.eye(n) + rng.standard_normal((batch, n, n)) / np.sqrt(n)
    rows = rng.standard_normal((batch, m, n))
    limits = np.einsum("bij,bj->bi", rows, rng.standard_normal((batch, n))) + rng.uniform(size=(batch, m))
    data = (factors, rng.standard_normal((batch, n)), rows, limits)
    size = f"{n} variables, {m} rows, batch {batch}"
    return Family("dense QP", size, problem, (L, q, G, h), (x,), data, qp=_dense_matrices)


def _dense_matrices(L: Any, q: Any, G: Any, h: Any) -> tuple[Any, ...]:
    return L.mT @ L, q, G, h, None, None


def sudoku(cells: int = 64, rows: int = 40, batch: int = 128, seed: int = 0) -> Family:
    """A QP of the size of OptNet's for 4x4 Sudokus (Amos and Kolter 2017): the board and the learned rules vary."""
    rng = np.random.default_rng(seed)
    z, p, A, b = cp.Variable(cells), cp.Parameter(cells), cp.Parameter((rows, cells)), cp.Parameter(rows)
    problem = cp.Problem(cp.Minimize(0.05 * cp.sum_squares(z) + p @ z), [A @ z == b, z >= 0])
    rules = rng.random((batch, rows, cells))
    inside = rng.exponential(size=(batch, cells))
    data = (-rng.random((batch, cells)), rules, np.einsum("bij,bj->bi", rules, inside))
    size = f"{cells} variables, {rows} rows, batch {batch}"
    return Family("Sudoku-sized QP", size, problem, (p, A, b), (z,), data, qp=_sudoku_matrices)


def _sudoku_matrices(p: Any, A: Any, b: Any) -> tuple[Any, ...]:
    n = p.shape[1]
    identity = p.new_zeros(n, n).fill_diagonal_(1.0)
    return 0.1 * identity, p, -identity, p.new_zeros(n), A, b


def dense_lp(n: int = 2000, rows: int = 100, batch: int = 1, seed: int = 0) -> Family:
    """A linear program over a box with few dense equalities and inequalities, all of it parameters."""
    rng = np.random.default_rng(seed)
    x, q = cp.Variable(n), cp.Parameter(n)
    A, b, G, h = cp.Parameter((rows, n)), cp.Parameter(rows), cp.Parameter((rows, n)), cp.Parameter(rows)
    problem = cp.Problem(cp.Minimize(q @ x), [x >= 0, x <= 1, A @ x == b, G @ x <= h])
    point, left, right = rng.random((batch, n, 1)), *rng.standard_normal((2, batch, rows, n))
    sides = (left @ point)[..., 0], (right @ point)[..., 0] + 0.1
    data = (rng.standard_normal((batch, n)), left, sides[0], right, sides[1])
    return Family("dense LP", f"{n} variables, {2 * rows} rows, batch {batch}", problem, (q, A, b, G, h), (x,), data)


def sparse_qp(n: int = 512, m: int = 256, density: float = 0.01, batch: int = 16, seed: int = 0) -> Family:
    """A QP with sparse constant matrices; the linear terms and the limits are parameters."""
    rng = np.random.default_rng(seed)
    half = sp.random_array((n, n), density=density / 2, rng=rng, data_sampler=rng.standard_normal)
    P = sp.csc_array(half + half.T)
    P = sp.csc_array(P + sp.diags_array(np.abs(P).sum(axis=0) + 1))  # diagonally dominant: positive definite
    A = sp.csr_array(sp.random_array((m, n), density=density, rng=rng, data_sampler=rng.standard_normal))
    x, q, b = cp.Variable(n), cp.Parameter(n), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(P)) + q @ x), [A @ x <= b])
    limits = (A @ rng.standard_normal((n, batch))).T + rng.uniform(0.1, 1, size=(batch, m))
    size = f"{n} variables, {m} rows, {density:.0%} nonzeros, batch {batch}"
    return Family("sparse QP", size, problem, (q, b), (x,), (rng.standard_normal((batch, n)), limits))


def socp(n: int = 20, cones: int = 3, batch: int = 64, seed: int = 0) -> Family:
    """A linear objective over an intersection of ellipsoids, all of them parameters."""
    rng = np.random.default_rng(seed)
    x, q = cp.Variable(n), cp.Parameter(n)
    F = [cp.Parameter((n, n)) for _ in range(cones)]
    g = [cp.Parameter(n) for _ in range(cones)]
    problem = cp.Problem(cp.Minimize(q @ x), [cp.norm2(Fi @ x + gi) <= 1 for Fi, gi in zip(F, g, strict=True)])
    shapes = [np.eye(n) + rng.standard_normal((batch, n, n)) * 0.5 / np.sqrt(n) for _ in F]
    centres = [rng.standard_normal((batch, n)) * 0.5 / np.sqrt(n) for _ in g]
    data = (rng.standard_normal((batch, n)), *shapes, *centres)
    size = f"{n} variables, {cones} cones, batch {batch}"
    exact = closed.Ellipsoids(problem, (q, *F, *g), x)
    return Family("SOCP", size, problem, (q, *F, *g), (x,), data, closed=exact)


def sdp(order: int = 10, equations: int = 10, batch: int = 16, seed: int = 0) -> Family:
    """A semidefinite program in standard form; the objective and the right-hand sides are parameters."""
    rng = np.random.default_rng(seed)
    X, C, b = cp.Variable((order, order), symmetric=True), cp.Parameter((order, order)), cp.Parameter(equations)
    A = rng.standard_normal((equations, order, order))
    A = (A + A.transpose(0, 2, 1)) / 2
    rows = [cp.trace(Ai @ X) == b[i] for i, Ai in enumerate(A)]
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [*rows, X >> 0])
    # Strictly feasible on both sides: a positive definite point, and C = sum y_i A_i + a positive definite matrix.
    points, slacks = (_positive_definite(rng, batch, order) for _ in range(2))
    objective = np.einsum("bi,ijk->bjk", rng.standard_normal((batch, equations)), A) + slacks
    data = (objective, np.einsum("ijk,bjk->bi", A, points))
    size = f"order {order}, {equations} equations, batch {batch}"
    exact = closed.Semidefinite(problem, (C, b), X, A)
    return Family("SDP", size, problem, (C, b), (X,), data, closed=exact)


def _positive_definite(rng: np.random.Generator, batch: int, n: int) -> Array:
    root = rng.standard_normal((batch, n, n)) / np.sqrt(n)
    return root @ root.transpose(0, 2, 1) + 0.1 * np.eye(n)


def logistic(n: int = 5, points: int = 30, batch: int = 16, seed: int = 0) -> Family:
    """Regularized logistic regression; the features (times the labels) are parameters."""
    x, A = cp.Variable(n), cp.Parameter((points, n))
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(-A @ x)) / points + closed.RIDGE * cp.sum_squares(x)))
    data = np.random.default_rng(seed).standard_normal((batch, points, n))
    size = f"{n} variables, {points} points, batch {batch}"
    return Family("logistic", size, problem, (A,), (x,), (data,), closed=closed.regress)


def mpc(horizon: int = 15, states: int = 6, inputs: int = 3, batch: int = 64, seed: int = 0) -> Family:
    """Model predictive control: the first state and the dynamics are parameters, the inputs are limited."""
    rng = np.random.default_rng(seed)
    x, u = cp.Variable((states, horizon + 1)), cp.Variable((inputs, horizon))
    start, A, B = cp.Parameter(states), cp.Parameter((states, states)), cp.Parameter((states, inputs))
    cost = cp.sum_squares(x) + 0.5 * cp.sum_squares(u)
    rules = [x[:, 0] == start, x[:, 1:] == A @ x[:, :-1] + B @ u, cp.abs(u) <= 0.5]
    dynamics = 0.9 * np.linalg.qr(rng.standard_normal((batch, states, states)))[0]
    data = (2 * rng.standard_normal((batch, states)), dynamics, rng.standard_normal((batch, states, inputs)))
    size = f"horizon {horizon}, {states} states, batch {batch}"
    return Family("MPC", size, cp.Problem(cp.Minimize(cost), rules), (start, A, B), (u,), data)


def portfolio(n: int = 30, factors: int = 10, batch: int = 128, seed: int = 0) -> Family:
    """Mean and variance with a cost of turnover (l1); returns, factor loadings and old weights are parameters."""
    rng = np.random.default_rng(seed)
    w, mu, F, old = cp.Variable(n), cp.Parameter(n), cp.Parameter((factors, n)), cp.Parameter(n)
    risk = cp.sum_squares(F @ w) + 0.5 * cp.sum_squares(w)
    problem = cp.Problem(cp.Maximize(mu @ w - risk - 0.05 * cp.norm1(w - old)), [cp.sum(w) == 1, w >= 0])
    loadings = rng.standard_normal((batch, factors, n)) / np.sqrt(factors)
    data = (0.3 * rng.standard_normal((batch, n)), loadings, rng.dirichlet(np.ones(n), size=batch))
    return Family("portfolio", f"{n} assets, l1, batch {batch}", problem, (mu, F, old), (w,), data)


def total_variation(n: int = 200, batch: int = 32, seed: int = 0) -> Family:
    """Denoising by total variation; the signal and the weight of the penalty are parameters."""
    rng = np.random.default_rng(seed)
    x, y, weight = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y) + weight * cp.norm1(cp.diff(x))))
    steps = np.repeat(rng.standard_normal((batch, -(-n // 20))), 20, axis=1)[:, :n]
    data = (steps + 0.2 * rng.standard_normal((batch, n)), rng.uniform(0.3, 0.6, size=batch))
    return Family("total variation", f"{n} points, batch {batch}", problem, (y, weight), (x,), data)


def small(n: int = 10, batch: int = 1, seed: int = 0) -> Family:
    """One small projection: what a call costs besides its numbers."""
    family = simplex(n, batch, seed)
    return replace(family, name="one small", size=f"simplex, {n} variables, batch {batch}")


TIMED: Mapping[str, Callable[..., Family]] = MappingProxyType({
    "simplex": simplex, "dense_qp": dense_qp, "sparse_qp": sparse_qp, "socp": socp, "sdp": sdp, "logistic": logistic,
    "mpc": mpc, "portfolio": portfolio, "tv": total_variation, "sudoku": sudoku, "small": small,
})  # fmt: skip
"""The families of the timings, by the name that the command takes; their defaults are the sizes that are timed."""

QUICK: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "simplex": {"n": 10, "batch": 8}, "dense_qp": {"n": 8, "m": 8, "batch": 4},
    "sparse_qp": {"n": 30, "m": 15, "density": 0.1, "batch": 4}, "socp": {"n": 5, "cones": 2, "batch": 4},
    "sdp": {"order": 4, "equations": 3, "batch": 4}, "logistic": {"n": 3, "points": 10, "batch": 4},
    "mpc": {"horizon": 5, "states": 3, "inputs": 2, "batch": 4}, "portfolio": {"n": 8, "factors": 3, "batch": 4},
    "tv": {"n": 20, "batch": 4}, "sudoku": {"cells": 16, "rows": 8, "batch": 4}, "small": {},
})  # fmt: skip
"""Small sizes, for a look and for the tests."""


def make(name: str, quick: bool = False, seed: int = 0) -> Family:
    """One of the timed families, in full or in its small size.

    >>> make("small").data[0].shape
    (1, 10)
    """
    return TIMED[name](seed=seed, **(QUICK[name] if quick else {}))
