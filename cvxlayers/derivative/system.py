"""The linear system of the derivative, J z = r, for a batch; and its regularized neighbour, which is easy to factorize.

With v = y - s and D = derivative of Proj_{K*} at v, the Jacobian of the optimality residual (DESIGN section 4; Agrawal,
Barratt, Boyd, Busseti, Moursi 2019; Healey, Nobel, Boyd 2025) is

    J = [[P, A'D], [A, D - I]]        acting on (dx, dv).

D is symmetric, so that diag(I, D) J = J' diag(I, D). Hence one kind of solve serves both directions: if
J (rx, t) = (gx - A'gs, gy), then rv = D t + gs solves the adjoint system J'(rx, rv) = (gx, D (gy + gs) - gs):

    P rx + A'rv           = P rx + A'D t + A'gs                      = gx,
    D A rx + (D - I) rv   = D (gy - (D - I) t) + (D - I)(D t + gs)   = D gy + D gs - gs.

The neighbour, with small eps and delta > 0, is

    M = [[P + delta I, A'D], [A, D - I - eps D]].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.projection import DualDerivative, dual_derivative
from cvxlayers.derivative.equilibration import equilibrate
from cvxlayers.derivative.operators import Operator, is_shared, operator
from cvxlayers.derivative.smoothing import smoothed_derivative
from cvxlayers.derivative.spectral import mapped, vanishing_rows
from cvxlayers.program import Array, Pattern, Structure, Values

__all__ = ["Layout", "System", "largest"]


@dataclass(frozen=True)
class Layout:
    """What the systems of one structure share: P as a full symmetric pattern.

    Attributes
    ----------
    P : Pattern
        Both triangles.
    source : (nnz of P,) int
        Where the value of each of its nonzeros stands among those of the stored upper triangle.
    diagonal : (n,) int
        Where the diagonal of P stands among the stored values, or -1.
    """

    structure: Structure
    P: Pattern
    source: NDArray[np.intp]
    diagonal: NDArray[np.intp]

    @cached_property
    def probe(self) -> tuple[Array, Array]:
        """A random right-hand side, f (n, 1) and g (m, 1), the same in every process."""
        random = np.random.default_rng(0)
        return random.standard_normal((self.structure.n, 1)), random.standard_normal((self.structure.m, 1))

    @classmethod
    def of(cls, structure: Structure) -> Layout:
        upper, n = structure.P, structure.n
        above = np.flatnonzero(upper.rows != upper.columns)
        rows = np.concatenate([upper.rows, upper.columns[above]])
        columns = np.concatenate([upper.columns, upper.rows[above]])
        source = np.concatenate([np.arange(upper.nnz), above])
        order = np.lexsort((rows, columns))
        diagonal = np.full(n, -1, dtype=np.intp)
        on = np.flatnonzero(upper.rows == upper.columns)
        diagonal[upper.rows[on]] = on
        return cls(structure, Pattern.of(rows[order], columns[order], (n, n)), source[order], diagonal)


@dataclass(frozen=True)
class System:
    """J for a batch.

    Parameters
    ----------
    layout : Layout
    values : Values
        Of which P and A are used.
    v : (m, B)
        y - s at the solution.
    smoothing : float, optional
        The mu of ``smoothing``: D is then the derivative of the smoothed projection.
    regularization : float
        The size of delta and eps relative to what they are added to. Each step of refinement reduces the error by about
        this factor (times a condition number); the rounding of M's factors is machine epsilon over it.
    equilibrated : bool
        Whether that is measured for each row and column (see ``equilibration``) or for P and A as a whole.
    """

    layout: Layout
    values: Values
    v: Array
    smoothing: float | None = None
    regularization: float = 1e-8
    equilibrated: bool = False

    @property
    def batch(self) -> int:
        return int(self.v.shape[1])

    def select(self, elements: NDArray[np.intp]) -> System:
        """The systems of some elements."""
        return replace(self, values=self.values.select(elements), v=self.v[:, elements])

    @cached_property
    def D(self) -> DualDerivative:
        """The derivative of Proj_{K*} at v."""
        cones = self.layout.structure.cones
        return smoothed_derivative(cones, self.v, self.smoothing) if self.smoothing else dual_derivative(cones, self.v)

    @cached_property
    def P(self) -> Operator:
        """The symmetric matrix P."""
        stored, source = self.values.P, self.layout.source
        full = np.broadcast_to(stored[source, :1], (source.size, self.batch)) if is_shared(stored) else stored[source]
        return operator(self.layout.P, full)

    @cached_property
    def A(self) -> Operator:
        return operator(self.layout.structure.A, self.values.A)

    def residual(self, dx: Array, dv: Array, f: Array, g: Array) -> tuple[Array, Array, Array]:
        """(f, g) - J (dx, dv), and its largest entry relative to those of the terms that it is the sum of, (B,).

        Entries are compared in the scales of ``units``. What grows without bound because it has no effect must not make
        a residual look small: D dv - dv counts as one term, and rows only as far as D does not turn them into zero. The
        others, which just define dv, are compared with their own terms as well.
        """
        matvec = self.D.matvec
        Ddv = matvec(dv)
        Px, ADv, Ax, rest = self.P.times(dx), self.A.transpose_times(Ddv), self.A.times(dx), Ddv - dv
        rest_f, rest_g = f - Px - ADv, g - Ax - rest
        c, r = self.units
        terms = (c * f, c * Px, c * ADv, r * matvec(g), r * matvec(rest))
        error = _over(np.maximum(largest(c * rest_f), largest(r * matvec(rest_g))), *terms)
        return rest_f, rest_g, np.maximum(error, _over(largest(r * rest_g), *terms, r * g, r * Ax, r * rest))

    @cached_property
    def idle(self) -> NDArray[np.bool_]:
        """The rows (m, B) of cones on whose block D is zero."""
        return vanishing_rows(self.D)

    @cached_property
    def scales(self) -> tuple[Array, Array]:
        """The sizes of P and of A'A for each element, (B,); where there is no P, that of A'A stands for it."""
        p, a = _size(self.values.P), _size(self.values.A)
        square = np.where(a > 0, a * a, 1.0)
        return np.broadcast_to(np.where(p > 0, p, square), (self.batch,)), np.broadcast_to(square, (self.batch,))

    @cached_property
    def units(self) -> tuple[Array, Array]:
        """Scales of columns, (1, B) or (n, B), and of rows, (1, B) or (m, B), in which P and A have the size one."""
        if self.equilibrated:
            layout, values = self.layout, self.values
            return equilibrate(layout.P, values.P[layout.source], layout.structure.A, values.A, self.D)
        p, a = self.scales
        return 1.0 / np.sqrt(p)[None], np.sqrt(p / a)[None]

    @cached_property
    def delta(self) -> Array:
        """What is added to P's diagonal in M, (1, B) or (n, B)."""
        if self.equilibrated:
            return np.asarray(self.regularization / self.units[0] ** 2)
        return self.regularization * self.scales[0][None]

    @cached_property
    def eps(self) -> Array:
        """How far M keeps the eigenvalues of D - I from zero, at least where D is one; (1, B) or (m, B)."""
        if self.equilibrated:
            return np.asarray(self.regularization / self.units[1] ** 2)
        # With an active row, the error of (A P^-1 A' + eps I)^-1 is eps over A P^-1 A'. Cones with curvature act like
        # a P of the size of A'A.
        p, a = self.scales
        relative = a / p if self.layout.structure.cones.polyhedral else np.minimum(a / p, 1.0)
        return self.regularization * relative[None]

    @cached_property
    def root(self) -> DualDerivative:
        """D^(1/2)."""
        return mapped(self.D, lambda d, _: np.sqrt(d), self.eps)

    @cached_property
    def W(self) -> DualDerivative:
        """D (I - D + eps D)^-1: the weights of the rows of A once dv is eliminated from M."""
        return mapped(self.D, lambda d, eps: d / (1.0 - d + eps * d), self.eps)

    @cached_property
    def T(self) -> DualDerivative:
        """(I - D + eps D)^-1."""
        return mapped(self.D, lambda d, eps: 1.0 / (1.0 - d + eps * d), self.eps)

    @cached_property
    def C(self) -> DualDerivative:
        """(I - D + eps D)(D + tau I)^-1 (1 + tau): nearly W^-1, exactly so where D is one, large where it is zero."""
        size = self.regularization

        def function(d: Array, eps: Array) -> Array:
            # Beside P, a row on which D is zero then weighs as little as delta.
            tau = size * np.minimum(1.0, size / eps)
            return (1.0 - d + eps * d) * (1.0 + tau) / (d + tau)

        return mapped(self.D, function, self.eps)


def largest(v: Array) -> Array:
    """The largest absolute entry for each element: (rows, B) gives (B,), zero without rows."""
    return np.asarray(np.abs(v).max(axis=0, initial=0.0))


def _over(error: Array, *terms: Array) -> Array:
    """The error relative to the sum of the terms' largest entries, (B,)."""
    whole = np.sum([largest(term) for term in terms], axis=0)
    return np.asarray(error / np.where(whole == 0, 1.0, whole))


def _size(values: Array) -> Array:
    """The largest absolute value for each element, (B,) or (1,)."""
    return largest(values[:, :1] if is_shared(values) else values)
