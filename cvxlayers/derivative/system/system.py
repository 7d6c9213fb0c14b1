"""The linear system of the derivative, J z = r, for a batch; and its regularized neighbour, which is easy to factorize.

With v = y - s and D = derivative of Proj_{K*} at v, the Jacobian of the optimality residual (DESIGN section 4; Agrawal,
Barratt, Boyd, Busseti, Moursi 2019; Healey, Nobel, Boyd 2025) is

    J = [[P, A'D], [A, D - I]]        acting on (dx, dv).

D is symmetric, so that diag(I, D) J = J' diag(I, D). Hence one kind of solve serves both directions: if
J (rx, t) = (gx - A'gs, gy), then rv = D t + gs solves the adjoint system J'(rx, rv) = (gx, D (gy + gs) - gs):

    P rx + A'rv           = P rx + A'D t + A'gs                      = gx,
    D A rx + (D - I) rv   = D (gy - (D - I) t) + (D - I)(D t + gs)   = D gy + D gs - gs.

Everything is in scaled units: with the scales c of columns and r of rows, P stands for c P c, A
for r A c, y and s for y / r and r s, and D is the derivative there, whose eigenvectors are the same; so f and g stand
for c f and r g, and solutions for dx / c and u / r, u = D dv. The neighbour, with a small delta > 0, is

    M = [[P + delta I, A'D], [A, D - I - delta D]].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.arrays import largest
from cvxlayers.cones.projection import DualDerivative, dual_derivative
from cvxlayers.derivative.system.equilibration import equilibrate
from cvxlayers.derivative.system.operators import Operator, ScaledOperator, operator
from cvxlayers.derivative.system.smoothing import smoothed_derivative
from cvxlayers.derivative.system.spectral import map_eigenvalues, vanishing_rows
from cvxlayers.derivative.system.units import Units
from cvxlayers.program.scales import by_column
from cvxlayers.program.structure import Array, Pattern, Structure, Values, is_shared

__all__ = ["FINE", "SystemLayout", "SystemPoint", "System"]

FINE = 1e-8
"""delta for systems that are regular: each step of refinement reduces the error by about this times a condition number;
the rounding of M's factors is machine epsilon over it."""


@dataclass(frozen=True)
class SystemLayout:
    """What the systems of one structure share: P as a full symmetric pattern.

    Attributes
    ----------
    P : Pattern
        Both triangles.
    source : (nnz of P,) int
        Where the value of each of its nonzeros stands among those of the stored upper triangle.
    """

    structure: Structure
    P: Pattern
    source: NDArray[np.intp]

    @cached_property
    def probe(self) -> tuple[Array, Array]:
        """A random right-hand side, f (n, 1) and g (m, 1), the same in every process."""
        random = np.random.default_rng(0)
        return random.standard_normal((self.structure.n, 1)), random.standard_normal((self.structure.m, 1))

    @classmethod
    def of(cls, structure: Structure) -> SystemLayout:
        upper, n = structure.P, structure.n
        above = np.flatnonzero(upper.rows != upper.columns)
        rows = np.concatenate([upper.rows, upper.columns[above]])
        columns = np.concatenate([upper.columns, upper.rows[above]])
        source = np.concatenate([np.arange(upper.nnz), above])
        order = np.lexsort((rows, columns))
        return cls(structure, Pattern.of(rows[order], columns[order], (n, n)), source[order])


@dataclass(frozen=True)
class SystemPoint:
    """Where the derivative is taken: x (n, B), y and s (m, B)."""

    x: Array
    y: Array
    s: Array

    def select(self, elements: NDArray[np.intp] | slice) -> SystemPoint:
        """The points of some elements."""
        return SystemPoint(self.x[:, elements], self.y[:, elements], self.s[:, elements])


