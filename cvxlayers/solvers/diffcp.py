"""DIFFCP: the solvers behind diffcp (Agrawal, Barratt, Boyd, Busseti and Moursi, 2019), called as it calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from cvxlayers.errors import EngineError, OptionError
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Structure
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.clarabel import Clarabel, attempt
from cvxlayers.solvers.ecos import ECOS
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome, Start
from cvxlayers.solvers.scs import SCS
from cvxlayers.solvers.scsform import ScsForm

__all__ = ["Diffcp"]

BEHIND: Mapping[str, type[ElementwiseSolver]] = {"CLARABEL": Clarabel, "SCS": SCS, "ECOS": ECOS}


class Diffcp(ElementwiseSolver):
    """Solves each element through ``diffcp.cone_program.solve_internal``.

    The option ``solve_method`` chooses the solver behind it; the other options are that solver's own.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize -x subject to x <= b
    >>> structure = Structure(Pattern.of(one[:0], one[:0], (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = Diffcp(structure, Settings(options={"solve_method": "SCS"}))
    >>> solution = solver.solve(Values(np.ones((0, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 2. ]])
    """

    name = "DIFFCP"
    package = "diffcp"
    pip = "diffcp"
    kinds = frozenset({"zero", "nonneg", "second_order", "psd", "exponential"})
    quadratic = False
    unconstrained = False
    warm_starts = True
    wraps = tuple(BEHIND)
    aliases: ClassVar[Mapping[str, tuple[str, ...]]] = {"eps": (), "max_iters": ()}
    options = {"solve_method": "the solver behind it: CLARABEL, SCS or ECOS (the first of them that is installed)"}
    types = {"solve_method": str}

    def __init__(self, structure: Structure, settings: Settings) -> None:
        super().__init__(structure, settings)
        self._method, engine = _behind(settings)
        if not engine.takes(structure):
            raise EngineError(engine.refusal(structure))
        self._form = ScsForm.of(structure)
        self._native = self.native(settings)

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        _, engine = _behind(settings)
        own = {name: value for name, value in settings.options.items() if name != "solve_method"}
        return engine.native(replace(settings, options=own))

    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        form, diffcp = self._form, self.load()
        A = form.A.matrix(element.A[form.nonzeros])
        arguments = (A, element.b[form.rows], element.q, form.cones, self._method)
        options = {**self._native, "raise_on_error": False}  # a new dict: diffcp changes the one it gets
        if start is not None and self._method == "SCS":
            options["warm_start"] = form.start(start)
        try:
            answer = attempt(lambda: diffcp.cone_program.solve_internal(*arguments, **options))
        except (diffcp.SolverError, ValueError, RuntimeError) as exc:
            return Outcome(_status(str(exc)))
        if answer is None:
            return Outcome(Status.FAILED)
        x, y, s = self._point(answer, element)
        return Outcome(_status(answer["info"]["status"]), answer["info"]["iter"], (x, y, s))

    def _point(self, answer: Mapping[str, Any], element: Element) -> Start:
        """The point with the rows in our order.

        diffcp 1.1.9 turns Clarabel's y and s back by the inverse of the permutation that it should use, which from
        PSD order 4 on is another one. Both are tried, and the one that meets the optimality conditions is right; so
        a diffcp without this fault is served as well.
        """
        form, structure = self._form, self.structure
        if self._method != "CLARABEL" or np.array_equal(form.back, form.rows):
            return form.point(answer)
        x, A = answer["x"], structure.A.matrix(element.A)
        orders = [(answer["y"][rows], answer["s"][rows]) for rows in (form.back, form.rows)]
        errors = [_largest(A @ x + s - element.b) + _largest(A.T @ y + element.q) for y, s in orders]
        y, s = orders[int(np.argmin(errors))]
        return x, y, s


def _behind(settings: Settings) -> tuple[str, type[ElementwiseSolver]]:
    """The name and the class of the solver behind diffcp."""
    installed = [name for name, solver in BEHIND.items() if solver.installed()]
    method = str(settings.options.get("solve_method", (installed or ["CLARABEL"])[0])).upper()
    if method not in BEHIND:
        raise OptionError(f"The option solve_method of DIFFCP must be one of {', '.join(BEHIND)}, not {method!r}.")
    if method not in installed:
        raise EngineError(f"The solver {method} is not installed: install it with `pip install {BEHIND[method].pip}`.")
    return method, BEHIND[method]


def _status(text: str) -> Status:
    """The status in diffcp's words, or in its exception's: Solved, Infeasible, "Optimal Inaccurate" and the like.

    What SCS calls infeasible at its iteration limit is a guess, as in ``scs``.
    """
    text = text.lower()
    guess = "inaccurate - reached" in text
    if "infeasible" in text:
        return Status.FAILED if guess else Status.INFEASIBLE
    if "unbounded" in text:
        return Status.FAILED if guess else Status.UNBOUNDED
    if "solved" in text or "optimal" in text:
        return Status.INACCURATE if "inaccurate" in text else Status.OPTIMAL
    return Status.FAILED


def _largest(v: Array) -> float:
    return float(np.abs(v).max(initial=0.0))
