"""What happened in a call: statuses, residuals, engines, seconds, and how trustworthy the derivative is."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.base import DerivativeReport, Linearization
from cvxlayers.program.solution import Residuals, Status
from cvxlayers.program.structure import Array
from cvxlayers.program.summary import Rows, Summarized, span, tally

__all__ = ["Info", "Seconds", "Stopwatch"]


@dataclass
class Seconds:
    """Wall-clock seconds of the parts of one call; the derivative's grow as it is applied.

    IPM evaluates the parameters and recovers the outputs while it solves: that is part of its solving.
    """

    packing: float = 0.0
    solving: float = 0.0
    verification: float = 0.0
    polishing: float = 0.0
    recovery: float = 0.0
    derivative: float = 0.0

    def measure(self, part: str) -> _Watch:
        """A context that adds the time spent inside to one part."""
        return _Watch(self, part)


class Stopwatch:
    """Measures the parts of a call that follow each other: ``lap`` ends each and names it."""

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        self.seconds, self._since = Seconds(), perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to this part."""
        now = perf_counter()
        vars(self.seconds)[part] += now - self._since
        self._since = now


class _Watch:
    """What ``Seconds.measure`` returns; a class, because a generator would take longer than what some parts do."""

    __slots__ = ("_part", "_seconds", "_start")

    def __init__(self, seconds: Seconds, part: str) -> None:
        self._seconds, self._part = seconds, part

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *failure: object) -> None:
        vars(self._seconds)[self._part] += perf_counter() - self._start


@dataclass(repr=False)
class Info(Summarized):
    """The report of one call, as ``layer.info`` gives it to the thread that made the call.

    Printed, it is a summary of the batch; in a notebook, a table.

    Attributes
    ----------
    statuses : (B,) array of str
        "optimal", "inaccurate", "infeasible", "unbounded" or "failed", for each element of the flattened batch.
    iterations : (B,) array of int
    engines : (B,) array of str
        The solver whose point was kept.
    residuals : Residuals
        Relative optimality residuals (primal, dual, gap, cone), each (B,); NaN where there is no point.
    objective : (B,) array
        The problem's own objective, in the caller's sign and scale; NaN where there is no point.
    seconds : Seconds
    linearization : Linearization or None
        None until a gradient has been computed.
    """

    statuses: NDArray[np.str_]
    iterations: NDArray[np.int64]
    engines: NDArray[np.str_]
    residuals: Residuals
    objective: Array
    seconds: Seconds = field(default_factory=Seconds)
    linearization: Linearization | None = None

    @property
    def derivative(self) -> DerivativeReport | None:
        """How trustworthy the derivative is, for the verified elements in order; None until a gradient was computed."""
        return None if self.linearization is None else self.linearization.report

    @property
    def brief(self) -> str:
        """How many elements there are of each status."""
        return tally(self.statuses, [str(status) for status in Status]) or "empty batch"

    def summary_rows(self) -> Rows:
        worst, objective = span(self.residuals.worst, ".1e"), span(self.objective, ".4g")
        parts = {name: value for name, value in vars(self.seconds).items() if value}
        spent = ", ".join(f"{name} {1e3 * value:.2f}" for name, value in parts.items())
        return [
            ("statuses", self.brief),
            ("engines", tally([name for name in self.engines.tolist() if name]) or "none"),
            ("iterations", span(self.iterations, "d") or "none"),
            ("residuals", worst or "no point"),
            ("objective", objective or "unknown"),
            ("milliseconds", spent or "not measured"),
            ("derivative", "not computed" if self.derivative is None else self.derivative.brief),
        ]
