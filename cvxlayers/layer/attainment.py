"""Minima that are not attained, and objectives that fall for ever along no single direction.

-log x falls for ever, but no direction proves it: it falls ever more slowly. exp(x) and 1 / x have the infimum 0 and no
minimum. All have a flat recession direction d, by which K is enlarged without a change of the dual (``facial``). Then

  * a direction e of the enlarged problem along which the objective falls proves that it falls for ever in the problem
    itself, if some feasible s is inside the enlarged cones: to x + te comes, far enough along d, a feasible point;
  * an optimal y of the enlarged problem is one of the problem itself, and every optimal s lies in K n y^perp. If no
    feasible point has its s there, the infimum is not attained.

d, e and the last claim are verified as certificates are (``certificate``), all in scaled units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones import projection
from cvxlayers.cones.group import groups
from cvxlayers.cones.kinds import CONES
from cvxlayers.derivative import exact_derivative
from cvxlayers.layer.polish import polish
from cvxlayers.program.scales import Scales, scales
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.verify.certificate import proves_infeasible, proves_unbounded
from cvxlayers.verify.facial import CLEAR, Piece, assemble, curved, depth, enlarged, exposed, pieces_of, recession
from cvxlayers.verify.measure import measure, sizes

__all__ = ["examine", "far_out"]

LOW, BLURRED = 1e-4, 1e2
"""(u, v, w) is near the flat face of an exponential cone where w is at most so large a part of v; a y_u of at most so
many times the dual residual may be zero."""

FAR, LEVEL = 1e3, 1e-2
"""An s, in scaled units, that is very large; beside x, a change of the objective that may be none (its square beside a
direction)."""

DEPTH = 4
"""How often the cone is enlarged at most: -log log x needs two."""

ROUNDING, NOTHING = 1e-13, 1e-15
"""What may be left of what must vanish along a flat direction: beside its terms, and in scaled units."""

SMALL, STEPS = (0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3), 4
"""The entries that are tried as zeros, and the steps towards an exact direction; a solver finds it to the root of its
tolerance where the objective is tangent to a cone."""

Scaling = Callable[[Values], Scales]

SOLVED = 1e-6
"""The residual up to which a point solves an enlarged problem."""

SURE = 1e-4
"""-b'y must be more than this part of its terms in the proof that the face has no feasible point: Px is not exact."""

DENSE = 4_000_000
"""Problems whose A, or the square of it, would have more entries are not examined."""


@dataclass(frozen=True)
class _Problem:
    """One element in scaled units, as matrices; A is dense, P whole."""

    P: sp.csc_array
    q: Array
    A: Array
    b: Array

    @classmethod
    def of(cls, structure: Structure, values: Values) -> _Problem:
        P, A = structure.P.matrix(values.P[:, 0]), structure.A.matrix(values.A[:, 0])
        return cls(sp.csc_array(P), values.q[:, 0], A.toarray(), values.b[:, 0])

    @property
    def whole(self) -> Array:
        P = self.P.toarray()
        return np.asarray(P + np.triu(P, 1).T)

    @property
    def moved(self) -> Array:
        """The rows of P that are not zero, (rows, n)."""
        whole = self.whole
        return whole[whole.any(axis=1)]

    def within(self, pieces: list[Piece]) -> tuple[Structure, Values, sp.csr_array]:
        """The problem with these in place of its cones."""
        return assemble(self.P, self.q, self.A, self.b, pieces, self.moved[:0], np.zeros(0))

    def feasible(self, pieces: list[Piece], equalities: Array, right: Array) -> tuple[Structure, Values, sp.csr_array]:
        """The same without an objective, and with more equalities."""
        return assemble(self.P * 0, self.q * 0, self.A, self.b, pieces, equalities, right)


def far_out(structure: Structure, values: Values, solution: Solution, scaling: Scaling) -> NDArray[np.intp]:
    """The optimal elements that may be points on a way without an end, and not solutions.

    One is an s near the flat face of an exponential cone, at a y that is on it as well, so far as the dual residual
    tells: with a flat direction d, y'(-Ad) is what that residual leaves. The other is an s of another curved cone that
    is very large in scaled units, where neither q'x nor Px is.
    """
    near, large = np.zeros(solution.batch, dtype=bool), np.zeros(solution.batch, dtype=bool)
    E: Array | None = None
    for group in groups(structure.cones):
        s, beside = solution.s[group.rows], getattr(CONES[group.kind], "beside_flat_face", None)
        if beside is not None:
            near |= beside(s.swapaxes(0, 1), LOW).any(axis=0)
        size = np.abs(s).max(axis=1)
        if (size > FAR * np.abs(values.b[group.rows]).max(axis=1)).any():  # which is cheaper to see
            E = (solution.scales or scaling(values)).E if E is None else E
            large |= (size * E[group.rows[:, 0]] > FAR).any(axis=0)
    elements = np.flatnonzero((near | large) & solution.ok)
    if not elements.size:
        return elements
    subset, points = values.select(elements), solution.select(elements)
    found = points.scales or scaling(subset)
    on_the_face = near[elements] & _on_the_face(structure, subset, points, found)
    return elements[on_the_face | large[elements] & _level(structure, subset, points, found)]


