"""Random cone programs whose solutions are known by construction, and derivatives by differences to compare with.

Choose x and v, split v into y = Proj_{K*}(v) and s = y - v, choose P and A: with q = -Px - A'y and b = Ax + s, the
point (x, y, s) solves the program exactly, whatever the cones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import DualDerivative, dual_derivative, project_dual
from cvxlayers.derivative.system.system import System, SystemLayout, SystemPoint
from cvxlayers.derivative.system.units import Units
from cvxlayers.program.scales import scales
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Pattern, Structure, Values

__all__ = [
    "Problem",
    "at",
    "cotangents",
    "difference",
    "inner",
    "moved",
    "noise",
    "one",
    "pattern",
    "polished",
    "pseudoinverse",
    "random_problem",
    "relative",
    "solution_of",
    "with_point",
]

PARTS = ("P", "q", "A", "b")


@dataclass(frozen=True)
class Problem:
    structure: Structure
    values: Values
    solution: Solution

    @property
    def point(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and s."""
        return self.solution.x, self.solution.y, self.solution.s

    def system(self, own_scales: bool = False) -> System:
        """The derivative's system at the solution, in the problem's scales or in those of singular systems."""
        units = Units.of(self.structure, self.values, scales(self.structure, self.values), *self.point)
        return System(
            SystemLayout.of(self.structure), self.values, SystemPoint(*self.point), units, own_scales=own_scales
        )


def solution_of(x: np.ndarray, v: np.ndarray, cones: Cones) -> Solution:
    y = project_dual(cones, v)
    batch = x.shape[1]
    zeros = np.zeros(batch, dtype=np.int64)
    return Solution(x, y, y - v, zeros.astype(np.int8), zeros, np.full(batch, "constructed"))


def at(structure: Structure, P: np.ndarray, A: np.ndarray, x: np.ndarray, v: np.ndarray) -> Problem:
    """The problem with these P and A that (x, v) solves."""
    solution = solution_of(x, v, structure.cones)
    q = -structure.P_times(P, x) - structure.A.transpose_times(A, solution.y)
    b = structure.A.times(A, x) + solution.s
    return Problem(structure, Values(P, q, A, b), solution)


def pattern(mask: np.ndarray) -> Pattern:
    columns, rows = np.nonzero(mask.T)
    return Pattern.of(rows, columns, mask.shape)


def random_problem(
    rng: np.random.Generator,
    n: int,
    cones: Cones,
    batch: int = 3,
    density: float = 0.6,
    quadratic: bool = True,
    shared: bool = False,
    varying: str = "PqAb",
) -> Problem:
    """A random problem; ``shared``: P and A are the same for all elements, as broadcast views."""
    mask = rng.random((cones.m, n)) < density
    mask[np.arange(cones.m), np.arange(cones.m) % n] = True
    upper = np.triu(rng.random((n, n)) < density) | np.eye(n, dtype=bool) if quadratic else np.zeros((n, n), bool)
    structure = Structure(pattern(upper), pattern(mask), cones, frozenset(varying))
    own = 1 if shared else batch
    A, P = rng.standard_normal((structure.A.nnz, own)), np.zeros((structure.P.nnz, own))
    for i in range(own if quadratic else 0):
        off = np.where(np.triu(upper, 1), rng.standard_normal((n, n)), 0.0)
        full = off + off.T
        full[np.arange(n), np.arange(n)] = np.abs(full).sum(axis=0) + rng.uniform(0.1, 1.0, n)
        P[:, i] = full[structure.P.rows, structure.P.columns]
    A, P = (np.broadcast_to(part, (part.shape[0], batch)) for part in (A, P))
    return at(structure, P, A, rng.standard_normal((n, batch)), rng.standard_normal((cones.m, batch)))


def noise(rng: np.random.Generator, problem: Problem, parts: str = "PqAb") -> Values:
    """A random tangent of the named parts, zero in the others."""
    values = problem.values
    return Values(
        *(rng.standard_normal(getattr(values, k).shape) if k in parts else 0.0 * getattr(values, k) for k in PARTS)
    )


def moved(values: Values, tangent: Values, step: float) -> Values:
    return Values(*(getattr(values, k) + step * getattr(tangent, k) for k in PARTS))


