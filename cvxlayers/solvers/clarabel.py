"""CLARABEL: the interior-point solver of Goulart and Chen (2024), for every cone and for quadratic objectives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.errors import OptionError
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome, Start, shown

__all__ = ["Clarabel", "attempt"]

STATUSES = {
    "Solved": Status.OPTIMAL,
    "AlmostSolved": Status.INACCURATE,
    "InsufficientProgress": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
}


GOOD = 1e-8
"""An inaccurate point with no larger error is returned as it is: another attempt would seldom be better."""

POLYHEDRAL = 1e-12
"""The default tolerances without curved cones, where half an iteration more brings x from 1e-6 to 1e-8 of its place."""

EASIER = 100.0
"""By how much the tolerances of the last attempt are larger."""


class Clarabel(ElementwiseSolver):
    """Solves each element with Clarabel; the analysis of the structure is kept from call to call.

    A solver that was once set up for a structure takes new values in a fraction of the time, but keeps the scaling that
    it chose at first. So all are set up for a typical element of the first call, and what an element gives depends
    neither on the order of the batch nor on which thread took it. Idle solvers wait in a stack; a thread takes one for
    one element, so that no two ever share one.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize x^2 / 2 - x subject to x <= b
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = Clarabel(structure, Settings())
    >>> solution = solver.solve(Values(np.ones((1, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 1. ]])
    """

    name = "CLARABEL"
    package = "clarabel"
    pip = "clarabel"
    kinds = frozenset({"zero", "nonneg", "second_order", "psd", "exponential", "power", "power_nd"})
    quadratic = True
    aliases = {"eps": ("tol_gap_abs", "tol_gap_rel", "tol_feas"), "max_iters": ("max_iter",)}
    defaults = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    options = {
        "max_iter": "largest number of iterations (200)",
        "time_limit": "seconds for one problem (no limit)",
        "max_step_fraction": "largest step, as a fraction of the way to the boundary (0.99)",
        "tol_gap_abs": "absolute duality gap",
        "tol_gap_rel": "relative duality gap",
        "tol_feas": "relative primal and dual residual",
        "tol_infeas_abs": "absolute tolerance of a certificate of infeasibility (1e-8)",
        "tol_infeas_rel": "relative tolerance of a certificate of infeasibility (1e-8)",
        "tol_ktratio": "ratio kappa / tau below which a point counts as a solution (1e-6)",
        "reduced_tol_gap_abs": "absolute gap of an inaccurate solution (5e-5)",
        "reduced_tol_gap_rel": "relative gap of an inaccurate solution (5e-5)",
        "reduced_tol_feas": "residual of an inaccurate solution (1e-4)",
        "reduced_tol_infeas_abs": "absolute tolerance of an inaccurate certificate (5e-12)",
        "reduced_tol_infeas_rel": "relative tolerance of an inaccurate certificate (5e-5)",
        "reduced_tol_ktratio": "ratio kappa / tau of an inaccurate solution (1e-4)",
        "equilibrate_enable": "whether rows and columns are scaled (True)",
        "equilibrate_max_iter": "rounds of scaling (10)",
        "equilibrate_min_scaling": "smallest scaling (1e-4)",
        "equilibrate_max_scaling": "largest scaling (1e4)",
        "linesearch_backtrack_step": "factor of the line search (0.8)",
        "min_switch_step_length": "step below which the scaling of a nonsymmetric cone is switched (0.1)",
        "min_terminate_step_length": "step below which the solver gives up (1e-4)",
        "direct_solve_method": "factorization: auto, qdldl or faer (auto)",
        "static_regularization_enable": "whether a constant is added to the pivots (True)",
        "static_regularization_constant": "that constant (1e-8)",
        "static_regularization_proportional": "its part that grows with the largest pivot (4.9e-32)",
        "dynamic_regularization_enable": "whether small pivots are replaced (True)",
        "dynamic_regularization_eps": "below which size (1e-13)",
        "dynamic_regularization_delta": "by what (2e-7)",
        "iterative_refinement_enable": "whether linear solutions are refined (True)",
        "iterative_refinement_reltol": "relative residual at which refinement ends (1e-13)",
        "iterative_refinement_abstol": "absolute residual at which refinement ends (1e-12)",
        "iterative_refinement_max_iter": "rounds of refinement (10)",
        "iterative_refinement_stop_ratio": "smallest improvement of a round (5)",
    }
    types = {
        **dict.fromkeys(options, float),
        **{key: bool for key in options if key.endswith("_enable")},
        **{key: int for key in options if key.endswith("max_iter")},
        "direct_solve_method": str,
    }

    _typical: Element | None = None

    def __init__(self, structure: Structure, settings: Settings) -> None:
        super().__init__(structure, settings)
        self._idle: deque[Any] = deque()
        self._varying = tuple(part for part in ("P", "q", "A", "b") if part in structure.varying)
        self._native = self.native(settings)
        if structure.cones.polyhedral:
            asked = {name: value for name, value in self.defaults.items() if self._native[name] == value}
            self._native.update(dict.fromkeys(asked, POLYHEDRAL))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _idle=deque())

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        if self._typical is None and (typical := _typical(values)) is not None:
            self.__dict__.setdefault("_typical", typical)  # in one step: of two threads, the first one decides
        return super().solve(values, warm)

    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        # Only a solver made for these very values, and so with their scaling, has the last word against them. Near the
        # limit of what rounding allows, more iterations can spoil a point (seen with PSD cones): the last attempt is
        # content with less, and the best point is returned.
        quick = self._run(self._updated(element), keep=True)
        if quick.status == Status.OPTIMAL or quick.error <= GOOD:
            return quick
        fresh = self._run(self._made(element))
        if fresh.status not in (Status.INACCURATE, Status.FAILED) or fresh.error <= GOOD:
            return fresh
        easy = self._run(self._made(element, EASIER))
        if easy.status == Status.OPTIMAL:
            easy = replace(easy, status=Status.INACCURATE)
        return min(fresh, easy, quick, key=lambda outcome: outcome.error)

    def _run(self, solver: Any | None, keep: bool = False) -> Outcome:
        """Solve, and keep the solver for other elements if nothing went wrong: one that failed may keep its NaNs."""
        answer = solver and attempt(solver.solve)
        outcome = _outcome(answer) if answer else Outcome(Status.FAILED)
        if keep and (outcome.status == Status.OPTIMAL or outcome.error <= GOOD):
            self._idle.append(solver)
        return outcome

    def _updated(self, element: Element) -> Any | None:
        """A solver set up for a typical element, now with the values of this one, or None."""
        try:
            solver = self._idle.pop()
        except IndexError:
            solver = self._typical and self._made(self._typical)
        if solver is None:
            return None
        if not self._varying:
            return solver  # an update of nothing panics in Clarabel 0.11
        # Lists: Clarabel reads them three times as fast as arrays.
        changes = {part: getattr(element, part).tolist() for part in self._varying}
        return attempt(lambda: (solver.update(**changes), solver)[1])

    def _made(self, element: Element, easier: float = 1.0) -> Any | None:
        """A new solver for the element's values, or None; with ``easier`` times the tolerances."""
        P, A = self.structure.P.matrix(element.P), self.structure.A.matrix(element.A)
        native = _native_settings(self.load(), self._native, easier)
        make = self.load().DefaultSolver
        return attempt(lambda: make(P, element.q, A, element.b, self._cones(), native))

    def _cones(self) -> list[Any]:
        clarabel = self.load()
        make = {
            "zero": clarabel.ZeroConeT,
            "nonneg": clarabel.NonnegativeConeT,
            "second_order": clarabel.SecondOrderConeT,
            "psd": clarabel.PSDTriangleConeT,
            "exponential": lambda _: clarabel.ExponentialConeT(),
            "power": clarabel.PowerConeT,
            "power_nd": lambda alpha: clarabel.GenPowerConeT(list(alpha), 1),
        }
        return [make[block.kind](block.data) for block in self.structure.cones.blocks]

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        options = {
            **cls.defaults,
            **settings.options,
            "verbose": settings.verbose,
            "max_threads": 1,  # the batch is what is spread over threads
            "presolve_enable": False,  # this and the next would forbid updates
            "chordal_decomposition_enable": False,
        }
        nothing, make = sp.csc_array((1, 1)), cls.load().DefaultSolver
        silent = _native_settings(cls.load(), {**options, "verbose": False})
        if attempt(lambda: make(nothing, np.zeros(1), nothing[:0], np.zeros(0), [], silent)) is None:
            raise OptionError(f"CLARABEL refuses one of the options {shown(settings)}.")
        return options


def _typical(values: Values) -> Element | None:
    """The finite element of middle size, by the product of its parts' norms; None if none is finite."""
    parts = (values.P, values.q, values.A, values.b)
    norms = np.stack([np.abs(part).max(axis=0, initial=0.0) for part in parts])
    finite = np.flatnonzero(np.isfinite(norms).all(axis=0))
    if not finite.size:
        return None
    sizes = np.log(np.where(norms > 0, norms, 1.0)[:, finite]).sum(axis=0)
    middle = finite[np.argsort(sizes, kind="stable")[finite.size // 2]]
    return Element(*(np.ascontiguousarray(part[:, middle]) for part in parts))


def _native_settings(clarabel: Any, options: Mapping[str, Any], easier: float = 1.0) -> Any:
    """Clarabel's own settings, with ``easier`` times the tolerances."""
    native = clarabel.DefaultSettings()
    try:
        for name, value in options.items():
            setattr(native, name, value * easier if name in Clarabel.aliases["eps"] else value)
    except (AttributeError, TypeError, OverflowError) as exc:
        raise OptionError(f"CLARABEL refuses the option {name}={value!r}: {exc}.") from exc
    return native


def _outcome(answer: Any) -> Outcome:
    status = STATUSES.get(str(answer.status), Status.FAILED)
    point = (answer.x, answer.z, answer.s)
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        return Outcome(status, answer.iterations, point)
    primal, dual = answer.obj_val, answer.obj_val_dual
    error = max(answer.r_prim, answer.r_dual, abs(primal - dual) / max(1.0, min(abs(primal), abs(dual))))
    return Outcome(status, answer.iterations, point, error if np.isfinite(error) else np.inf)


def attempt(call: Callable[[], Any]) -> Any | None:
    """What the call returns, or None where Clarabel cannot take the values.

    It then raises a plain ``Exception``, or a panic of its Rust code, which Python sees as a ``BaseException``.
    """
    try:
        return call()
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        return None
