"""The derivative's systems solved by the kernels of the batched interior-point solver, eight elements at a time.

Factorization, solution and refinement are done at once, and no factors are kept.

They serve where Numba is usable (see ``jit`` and ``cvxlayers.ipm.sensitivity``). What they find singular, or cannot
solve to rounding, they leave to others.
"""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cvxlayers import jit
from cvxlayers.cones.blocks import BlockDerivative, EigenBlocks
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import group_derivative
from cvxlayers.cones.psd import PsdDerivative
from cvxlayers.cones.svec import triangle
from cvxlayers.derivative.part import Solved
from cvxlayers.derivative.smoothing import smoothed_part
from cvxlayers.derivative.system import Layout
from cvxlayers.ipm.layout import Layout as Places
from cvxlayers.ipm.symbolic import Analysis, quick_analysis_of
from cvxlayers.ipm.width import ALONE, W
from cvxlayers.program import Array, Structure, Values

if TYPE_CHECKING:
    from cvxlayers.compiled import CompiledProblem
    from cvxlayers.ipm.batch import Pulled, Sensitivity

__all__ = ["Fused"]

Index = NDArray[np.intp]

_NONE = np.zeros(0, dtype=np.intp)

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
        self._layout, self._smoothing, self._mu = layout, smoothing, smoothing or 0.0
        self._seconds = analysis.derivative_seconds
        self._places = Places.of(analysis)
        self._pairs = ("P" in layout.structure.varying) + 2 * ("A" in layout.structure.varying)
        self._spectra, self._height = _spectra(layout.structure.cones)

    def __reduce__(self) -> tuple[object, tuple[Layout, float | None]]:
        return Fused.of, (self._layout, self._smoothing)

    @classmethod
    def of(cls, layout: Layout, smoothing: float | None = None) -> Fused | None:
        """The kernels, or None where they do not serve."""
        if not _serves(layout.structure, smoothing):
            return None
        analysis = quick_analysis_of(layout.structure)
        return None if analysis is None else cls(layout, analysis, smoothing)

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        return 1e9 * self._seconds * min(-(-batch // W), ALONE * batch)

    def solve(self, values: Values, y: Array, s: Array, f: Array, g: Array, threads: int) -> tuple[Solved, Index]:
        """Solutions of J (dx, dv) = (f, g), and the elements of which they are not good enough."""
        point = self._kernels.Point(self._mu, *values, f[:0], y, self._state(y, s))
        found = self._kernels.differentiate_batch(self._places, point, f, g, threads)
        return Solved(*found[:-1]), _unsure(found)

    def pull(
        self, values: Values, x: Array, y: Array, s: Array, compiled: CompiledProblem, drows: Array, threads: int
    ) -> tuple[list[Array], Array, Index]:
        """``Linearization.pull``, with the systems' residuals and the elements for which it is not good enough."""
        kernels = self._kernels
        point = kernels.Point(self._mu, *values, x, y, self._state(y, s))
        given = kernels.Given(compiled.adjoint, drows)
        found = kernels.pull_batch(self._places, point, self._pairs, given, compiled.ends, threads)
        return found.parts, found.residual, _unsure(found)

    @cached_property
    def _kernels(self) -> ModuleType:
        from cvxlayers.ipm import batch  # here, because it loads Numba

        return batch

    def _state(self, y: Array, s: Array) -> Array:
        """s, and below it the spectra of the PSD, exponential and power cones at v = y - s."""
        if not self._spectra:
            return s
        (m, batch), v = s.shape, y - s
        state = np.empty((self._height, batch))
        state[:m] = s
        for group, places in self._spectra:
            part = group_derivative(group, v)
            if self._smoothing is not None:
                part = smoothed_part(group, part, v, self._smoothing)
            state[places] = _spectrum(group, part, batch)
        return state


def _spectra(cones: Cones) -> tuple[list[tuple[Group, Index]], int]:
    """The groups of PSD, exponential and power cones with the rows of the state, (N, size), that hold their spectra, as
    ``cvxlayers.ipm.spectral`` takes them; and the number of rows of the state."""
    further = [group for group in groups(cones) if group.kind != "second_order"]
    sizes = {int(start): _size(group) for group in further for start in group.rows[:, 0]}
    first, height = {}, cones.m
    for start in sorted(sizes):
        first[start] = height
        height += sizes[start]
    starts = [np.array([first[int(start)] for start in group.rows[:, 0]], dtype=np.intp) for group in further]
    places = [begin[:, None] + np.arange(_size(group)) for begin, group in zip(starts, further, strict=True)]
    return list(zip(further, places, strict=True)), height


def _size(group: Group) -> int:
    """How many numbers the spectrum of one cone of the group takes."""
    if group.kind != "psd":
        return group.dimension * (group.dimension + 1)
    return int(group.data[0]) ** 2 + group.dimension


def _spectrum(group: Group, part: BlockDerivative, batch: int) -> Array:
    """Eigenvectors and eigenvalues of each cone of the group, (N, size, B)."""
    count, d = group.count, group.dimension
    if isinstance(part, PsdDerivative):
        rows, columns, _ = triangle(part.Q.shape[1])
        flat = part.Q.reshape(count * batch, part.Q.shape[1] ** 2)
        both = np.concatenate([flat, part.Omega[:, rows, columns]], axis=1)
        return both.reshape(count, batch, _size(group)).swapaxes(1, 2)
    assert isinstance(part, EigenBlocks)
    vectors = part.Q.swapaxes(0, 1).reshape(d * d, count, batch)
    return np.concatenate([vectors, part.eigenvalues.reshape(d, count, batch)]).swapaxes(0, 1)


def _unsure(found: Sensitivity | Pulled) -> Index:
    return _NONE if found.worst <= _GOOD else np.flatnonzero(~(found.residual <= _GOOD))


def _serves(structure: Structure, smoothing: float | None) -> bool:
    """Whether the kernels know the cones: smoothed, those of second order have no H of the form that they need."""
    known = smoothing is None or not structure.cones.second_order
    return known and jit.usable()
