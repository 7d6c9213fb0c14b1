"""Where the kernels find their indices and keep their numbers: all in two arrays, by offsets.

A kernel takes ``plan`` (int32, flat), ``at``, a record of offsets and sizes, and ``V`` (rows, W), or (rows,) for a
single problem. ``at.place + i`` is a place in the plan, ``at.x + i`` a row of V. Few arguments keep both the
compilation and the calls short. What kernels never write to, the alphas of power cones and the random right-hand side
``probe``, is put into V when V is made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones
from cvxlayers.ipm.kkt.symbolic import Analysis
from cvxlayers.kernels.width import W
from cvxlayers.ldl.panels import WIDEST
from cvxlayers.program.structure import Array

__all__ = ["FIELDS", "OPTIONAL_FIELDS", "KktLayout"]

KEPT_ROWS, KEPT_SPACES = 2**16, 8
"""Work space of at most so many rows (4 MiB) is kept for later calls, at most so many of them."""

_INDICES = (
    "place", "sign", "panel", "panel_row", "update", "k_entry", "P_start", "P_row", "P_entry", "A_start", "A_row",
    "A_entry", "cone_start", "cone_extra", "cone_entry", "cone_map", "matrix_order", "matrix_start", "slot",
)  # fmt: skip
_OF_VARIABLES = ("q", "D", "D_inverse", "x", "kept_x", "Px", "Aty", "rx", "x1", "x2", "ex", "tx", "Pt")
_OF_ROWS = ("b", "E", "E_inverse", "y", "s", "kept_y", "kept_s", "Ax", "ry", "r", "c", "y1", "y2", "dy", "ds", "ey",
            "ty", "Ht", "h", "w", "l")  # fmt: skip
_OF_PLACES = ("diagonal", "pivot", "inverse", "v")
_OF_LANES = ("tau", "kappa", "gap", "mu", "cost", "error", "infeasible", "unbounded", "state",
             "best", "merit", "proof", "reached", "mark", "waiting", "steps")  # fmt: skip
_OTHERS = ("P", "A", "entries", "L", "strip", "eta", "l_det", "probe", "right", "out")
_SIZES = ("n", "m", "first", "cones", "count", "blocks", "degree", "size", "panels", "P_nnz", "A_nnz")
_FURTHER_SIZES, _FURTHER = ("matrices", "exponentials", "powers"), ("scaling", "work", "barrier", "factor", "alpha")

_ROWS = (*_OF_LANES, *_OF_VARIABLES, *_OF_ROWS, *_OF_PLACES, *_OTHERS)
FIELDS = np.dtype([(name, np.int64) for name in (*_SIZES, *_INDICES, *_ROWS)])
"""The record: sizes, offsets in the plan, offsets in V."""

OPTIONAL_FIELDS = np.dtype([(name, np.int64) for name in (*_FURTHER_SIZES, *_FURTHER, *FIELDS.names)])  # type: ignore[misc]
"""The record of a structure with PSD, exponential or power cones (see ``optional``). Their fields come first, so that
Numba does not take the one record for a special case of the other."""


Space = tuple[NDArray[np.int32], Array]
"""The plan, and V (rows, W) or (rows,)."""


@dataclass(frozen=True)
class KktLayout:
    """The plan, the record as an array of one, the number of rows of V, the sizes of the problem, about how many
    seconds W problems take, and their derivatives, and their residuals; whether there are PSD, exponential or power
    cones, and the alphas.

    Work space that is not in use waits in ``idle``, that of single problems in ``idle[1]``; it holds nothing from call
    to call that anyone reads.
    """

    plan: NDArray[np.int32]
    record: NDArray[np.void]
    rows: int
    n: int
    m: int
    seconds: float
    derivative_seconds: float
    measure_seconds: float
    optional: bool
    exponents: tuple[float, ...]
    idle: tuple[deque[Space], deque[Space]]

    @classmethod
    def of(cls, analysis: Analysis) -> KktLayout:
        """Lay out what an analysis needs."""
        plan, cones = analysis.plan, analysis.cones
        size, panels = analysis.elimination.size, analysis.elimination.panels
        count, blocks = len(cones.second_order), plan.cone_extra.size
        first, end = cones.zero, cones.zero + cones.nonneg
        n, m, P, A = analysis.n, analysis.m, plan.P_row.size, plan.A_row.size
        sizes = (n, m, first, end, count, blocks, cones.degree, size, panels.count, P, A)
        lengths = dict.fromkeys(_OF_LANES, 1) | dict.fromkeys(_OF_VARIABLES, n)
        lengths |= dict.fromkeys(_OF_ROWS, m) | dict.fromkeys(_OF_PLACES, size)
        others = (P, A, analysis.entries, panels.nnz, 3 * WIDEST, count, count, n + m, n + m, n + m + P + A)
        lengths |= dict(zip(_OTHERS, others, strict=True))
        indices = [*plan, np.zeros(size, dtype=np.int32)]
        in_plan = np.cumsum([0, *(part.size for part in indices)])
        in_rows = np.cumsum([0, *(lengths[name] for name in _ROWS)])
        numbers, rows, fields = (*sizes, *in_plan[:-1], *in_rows[:-1]), int(in_rows[-1]), FIELDS
        optional = bool(cones.psd or cones.exponential or cones.power)
        if optional:
            more = np.cumsum([rows, *_further_lengths(cones)])
            numbers = (len(cones.psd), cones.exponential, len(cones.power), *more[:-1], *numbers)
            rows, fields = int(more[-1]), OPTIONAL_FIELDS
        record = np.array([numbers], dtype=fields)
        seconds = (analysis.seconds, analysis.derivative_seconds, analysis.measure_seconds)
        return cls(np.concatenate(indices), record, rows, n, m, *seconds, optional, cones.power, (deque(), deque()))

    def take(self, single: bool = False) -> Space:
        """Work space for one thread, for a single problem or for W, to be given back if nothing fails. In the latter
        each row of V is one cache line; the plan's ``slot`` is written to."""
        try:
            return self.idle[single].pop()
        except IndexError:
            return _space(self, single)

    def give(self, space: Space) -> None:
        """Let later calls have the work space."""
        idle = self.idle[space[1].ndim == 1]
        if self.rows <= KEPT_ROWS and len(idle) < KEPT_SPACES:
            idle.append(space)


def _space(layout: KktLayout, single: bool) -> Space:
    lanes = 1 if single else W
    block = np.zeros(layout.rows * lanes + W)
    begin = -(block.ctypes.data // block.itemsize) % W
    V = block[begin : begin + layout.rows * lanes].reshape(layout.rows, lanes)
    at, size = layout.record[0], layout.n + layout.m
    V[at["probe"] : at["probe"] + size] = np.random.default_rng(0).standard_normal((size, 1))
    if layout.exponents:
        V[at["alpha"] : at["alpha"] + len(layout.exponents)] = np.array(layout.exponents)[:, None]
    return layout.plan.copy(), V.reshape(-1) if single else V


def _further_lengths(cones: Cones) -> tuple[int, ...]:
    """How many rows each of the optional parts needs."""
    three, largest = cones.exponential + len(cones.power), max(cones.psd, default=0)
    return sum(2 * k * k + k for k in cones.psd), 3 * largest**2, 15 * three, 9 * three, len(cones.power)