def polished(  # type: ignore[no-untyped-def]
    problem: Problem, values: Values, steps: int = 15, projection=project_dual, differential=dual_derivative
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, s for other values near the problem's, by Newton's method on the optimality residual in (x, v).

    NaN for the elements where it does not converge, as may happen next to a kink. Another projection, with its
    differential, gives the solution of the conditions with that projection.
    """
    structure, cones = problem.structure, problem.structure.cones
    n = structure.n
    P, A = _dense(structure.P, values.P), _dense(structure.A, values.A)
    P = P + np.triu(P.swapaxes(1, 2), 1).swapaxes(1, 2) + np.tril(P.swapaxes(1, 2), -1) - np.tril(P, -1)
    x, v = problem.solution.x.copy(), problem.solution.y - problem.solution.s
    for _ in range(steps):
        y = projection(cones, v)
        R = np.concatenate([_times(P, x) + values.q + _times(A.swapaxes(1, 2), y), _times(A, x) + y - v - values.b])
        D = _blocks(differential(cones, v))
        upper = np.concatenate([P, A.swapaxes(1, 2) @ D], axis=2)
        J = np.concatenate([upper, np.concatenate([A, D - np.eye(structure.m)], axis=2)], axis=1)
        step = np.linalg.solve(J, R.T[:, :, None])[:, :, 0].T
        x, v = x - step[:n], v - step[n:]
        if np.abs(step).max(initial=0.0) < 1e-13:
            break
    lost = np.abs(R).max(axis=0, initial=0.0) > 1e-11
    x, v = np.where(lost, np.nan, x), np.where(lost, 0.0, v)
    y = np.where(lost, np.nan, projection(cones, v))
    return x, y, y - v


def _dense(pattern: Pattern, values: np.ndarray) -> np.ndarray:
    matrices = np.zeros((values.shape[1], *pattern.shape))
    matrices[:, pattern.rows, pattern.columns] = values.T
    return matrices


def _times(matrices: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("bij,jb->ib", matrices, x)


def _blocks(D: DualDerivative) -> np.ndarray:
    """D as dense matrices (B, m, m)."""
    dense = np.einsum("ib,ij->bij", D.diagonal, np.eye(D.cones.m))
    for rows, blocks in D.blocks:
        for k, indices in enumerate(rows):
            dense[np.ix_(range(D.batch), indices, indices)] = np.moveaxis(blocks[:, :, k], -1, 0)
    return dense


def difference(problem: Problem, tangent: Values, solve=polished, step: float = 1e-3) -> tuple[np.ndarray, ...]:  # type: ignore[no-untyped-def]
    """The derivative of (x, y, s) along a tangent: Richardson's extrapolation, the step halved until two agree."""
    last: tuple[np.ndarray, ...] | None = None
    agreement = np.inf
    for _ in range(12):
        ends = [solve(problem, moved(problem.values, tangent, k * step)) for k in (-1.0, -0.5, 0.5, 1.0)]
        found = tuple((8 * (c - b) - (d - a)) / (6 * step) for a, b, c, d in zip(*ends, strict=True))
        if last is not None:
            agreement = max(relative(a, b) for a, b in zip(found, last, strict=True))
            if agreement < 1e-9:
                return found
        last, step = found, step / 2
    raise AssertionError(f"The finite differences agree only to {agreement:.1e}.")


def inner(left: Values, right: Values) -> np.ndarray:
    return sum((getattr(left, k) * getattr(right, k)).sum(axis=0) for k in PARTS)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected entry."""
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(found - expected).max(initial=0.0) / (scale if scale else 1.0))


def cotangents(problem: Problem, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random cotangents of x, y and s."""
    solution = problem.solution
    return tuple(rng.standard_normal(part.shape) for part in (solution.x, solution.y, solution.s))  # type: ignore[return-value]


def with_point(problem: Problem, x: np.ndarray, v: np.ndarray) -> Problem:
    """The same structure, P and A, solved by another point."""
    return at(problem.structure, problem.values.P, problem.values.A, x, v)


def one(problem: Problem, i: int) -> Problem:
    """The i-th element as a batch of one."""
    index = np.array([i])
    return replace(problem, values=problem.values.select(index), solution=problem.solution.select(index))


def pseudoinverse(system: System, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx and dy of least norm in scaled units, by eigenvalues, and how much of (f, g) no solution serves.

    With E = D^(1/2) and rho = E dv, J (dx, dv) = (f, g) is symmetric: [[P, A'E], [E A, D - I]] (dx, rho) = (f, E g).
    """
    n, (c, r), (P, A) = f.shape[0], system.scales, system.entries
    P, A, D = _dense(system.layout.P, P), _dense(system.layout.structure.A, A), _blocks(system.D)
    found, lost = [], []
    for i in range(system.batch):
        d, Q = np.linalg.eigh(D[i])
        E = (Q * np.sqrt(np.maximum(d, 0.0))) @ Q.T
        K = np.block([[P[i], A[i].T @ E], [E @ A[i], D[i] - np.eye(len(E))]])
        right = np.concatenate([c[:, i] * f[:, i], E @ (r[:, i] * g[:, i])])
        size = np.hypot(np.linalg.norm(right[:n]), np.linalg.norm((Q.T @ (r[:, i] * g[:, i]))[d > 1e-12]))
        values, vectors = np.linalg.eigh(K)
        keep = np.abs(values) > 1e-9
        inside = vectors.T @ right
        z = vectors[:, keep] @ (inside[keep] / values[keep])
        lost.append(np.linalg.norm(inside[~keep]) / size)
        found.append((c[:, i] * z[:n], r[:, i] * (E @ z[n:])))
    dx, dy = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    return dx, dy, np.array(lost)
