"""IPM: cvxlayers' own interior-point solver, for single problems and whole batches of small and middle-sized ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cvxlayers.errors import EngineError
from cvxlayers.ipm.cones import KINDS
from cvxlayers.ipm.kkt.layout import KktLayout
from cvxlayers.ipm.kkt.symbolic import analysis_of, quick_analysis_of
from cvxlayers.ipm.method import INFEASIBLE, SOLVED, UNBOUNDED, Method
from cvxlayers.kernels import jit
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.linear import broadcast_column, constant_names
from cvxlayers.program.scales import Scales
from cvxlayers.program.solution import Residuals, Solution, Status, all_optimal
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.verify.measure import measure

if TYPE_CHECKING:
    from cvxlayers.ipm.batch import KernelResult

__all__ = ["IPM"]

GOOD, GOOD_FLAT, USABLE = 1e-8, 1e-10, 1e-5
"""A point at which the solver came to rest is optimal up to the first error, or, where no cone is curved and an exact
point is expected, the second; and inaccurate up to the third."""

_AGAIN = {"static_regularization": 1e-13}


class IPM(Solver):
    """Solves a batch, eight elements at a time in the lanes of vector registers, on several threads; a few elements one
    by one (see ``ipm``).

    The first use compiles the kernels, which takes about half a minute each for single problems and for batches, and a
    minute with PSD, exponential or power cones; Numba keeps them on disk for later processes.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize x^2 / 2 - x subject to x <= b
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = IPM(structure, Settings())
    >>> solution = solver.solve(Values(np.ones((1, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 1. ]])
    """

    name = "IPM"
    package = "numba"
    pip = "numba"
    kinds = KINDS
    quadratic = True
    from_parameters = True
    aliases = {"eps": ("tol",), "max_iters": ("max_iters",)}
    defaults = {"tol": 1e-11, "max_iters": 100, "static_regularization": 1e-7, "refinements": 6}
    options = {
        "tol": "residuals and gap, relative to the sizes of their terms, at which an element is done",
        "max_iters": "largest number of iterations",
        "static_regularization": "what is added to the diagonal of the scaled KKT matrix",
        "refinements": "largest number of corrections of a linear solution",
    }
    types = {"tol": float, "max_iters": int, "static_regularization": float, "refinements": int}

    def __init__(self, structure: Structure, settings: Settings) -> None:
        if not self.takes(structure):
            raise EngineError(self.refusal(structure))
        self.structure = structure
        self.settings = settings
        chosen = {**self.defaults, **settings.options}
        self._method = Method(
            chosen["tol"], chosen["static_regularization"], chosen["max_iters"], chosen["refinements"]
        )
        analysis = analysis_of(structure)
        assert analysis is not None
        self._layout = KktLayout.of(analysis)

    def __getstate__(self) -> dict[str, Any]:
        return {"structure": self.structure, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @classmethod
    def installed(cls) -> bool:
        """Whether Numba can be imported; that it is there is not enough."""
        return jit.usable()

    @classmethod
    def hindrance(cls) -> str:
        reason = jit.hindrance()
        return "" if reason is None or reason == jit.ABSENT else reason

    @classmethod
    def takes(cls, structure: Structure) -> bool:
        return super().takes(structure) and analysis_of(structure) is not None

    @classmethod
    def suits(cls, structure: Structure) -> bool:
        if not super().takes(structure):
            return False
        analysis = quick_analysis_of(structure)
        return analysis is not None and analysis.light

    @classmethod
    def refusal(cls, structure: Structure) -> str:
        if structure.cones.kinds() <= cls.kinds:
            return (
                f"The solver {cls.name} cannot take a problem as large as this one: its factors would fill the memory."
            )
        return super().refusal(structure)

    @cached_property
    def _kernels(self) -> ModuleType:
        from cvxlayers.ipm import batch  # here, because it loads Numba

        return batch

    @cached_property
    def again(self) -> Solver | None:
        """With next to no regularization, unless the caller has chosen one: the usual one is safer where rows are
        redundant, but where the KKT matrix is worse conditioned than its inverse, refinement does not undo it."""
        if "static_regularization" in self.settings.options:
            return None
        return IPM(self.structure, replace(self.settings, options={**self.settings.options, **_AGAIN}))

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        return self._solution(
            values, self._kernels.solve_batch(self._layout, values, self._method, self.settings.threads)
        )

    def solve_from_parameters(
        self, compiled: CompiledProblem, theta: Array, shared: frozenset[int]
    ) -> tuple[Values, Solution, Array]:
        kernels, evaluation, size = self._kernels, compiled.evaluation(shared), theta.shape[1]
        layout, threads, given = self._layout, self.settings.threads, kernels.MapInput(evaluation.stack, theta)
        made = kernels.room(layout, evaluation.stack.rows[0], size, threads)
        parts = evaluation.at(theta, made)
        answer = kernels.solve_mapped_batch(layout, parts, made, given, self._method, threads)
        if size != 1:
            parts = [part[:, :size] if part.shape[1] >= size else broadcast_column(part, size) for part in parts]
        values = Values(*parts)
        return values, self._solution(values, answer), answer.recovered

    def _solution(self, values: Values, answer: KernelResult) -> Solution:
        status = all_optimal(values.batch) if answer.worst < np.inf else self._statuses(values, answer)
        if status is None:  # those that are not finite may have kept others from their last digits
            elements = np.flatnonzero(_finite(values))
            return _scattered(self.solve(values.select(elements)), elements, values.batch)
        iterations, measured = answer.iterations.astype(np.int64), answer.measured
        if self.settings.verbose:
            sys.stdout.write(_log(status, iterations, answer.error))
        residuals = None if measured is None else Residuals(measured, answer.worst)
        found = Scales.of_rows(answer.scales, self._layout.n)
        return Solution(
            answer.x, answer.y, answer.s, status, iterations, constant_names(self.name, status.size), residuals, found
        )

    def _statuses(self, values: Values, answer: KernelResult) -> NDArray[np.int8] | None:
        """The statuses; None if some values are not finite. The points of elements that are claimed to have no
        solution are the proofs of it."""
        if not _finite(values).all():
            return None
        error = np.where(np.isfinite(answer.error), answer.error, np.inf)
        good = GOOD_FLAT if self.structure.cones.polyhedral else GOOD
        status = np.where(error <= good, Status.OPTIMAL, np.where(error <= USABLE, Status.INACCURATE, Status.FAILED))
        for state, outcome in (
            (SOLVED, Status.OPTIMAL), (INFEASIBLE, Status.INFEASIBLE), (UNBOUNDED, Status.UNBOUNDED)
        ):  # fmt: skip
            status = np.where(answer.state == state, outcome, status)
        return status.astype(np.int8)

    def measure(self, values: Values, x: Array, y: Array, s: Array, found: Scales | None = None) -> Residuals:
        if self._layout.optional:  # the kernels do not know the distance from these cones
            return measure(self.structure, values, x, y, s, found or self.scales(values))
        return Residuals(*self._kernels.measure_batch(self._layout, values, x, y, s, self.settings.threads))

    def scales(self, values: Values) -> Scales:
        found = self._kernels.scale_batch(self._layout, values, self.settings.threads)
        return Scales.of_rows(found, self._layout.n)


def _log(status: NDArray[np.int8], iterations: NDArray[np.int64], error: NDArray[np.float64]) -> str:
    """A line for each element, as the log of a batch that is solved at once."""
    lines = [
        f"{i:>8}  {Status(code)!s:<11} {steps:>10}  {wrong:>9.1e}"
        for i, (code, steps, wrong) in enumerate(zip(status, iterations, error, strict=True))
    ]
    heading = f"IPM, batched interior-point method: {status.size} elements"
    return "\n".join([heading, " element  status      iterations      error", *lines, ""])


def _finite(values: Values) -> NDArray[np.bool_]:
    """Which elements have finite values only, (B,)."""
    return np.logical_and.reduce([_finite_part(part) for part in (values.P, values.q, values.A, values.b)])


def _finite_part(part: Array) -> NDArray[np.bool_]:
    shared = part.shape[1] > 1 and part.strides[1] == 0
    found = np.isfinite(part[:, :1] if shared else part).all(axis=0)
    return np.broadcast_to(found, part.shape[1:])


def _scattered(solution: Solution, elements: NDArray[np.intp], batch: int) -> Solution:
    """The solutions of some elements among all; the others are failed, without a point."""
    x, y, s = (np.full((part.shape[0], batch), np.nan) for part in (solution.x, solution.y, solution.s))
    x[:, elements], y[:, elements], s[:, elements] = solution.x, solution.y, solution.s
    status, iterations = np.full(batch, Status.FAILED, dtype=np.int8), np.zeros(batch, dtype=np.int64)
    status[elements], iterations[elements] = solution.status, solution.iterations
    return Solution(x, y, s, status, iterations, np.full(batch, IPM.name))
