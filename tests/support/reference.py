"""Reference solutions: CVXPY with tight tolerances, kept only if an independent check of the optimality holds.

The check is written from the definition of the cones, in the form that CVXPY hands to Clarabel or SCS, and shares no
code with the package under test.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

__all__ = ["Reference", "assign", "solve"]

CLARABEL_LEVELS = (1e-13, 1e-11, 1e-9)
SCS_OPTIONS = {"eps": 1e-11, "max_iters": 500_000}
ACCEPTED = 1e-8


@dataclass(frozen=True)
class Reference:
    """Values of the wanted variables, the objective, and the relative KKT residual that was verified."""

    outputs: tuple[np.ndarray, ...]
    objective: float
    residual: float


def solve(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    values: Sequence[Any],
    gp: bool = False,
) -> Reference:
    """Solve for these parameter values; the point with the smallest verified KKT residual wins."""
    assign(parameters, values)
    best: Reference | None = None
    attempts: list[tuple[str, dict[str, Any]]] = [
        (cp.CLARABEL, {"tol_gap_abs": eps, "tol_gap_rel": eps, "tol_feas": eps, "accept_unknown": True})
        for eps in CLARABEL_LEVELS
    ]
    for solver, options in [*attempts, (cp.SCS, SCS_OPTIONS)]:
        found = _attempt(problem, variables, gp, solver, options)
        if best is None or found.residual < best.residual:
            best = found
        if best.residual <= ACCEPTED * 1e-2:
            break
    assert best is not None and best.residual <= ACCEPTED, f"no reference solution: {best}"
    return best


def assign(parameters: Sequence[cp.Parameter], values: Sequence[Any]) -> None:
    """Give CVXPY's parameters their values."""
    for parameter, value in zip(parameters, values, strict=True):
        if parameter.attributes["sparsity"]:
            entries = (np.asarray(value)[parameter.sparse_idx], parameter.sparse_idx)
            parameter.value_sparse = sp.coo_array(entries, shape=parameter.shape)
        else:
            parameter.value = value


def _attempt(
    problem: cp.Problem, variables: Sequence[cp.Variable], gp: bool, solver: str, options: dict[str, Any]
) -> Reference:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its choice of a backend, and its own use of sparse values
        data, chain, inverse = problem.get_problem_data(solver, gp=gp, solver_opts=options)
    raw = chain.solver.solve_via_data(data, False, False, dict(options))
    x, y, s = _point(raw, solver)
    residual = _kkt(data, x, y, s, solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CVXPY finds a point inaccurate is for the residual to judge
        try:
            problem.unpack_results(raw, chain, inverse)
        except cp.SolverError:
            return Reference((), np.nan, np.inf)
        values = [v.value.toarray() if sp.issparse(v.value) else v.value for v in variables]
    outputs = tuple(np.asarray(value).reshape(v.shape) for v, value in zip(variables, values, strict=True))
    return Reference(outputs, float(problem.value), residual)


def _point(raw: Any, solver: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if solver == cp.SCS:
        return raw["x"], raw["y"], raw["s"]
    return np.array(raw.x), np.array(raw.z), np.array(raw.s)


def _kkt(data: dict[str, Any], x: np.ndarray, y: np.ndarray, s: np.ndarray, solver: str) -> float:
    """Residuals of  Px + A'y + c = 0,  Ax + s = b,  s'y = 0,  s in K,  y in K*,  relative to the terms' sizes."""
    A, b, c = sp.csc_array(data["A"]), data["b"], data["c"]
    P = sp.csc_array(data["P"]) if "P" in data else sp.csc_array((x.size, x.size))
    terms = [(A @ x, s, -b), (P @ x, A.T @ y, c)]
    equations = [_largest(sum(t)) / (1 + max(map(_largest, t))) for t in terms]
    scale = 1 + min(_largest(s), _largest(y))
    outside = _outside(data["dims"], s, y, upper=solver == cp.CLARABEL)
    return max(*equations, abs(s @ y) / (1 + abs(c @ x)), outside / scale)


def _largest(v: np.ndarray) -> float:
    return float(np.abs(v).max(initial=0.0))


def _outside(dims: Any, s: np.ndarray, y: np.ndarray, upper: bool) -> float:
    """How far s is from K and y from K*, by each cone's own inequality."""
    worst, at = _largest(s[: dims.zero]), dims.zero
    worst = max(worst, *(-v[at : at + dims.nonneg].min(initial=0.0) for v in (s, y)))
    at += dims.nonneg
    for d in dims.soc:
        worst = max(worst, *(np.linalg.norm(v[at + 1 : at + d]) - v[at] for v in (s, y)))
        at += d
    for k in dims.psd:
        d = k * (k + 1) // 2
        worst = max(worst, *(-np.linalg.eigvalsh(_matrix(v[at : at + d], k, upper)).min() for v in (s, y)))
        at += d
    for _ in range(dims.exp):
        worst = max(worst, _outside_exponential(s[at : at + 3]), _outside_dual_exponential(y[at : at + 3]))
        at += 3
    for alpha in dims.p3d:
        u, v = y[at] / alpha, y[at + 1] / (1 - alpha)
        worst = max(worst, _outside_power(*s[at : at + 3], alpha), _outside_power(u, v, y[at + 2], alpha))
        at += 3
    for shares in map(np.array, dims.pnd):
        rows, dual = slice(at, at + shares.size + 1), y[at : at + shares.size + 1] / np.append(shares, 1.0)
        worst = max(worst, _outside_power_nd(s[rows], shares), _outside_power_nd(dual, shares))
        at += shares.size + 1
    assert at == s.size
    return float(worst)


def _matrix(v: np.ndarray, k: int, upper: bool) -> np.ndarray:
    """A symmetric matrix from the packed upper or lower triangle, column by column."""
    X = np.zeros((k, k))
    rows, columns = np.tril_indices(k)  # row by row in the lower triangle is column by column in the upper one
    if not upper:
        columns, rows = np.triu_indices(k)
    X[rows, columns] = v / np.where(rows == columns, 1.0, np.sqrt(2.0))
    return X + np.tril(X, -1).T + np.triu(X, 1).T


def _outside_exponential(s: np.ndarray) -> float:
    """v exp(u / v) <= w, or its closure v = 0, u <= 0, w >= 0."""
    u, v, w = s
    boundary = max(abs(min(v, 0.0)), v, u, -w)
    return float(min(boundary, v * np.exp(min(u / v, 700.0)) - w)) if v > 0 else float(boundary)


def _outside_dual_exponential(y: np.ndarray) -> float:
    """-u exp(v / u) <= e w with u < 0, or its closure u = 0, v >= 0, w >= 0."""
    u, v, w = y
    boundary = max(abs(u), -v, -w)
    return float(min(boundary, -u * np.exp(min(v / u, 700.0)) - np.e * w)) if u < 0 else float(boundary)


def _outside_power(u: float, v: float, w: float, alpha: float) -> float:
    """|w| <= u^alpha v^(1 - alpha), u and v >= 0."""
    return max(-u, -v, abs(w) - max(u, 0.0) ** alpha * max(v, 0.0) ** (1 - alpha))


def _outside_power_nd(s: np.ndarray, shares: np.ndarray) -> float:
    """|w| <= prod u_i^alpha_i, u >= 0."""
    return float(max(-s[:-1].min(), abs(s[-1]) - np.prod(np.maximum(s[:-1], 0.0) ** shares)))
