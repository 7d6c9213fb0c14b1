"""Problems with n-dimensional power cones for solvers that take three-dimensional ones: a chain of these.

    prod u_i^alpha_i >= |w|    says    u_1^a t^(1 - a) >= |w|  and  prod_{i > 1} u_i^(alpha_i / (1 - a)) >= t

with a = alpha_1 and some t, and so on (Chares 2009, section 4.1.2). At a solution the multipliers of the old rows are
the old ones: where t stands as the second entry of one cone and as the last of the next, its multipliers there add up
to zero, by which the chain's dual cones make the dual of the whole. So do certificates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import Block
from cvxlayers.errors import EngineError
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Pattern, Structure, Values, is_shared
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.outside import Guard

__all__ = ["Split", "serves"]


def serves(solver: type[Solver], structure: Structure, well: bool = False) -> bool:
    """Whether the solver takes the problem in this form, but not as it is; with ``well``, whether it suits it.

    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.solvers.scs import SCS
    >>> one = np.zeros(1, dtype=int)
    >>> cones = Cones(power_nd=((0.2, 0.3, 0.5),))
    >>> serves(SCS, Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (4, 1)), cones))
    True
    """
    if solver.wraps or not structure.cones.power_nd or solver.takes(structure):
        return False
    form = _Form.of(structure).structure
    return solver.suits(form) if well else solver.takes(form)


class Split(Solver):
    """A solver in front of which the cones are split; the arguments are those of ``Solver``, and its class.

    Raises
    ------
    EngineError
        The solver does not take the problem in this form either.

    Examples
    --------
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.solvers.clarabel import Clarabel
    >>> rows, columns = np.array([0, 1, 1, 2, 3]), np.array([0, 0, 1, 1, 2])
    >>> none, cones = np.zeros(0, dtype=int), Cones(zero=1, power_nd=((0.25, 0.75),))
    >>> structure = Structure(Pattern.of(none, none, (3, 3)), Pattern.of(rows, columns, (4, 3)), cones)
    >>> A, q = np.array([[1.0, 0.0, -1.0, -1.0, -1.0]]).T, np.array([[0.0, 1.0, -2.0]]).T
    >>> solver = Split(structure, Settings(), Clarabel)  # minimize v - 2 w subject to u^(1/4) v^(3/4) >= w, u = ...
    >>> solver.structure.m
    4
    """

    def __init__(self, structure: Structure, settings: Settings, behind: type[Solver] | Guard) -> None:
        self.structure = structure
        self._form = _Form.of(structure)
        if not behind.takes(self._form.structure):
            raise EngineError(behind.refusal(structure))
        self._behind = behind(self._form.structure, settings)

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        form, batch = self._form, values.batch
        A = values.A[:, :1] if is_shared(values.A) else values.A
        A = np.concatenate([A, np.full((form.links, A.shape[1]), -1.0)])[form.order]
        A = np.broadcast_to(A, (A.shape[0], batch))
        b = np.zeros((form.structure.m, batch))
        b[form.kept] = values.b
        q = np.concatenate([values.q, np.zeros((form.structure.n - self.structure.n, batch))])
        found = self._behind.solve(Values(values.P, q, A, b))
        n = self.structure.n
        return replace(found, x=found.x[:n], y=found.y[form.kept], s=found.s[form.kept], residuals=None, scales=None)


@dataclass(frozen=True)
class _Form:
    """The structure with three-dimensional cones, and how its rows and entries come from the old ones.

    ``kept`` are the new numbers of the old rows. ``order`` takes the entries of A, and after them the ``links`` of the
    new variables, to the new pattern.
    """

    structure: Structure
    kept: NDArray[np.intp]
    links: int
    order: NDArray[np.intp]

    @classmethod
    def of(cls, structure: Structure) -> _Form:
        cones, n = structure.cones, structure.n
        kept = np.arange(cones.m)
        row: list[NDArray[np.integer]] = [structure.A.rows]
        column: list[NDArray[np.integer]] = [structure.A.columns]
        exponents: list[float] = []
        blocks = cones.blocks[-len(cones.power_nd) :]
        start = blocks[0].start
        for block in blocks:
            own, rows, links = _chain(block, start, n)
            kept[block.rows] = rows
            exponents += own
            n += len(own) - 1
            start += 3 * len(own)
            row.append(links[:, 0])
            column.append(links[:, 1])
        rows, columns = np.concatenate([kept[row[0]], *row[1:]]), np.concatenate(column)
        order = np.lexsort((rows, columns))
        P = Pattern.of(structure.P.rows, structure.P.columns, (n, n))
        A = Pattern.of(rows[order], columns[order], (start, n))
        made = replace(structure, P=P, A=A, cones=replace(cones, power=(*cones.power, *exponents), power_nd=()))
        return cls(made, kept, rows.size - structure.A.nnz, order)


def _chain(block: Block, start: int, n: int) -> tuple[list[float], NDArray[np.intp], NDArray[np.intp]]:
    """The exponents of the cones in place of this one, from row ``start`` on; the new numbers of its rows; and where
    the new variables, from ``n`` on, stand in A: (links, 2) rows and columns."""
    alpha, rows, links = block.data, np.empty(block.stop - block.start, dtype=np.intp), []
    own = []
    for k, share in enumerate(alpha[:-1]):
        first = start + 3 * k
        own.append(share / math.fsum(alpha[k:]))
        rows[k] = first
        if k:
            links.append((first + 2, n + k - 1))
        if k < len(alpha) - 2:
            links.append((first + 1, n + k))
    rows[-2], rows[-1] = first + 1, start + 2
    return own, rows, np.array(links, dtype=np.intp).reshape(-1, 2)
