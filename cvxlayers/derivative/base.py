"""The seam of the derivatives: a solved batch becomes a Linearization, which is applied forward or backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.errors import DerivativeError
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.program.summary import Rows, Summarized, counted

__all__ = ["Derivative", "DerivativeReport", "Linearization"]


@dataclass(frozen=True, repr=False)
class DerivativeReport(Summarized):
    """How trustworthy the derivative of each element is; all (B,), the same on every engine.

    Printed, it is a summary of all elements; in a notebook, a table.

    Attributes
    ----------
    residual : float
        Relative residual of the linear system, after refinement, without what ``unserved`` counts (the worst of the
        applications so far).
    unserved : float
        How large the part of the right side is that no solution serves, relative to the right side, in scaled units
        (the worst of the applications so far): zero where the solution is differentiable in that direction, though J
        may be singular.
    margin : float
        Distance of y and s, in units of the terms that make up their rows and columns, from the nearest point where the
        projection onto K* is not differentiable (see ``units.kink_margin``): near zero where strict complementarity
        fails.
    fallback : bool
        Whether the system is singular, or could not be solved to its tolerance, so that the solution of least norm was
        taken, of the part of the right side that has one. Variables that nothing in the problem touches there do not
        make it so unless their derivative is asked for.

    Examples
    --------
    >>> DerivativeReport(np.array([1e-16, 2e-15]), np.array([0.0, 0.5]), np.ones(2), np.array([False, True]))
    DerivativeReport
      elements  2
      residual  at most 2.0e-15
      margin    at least 1.0e+00
      fallback  in 1 element
      unserved  at most 5.0e-01
    """

    residual: Array
    unserved: Array
    margin: Array
    fallback: NDArray[np.bool_]

    def summary_rows(self) -> Rows:
        size, fallen = self.fallback.size, int(self.fallback.sum())
        rows = [("elements", str(size))]
        if not size:
            return rows
        return [
            *rows,
            ("residual", f"at most {self.residual.max():.1e}"),
            ("margin", f"at least {self.margin.min():.1e}"),
            ("fallback", f"in {counted(fallen, 'element')}" if fallen else "none"),
            ("unserved", f"at most {self.unserved.max():.1e}"),
        ]

    @property
    def brief(self) -> str:
        """The summary in a few words."""
        return "; ".join(f"{name} {value}" for name, value in self.summary_rows())


class Linearization(ABC):
    """The derivative of (P, q, A, b) -> (x, y, s) at the solutions of one batch; the batch is the last axis."""

    @abstractmethod
    def vjp(self, dx: Array, dy: Array, ds: Array | None = None) -> Values:
        """Cotangents of the values for cotangents of x (n, B), y and s (m, B); ``ds=None`` means zero.

        Those of P are for the stored upper triangle (an entry off the diagonal stands for both of its places). What
        is not in ``structure.varying`` comes back as zeros without being computed.
        """

    def pull(self, compiled: CompiledProblem, drows: Array) -> list[Array]:
        """The cotangents of the features (see ``CompiledProblem.by_feature``) for that of the outputs (rows, B)."""
        return compiled.by_feature(compiled.pullback(self.vjp(*compiled.recover_adjoint(drows))))

    @abstractmethod
    def jvp(self, dvalues: Values) -> tuple[Array, Array, Array]:
        """Tangents of x, y and s for tangents of the values."""

    @property
    def kept(self) -> int:
        """How many factorizations are kept for later applications."""
        return 0

    @property
    def twice(self) -> bool:
        """Whether ``multipliers`` are at hand, so that there is a second derivative (see ``second``)."""
        return False

    def multipliers(self, dx: Array, dy: Array, ds: Array | None = None) -> tuple[Array, Array]:
        """rx (n, B) and rv (m, B) of the adjoint system behind ``vjp``.

        Raises
        ------
        DerivativeError
            Not ``twice``.
        """
        raise DerivativeError(
            "A second derivative was asked for, and there is none of the engine DIFFCP's derivative, nor of a smoothed "
            "one; choose another engine and leave smoothing out, or use finite differences of the gradient."
        )

    @property
    @abstractmethod
    def report(self) -> DerivativeReport:
        """How well the systems were solved."""


class Derivative(ABC):
    """Makes Linearizations for one structure; what depends on the structure alone is computed once."""

    @abstractmethod
    def __init__(self, structure: Structure, threads: int = 1) -> None: ...

    @abstractmethod
    def linearize(self, values: Values, solution: Solution) -> Linearization:
        """The derivative at verified solutions of these values."""
