"""The exact derivative of a quadratic cone program: one factorization for each element, used forward and backward.

The optimality residual in (x, v), with v = y - s, y = Proj_{K*}(v) and D its derivative (DESIGN section 4), is

    R1 = Px + q + A'y,    R2 = Ax + y - v - b,    dR/d(x, v) = J = [[P, A'D], [A, D - I]].

Forward, J (dx, dv) = -(dP x + dq + dA'y, dA x - db), dy = D dv and ds = dy - dv. Backward, the multiplier (rx, rv) with
J'(rx, rv) = (gx, D (gy + gs) - gs) gives dq = -rx, db = rv, dA = -(y rx' + rv x') and dP = -(rx x' + x rx') / 2.
``system`` shows that both are solves with J. Source: Agrawal, Barratt, Boyd, Busseti, Moursi 2019, for the conic part;
Healey, Nobel, Boyd 2025 with P.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.base import Derivative, DerivativeReport, Linearization
from cvxlayers.derivative.factor.choice import WAYS, Choice
from cvxlayers.derivative.factor.factors import Factors, Limits
from cvxlayers.derivative.factor.part import ACCEPTED, Quality, SystemSolution
from cvxlayers.derivative.kernel_path import KernelPath
from cvxlayers.derivative.pairing import cotangents, right_hand_side
from cvxlayers.derivative.system.smoothing import smoothed_projection
from cvxlayers.derivative.system.system import SystemLayout, SystemPoint
from cvxlayers.derivative.system.units import Units, kink_margin
from cvxlayers.errors import OptionError
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.once import once
from cvxlayers.program.scales import Scales, scales
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["ExactDerivative", "ExactLinearization"]


# Nanoseconds that the array operations of a solution by other means take besides its factors.
_ARRAYS = 2e5

_PREFERENCES = ("kernels", "arrays", *WAYS)

_UNKNOWN = np.zeros((0, 1))


class ExactDerivative(Derivative):
    """Exact derivatives of the solution map by direct factorization.

    Parameters
    ----------
    structure : Structure
    threads : int
        How many threads may work on one batch.
    smoothing : float, optional
        With mu > 0, the derivative of the solution map smoothed along the central path instead (see ``smoothing``): it
        is that of the program with a barrier of weight mu, at values that differ by O(mu) from those given, and tells
        at a vertex or a kink where the solution would go. It tends to the exact derivative where there is one.
    prefer : {"kernels", "arrays", "condensed", "sparse", "lanes"}, optional
        What takes the batches whatever their size: the compiled kernels where they serve, the array operations in the
        way that is the fastest for the batch, or in this one (see ``factor.choice``). Default: what is predicted to be
        the fastest.
    limits : Limits, optional
        How the array operations cut a batch into parts, and what is kept of them.

    Raises
    ------
    OptionError
        Where ``smoothing`` is not positive, or ``prefer`` none of these.

    Examples
    --------
    minimize x^2 / 2 + q x subject to x >= 0 has the solution max(-q, 0), here for q = -3 and q = 3:

    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program.structure import Pattern
    >>> one = Pattern.of(np.array([0]), np.array([0]), (1, 1))
    >>> structure = Structure(P=one, A=one, cones=Cones(nonneg=1))
    >>> values = Values(P=np.ones((1, 2)), q=np.array([[-3.0, 3.0]]), A=-np.ones((1, 2)), b=np.zeros((1, 2)))
    >>> x, y = np.array([[3.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> solution = Solution(x, y, x, np.zeros(2, np.int8), np.zeros(2, int), np.full(2, "by hand"))
    >>> linearization = ExactDerivative(structure).linearize(values, solution)
    >>> linearization.vjp(np.ones((1, 2)), np.zeros((1, 2))).q.round(12) + 0.0
    array([[-1.,  0.]])
    >>> linearization.report.fallback
    array([False, False])
    """

    def __init__(
        self,
        structure: Structure,
        threads: int = 1,
        smoothing: float | None = None,
        prefer: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        if smoothing is not None and not 0 < smoothing < np.inf:
            raise OptionError(
                f"smoothing is {smoothing!r}, but must be a positive number, or None for the exact derivative: pass "
                "what the product of s and y is to be on the smoothed solutions, say 1e-4."
            )
        if prefer is not None and prefer not in _PREFERENCES:
            raise OptionError(
                f"prefer is {prefer!r}, but must be one of {', '.join(map(repr, _PREFERENCES))}, or None for what is "
                "predicted to be the fastest: pass one of these."
            )
        self.smoothing = smoothing
        self.prefer, self.limits = prefer, limits
        self.structure = structure
        self.threads = threads
        self.layout = SystemLayout.of(structure)
        self.choice = Choice.of(self.layout, prefer if prefer in WAYS else None)
        self.kernels = KernelPath.of(self.layout, smoothing) if prefer in (None, "kernels") else None
        self._serves: dict[int, bool] = {}  # what is predicted for the sizes of batch that have occurred

    def kernels_for(self, batch: int) -> KernelPath | None:
        """The kernels, where they are there and preferred or predicted to be the fastest for this size of the batch."""
        if self.kernels is None or self.prefer == "kernels":
            return self.kernels
        serves = self._serves.get(batch)
        if serves is None:
            serves = self.kernels.cost(batch) <= _ARRAYS + self.choice.fastest(batch).cost(batch)
            self._serves[batch] = serves
        return self.kernels if serves else None

    def linearize(self, values: Values, solution: Solution) -> ExactLinearization:
        return ExactLinearization(self, values, solution)


class ExactLinearization(Linearization):
    """The derivative at the solutions of one batch. It factorizes at the first application and keeps the factors, or
    does both at once in compiled kernels (see ``kernel_path``), which leave to the factors what is singular."""

    def __init__(self, derivative: ExactDerivative, values: Values, solution: Solution) -> None:
        self._derivative, self._values = derivative, values
        x, y, s = solution.x, solution.y, solution.s
        if derivative.smoothing is not None:  # y and s of the smoothed solution; v = y - s remains
            v = y - s
            y = smoothed_projection(derivative.structure.cones, v, derivative.smoothing)
            s = y - v
        self._point, self._known = SystemPoint(x, y, s), solution.scales
        self._quality: Quality | None = None  # the worst so far; None before the first application
        self._fused = derivative.kernels_for(solution.batch)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def kept(self) -> int:
        """How many parts of the batch are kept factorized; the kernels keep none."""
        return self._factors.kept

    @once
    def _factors(self) -> Factors:
        given = self._derivative
        return Factors(given.layout, given.choice, given.smoothing, given.threads, given.limits)

    @once
    def _units(self) -> Units:
        structure = self._derivative.structure
        return Units.of(structure, self._values, self._scales, *vars(self._point).values())

    @once
    def _scales(self) -> Scales:
        if self._known is not None:
            return self._known
        if self._fused is not None:
            return self._fused.scales(self._values)
        return scales(self._derivative.structure, self._values)

    @once
    def _place(self) -> tuple[Array, Array, Array, Array]:
        """x, y and what the kernels call the state; and the scales, without a row where the kernels are to find them on
        their way."""
        assert self._fused is not None
        point, known = self._point, self._known
        if not self._fused.spectral:
            return point.x, point.y, point.s, _UNKNOWN if known is None else known.stacked()
        return point.x, point.y, self._fused.state(point, self._units), self._scales.stacked()

    @once
    def _margin(self) -> Array:
        return kink_margin(self._derivative.structure.cones, self._units, self._point.y, self._point.s)

    @property
    def report(self) -> DerivativeReport:
        found = self._quality or Quality.perfect(self._point.y.shape[1])
        fallback = found.singular | ~(found.residual <= ACCEPTED)
        return DerivativeReport(found.residual.copy(), found.unserved.copy(), self._margin.copy(), fallback)

    def vjp(self, dx: Array, dy: Array, ds: Array | None = None) -> Values:
        return cotangents(self._derivative.structure, *self._adjoint(dx, dy, ds), self._point.x, self._point.y)

    def pull(self, compiled: CompiledProblem, drows: Array) -> list[Array]:
        if self._fused is None:
            return super().pull(compiled, drows)
        found, quality, unsure = self._fused.pull(self._values, self._place, compiled, drows, self._derivative.threads)
        if unsure.size:
            solved, point = self._by_factors(unsure, *compiled.recover_adjoint(drows[:, unsure])), self._point
            structure, x, y = self._derivative.structure, point.x[:, unsure], point.y[:, unsure]
            right = compiled.by_feature(compiled.pullback(cotangents(structure, solved.dx, solved.dy, x, y)))
            for part, better in zip(found, right, strict=True):
                part[unsure] = better
            quality.enter(unsure, solved.quality)
        self._keep(quality)
        return found

    @property
    def twice(self) -> bool:
        return self._derivative.smoothing is None

    def multipliers(self, dx: Array, dy: Array, ds: Array | None = None) -> tuple[Array, Array]:
        return self._adjoint(dx, dy, ds) if self.twice else super().multipliers(dx, dy, ds)

    def _adjoint(self, dx: Array, dy: Array, ds: Array | None) -> tuple[Array, Array]:
        """rx and rv with J'(rx, rv) = (dx, D (dy + ds) - ds)."""
        structure, f = self._derivative.structure, dx
        if ds is not None:
            ds = np.concatenate([np.zeros_like(ds[: structure.cones.zero]), ds[structure.cones.zero :]])
            f = dx - structure.A.transpose_times(self._values.A, ds)
        rx, rv = self._solve(f, dy)
        if ds is not None:
            rv = rv + ds
        return rx, rv

    def jvp(self, dvalues: Values) -> tuple[Array, Array, Array]:
        structure = self._derivative.structure
        f, g = right_hand_side(structure, dvalues, self._point.x, self._point.y)
        dx, dy = self._solve(f, g)
        ds = g - structure.A.times(self._values.A, dx)
        ds[: structure.cones.zero] = 0.0
        return dx, dy, ds

    def _solve(self, f: Array, g: Array) -> tuple[Array, Array]:
        """dx and dy = D dv for J (dx, dv) = (f, g)."""
        if self._fused is None:
            solved = self._factors.solve(self._values, self._point, self._units, f, g)
        else:
            solved, unsure = self._fused.solve(self._values, self._place, f, g, self._derivative.threads)
            if unsure.size:
                solved.enter(unsure, self._by_factors(unsure, f[:, unsure], g[:, unsure]))
        self._keep(solved.quality)
        return solved.dx, solved.dy

    def _by_factors(self, elements: NDArray[np.intp], f: Array, g: Array) -> SystemSolution:
        """The solutions for some elements."""
        others = self._values.select(elements), self._point.select(elements), self._units.select(elements)
        return self._factors.solve(*others, f, g, elements.tobytes())

    def _keep(self, found: Quality) -> None:
        with self._lock:
            self._quality = found if self._quality is None else self._quality.worse(found)
