"""The seam of the solvers: ``init(structure, settings)`` once, ``solve(values)`` per call."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.scales import Scales, scales
from cvxlayers.program.solution import Residuals, Solution
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.verify.measure import measure

__all__ = ["Settings", "Solver"]


@dataclass(frozen=True)
class Settings:
    """What a solver is told, already validated.

    Parameters
    ----------
    threads : int
        How many threads may work on one batch.
    verbose : bool
        Whether the solver prints its own log.
    options : mapping
        The solver's own options, by the solver's own names (see ``Solver.options``).
    """

    threads: int = 1
    verbose: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Solver(ABC):
    """A conic solver for one structure. Subclasses live in one file each and are listed in ``registry``.

    Class attributes
    ----------------
    name : str
        By which callers choose it.
    package, pip : str
        The module that must be importable, and what to install to get it.
    kinds : frozenset of str
        The kinds of cone it takes.
    quadratic : bool
        Whether it takes P; if not, problems are compiled with a linear objective.
    unconstrained : bool
        Whether it takes problems without constraints (m = 0).
    warm_starts : bool
        Whether it can start from a given point.
    options : mapping of str to str
        The options it accepts by name, each with a one-line meaning.
    aliases : mapping of str to tuple of str
        The options that every solver accepts ("eps", "max_iters"), and which of its own they set.
    types : mapping of str to type
        What the value of each of its options must be: bool, int, float or str.
    defaults : mapping of str to object
        The values with which it runs where nobody asks for others, as far as they differ from its package's own.
    first_order : bool
        Whether accuracy costs it many iterations. If not, an ``eps`` looser than its default is not taken.
    from_parameters : bool
        Whether it has a ``solve_from_parameters``.
    wraps : tuple of str
        For a solver that calls others, chosen by its option ``solve_method``: their names, the default first.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    pip: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    quadratic: ClassVar[bool]
    unconstrained: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]]
    aliases: ClassVar[Mapping[str, tuple[str, ...]]]
    types: ClassVar[Mapping[str, type]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    first_order: ClassVar[bool] = False
    from_parameters: ClassVar[bool] = False
    wraps: ClassVar[tuple[str, ...]] = ()

    structure: Structure

    @abstractmethod
    def __init__(self, structure: Structure, settings: Settings) -> None: ...

    @abstractmethod
    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        """Solve every element of the batch; a failure becomes a status, never an exception.

        The statuses are the solver's own word; the caller verifies the points. ``residuals`` stays None, unless
        they were computed in passing by what ``measure`` computes.
        A point whose status is INACCURATE or FAILED may yet prove good. Elements without a point (INFEASIBLE,
        UNBOUNDED, values that are not finite) hold NaN.
        """

    def solve_from_parameters(
        self, compiled: CompiledProblem, theta: Array, shared: frozenset[int]
    ) -> tuple[Values, Solution, Array]:
        """Evaluate a compiled problem at theta (k, B), solve, and recover the outputs' rows (rows, B), all in one.

        ``shared`` as for ``CompiledProblem.evaluate``. For solvers that do this faster than it is done step by step.
        """
        raise NotImplementedError(f"The solver {self.name} takes values, not parameters.")

    @property
    def again(self) -> Solver | None:
        """The same solver as it is to try once more those elements on which it has failed; None where that is of no
        use."""
        return None

    def measure(self, values: Values, x: Array, y: Array, s: Array, found: Scales | None = None) -> Residuals:
        """The optimality residuals of points x (n, B), y and s (m, B), by which any solver's answers are judged; the
        problem's scales may be handed in.

        A solver may bring a faster way to compute what ``cvxlayers.verify.measure`` does.
        """
        return measure(self.structure, values, x, y, s, found)

    def scales(self, values: Values) -> Scales:
        """The problem's own scales (see ``cvxlayers.program.scales``), likewise."""
        return scales(self.structure, values)

    @classmethod
    def installed(cls) -> bool:
        """Whether the solver's package can be imported."""
        return importlib.util.find_spec(cls.package) is not None

    @classmethod
    def hindrance(cls) -> str:
        """Why it does not run here although its package is there, as sentences; empty where there is nothing to say."""
        return ""

    @classmethod
    def takes(cls, structure: Structure) -> bool:
        """Whether it can solve problems of this structure."""
        if not structure.m and not cls.unconstrained:
            return False
        return structure.cones.kinds() <= cls.kinds and (cls.quadratic or not structure.quadratic)

    @classmethod
    def suits(cls, structure: Structure) -> bool:
        """Whether it is a good choice for problems of this structure, where nobody names a solver."""
        return cls.takes(structure)

    @classmethod
    def refusal(cls, structure: Structure) -> str:
        """Why it does not take problems of this structure, as a sentence."""
        strange = ", ".join(sorted(structure.cones.kinds() - cls.kinds))
        if strange:
            what = f"cones of the kind {strange}, which this problem has"
        elif structure.quadratic and not cls.quadratic:
            what = "a quadratic objective (P), which this problem has"
        else:
            what = "a problem without constraints"
        return f"The solver {cls.name} cannot take {what}."
