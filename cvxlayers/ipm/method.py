"""The settings of the method itself, and what can become of an element."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvxlayers.program.structure import Array

__all__ = ["HUGE", "INFEASIBLE", "SOLVED", "STOPPED", "UNBOUNDED", "Method"]

SOLVED, INFEASIBLE, UNBOUNDED, STOPPED = 1.0, 2.0, 3.0, 4.0
"""What has become of a lane; 0 while it runs."""


HUGE = 1e300
"""An error of which nothing is known yet."""


@dataclass(frozen=True)
class Method:
    """Tolerance, static regularization, largest number of iterations, rounds of refinement."""

    tol: float = 1e-11
    regularization: float = 1e-7
    max_iters: int = 100
    refinements: int = 6

    @cached_property
    def numbers(self) -> Array:
        """The four, as the kernels take them."""
        return np.array([self.tol, self.regularization, self.max_iters, self.refinements], dtype=float)
