"""The NumPy layer: pack, evaluate, solve, verify, recover, and the way back. Every framework's layer calls this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxlayers.errors import ParameterError, SolveError
from cvxlayers.layer import bounds, checks, packing
from cvxlayers.layer.answer import Solve, answer
from cvxlayers.layer.engine import Engine, EngineCache
from cvxlayers.layer.failure import STATUS_NAMES, check_policy, solve_error
from cvxlayers.layer.glance import all_finite
from cvxlayers.layer.packing import Packed
from cvxlayers.layer.record import Record
from cvxlayers.layer.report import Info, Seconds, Stopwatch
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.linear import constant_names
from cvxlayers.program.solution import Residuals, Solution, Status
from cvxlayers.program.structure import Array, Values
from cvxlayers.program.summary import Rows, Summarized
from cvxlayers.solvers import registry
from cvxlayers.solvers.options import preferred
from cvxlayers.verify import verification

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["Layer", "Record"]


class Layer(Summarized):
    """A compiled problem with a solver: arrays of parameters in, arrays of solutions out, derivatives on request.

    Printed, it is a summary; in a notebook, a table.

    Parameters
    ----------
    compiled : CompiledProblem
        From ``cvxlayers.compile``.
    solver : str, optional
        Name of a solver (see ``cvxlayers doctor``). Default: IPM where it is installed and takes the problem; otherwise
        the most accurate installed one that does.
    solver_args : mapping, optional
        Options for every call; a call's own options go before them. Those of cvxpylayers are understood (``eps``,
        ``max_iters``, ``acceleration_lookback``, ``solve_method``, ``mode``, ``n_jobs_forward``, ``n_jobs_backward``)
        and the solver's own.
    verbose : bool
        Whether the solver prints its log.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements without a verified solution. "raise": SolveError, which lists them. "nan": their
        outputs are NaN, and so are their gradients unless the incoming ones are zero. "zero_grad": the best point found
        (if there is none zeros, or with ``gp=True`` ones) with zero gradient. Elements whose parameters are not finite,
        or break an attribute, are not solved: with "raise" ParameterError names the parameter, otherwise they have
        failed.
    check_parameters : bool
        Whether values are checked against their parameters' attributes (PSD, nonneg, ...).
    polish : bool, optional
        Whether Newton steps on the optimality conditions take points that are not quite solutions nearer to machine
        precision (see ``cvxlayers.layer.polish``). Default: yes; where a solver's points are exact, nothing is to be
        done.
    smoothing : float, optional
        With mu > 0 the derivative is that of the solution map smoothed along the central path, with complementarity
        products of mu: useful at the vertices of linear programs and at kinks, where the exact one is zero or
        undefined. The solutions themselves stay as they are. See ``cvxlayers.derivative.system.smoothing``.
    broadcast : bool
        Whether the parameters' batch dimensions may combine to a batch that none of them has by itself, as (5, 1) and
        (1, 7) do to (5, 7). Without it that is an error: mostly it is a scalar parameter of shape (B, 1), the output of
        a dense layer, beside others of (B, n), whose B * B combinations nobody means.

    Raises
    ------
    EngineError
        The solver is unknown, not installed, or cannot take the problem.
    OptionError
        An unknown option.

    Examples
    --------
    >>> import cvxpy as cp, cvxlayers
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> layer = Layer(cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0])))
    >>> record = layer.solve([[1.0, -1.0]])
    >>> abs(record.outputs[0].round(6)).tolist()
    [1.0, 0.0]
    >>> abs(record.vjp([[1.0, 1.0]])[0].round(6)).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self,
        compiled: CompiledProblem,
        solver: str | None = None,
        solver_args: Mapping[str, Any] | None = None,
        verbose: bool = False,
        on_failure: str = "raise",
        check_parameters: bool = True,
        polish: bool | None = None,
        smoothing: float | None = None,
        broadcast: bool = False,
    ) -> None:
        check_policy(on_failure)
        self.compiled = compiled
        self.solver = solver
        self.solver_args = {"verbose": verbose, **(solver_args or {})}
        self.on_failure = on_failure
        self.check_parameters = check_parameters
        self.polish = polish
        self.smoothing = smoothing
        self.broadcast = broadcast
        self._engines = EngineCache(compiled.structure, smoothing)
        self._engines.engine(
            solver, self.solver_args
        )  # an unknown option or an unfit solver is an error now, not later
        self._local = threading.local()

    @classmethod
    def from_problem(
        cls,
        problem: Problem,
        parameters: Sequence[Parameter] | None = None,
        variables: Sequence[Variable] | None = None,
        solver: str | None = None,
        gp: bool = False,
        solver_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Layer:
        """Compile a CVXPY problem in the form that the solver takes (with P or without), and make its layer.

        The arguments are those of ``cvxlayers.compile`` and of ``Layer``.
        """
        from cvxlayers.compiler import compile  # here, so that a saved layer loads without CVXPY

        quadratic = registry.solver_for(solver, solver_args or {}).quadratic
        compiled = compile(problem, parameters, variables, gp=gp, quadratic=quadratic)
        return cls(compiled, solver, solver_args, **options)

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call; None before the first."""
        return getattr(self._local, "info", None)

    def summary_rows(self) -> Rows:
        chosen = self.solver or self.solver_args.get("solve_method")
        smoothing = [] if self.smoothing is None else [("smoothing", f"{self.smoothing:g}")]
        return [
            *self.compiled.signature,
            ("solver", chosen or f"{preferred(self.compiled.structure, self.solver_args).name}, by default"),
            ("on failure", self.on_failure),
            *smoothing,
            ("last call", "none" if self.info is None else self.info.brief),
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_local", "_engines")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._engines = EngineCache(self.compiled.structure, self.smoothing)
        self._local = threading.local()

    def __call__(self, *parameters: Any, solver_args: Mapping[str, Any] | None = None) -> tuple[np.ndarray, ...]:
        """Solve; parameters of shape (..., shape) give outputs of shape (..., shape). See ``solve``."""
        return self.solve(parameters, solver_args).outputs

    def solve(
        self, parameters: Sequence[Any], solver_args: Mapping[str, Any] | None = None, warm: Solution | None = None,
        broadcast: bool | None = None,
    ) -> Record:  # fmt: skip
        """Solve for a batch of parameters and keep what the derivatives need.

        Parameters
        ----------
        parameters : sequence of arrays
            One for each of ``compiled.parameters``, each of its parameter's shape with any leading batch dimensions,
            which broadcast together. Nothing in them is changed.
        solver_args : mapping, optional
            Options for this call.
        warm : Solution, optional
            A solution of an earlier call (``record.solution``) of the same batch size to start from, where the solver
            takes one; others ignore it.
        broadcast : bool, optional
            As for the layer, for this call.

        Raises
        ------
        ParameterError
            Wrong shapes; with ``on_failure="raise"`` NaN or infinite entries, and broken attributes.
        SolveError
            With ``on_failure="raise"``, when some element has no verified solution.
        """
        watch = Stopwatch()
        packed = self._packed(parameters)
        if len(packed.batch) > 1 and not (self.broadcast if broadcast is None else broadcast):
            packing.refuse_enlarged(self.compiled.parameters, [array.shape for array in packed.arrays])
        engine = self._engine(solver_args)
        elements = self._admit(packed)
        theta = packed.theta if elements is None else packed.theta[:, elements]
        start = self._start(warm, packed, elements)
        watch.lap("packing")
        values, solution, rows = self._solved(engine, theta, packed.shared, start, watch)
        verified = self._verified(engine, values, solution, watch)
        structure, batch = self.compiled.structure, packed.theta.shape[1]
        spread = verified
        if elements is not None:
            spread = verification.scatter(verified, elements, batch, structure.n, structure.m)
        assert spread.residuals is not None
        objective = self.compiled.objective(packed.theta, spread.residuals.cost)
        self._local.info = info = _report(spread, objective, watch.seconds)
        if self.on_failure == "raise" and not spread.whole:
            raise _solve_error(spread)
        kept = rows if spread.x is solution.x and spread.whole else None
        return self._record(packed, values, spread, elements, info, engine, kept)

    def restore(self, parameters: Sequence[Any], point: Any, solver_args: Mapping[str, Any] | None = None) -> Record:
        """The record of an earlier call again, from its parameters and its ``record.point``, without solving.

        For frameworks that keep arrays between the forward and the backward pass, and nothing else. The point is taken
        at its word: hand in what a call with these parameters gave.

        Raises
        ------
        ParameterError
            The parameters or the point have the wrong shapes.
        """
        watch = Stopwatch()
        packed = self._packed(parameters)
        engine = self._engine(solver_args)
        solution = self._solution_of(np.asarray(point, dtype=np.float64), packed)
        elements = None if solution.whole else np.flatnonzero(solution.ok)
        theta = packed.theta if elements is None else packed.theta[:, elements]
        values = self.compiled.evaluate(theta, packed.shared)
        open_rows = bounds.open_rows(self.compiled.structure, values.b)
        if open_rows is not None:
            values = bounds.without(self.compiled.structure, values, open_rows)
        watch.lap("packing")
        info = _report(solution, np.full(solution.batch, np.nan), watch.seconds)
        return self._record(packed, values, solution, elements, info, engine)

    def _engine(self, solver_args: Mapping[str, Any] | None) -> Engine:
        given = {**self.solver_args, **solver_args} if solver_args else self.solver_args
        return self._engines.engine(self.solver, given)

    def _solution_of(self, point: np.ndarray, packed: Packed) -> Solution:
        n, m, batch = self.compiled.structure.n, self.compiled.structure.m, packed.theta.shape[1]
        wanted = (n + 2 * m + 1, *packed.batch)
        if point.shape != wanted:
            raise ParameterError(
                f"point: got an array of shape {point.shape}, expected {wanted} for these parameters; hand in the "
                "record.point of a call with them."
            )
        rows = point.reshape(n + 2 * m + 1, batch)
        x, y, s, status = rows[:n], rows[n : n + m], rows[n + m : -1], rows[-1]
        residuals = Residuals(np.full((5, batch), np.nan))
        zeros, engines = np.zeros(batch, dtype=np.int64), np.full(batch, "", dtype="U16")
        return Solution(x, y, s, status.astype(np.int8), zeros, engines, residuals)

    def _record(
        self, packed: Packed, values: Values, solution: Solution, elements: np.ndarray | None, info: Info,
        engine: Engine,
        rows: Array | None = None,
    ) -> Record:  # fmt: skip
        if rows is None:
            with info.seconds.measure("recovery"):
                rows = self._recover(solution)
        derivative, policy = engine.derivative, self.on_failure
        return Record(self.compiled, packed, values, solution, elements, rows, info, derivative, policy)

    def _admit(self, packed: Packed) -> np.ndarray | None:
        """The elements that may be solved: finite, and true to their parameters' attributes; None for all."""
        compiled, arrays, elements = self.compiled, packed.arrays, self._finite(packed)
        checked = self.check_parameters and compiled.conditional
        if self.on_failure != "raise":
            if checked:
                true = checks.true_elements(arrays, compiled.parameters, packed.batch)
                if not true.all():
                    return np.flatnonzero(true) if elements is None else elements[true[elements]]
            return elements
        if elements is not None:
            checks.refuse_nonpositive(compiled, arrays)
        if checked:
            checks.check_attributes(arrays, compiled.parameters)
        if elements is not None:
            checks.refuse_infinite(arrays, compiled.parameters, self.bounds)
        return elements

    def _finite(self, packed: Packed) -> np.ndarray | None:
        """The elements without NaN or infinite entries, and without logarithms of what has none; None for all."""
        if packed.finite:
            return None
        finite = checks.finite_elements(packed.arrays, self.compiled.parameters, packed.batch, self.bounds)
        if self.compiled.gp:
            finite &= np.isfinite(packed.theta).all(axis=0)
        return np.flatnonzero(finite)

    def _start(self, warm: Solution | None, packed: Packed, elements: np.ndarray | None) -> Solution | None:
        """The warm start of the elements that are solved."""
        if warm is None:
            return None
        batch, structure = packed.theta.shape[1], self.compiled.structure
        if (warm.x.shape, warm.y.shape) != ((structure.n, batch), (structure.m, batch)):
            raise ParameterError(
                f"warm: got a solution of {warm.x.shape[0]} variables, {warm.y.shape[0]} rows and batch "
                f"{warm.batch}, expected "
                f"{structure.n} variables, {structure.m} rows and batch {batch}; hand in the record.solution of a "
                "call of this layer with as many elements."
            )
        return warm if elements is None else warm.select(elements)

    @cached_property
    def bounds(self) -> tuple[bool, ...]:
        """Which parameters may have infinite entries: those of which each is a bound, and nothing else."""
        return bounds.parameters_of_bounds(self.compiled)

    def _packed(self, parameters: Sequence[Any]) -> Packed:
        packed = packing.pack(self.compiled, parameters)
        if packed.finite or not any(self.bounds):
            return packed
        theta = bounds.finite_bounds(self.compiled, self.bounds, packed.theta)
        return packed._replace(theta=theta, finite=all_finite(theta))

    def _solved(
        self, engine: Engine, theta: Array, shared: frozenset[int], warm: Solution | None, watch: Stopwatch
    ) -> tuple[Values, Solution, Array | None]:
        """The values, what the solver says, and the outputs' rows if it says these as well."""
        structure = self.compiled.structure
        if engine.solver.from_parameters:
            found = engine.solver.solve_from_parameters(self.compiled, theta, shared)
            watch.lap("solving")
            values, open_rows = found[0], bounds.open_rows(structure, found[0].b)
            if open_rows is None:
                return found
        else:
            values = self.compiled.evaluate(theta, shared)
            open_rows = bounds.open_rows(structure, values.b)
            watch.lap("packing")
        if open_rows is not None:
            values = bounds.without(structure, values, open_rows)
        solution = engine.solver.solve(values, warm)
        watch.lap("solving")
        return values, solution, None

    def _verified(self, engine: Engine, values: Values, solution: Solution, watch: Stopwatch) -> Solution:
        sharpen = self.polish is not False
        return answer(self.compiled.structure, engine, self._others, values, solution, sharpen, watch)

    def _others(self, engine: Engine) -> Iterator[Solve]:
        """Who is asked for the elements that an engine does not solve."""
        if engine.solver.again is not None:
            yield engine.solver.again.solve
        for name in engine.fallbacks:
            yield self._engines.engine(name, registry.FALLBACK_OPTIONS.get(name, {})).solver.solve

    def _recover(self, solution: Solution) -> Array:
        rows = self.compiled.recover(solution.x, solution.y)
        if self.on_failure == "nan":
            rows[:, ~solution.ok] = np.nan
        elif not solution.whole:
            lost = ~np.isfinite(rows).all(axis=0)
            rows[:, lost] = 0.0
        return rows


def _report(solution: Solution, objective: Array, seconds: Seconds) -> Info:
    assert solution.residuals is not None
    statuses = constant_names(_OPTIMAL, solution.batch) if solution.whole else STATUS_NAMES[solution.status]
    return Info(statuses, solution.iterations, solution.engine, solution.residuals, objective, seconds)


_OPTIMAL = str(Status.OPTIMAL)
_ADVICE = {
    Status.INFEASIBLE: "infeasible elements have parameters for which no point meets the constraints: soften them with "
    "slack variables",
    Status.UNBOUNDED: "unbounded elements have an objective without a minimum: bound the variables or regularize",
    Status.INACCURATE: "inaccurate elements stopped short of the tolerance: rescale the data, or loosen eps in "
    "solver_args",
    Status.FAILED: "failed elements have no usable point: rescale the data, or try another solver",
}


_ENDLESS = (
    "have no minimum: the infimum is not attained, since the objective falls for ever along a direction without going "
    "below it (as exp(x) does): bound the variables or regularize"
)


def _solve_error(solution: Solution) -> SolveError:
    indices = np.flatnonzero(~solution.ok)
    return solve_error(solution.status, indices, _advice(solution, indices))


def _advice(solution: Solution, indices: np.ndarray) -> list[str]:
    """What to do about the elements without a solution, a sentence for each kind."""
    endless = indices[:0] if solution.unattained is None else np.flatnonzero(solution.unattained)
    kinds = sorted(set(solution.status[np.setdiff1d(indices, endless)].tolist()))
    found = [_ADVICE[Status(kind)] for kind in kinds]
    if endless.size:
        shown = ", ".join(map(str, endless[:10].tolist())) + (" and others" if endless.size > 10 else "")
        found.append(f"the inaccurate elements {shown} {_ENDLESS}")
    return found
