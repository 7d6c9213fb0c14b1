"""A solution of a batch, its statuses, and the residuals by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cvxlayers.program.once import once
from cvxlayers.program.scales import Scales
from cvxlayers.program.structure import Array

__all__ = ["Residuals", "Solution", "Status", "all_optimal"]


class Status(IntEnum):
    """What is known of one element of the batch."""

    OPTIMAL = 0
    INACCURATE = 1
    INFEASIBLE = 2
    UNBOUNDED = 3
    FAILED = 4

    def __str__(self) -> str:
        return self.name.lower()


@lru_cache(maxsize=64)
def all_optimal(batch: int) -> NDArray[np.int8]:
    """The statuses of a batch that is solved, (B,): read-only, the same array in every call."""
    status = np.zeros(batch, dtype=np.int8)
    status.flags.writeable = False
    return status


@dataclass(frozen=True)
class Residuals:
    """How far a point is from optimality, each (B,): the relative changes of the numbers that would make it optimal.

    primal: of Ax + s = b, in the worst row; dual: of Px + A'y + q = 0, in the worst column; gap: of s and y to become
    complementary members of their cones, in the worst one; cone: negative entries of s and y in nonnegative rows. They
    do not depend on units (see ``cvxlayers.verify.measure``). Beside them stands cost, the value of 1/2 x'Px + q'x
    itself, (B,). ``parts`` (5, B) has all of them in this order.
    ``largest``, if it is given, is the largest entry of the four.
    """

    parts: Array
    largest: float | None = None

    @property
    def primal(self) -> Array:
        return self.parts[0]

    @property
    def dual(self) -> Array:
        return self.parts[1]

    @property
    def gap(self) -> Array:
        return self.parts[2]

    @property
    def cone(self) -> Array:
        return self.parts[3]

    @property
    def cost(self) -> Array:
        return self.parts[4]

    @once
    def worst(self) -> Array:
        """The largest of the four, (B,); NaN where any is NaN."""
        return np.asarray(self.parts[:4].max(axis=0))

    def within(self, tolerance: float) -> bool:
        """Whether all four are at most so large in every element."""
        largest = self.parts[:4].max(initial=0.0) if self.largest is None else self.largest
        return bool(largest <= tolerance)


@dataclass(frozen=True)
class Solution:
    """Primal-dual points of a batch: x (n, B), y and s (m, B), with a status for each element.

    Parameters
    ----------
    status : (B,) int8
        Values of ``Status``.
    iterations : (B,) int
    engine : (B,) str
        The solver that gave each element.
    residuals : Residuals or None
        Filled in by ``verification.verify``, if not before.
    scales : Scales or None
        Those of the problem, where a solver has found them on its way.
    unattained : (B,) bool or None
        The inaccurate elements of which it is proved that their infimum is not attained; None if there are none.
    """

    x: Array
    y: Array
    s: Array
    status: NDArray[np.int8]
    iterations: NDArray[np.int64]
    engine: NDArray[np.str_]
    residuals: Residuals | None = None
    scales: Scales | None = None
    unattained: NDArray[np.bool_] | None = None

    @property
    def batch(self) -> int:
        return int(self.x.shape[1])

    @once
    def ok(self) -> NDArray[np.bool_]:
        """The elements with a verified optimal point, (B,)."""
        return self.status == int(Status.OPTIMAL)

    @once
    def whole(self) -> bool:
        """Whether every element has one."""
        return self.status is all_optimal(self.status.size) or not self.status.any()  # OPTIMAL is zero

    def measured(self, residuals: Residuals) -> Solution:
        """The same with these residuals."""
        return Solution(self.x, self.y, self.s, self.status, self.iterations, self.engine, residuals, self.scales)

    def flagged(self, unattained: NDArray[np.intp]) -> Solution:
        """The same with these elements flagged as ``unattained``."""
        flags = np.zeros(self.batch, dtype=bool)
        flags[unattained] = True
        return replace(self, unattained=flags)

    def select(self, indices: NDArray[np.integer]) -> Solution:
        """Some elements of the batch."""
        residuals = self.residuals and Residuals(self.residuals.parts[:, indices])
        return replace(
            self, x=self.x[:, indices], y=self.y[:, indices], s=self.s[:, indices], status=self.status[indices],
            iterations=self.iterations[indices], engine=self.engine[indices], residuals=residuals,
            scales=self.scales and self.scales.select(indices),
            unattained=None if self.unattained is None else self.unattained[indices],
        )  # fmt: skip