def _on_the_face(structure: Structure, values: Values, points: Solution, found: Scales) -> NDArray[np.bool_]:
    assert points.residuals is not None
    size, suspicious = sizes(structure, values, points.x, points.y, points.s, found), np.zeros(points.batch, dtype=bool)
    for group in groups(structure.cones):
        cone = CONES[group.kind]
        if hasattr(cone, "beside_flat_face"):
            s, y = points.s[group.rows].swapaxes(0, 1), points.y[group.rows].swapaxes(0, 1)
            _, prices = size.of_group(group.rows)
            small = cone.off_dual_face(y) * prices <= BLURRED * points.residuals.dual + ROUNDING
            suspicious |= (cone.beside_flat_face(s, LOW) & small).any(axis=0)
    return suspicious


def _level(structure: Structure, values: Values, points: Solution, found: Scales) -> NDArray[np.bool_]:
    """Whether q'x and Px are small beside x."""
    x, scaled = points.x / found.D, found.scaled(structure, values)
    change = np.maximum(np.abs((scaled.q * x).sum(axis=0)), np.abs(structure.P_times(scaled.P, x)).max(axis=0))
    return np.asarray(change <= LEVEL * np.abs(x).max(axis=0))


def examine(structure: Structure, values: Values) -> Status | None:
    """UNBOUNDED or INACCURATE for one element in scaled units, if its objective is proved to fall for ever or not to
    attain its infimum; None where nothing is found.
    """
    if structure.cones.polyhedral or max(structure.m, structure.n) ** 2 > DENSE:
        return None
    problem, own = _Problem.of(structure, values), pieces_of(structure.cones)
    pieces, along = own, np.zeros(structure.m)
    for _ in range(DEPTH):
        d = _flat_direction(problem, pieces)
        if d is None:
            return None
        z = -(problem.A @ d)
        pieces = [part for piece in pieces for part in enlarged(piece, z)]
        along = _first(own, along, z)
        inner, numbers, W = problem.within(pieces)
        found = _solve(inner, numbers)
        if found.status[0] == Status.UNBOUNDED and proves_unbounded(inner, numbers, found.x)[0]:
            return Status.UNBOUNDED if _inside(problem, own, pieces) else None
        best = _solving(inner, numbers, found)
        if best is not None:
            x, y = best.x[:, 0], W.T @ best.y[:, 0]
            return Status.INACCURATE if _excluded(problem, own, along, x, y) else None
    return None


def _first(own: list[Piece], along: Array, z: Array) -> Array:
    """Each cone's part of the first direction that is not zero in it."""
    new = [piece.map.T @ (piece.map @ z) for piece in own if np.abs(piece.map @ along).max(initial=0.0) <= CLEAR]
    return np.asarray(along + np.sum(new, axis=0)) if new else along


def _solve(structure: Structure, values: Values) -> Solution:
    return Clarabel(structure, Settings()).solve(values)


def _solving(structure: Structure, values: Values, found: Solution) -> Solution | None:
    """A point that solves the problem, if need be after Newton's steps; None if it does not."""
    for point in (lambda: found, lambda: _polished(structure, values, found)):
        solution = point()
        if measure(structure, values, solution.x, solution.y, solution.s).worst[0] <= SOLVED:
            return solution
    return None


def _polished(structure: Structure, values: Values, found: Solution) -> Solution:
    newton = exact_derivative(structure, 1)
    return polish(structure, values, found, scales(structure, values), newton, STEPS)


