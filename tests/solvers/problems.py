"""Cone programs whose solution is known because it came first.

A pair s in K, y in K* with s'y = 0, strictly complementary, and any x, P and A fix the rest: q = -Px - A'y, b = Ax + s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import Cones, project_dual
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Array, Pattern, Structure, Values

__all__ = ["FAMILIES", "Family", "Problem", "family", "make", "pattern", "sealed", "stacked"]


@dataclass(frozen=True)
class Family:
    """A kind of problem. ``curved``: near the solution, x moves like the square root of the gap."""

    name: str
    cones: Cones
    n: int
    quadratic: bool
    curved: bool = field(default=False)

    def __str__(self) -> str:
        return self.name


FAMILIES = (
    Family("LP", Cones(zero=2, nonneg=12), 6, False),
    Family("QP", Cones(zero=2, nonneg=12), 8, True),
    Family("SOCP", Cones(zero=1, second_order=(3, 4, 3)), 7, True, curved=True),
    Family("SOCP-linear", Cones(zero=1, second_order=(3, 4, 3)), 4, False, curved=True),
    Family("SDP3", Cones(zero=1, psd=(3,)), 4, True, curved=True),
    Family("SDP5", Cones(nonneg=2, psd=(5,)), 6, True, curved=True),
    Family("SDP35", Cones(zero=2, nonneg=2, psd=(3, 5)), 8, True, curved=True),
    Family("SDP35-linear", Cones(psd=(3, 5)), 9, False, curved=True),
    Family("exponential", Cones(zero=1, nonneg=2, exponential=3), 5, True, curved=True),
    Family("exponential-linear", Cones(nonneg=2, exponential=3), 4, False, curved=True),
    Family("power", Cones(zero=1, power=(0.3, 0.7)), 4, True, curved=True),
    Family("power-linear", Cones(zero=1, power=(0.3, 0.7, 0.5)), 4, False, curved=True),
    Family("all", Cones(1, 2, (3,), (3, 4), 2, (0.4,)), 9, True, curved=True),
    Family("all-linear", Cones(1, 4, (3, 4), (4,), 2), 8, False, curved=True),
    Family("equalities", Cones(zero=3), 6, True),
    Family("inequalities", Cones(nonneg=5), 4, True),
    Family("unconstrained", Cones(), 4, True),
    Family("one", Cones(nonneg=2), 1, True),
)


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name)


@dataclass(frozen=True)
class Problem:
    """A batch of problems with their solutions x (n, B), y and s (m, B)."""

    structure: Structure
    values: Values
    x: Array
    y: Array
    s: Array

    @property
    def solution(self) -> Solution:
        batch = self.x.shape[1]
        status, iterations = np.full(batch, Status.OPTIMAL, dtype=np.int8), np.zeros(batch, dtype=np.int64)
        return Solution(self.x, self.y, self.s, status, iterations, np.full(batch, "KNOWN"))

    @property
    def objective(self) -> Array:
        return _objective(self, self.x)

    def objective_of(self, x: Array) -> Array:
        return _objective(self, x)


def _objective(problem: Problem, x: Array) -> Array:
    Px = problem.structure.P_times(problem.values.P, x)
    return np.einsum("ib,ib->b", x, Px / 2 + problem.values.q)


def pattern(nonzero: NDArray[np.bool_]) -> Pattern:
    columns, rows = np.nonzero(nonzero.T)
    return Pattern.of(rows, columns, nonzero.shape)


def sealed(P: Pattern, A: Pattern, cones: Cones, x: Array, v: Array, rng: np.random.Generator) -> Problem:
    """The problem with the solution x, y = Proj_{K*}(v) and s = y - v, for random P and A on these patterns."""
    n, batch = x.shape
    y = project_dual(cones, v)
    s = y - v
    structure = Structure(P, A, cones)
    F = rng.standard_normal((n, n, batch))
    dense = np.einsum("ikb,jkb->ijb", F, F) / n + 0.1 * np.eye(n)[:, :, None]
    p, a = dense[P.rows, P.columns], rng.standard_normal((A.nnz, batch))
    q = -structure.P_times(p, x) - A.transpose_times(a, y)
    return Problem(structure, Values(p, q, a, A.times(a, x) + s), x, y, s)


def make(chosen: Family, batch: int, seed: int = 0) -> Problem:
    """A batch of random problems of the family."""
    rng = np.random.default_rng([seed, chosen.n, chosen.cones.m])
    cones, n = chosen.cones, chosen.n
    P = pattern(np.triu(np.full((n, n), chosen.quadratic)))
    A = pattern(np.ones((cones.m, n), dtype=bool))
    v = np.stack([_point(cones, n - cones.zero, rng) for _ in range(batch)], axis=1)
    return sealed(P, A, cones, rng.standard_normal((n, batch)), v, rng)


def _point(cones: Cones, active: int, rng: np.random.Generator) -> Array:
    """v = y - s, away from the kinks; for polyhedral cones with as many active rows as a vertex has."""
    v = np.zeros(cones.m)
    for block in cones.blocks:
        d = block.stop - block.start
        if block.kind == "nonneg":
            signs = np.where(rng.permutation(d) < active, 1.0, -1.0) if cones.polyhedral else rng.choice([-1.0, 1.0], d)
            part = signs * rng.uniform(0.2, 1.5, d)
        elif block.kind in ("exponential", "power"):
            part = _between(block.kind, block.data, rng)
        else:
            part = rng.standard_normal(d)
        v[block.rows] = part
    return v


def _between(kind: str, alpha: float, rng: np.random.Generator) -> Array:
    """v = y - s with s on the boundary of a three-dimensional cone and y normal to it there."""
    u, t = rng.uniform(-1, 1), rng.uniform(0.5, 1.5)
    if kind == "exponential":
        e = np.exp(u / t)
        s, y = np.array([u, t, t * e]), np.array([-e, (u / t - 1) * e, 1.0])
    else:
        u = abs(u) + 0.2
        w = u**alpha * t ** (1 - alpha)
        s, y = np.array([u, t, w]), np.array([alpha * w / u, (1 - alpha) * w / t, -1.0])
    return y * rng.uniform(0.2, 1.0) - s


def stacked(problem: Problem, copies: int) -> Values:
    """The values, repeated."""
    values = problem.values
    return Values(*(np.tile(part, (1, copies)) for part in (values.P, values.q, values.A, values.b)))
