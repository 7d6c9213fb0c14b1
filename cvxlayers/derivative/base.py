"""The seam of the derivatives: a solved batch becomes a Linearization, which is applied forward or backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.compiled import CompiledProblem
from cvxlayers.cones import Cones, margin
from cvxlayers.errors import DerivativeError
from cvxlayers.program import Array, Structure, Values
from cvxlayers.solution import Solution

__all__ = ["Derivative", "DerivativeReport", "Linearization", "kink_margin"]


@dataclass(frozen=True)
class DerivativeReport:
    """How trustworthy the derivative of each element is; all (B,).

    Attributes
    ----------
    residual : float
        Relative residual of the linear system, after refinement (the worst of the applications so far).
    margin : float
        Distance of y - s to the nearest point where the projection onto K* is not differentiable, see ``kink_margin``:
        near zero where strict complementarity fails.
    fallback : bool
        Whether the system had no solution to its tolerance, so that a least-squares solution was taken.
    """

    residual: Array
    margin: Array
    fallback: NDArray[np.bool_]


def kink_margin(cones: Cones, v: Array) -> Array:
    """Distance of v = y - s from the nearest kink of the projection onto K*, relative to 1 + the largest |v_i|: (B,).

    Like a solution's residuals it does not shrink with the solution: entries below a solver's accuracy tell nothing,
    however large they are beside each other. It is infinite where there are equalities only.
    """
    relative, size = margin(cones, v), np.abs(v).max(axis=0, initial=0.0)
    return np.where(np.isinf(relative), np.inf, np.where(np.isinf(relative), 0.0, relative) * size / (1 + size))


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
