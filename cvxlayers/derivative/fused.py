"""The derivative's systems solved by the kernels of the batched interior-point solver, eight elements at a time.

Factorization, solution and refinement are done at once, and no factors are kept.

They serve zero, nonnegative and second-order cones (see ``cvxlayers.ipm.sensitivity``) where Numba is installed. What
they find singular, or cannot solve to rounding, they leave to others.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import nonneg
from cvxlayers.derivative.part import Solved
from cvxlayers.derivative.smoothing import smoothed_rows
from cvxlayers.derivative.system import Layout
from cvxlayers.ipm.layout import Layout as Places
from cvxlayers.ipm.symbolic import Analysis, analysis_of
from cvxlayers.ipm.width import W
from cvxlayers.program import Array, Structure, Values

if TYPE_CHECKING:
    from cvxlayers.ipm.batch import Pairing, Sensitivity

__all__ = ["Fused"]

Index = NDArray[np.intp]

_KINDS = frozenset({"zero", "nonneg", "second_order"})
# The relative residual above which a solution is left to others.
_GOOD = 1e-12


class Fused:
    """The kernels for one layout.

    Examples
    --------
    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program import Pattern
    >>> one = Pattern.of(np.array([0]), np.array([0]), (1, 1))
    >>> kernels = Fused.of(Layout.of(Structure(P=one, A=one, cones=Cones(nonneg=1))))
    >>> kernels is None or kernels.cost(8) < kernels.cost(800)
    True
    """

    def __init__(self, layout: Layout, analysis: Analysis, smoothing: float | None) -> None:
        self._layout, self._smoothing = layout, smoothing
        self._seconds = analysis.derivative_seconds
        self._places = Places.of(analysis)
        self._probe = np.concatenate(layout.probe)

    def __reduce__(self) -> tuple[object, tuple[Layout, float | None]]:
        return Fused.of, (self._layout, self._smoothing)

    @classmethod
    def of(cls, layout: Layout, smoothing: float | None = None) -> Fused | None:
        """The kernels, or None where they do not serve."""
        if not _serves(layout.structure, smoothing):
            return None
        analysis = analysis_of(layout.structure)
        return None if analysis is None else cls(layout, analysis, smoothing)

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        return 1e9 * self._seconds * -(-batch // W)

    def solve(self, values: Values, v: Array, f: Array, g: Array, threads: int) -> tuple[Solved, Index]:
        """Solutions of J (dx, dv) = (f, g), and the elements of which they are not good enough."""
        return _judged(self._differentiate(values, v, f, g, threads, None))

    def paired(
        self, values: Values, v: Array, f: Array, g: Array, threads: int, x: Array, y: Array
    ) -> tuple[Solved, Index, Array | None, Array | None]:
        """The same, with the cotangents of P and A, where these vary, for the multipliers dx and D dv."""
        from cvxlayers.ipm.batch import Pairing

        structure = self._layout.structure
        P, A = (part.nnz * (name in structure.varying) for name, part in (("P", structure.P), ("A", structure.A)))
        found = self._differentiate(values, v, f, g, threads, Pairing(x, y, P, A))
        dP, dA = found.cotangents
        return *_judged(found), dP if P else None, dA if A else None

    def _differentiate(
        self, values: Values, v: Array, f: Array, g: Array, threads: int, pairing: Pairing | None
    ) -> Sensitivity:
        from cvxlayers.ipm.batch import differentiate_batch  # here, because it loads Numba

        state = self._state(v)
        return differentiate_batch(self._places, values.P, values.A, state, self._probe, f, g, threads, pairing)

    def _state(self, v: Array) -> Array:
        """D's diagonal in the rows without curvature, and v in those of second-order cones."""
        cones = self._layout.structure.cones
        flat = cones.zero + cones.nonneg
        state = v.copy()
        state[: cones.zero] = 1.0
        rows = v[cones.zero : flat]
        if self._smoothing is None:
            state[cones.zero : flat] = nonneg.dual_derivative(rows)
        else:
            state[cones.zero : flat] = smoothed_rows(rows, self._smoothing)
        return state


def _judged(found: Sensitivity) -> tuple[Solved, Index]:
    unsure = np.flatnonzero(~(found.healthy & (found.residual <= _GOOD)))
    return Solved(found.dx, found.u, found.residual), unsure


def _serves(structure: Structure, smoothing: float | None) -> bool:
    """Whether the kernels know the cones. Smoothed, those of second order have no H of the form that they need."""
    cones = structure.cones
    known = cones.kinds() <= _KINDS and not (smoothing is not None and cones.second_order)
    return known and importlib.util.find_spec("numba") is not None
