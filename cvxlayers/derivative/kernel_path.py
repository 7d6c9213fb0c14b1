"""The derivative's systems solved by the kernels of the batched interior-point solver, eight elements at a time.

Factorization, solution and refinement are done at once, and no factors are kept.

They serve where Numba is usable (see ``jit`` and ``cvxlayers.ipm.adjoint.sensitivity``), for singular systems,
too. What they cannot solve to rounding they leave to others.
"""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import group_derivative
from cvxlayers.derivative.factor.part import Quality, SystemSolution
from cvxlayers.derivative.system.system import SystemLayout, SystemPoint
from cvxlayers.derivative.system.units import Units
from cvxlayers.ipm.cones import KINDS
from cvxlayers.ipm.kkt.layout import KktLayout
from cvxlayers.ipm.kkt.symbolic import Analysis, quick_analysis_of
from cvxlayers.kernels import jit
from cvxlayers.kernels.width import ALONE, W
from cvxlayers.program.scales import Scales
from cvxlayers.program.structure import Array, Structure, Values

if TYPE_CHECKING:
    from cvxlayers.ipm.batch import ParameterGradients, Sensitivity
    from cvxlayers.program.compiled import CompiledProblem

__all__ = ["KernelPath"]

Index = NDArray[np.intp]

_NONE = np.zeros(0, dtype=np.intp)

# The relative residual above which a solution is left to others.
_GOOD = 1e-12


class KernelPath:
    """The kernels for one layout.

    Examples
    --------
    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program.structure import Pattern
    >>> one = Pattern.of(np.array([0]), np.array([0]), (1, 1))
    >>> kernels = KernelPath.of(SystemLayout.of(Structure(P=one, A=one, cones=Cones(nonneg=1))))
    >>> kernels is None or kernels.cost(8) < kernels.cost(800)
    True
    """

    def __init__(self, layout: SystemLayout, analysis: Analysis, smoothing: float | None) -> None:
        self._layout, self._smoothing, self._mu = layout, smoothing, smoothing or 0.0
        self._seconds = analysis.derivative_seconds
        self._places = KktLayout.of(analysis)
        self._pairs = ("P" in layout.structure.varying) + 2 * ("A" in layout.structure.varying)
        self._spectra, self._height = _spectra(layout.structure.cones)

    def __reduce__(self) -> tuple[object, tuple[SystemLayout, float | None]]:
        return KernelPath.of, (self._layout, self._smoothing)

    @classmethod
    def of(cls, layout: SystemLayout, smoothing: float | None = None) -> KernelPath | None:
        """The kernels, or None where they do not serve."""
        if not _serves(layout.structure, smoothing):
            return None
        analysis = quick_analysis_of(layout.structure)
        return None if analysis is None else cls(layout, analysis, smoothing)

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        return 1e9 * self._seconds * min(-(-batch // W), ALONE * batch)

    @property
    def spectral(self) -> bool:
        """Whether there is more to the ``state`` than s."""
        return bool(self._spectra)

    def scales(self, values: Values, threads: int = 1) -> Scales:
        """Those of the problem (see ``cvxlayers.program.scales``)."""
        return Scales.of_rows(self._kernels.scale_batch(self._places, values, threads), self._places.n)

    def solve(
        self, values: Values, place: tuple[Array, Array, Array, Array], f: Array, g: Array, threads: int
    ) -> tuple[SystemSolution, Index]:
        """Solutions of J (dx, dv) = (f, g), and the elements of which they are not good enough; place is x, y, the
        state, and the scales as the kernels take them."""
        at = self._kernels.DerivativeAt(self._mu, *values, *place)
        found = self._kernels.differentiate_batch(self._places, at, f, g, threads)
        return SystemSolution(found.dx, found.u, Quality(found.info)), _unsure(found)

    def pull(
        self,
        values: Values,
        place: tuple[Array, Array, Array, Array],
        compiled: CompiledProblem,
        drows: Array,
        threads: int,
    ) -> tuple[list[Array], Quality, Index]:
        """``Linearization.pull``, with the systems' quality and the elements for which it is not good enough."""
        kernels = self._kernels
        at = kernels.DerivativeAt(self._mu, *values, *place)
        given = kernels.MapInput(compiled.adjoint, drows)
        found = kernels.pull_batch(self._places, at, self._pairs, given, compiled.ends, threads)
        return found.parts, Quality(found.info), _unsure(found)

    def state(self, point: SystemPoint, units: Units) -> Array:
        """s, and below it the spectra of the cones that have some, taken where y and s are comparable."""
        s, (m, batch), w = point.s, point.s.shape, units.balance
        v = point.y / w - w * s
        state = np.empty((self._height, batch))
        state[:m] = s
        for group, places in self._spectra:
            part = group_derivative(group, v)
            if self._smoothing is not None:
                part = part.smoothed(group.fold(v), self._smoothing)
            with np.errstate(divide="ignore", invalid="ignore"):
                part = part.map(_ratio, (w[group.rows[:, 0]] ** 2).ravel())
            state[places] = group.unfold(part.spectrum(), batch).swapaxes(0, 1)
        return state

    @cached_property
    def _kernels(self) -> ModuleType:
        from cvxlayers.ipm import batch  # here, because it loads Numba

        return batch


def _spectra(cones: Cones) -> tuple[list[tuple[Group, Index]], int]:
    """The groups of cones told by spectra, with the rows of the state, (N, size), that hold these, as
    ``cvxlayers.ipm.adjoint.blocks`` takes them; and the number of rows of the state."""
    spectral = [group for group in groups(cones) if group.spectrum]
    sizes = {int(start): group.spectrum for group in spectral for start in group.rows[:, 0]}
    first, height = {}, cones.m
    for start in sorted(sizes):
        first[start] = height
        height += sizes[start]
    starts = [np.array([first[int(start)] for start in group.rows[:, 0]], dtype=np.intp) for group in spectral]
    places = [begin[:, None] + np.arange(group.spectrum) for begin, group in zip(starts, spectral, strict=True)]
    return list(zip(spectral, places, strict=True)), height


def _ratio(d: Array, unit: Array) -> Array:
    """h = (1 - d) / d of D's eigenvalues, from those at y / w - w s, unit = w^2; -1 where d is 0."""
    return np.where(d == 0, -1.0, (1.0 - d) / (d * unit))


def _unsure(found: Sensitivity | ParameterGradients) -> Index:
    return _NONE if found.worst <= _GOOD else np.flatnonzero(~(found.info[0] <= _GOOD))


def _serves(structure: Structure, smoothing: float | None) -> bool:
    """Whether the kernels know the cones: those not told by a spectrum have, smoothed, no H of the form they need."""
    plain = smoothing is None or all(group.spectrum for group in groups(structure.cones))
    return plain and structure.cones.kinds() <= KINDS and jit.usable()
