"""The dense path: M's block for dx, condensed to H = P + A'WA + delta I, and its Cholesky factors.

M (dx, dv) = (f, g) reads (P + delta I) dx + A'D dv = f and A dx - (I - D + eps D) dv = g. With T = (I - D + eps D)^-1
and W = D T, elimination of dv leaves

    H dx = f + A'W g,    dv = T (A dx - g),    H = P + A'WA + delta I,

where H is positive definite: W has the eigenvalues d / (1 - d + eps d), from 0 for d = 0 to 1 / eps for d = 1, which
is the penalty of an active row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from cvxlayers.derivative.factor.normal import DenseNormal, PairNormal, normal
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array, Structure

__all__ = ["CondensedFactor", "CondensedFactorization"]


class CondensedFactorization:
    """Factorizations of dense normal matrices, for problems that are small or dense."""

    def __init__(self, structure: Structure) -> None:
        self._normal: DenseNormal | PairNormal = normal(structure)
        self._n = structure.n
        self.bytes_per_element = 8 * structure.n**2 + self._normal.bytes_per_element

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        return batch * (4e4 + self._normal.cost + 0.03 * self._n**3 + 8.0 * self._n**2)

    def factorize(self, system: System) -> CondensedFactor:
        """The Cholesky factors of every element; those that have none are marked."""
        H = self._normal.assemble(system)
        usable = np.asarray(np.isfinite(H).all(axis=(1, 2)))
        for i in np.flatnonzero(usable):
            # The transpose is in Fortran's order, so that the factor takes the matrix's place.
            _, info = lapack.dpotrf(H[i].T, lower=1, clean=0, overwrite_a=1)
            usable[i] = info == 0
        return CondensedFactor(system, H, usable)


@dataclass(frozen=True)
class CondensedFactor:
    """M's solution operator; ``usable`` (B,) says which elements have one."""

    system: System
    factors: Array
    usable: NDArray[np.bool_]

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]:
        """M^-1 (f, g) for some elements; the columns of the others have no meaning."""
        system, c = self.system, self.system.scales[0]
        right = np.ascontiguousarray(((f + system.A.transpose_times(system.W.matvec(g))) / c).T)
        dx = np.zeros_like(right)
        for i in elements:
            dx[i] = lapack.dpotrs(self.factors[i].T, right[i], lower=1)[0]
        dx = np.ascontiguousarray(dx.T) / c
        return dx, system.T.matvec(system.A.times(dx) - g)