def _flat_direction(problem: _Problem, pieces: list[Piece]) -> Array | None:
    """d with Pd = 0, q'd = 0 and -Ad within the pieces, of largest entry one in -Ad and with as much of it inside as
    there is; None if there is no exact one, or nothing is left that such a direction would enlarge."""
    if not pieces:
        return None
    parts, weights = zip(*(recession(piece, problem.A) for piece in pieces), strict=True)
    flat = [part for own in parts for part in own]
    size, moved, nothing = np.sum(weights, axis=0) @ problem.A, problem.moved, np.zeros_like(problem.b)
    free = sp.csc_array(problem.P.shape)
    still, one = np.zeros(len(moved)), np.array([-1.0])
    unit = np.concatenate([moved, size[None]]), np.concatenate([still, one])
    structure, values, _ = assemble(free, problem.q, problem.A, nothing, flat, *unit)
    d = _solve(structure, values).x[:, 0]
    if not problem.q @ d <= LEVEL**2 * np.abs(d).max():
        return None
    cone, numbers, _ = assemble(free, problem.q, problem.A, nothing, flat, moved, still)
    return _exact(cone, numbers, d)


def _exact(cone: Structure, numbers: Values, d: Array) -> Array | None:
    """The direction itself, or one near it, for which all is exact; its image's largest entry is one."""
    A, q = cone.A.matrix(numbers.A[:, 0]).toarray(), numbers.q[:, 0]
    zero, flat = cone.cones.zero, cone.cones.zero + cone.cones.nonneg

    def exact(d: Array) -> bool:
        slack = -(A @ d)[:, None]
        left = np.abs(slack - projection.project(cone.cones, slack))[:, 0]
        level = abs(q @ d) <= ROUNDING * (np.abs(q) @ np.abs(d)) + NOTHING
        return bool(level and (left <= ROUNDING * (np.abs(A) @ np.abs(d)) + NOTHING).all())

    for _ in range(STEPS):
        size = np.abs(A @ d).max(initial=0.0)
        if not size > 0:
            return None
        d = d / size
        for small in SMALL:
            tried = np.where(np.abs(d) > small * np.abs(d).max(), d, 0.0)
            if exact(tried):
                return tried
        d[np.abs(d) <= CLEAR * np.abs(d).max()] = 0.0
        moving, slack = d != 0, -(A @ d)
        d[moving] += np.linalg.lstsq(A[:, moving], slack - projection.project(cone.cones, slack[:, None])[:, 0])[0]
        still = np.concatenate([np.arange(zero), zero + np.flatnonzero(slack[zero:flat] <= CLEAR)])
        rows = np.concatenate([A[still], q[None]])[:, moving]
        d[moving] -= np.linalg.lstsq(rows, rows @ d[moving])[0]
    return None


def _inside(problem: _Problem, own: list[Piece], pieces: list[Piece]) -> bool:
    """Whether some feasible s is clearly inside the pieces that are not the problem's own cones."""
    whole, numbers, _ = problem.feasible(own, problem.moved[:0], np.zeros(0))
    found = _solve(whole, numbers)
    if not measure(whole, numbers, found.x, 0 * found.y, found.s).worst[0] <= SOLVED:
        return False
    s = problem.b - problem.A @ found.x[:, 0]
    return all(depth(piece, s) > CLEAR for piece in pieces if piece not in own)


def _excluded(problem: _Problem, own: list[Piece], along: Array, x: Array, y: Array) -> bool:
    """Whether it is proved that no feasible s is in K n y^perp at the Px that all solutions share.

    Curved cones of which y exposes no face are left out: some are met only very far out, which no certificate sees.
    """
    faces = [part for piece in own for part in exposed(piece, along, y) if part is not piece or not curved(piece)]
    moved = problem.moved
    face, numbers, _ = problem.feasible(faces, moved, moved @ x)
    equalities, b = slice(len(moved), face.cones.zero), numbers.b[:, 0]
    still = face.A.times(np.abs(numbers.A), np.ones((face.n, 1)))[equalities, 0] == 0
    if np.abs(b[equalities][still]).max(initial=0.0) > CLEAR:
        return True
    y = _solve(face, numbers).y
    if not np.isfinite(y).all():
        return False
    kept = np.abs(y[:, 0]) > CLEAR * np.abs(y).max()
    A = face.A.matrix(numbers.A[:, 0]).toarray()[kept].T
    exact = np.zeros_like(y)
    exact[kept, 0] = y[kept, 0] - np.linalg.lstsq(A, A @ y[kept, 0])[0]
    terms = b * y[:, 0]
    sure = -terms.sum() > SURE * np.abs(terms).sum()
    return bool(sure and (proves_infeasible(face, numbers, exact)[0] or proves_infeasible(face, numbers, y)[0]))
