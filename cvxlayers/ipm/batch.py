"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.ipm.entry import solve_groups
from cvxlayers.ipm.lanes import W
from cvxlayers.ipm.layout import Layout
from cvxlayers.ipm.symbolic import Analysis
from cvxlayers.program import Array, Values

__all__ = ["Answer", "Settings", "solve_batch"]


@dataclass(frozen=True)
class Settings:
    """Of the method itself: tolerance, static regularization, largest number of iterations, rounds of refinement."""

    tol: float = 1e-11
    regularization: float = 1e-9
    max_iters: int = 100
    refinements: int = 3


@dataclass(frozen=True)
class Answer:
    """Points x (n, B), y and s (m, B); state (see ``iteration``), iterations and error, each (B,)."""

    x: Array
    y: Array
    s: Array
    state: Array
    iterations: Array
    error: Array


def solve_batch(analysis: Analysis, layout: Layout, values: Values, settings: Settings, threads: int) -> Answer:
    """Solve every element; their values are finite."""
    size = values.batch
    groups = -(-size // W)
    P, q, A, b = (_padded(part, groups * W) for part in (values.P, values.q, values.A, values.b))
    n, m = analysis.n, analysis.m
    out = [np.empty((rows, groups * W)) for rows in (n, m, m, 3)]
    shared = P.shape[1] == 1 and A.shape[1] == 1
    numbers = np.array([settings.tol, settings.regularization, settings.max_iters, settings.refinements], dtype=float)

    def work_on(begin: int, end: int) -> None:
        plan, V = layout.work()
        solve_groups(plan, layout.at, V, P, q, A, b, begin, end, shared, numbers, *out)

    _spread(work_on, groups, threads)
    x, y, s, info = (part[:, :size] for part in out)
    return Answer(x, y, s, info[0], info[1], info[2])


def _spread(work_on, groups: int, threads: int) -> None:
    count = min(threads, groups)
    if count < 2:
        work_on(0, groups)
        return
    bounds = [groups * k // count for k in range(count + 1)]
    others = [threading.Thread(target=work_on, args=(bounds[k], bounds[k + 1])) for k in range(1, count)]
    for thread in others:
        thread.start()
    work_on(bounds[0], bounds[1])
    for thread in others:
        thread.join()


def _padded(part: Array, width: int) -> Array:
    """The values for a whole number of groups: the last element stands in for those that are missing."""
    rows, batch = part.shape
    if batch > 1 and part.strides[1] == 0 or width == 0:
        return np.ascontiguousarray(part[:, :1])
    if batch == width:
        return np.ascontiguousarray(part)
    padded = np.empty((rows, width))
    padded[:, :batch] = part
    padded[:, batch:] = part[:, -1:]
    return padded
