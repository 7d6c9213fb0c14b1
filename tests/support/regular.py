"""Random problems over random cones whose solution is known, unique, and differentiable with room to spare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvxlayers.cones import Cones, dual_derivative, project_dual
from cvxlayers.program.structure import Array, Structure, Values
from tests.ipm.problems import structure_of

__all__ = ["CONDITION", "MARGIN", "Regular", "condition", "random_cones", "regular"]

CONDITION = 1e3
"""Of the optimality system, in the problem's own units: at the most."""

MARGIN = 1e-2
"""Distance from the nearest kink, relative to the largest number of y - s: at the least."""


@dataclass(frozen=True)
class Regular:
    """min 1/2 x'Px + q'x  s.t.  Ax + s = b, with its solution; one element."""

    structure: Structure
    values: Values
    x: Array
    y: Array


def random_cones(rng: np.random.Generator, kinds: frozenset[str]) -> Cones:
    """A few rows and cones of these kinds."""
    sizes = {
        "zero": int(rng.integers(0, 4)),
        "nonneg": int(rng.integers(1, 7)),
        "second_order": tuple(rng.integers(2, 6, rng.integers(0, 3)).tolist()),
        "psd": tuple(rng.integers(1, 5, rng.integers(0, 3)).tolist()),
        "exponential": int(rng.integers(0, 3)),
        "power": tuple(rng.choice([0.2, 0.5, 0.7], rng.integers(0, 3)).tolist()),
        "power_nd": ((0.2, 0.3, 0.5), (0.4, 0.6))[: rng.integers(0, 3)],
    }
    return Cones(**{kind: size for kind, size in sizes.items() if kind in kinds})  # type: ignore[arg-type]


def regular(rng: np.random.Generator, kinds: frozenset[str], quadratic: bool) -> Regular:
    """A problem over such cones, the first of many draws that is regular.

    x and v come first; y = Proj_{K*}(v) and s = y - v are complementary (Moreau 1962), and q and b follow. P, if there
    is one, has half of full rank, so that the rest of x hangs on the constraints.
    """
    while True:
        cones = random_cones(rng, kinds)
        m, n = cones.m, int(rng.integers(1, 9))
        x, v, A = rng.normal(size=n), rng.normal(size=m), rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
        root = rng.normal(size=(n, (n + 1) // 2))
        P = root @ root.T if quadratic else np.zeros((n, n))
        y = project_dual(cones, v[:, None])[:, 0]
        if condition(cones, P, A, v) <= CONDITION and float(dual_derivative(cones, v[:, None]).margin[0]) >= MARGIN:
            structure = structure_of(P, A, cones)
            parts = (
                P[structure.P.rows, structure.P.columns],
                -P @ x - A.T @ y,
                A[structure.A.rows, structure.A.columns],
                A @ x + y - v,
            )
            return Regular(structure, Values(*(part[:, None] for part in parts)), x, y)


def condition(cones: Cones, P: Array, A: Array, v: Array) -> float:
    """Of the Jacobian of (Px + q + A'y, Ax + y - v - b) in (x, v), the projection's derivative by differences."""
    m, step = v.size, 1e-6
    moved = v[:, None] + step * np.concatenate([np.eye(m), -np.eye(m)], axis=1)
    y = project_dual(cones, moved)
    D = (y[:, :m] - y[:, m:]) / (2 * step)
    return float(np.linalg.cond(np.block([[P, A.T @ D], [A, D - np.eye(m)]])))
