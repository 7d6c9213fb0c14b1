"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cvxlayers.ipm.entry import solve_groups
from cvxlayers.ipm.lanes import W
from cvxlayers.ipm.layout import Layout
from cvxlayers.program import Array, Values

__all__ = ["Answer", "Method", "solve_batch"]

WORTH_A_THREAD = 3e-4
"""Seconds of work for which another thread is started."""


@dataclass(frozen=True)
class Method:
    """Of the method itself: tolerance, static regularization, largest number of iterations, rounds of refinement."""

    tol: float = 1e-11
    regularization: float = 1e-7
    max_iters: int = 100
    refinements: int = 6


@dataclass(frozen=True)
class Answer:
    """Points x (n, B), y and s (m, B); state (see ``iteration``), iterations and error, each (B,)."""

    x: Array
    y: Array
    s: Array
    state: Array
    iterations: Array
    error: Array


def solve_batch(layout: Layout, values: Values, method: Method, threads: int) -> Answer:
    """Solve every element; their values are finite."""
    size = values.batch
    groups = -(-size // W)
    P, q, A, b = (_padded(part, groups * W) for part in (values.P, values.q, values.A, values.b))
    n, m = int(layout.at.n), int(layout.at.m)
    out = [np.empty((rows, groups * W)) for rows in (n, m, m, 3)]
    shared = P.shape[1] == 1 and A.shape[1] == 1
    numbers = np.array([method.tol, method.regularization, method.max_iters, method.refinements], dtype=float)

    def work_on(begin: int, end: int) -> None:
        plan, V = layout.work()
        solve_groups(plan, layout.at, V, P, q, A, b, begin, end, shared, numbers, *out)

    seconds = groups * layout.seconds
    _spread(work_on, groups, min(threads, groups, 1 + int(seconds / WORTH_A_THREAD)))
    x, y, s, info = (part[:, :size] for part in out)
    return Answer(x, y, s, info[0], info[1], info[2])


def _spread(work_on: Callable[[int, int], None], groups: int, count: int) -> None:
    """Share the groups among threads; this one works as well."""
    bounds = [groups * k // count for k in range(count + 1)] if count else []
    parts = list(itertools.pairwise(bounds))
    others = [threading.Thread(target=work_on, args=part) for part in parts[1:]]
    for thread in others:
        thread.start()
    for part in parts[:1]:
        work_on(*part)
    for thread in others:
        thread.join()


def _padded(part: Array, width: int) -> Array:
    """The values for a whole number of groups: the last element stands in for those that are missing."""
    rows, batch = part.shape
    if batch > 1 and part.strides[1] == 0:
        return np.ascontiguousarray(part[:, :1], dtype=float)
    if batch == width:
        return np.ascontiguousarray(part, dtype=float)
    padded = np.empty((rows, width))
    padded[:, :batch] = part
    padded[:, batch:] = part[:, -1:]
    return padded
