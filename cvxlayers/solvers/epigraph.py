"""Problems with a quadratic objective for solvers that take linear ones: its epigraph is a second-order cone.

    minimize  q'x + t    subject to  Ax + s = b, s in K,   norm(sqrt(2) F x, t - 1) <= t + 1,        P = F'F

since (t + 1)^2 - (t - 1)^2 = 4 t (Lobo, Vandenberghe, Boyd and Lebret 1998, section 2.1). At a solution the cone's dual
variable is (t + 1, 1 - t, -sqrt(2) F x) / 2, so that the first rows of the dual equation are Px + q + A'y = 0: x, and y
and s in the old rows, are the solution of the quadratic problem as they are. So are certificates: F x = 0 in a
direction without an end, and the cone's multiplier vanishes on F in a proof of infeasibility.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.errors import EngineError
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Array, Pattern, Structure, Values
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.outside import Guard

__all__ = ["Epigraph", "serves"]

NEGATIVE = 1e-5
"""An eigenvalue of P below zero by more than this, relative to the largest entry, is no rounding, even in float32."""

UNCLEAR = 1e-6
"""Eigenvalues below this, relative to the largest entry, do not count in the unit of the objective."""


def serves(solver: type[Solver], structure: Structure) -> bool:
    """Whether the solver takes the problem in this form, but not as it is.

    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.solvers.ecos import ECOS
    >>> one = np.zeros(1, dtype=int)
    >>> serves(ECOS, Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1)))
    True
    """
    if solver.wraps or not structure.quadratic:
        return False
    lacking = not solver.quadratic or (not structure.m and not solver.unconstrained)
    able = replace(structure.cones, second_order=(3,)).kinds() | structure.cones.kinds() <= solver.kinds
    return lacking and able and not solver.takes(structure)


class Epigraph(Solver):
    """A solver in front of which the objective is made linear; the arguments are those of ``Solver``, and its class.

    Raises
    ------
    EngineError
        The solver does not take the problem in this form either.

    Examples
    --------
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.solvers.clarabel import Clarabel
    >>> one = np.zeros(1, dtype=int)  # minimize x^2 / 2 - x subject to x <= b
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = Epigraph(structure, Settings(), Clarabel)
    >>> solution = solver.solve(Values(np.ones((1, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 1. ]])
    """

    def __init__(self, structure: Structure, settings: Settings, behind: type[Solver] | Guard) -> None:
        self.structure = structure
        self._groups = _groups(structure.P)
        self._form = _Form.of(structure, self._groups)
        if not behind.takes(self._form.structure):
            raise EngineError(behind.refusal(structure))
        self._behind = behind(self._form.structure, settings)

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        F, unit, convex = self._factors(values.P, values.q)
        form, batch = self._form, values.batch
        entries = [np.full((1, batch), -1.0), np.full((1, batch), -1.0), -np.sqrt(2) * F]
        A = np.concatenate([values.A, *entries])[form.order]
        b = np.zeros((form.structure.m, batch))
        b[form.kept], b[form.first], b[form.first + 1] = values.b, 1.0, -1.0
        q = np.concatenate([values.q / unit, np.ones((1, batch))])
        found = self._behind.solve(Values(np.zeros((0, batch)), q, A, b))
        n = self.structure.n
        status = np.where(convex, found.status, Status.FAILED).astype(np.int8)
        x, y, s = found.x[:n], found.y[form.kept] * unit, found.s[form.kept]
        return replace(found, x=x, y=y, s=s, status=status, residuals=None)

    def _factors(self, P: Array, q: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """The entries of F for the objective over its unit; the unit, (B,); where P is positive semidefinite, (B,).

        The entries stand group by group, block by block and row by row. The unit is what x'Px / 2 is without
        constraints, so that t is near one if these do not matter much.
        """
        finite = np.isfinite(P).all(axis=0) & np.isfinite(q).all(axis=0)
        P, q = np.where(finite, P, 0.0), np.where(finite, q, 0.0)
        largest, unit = np.abs(P).max(axis=0), np.zeros(P.shape[1])
        convex, parts = np.ones(P.shape[1], dtype=bool), []
        for group in self._groups:
            matrices = np.zeros((P.shape[1], *group.variables.shape, group.size))
            entries, at = P[group.places].T, (slice(None), group.number)
            matrices[*at, group.rows, group.columns] = matrices[*at, group.columns, group.rows] = entries
            eigenvalues, vectors = np.linalg.eigh(matrices)
            convex &= eigenvalues.min(axis=(1, 2)) >= -NEGATIVE * largest
            squares = np.einsum("bkij,kib->bkj", vectors, q[group.variables]) ** 2
            clear = eigenvalues > UNCLEAR * largest[:, None, None]
            unit += np.divide(squares, 2 * eigenvalues, out=np.zeros_like(squares), where=clear).sum(axis=(1, 2))
            F = np.sqrt(np.maximum(eigenvalues, 0.0))[..., None] * vectors.swapaxes(-2, -1)
            parts.append(F.reshape(P.shape[1], group.variables.size * group.size).T)
        unit = np.where(unit > 0, unit, np.where(largest > 0, largest, 1.0))
        return np.where(finite, np.concatenate(parts) / np.sqrt(unit), np.nan), unit, convex


@dataclass(frozen=True)
class _Group:
    """Diagonal blocks of P, up to a permutation, that have one size: their variables, (blocks, size).

    ``places`` are the numbers of P's nonzeros in them, ``number`` the block of each, ``rows`` and ``columns`` its
    position in the block.
    """

    variables: NDArray[np.intp]
    places: NDArray[np.intp]
    number: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @property
    def size(self) -> int:
        return self.variables.shape[1]


def _groups(P: Pattern) -> list[_Group]:
    """The blocks of variables that P connects; variables without a nonzero are in none."""
    graph = sp.csr_array((np.ones(P.nnz), (P.rows, P.columns)), shape=P.shape)
    count, label = sp.csgraph.connected_components(graph, directed=False)
    sizes, owner = np.bincount(label, minlength=count), label[P.rows]
    starts, in_order = np.cumsum(sizes) - sizes, np.argsort(label, kind="stable")
    position = np.empty(P.shape[0], dtype=np.intp)
    position[in_order] = np.arange(P.shape[0]) - np.repeat(starts, sizes)
    used, groups = np.unique(owner), []
    for size in np.unique(sizes[used]):
        members, number = used[sizes[used] == size], np.full(count, -1)
        number[members] = np.arange(members.size)
        places = np.flatnonzero(number[owner] >= 0)
        rows, columns = position[P.rows[places]], position[P.columns[places]]
        variables = in_order[starts[members][:, None] + np.arange(size)]
        groups.append(_Group(variables, places, number[owner[places]], rows, columns))
    return groups


@dataclass(frozen=True)
class _Form:
    """The structure with a linear objective, and how its rows and entries come from the old ones.

    ``kept`` are the new numbers of the old rows, ``first`` the first row of the cone. ``order`` takes the entries of A,
    those of t, and those of F as ``Epigraph._factors`` gives them, to the new pattern.
    """

    structure: Structure
    kept: NDArray[np.intp]
    first: int
    order: NDArray[np.intp]

    @classmethod
    def of(cls, structure: Structure, groups: list[_Group]) -> _Form:
        cones, n, m = structure.cones, structure.n, structure.m
        first = cones.zero + cones.nonneg + sum(cones.second_order)
        height = 2 + sum(group.variables.size for group in groups)
        kept = np.concatenate([np.arange(first), np.arange(first, m) + height])
        rows = [kept[structure.A.rows], np.array([first, first + 1])]
        columns = [structure.A.columns.astype(np.intp), np.array([n, n])]
        start = first + 2
        for group in groups:
            below = start + group.variables.size
            rows.append(np.repeat(np.arange(start, below), group.size))
            columns.append(np.repeat(group.variables, group.size, axis=0).reshape(-1))
            start = below
        row, column = np.concatenate(rows), np.concatenate(columns)
        order = np.lexsort((row, column))
        none = np.zeros(0, dtype=np.intp)
        made = Structure(
            Pattern.of(none, none, (n + 1, n + 1)),
            Pattern.of(row[order], column[order], (m + height, n + 1)),
            replace(cones, second_order=(*cones.second_order, height)),
        )
        return cls(made, kept, first, order)
