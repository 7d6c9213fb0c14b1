"""ECOS: the interior-point solver of Domahidi, Chu and Boyd (2013), for linear objectives and no semidefinite cones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones import row_order
from cvxlayers.errors import OptionError
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Pattern, Structure
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome, Start, shown
from cvxlayers.solvers.scsform import permuted_rows

__all__ = ["ECOS"]

# Those of 10 and more are "close to" what they say, within the tolerances that end in _inacc.
STATUSES = {
    0: Status.OPTIMAL,
    10: Status.INACCURATE,
    1: Status.INFEASIBLE,
    11: Status.INFEASIBLE,
    2: Status.UNBOUNDED,
    12: Status.UNBOUNDED,
}


class ECOS(ElementwiseSolver):
    """Solves each element with ECOS, from its own setup.

    ECOS splits the rows of Ax + s = b into equalities and the rest, and orders the rows of an exponential cone as
    (u, w, v) where ours are (u, v, w), a permutation that is its own inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize -x subject to x <= b
    >>> structure = Structure(Pattern.of(one[:0], one[:0], (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = ECOS(structure, Settings())
    >>> solution = solver.solve(Values(np.ones((0, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 2. ]])
    """

    name = "ECOS"
    package = "ecos"
    pip = "ecos"
    kinds = frozenset({"zero", "nonneg", "second_order", "exponential"})
    quadratic = False
    unconstrained = False
    aliases = {"eps": ("abstol", "reltol", "feastol"), "max_iters": ("max_iters",)}
    defaults = {"abstol": 1e-10, "reltol": 1e-10, "feastol": 1e-10, "max_iters": 200}
    options = {
        "feastol": "relative primal and dual residual",
        "abstol": "absolute duality gap",
        "reltol": "relative duality gap",
        "feastol_inacc": "residual of an inaccurate solution (1e-4)",
        "abstol_inacc": "absolute gap of an inaccurate solution (5e-5)",
        "reltol_inacc": "relative gap of an inaccurate solution (5e-5)",
        "max_iters": "largest number of iterations (200)",
        "nitref": "rounds of iterative refinement (9)",
    }
    types = {**dict.fromkeys(options, float), "max_iters": int, "nitref": int}

    def __init__(self, structure: Structure, settings: Settings) -> None:
        super().__init__(structure, settings)
        self._native = self.native(settings)
        self._order = row_order(structure.cones, "ECOS")
        pattern, nonzeros = permuted_rows(structure.A, self._order)
        self._equalities = _Rows.of(pattern, nonzeros, 0, structure.cones.zero)
        self._inequalities = _Rows.of(pattern, nonzeros, structure.cones.zero, structure.m)

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        native = {**cls.defaults, **settings.options, "verbose": settings.verbose}
        one = np.ones(1)
        try:  # a tiny problem, on which ECOS judges the options
            cls.load().solve(one, sp.csc_matrix(-np.eye(1)), one, {"l": 1}, **{**native, "verbose": False})
        except (ValueError, TypeError, OverflowError) as exc:
            raise OptionError(f"ECOS refuses one of the options {shown(settings)}: {exc}.") from exc
        return native

    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        K, b = self.structure.cones, element.b[self._order]
        A, G = self._equalities.matrix(element.A), self._inequalities.matrix(element.A)
        equalities = {} if A is None else {"A": A, "b": b[: K.zero]}
        cones = {"l": K.nonneg, "q": list(K.second_order), "e": K.exponential}
        try:
            h = None if G is None else b[K.zero :]
            answer = self.load().solve(element.q, G, h, cones, **equalities, **self._native)
        except RuntimeError:  # it could not set the problem up: a matrix without any nonzero, for example
            return Outcome(Status.FAILED)
        info = answer["info"]
        y = np.concatenate([answer["y"], answer["z"]])[self._order]
        s = np.concatenate([np.zeros(K.zero), answer["s"]])[self._order]
        return Outcome(STATUSES.get(info["exitFlag"], Status.FAILED), info["iter"], (answer["x"], y, s))


@dataclass(frozen=True)
class _Rows:
    """Some consecutive rows of A, in ECOS's order: their pattern, and which of our nonzeros they hold."""

    pattern: Pattern
    nonzeros: NDArray[np.intp]

    @classmethod
    def of(cls, A: Pattern, nonzeros: NDArray[np.intp], start: int, stop: int) -> _Rows:
        kept = (A.rows >= start) & (A.rows < stop)
        pattern = Pattern.of(A.rows[kept] - start, A.columns[kept], (stop - start, A.shape[1]))
        return cls(pattern, nonzeros[kept])

    def matrix(self, values: Array) -> sp.csc_matrix | None:
        """In the class that ECOS wants, or None where there are no rows."""
        pattern = self.pattern
        if not pattern.shape[0]:
            return None
        return sp.csc_matrix((values[self.nonzeros], pattern.indices, pattern.indptr), shape=pattern.shape)
