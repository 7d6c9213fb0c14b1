"""PIQP: the proximal interior-point method for sparse quadratic programs of Schwan, Jiang, Kuhn and Jones (2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.errors import OptionError
from cvxlayers.ipm.kkt.symbolic import quick_analysis_of
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Pattern, Structure
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome, Start, shown

__all__ = ["PIQP"]

STATUSES = {
    "PIQP_SOLVED": Status.OPTIMAL,
    "PIQP_MAX_ITER_REACHED": Status.INACCURATE,
    "PIQP_PRIMAL_INFEASIBLE": Status.INFEASIBLE,
    "PIQP_DUAL_INFEASIBLE": Status.UNBOUNDED,
}


class PIQP(ElementwiseSolver):
    """Solves each element with PIQP: linear and quadratic programs.

    PIQP reads Ax + s = b as equalities, Ax = b, and inequalities, Gx <= h. Each element has a solver of its own: one
    that takes the values of others (``update``) gives digits that depend on what it has solved before.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize x^2 / 2 - x subject to x <= b
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = PIQP(structure, Settings())
    >>> solution = solver.solve(Values(np.ones((1, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 1. ]])
    """

    name = "PIQP"
    package = "piqp"
    pip = "piqp"
    kinds = frozenset({"zero", "nonneg"})
    quadratic = True
    aliases = {
        "eps": ("eps_abs", "eps_rel", "eps_duality_gap_abs", "eps_duality_gap_rel"), "max_iters": ("max_iter",),
    }  # fmt: skip
    defaults = dict.fromkeys(("eps_abs", "eps_rel", "eps_duality_gap_abs", "eps_duality_gap_rel"), 1e-10)
    options = {
        "eps_abs": "absolute primal and dual residual (1e-10)",
        "eps_rel": "relative primal and dual residual (1e-10)",
        "eps_duality_gap_abs": "absolute duality gap (1e-10)",
        "eps_duality_gap_rel": "relative duality gap (1e-10)",
        "check_duality_gap": "whether the gap has to be small (True)",
        "eps_primal_inf": "tolerance of a proof of infeasibility (1e-4)",
        "eps_dual_inf": "tolerance of a proof of unboundedness (1e-4)",
        "infeasibility_threshold": "when the proximal terms count as diverging (0.9)",
        "max_iter": "largest number of iterations (250)",
        "rho_init": "first primal proximal parameter (1e-6)",
        "delta_init": "first dual proximal parameter (1e-4)",
        "reg_lower_limit": "smallest proximal parameter (1e-10)",
        "tau": "largest step, as a fraction of the way to the boundary (0.99)",
        "max_factor_retires": "how often a factorization is tried again (10)",
        "preconditioner_iter": "rounds of scaling (10)",
        "preconditioner_scale_cost": "whether the objective is scaled as well (False)",
        "iterative_refinement_always_enabled": "whether linear solutions are refined in any case (False)",
        "iterative_refinement_max_iter": "rounds of refinement (10)",
    }
    types = {
        **dict.fromkeys(options, float),
        **{name: int for name in options if name.endswith(("_iter", "_retires"))},
        "check_duality_gap": bool,
        "preconditioner_scale_cost": bool,
        "iterative_refinement_always_enabled": bool,
    }

    def __init__(self, structure: Structure, settings: Settings) -> None:
        super().__init__(structure, settings)
        self._native = self.native(settings)
        self._objective = _Rows.of(structure.P, 0, structure.n)
        self._equalities = _Rows.of(structure.A, 0, structure.cones.zero)
        self._inequalities = _Rows.of(structure.A, structure.cones.zero, structure.m)

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        native = {**cls.defaults, **settings.options, "verbose": settings.verbose}
        solver = _set(cls.load().SparseSolver(), native, settings)
        solver.settings.verbose = False
        solver.setup(sp.csc_matrix(np.eye(1)), np.ones(1))
        if solver.solve().name == "PIQP_INVALID_SETTINGS":  # a tiny problem, on which PIQP judges the options
            raise OptionError(f"PIQP refuses one of the options {shown(settings)}: it is out of range.")
        return native

    @classmethod
    def suits(cls, structure: Structure) -> bool:
        """Whether the factors of the problem stay sparse: with dense ones it is up to 7 times slower than Clarabel."""
        if not cls.takes(structure):
            return False
        analysis = quick_analysis_of(structure)
        return analysis is not None and analysis.light

    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        zero = self.structure.cones.zero
        parts: dict[str, Any] = {}
        P, q = self._objective.matrix(element.P), element.q.copy()
        if zero:
            parts |= {"A": self._equalities.matrix(element.A), "b": element.b[:zero].copy()}
        if zero < self.structure.m:
            parts |= {"G": self._inequalities.matrix(element.A), "h_u": element.b[zero:].copy()}
        solver = _set(self.load().SparseSolver(), self._native, self.settings)
        solver.setup(P, q, **parts)
        status = STATUSES.get(solver.solve().name, Status.FAILED)
        found = solver.result
        y = np.concatenate([found.y, found.z_u])
        s = np.concatenate([np.zeros(zero), found.s_u])
        return Outcome(status, int(found.info.iter), (np.array(found.x), y, s))


def _set(solver: Any, native: dict[str, Any], settings: Settings) -> Any:
    for name, value in native.items():
        try:
            setattr(solver.settings, name, value)
        except (TypeError, AttributeError, ValueError) as exc:
            raise OptionError(f"PIQP refuses the option {name}={value!r} of {shown(settings)}: {exc}.") from exc
    return solver


@dataclass(frozen=True)
class _Rows:
    """Some consecutive rows of a matrix: their pattern, and which of its nonzeros they hold.

    PIQP takes only arrays that could be written to, so that the pattern's own are copied.
    """

    pattern: sp.csc_array
    nonzeros: NDArray[np.intp]

    @classmethod
    def of(cls, whole: Pattern, start: int, stop: int) -> _Rows:
        kept = np.flatnonzero((whole.rows >= start) & (whole.rows < stop))
        part = Pattern.of(whole.rows[kept] - start, whole.columns[kept], (stop - start, whole.shape[1]))
        return cls(part.matrix(np.zeros(kept.size)).copy(), kept)

    def matrix(self, values: Array) -> sp.csc_array:
        indices = values[self.nonzeros], self.pattern.indices, self.pattern.indptr
        return sp.csc_array(indices, shape=self.pattern.shape)