@dataclass(frozen=True)
class System:
    """J for a batch, in scaled units.

    Parameters
    ----------
    layout : Layout
    values : Values
        As they are given.
    point : Point
        The solution, likewise.
    units : Units
        At this point.
    smoothing : float, optional
        The mu of ``smoothing``: D is then the derivative of the smoothed projection.
    delta : float
    own_scales : bool
        Whether the scales are those of ``equilibration``, for systems that are singular, or those of the problem.
    """

    layout: SystemLayout
    values: Values
    point: SystemPoint
    units: Units
    smoothing: float | None = None
    delta: float = FINE
    own_scales: bool = False

    @property
    def batch(self) -> int:
        return int(self.point.y.shape[1])

    def again(self, elements: NDArray[np.intp], delta: float) -> System:
        """The systems of some elements in scales of their own, with another delta."""
        values, point, units = self.values.select(elements), self.point.select(elements), self.units.select(elements)
        return replace(self, values=values, point=point, units=units, delta=delta, own_scales=True)

    @cached_property
    def _balanced(self) -> DualDerivative:
        """The derivative of Proj_{K*} where y and s are comparable, at y / w - w s."""
        cones, w = self.layout.structure.cones, self.units.balance
        v = self.point.y / w - w * self.point.s
        return smoothed_derivative(cones, v, self.smoothing) if self.smoothing else dual_derivative(cones, v)

    @cached_property
    def idle(self) -> NDArray[np.bool_]:
        """The rows (m, B) of cones on whose block D is zero."""
        return vanishing_rows(self._balanced)

    @cached_property
    def scales(self) -> tuple[Array, Array]:
        """c (n, B) and r (m, B)."""
        if not self.own_scales:
            found, root = self.units.scales, np.sqrt(self.units.scales.cost)
            return found.D * root, found.E / root
        layout, A, cones = self.layout, self.layout.structure.A, self.layout.structure.cones
        P = self.values.P[layout.source]
        with np.errstate(all="ignore"):
            return equilibrate(layout.P, P, A, self.values.A, cones, self.units, ~self.idle, self.point.x)

    @cached_property
    def D(self) -> DualDerivative:
        """The derivative of Proj_{K*}: h = (1 - d) / d of its eigenvalues d is proportional to s over y, so that it
        follows from that at any other scales."""
        with np.errstate(all="ignore"):
            ratio = (self.scales[1] / self.units.balance) ** 2
            return map_eigenvalues(self._balanced, lambda d, k: d / (d + (1.0 - d) * k), ratio)

    @cached_property
    def entries(self) -> tuple[Array, Array]:
        """The nonzeros of P, both triangles, and of A, those of idle rows included."""
        (c, r), P, A = self.scales, self.layout.P, self.layout.structure.A
        return self.values.P[self.layout.source] * c[P.rows] * c[P.columns], self.values.A * r[A.rows] * c[A.columns]

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """The columns (n, B) that are zero, of variables that neither P nor an active row touches: dx is zero there."""
        P, A = self.entries
        pattern = self.layout.structure.A
        sizes = by_column(pattern, np.abs(A) * ~self.idle[pattern.rows])
        return np.asarray(np.maximum(sizes, by_column(self.layout.P, np.abs(P))) == 0)

    @cached_property
    def plain_P(self) -> Operator:
        """The symmetric matrix P as it is given."""
        stored, source = self.values.P, self.layout.source
        full = np.broadcast_to(stored[source, :1], (source.size, self.batch)) if is_shared(stored) else stored[source]
        return operator(self.layout.P, full)

    @cached_property
    def plain_A(self) -> Operator:
        return operator(self.layout.structure.A, self.values.A)

    @cached_property
    def P(self) -> Operator:
        return ScaledOperator(self.plain_P, self.scales[0], self.scales[0])

    @cached_property
    def A(self) -> Operator:
        return ScaledOperator(self.plain_A, self.scales[1], self.scales[0])

    def residual(self, dx: Array, dv: Array, f: Array, g: Array) -> tuple[Array, Array, Array]:
        """(f, g) - J (dx, dv), and its largest entry relative to those of the terms that it is the sum of, (B,).

        What grows without bound because it has no effect must not make a residual look small: D dv - dv counts as one
        term, and rows only as far as D does not turn them into zero. The others, which just define dv, are compared
        with their own terms as well.
        """
        matvec = self.D.matvec
        Ddv = matvec(dv)
        Px, ADv, Ax, rest = self.P.times(dx), self.A.transpose_times(Ddv), self.A.times(dx), Ddv - dv
        rest_f, rest_g = f - Px - ADv, g - Ax - rest
        terms = (f, Px, ADv, matvec(g), matvec(rest))
        error = _over(np.maximum(largest(rest_f), largest(matvec(rest_g))), *terms)
        return rest_f, rest_g, np.maximum(error, _over(largest(rest_g), *terms, g, Ax, rest))

    @cached_property
    def _support(self) -> DualDerivative:
        """The projection onto the range of D."""
        return map_eigenvalues(self.D, lambda d, _: np.where(d > 0, 1.0, d), self.scales[1])

    def size(self, f: Array, g: Array) -> Array:
        """The length of f and of the part of g in the range of D, which alone has an effect, (B,)."""
        g = self._support.matvec(g)
        return np.asarray(np.sqrt(np.einsum("ib,ib->b", f, f) + np.einsum("ib,ib->b", g, g)))

    @cached_property
    def W(self) -> DualDerivative:
        """D (I - D + delta D)^-1: the weights of the rows of A once dv is eliminated from M."""
        return map_eigenvalues(self.D, lambda d, _: d / (1.0 - d + self.delta * d), self.scales[1])

    @cached_property
    def plain_W(self) -> DualDerivative:
        """r W r, which goes with A as it is given."""
        return map_eigenvalues(self.D, lambda d, r: r * r * (d / (1.0 - d + self.delta * d)), self.scales[1])

    @cached_property
    def T(self) -> DualDerivative:
        """(I - D + delta D)^-1."""
        return map_eigenvalues(self.D, lambda d, _: 1.0 / (1.0 - d + self.delta * d), self.scales[1])

    @cached_property
    def C(self) -> DualDerivative:
        """(I - D + delta D)(D + tau I)^-1 (1 + tau): nearly W^-1, exactly so where D is one, large where it is zero."""
        tau = FINE
        return map_eigenvalues(
            self.D, lambda d, _: (1.0 - d + self.delta * d) * (1.0 + tau) / (d + tau), self.scales[1]
        )


def _over(error: Array, *terms: Array) -> Array:
    """The error relative to the sum of the terms' largest entries, (B,)."""
    whole = np.sum([largest(term) for term in terms], axis=0)
    return np.asarray(error / np.where(whole == 0, 1.0, whole))
