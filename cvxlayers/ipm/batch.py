"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.ipm.entry import (
    differentiate_further_groups,
    differentiate_groups,
    measure_groups,
    pair_groups,
    solve_further_groups,
    solve_groups,
)
from cvxlayers.ipm.layout import Layout
from cvxlayers.ipm.method import Method
from cvxlayers.ipm.threads import spread
from cvxlayers.ipm.width import W
from cvxlayers.program import Array, Values

__all__ = ["Answer", "Pairing", "Sensitivity", "differentiate_batch", "measure_batch", "solve_batch"]


@dataclass(frozen=True)
class Answer:
    """Points x (n, B), y and s (m, B), with what ``measure_batch`` says of them, (5, B), or None where it knows not all
    of the cones; state (see ``method``), iterations and error, each (B,)."""

    x: Array
    y: Array
    s: Array
    measured: Array | None
    state: Array
    iterations: Array
    error: Array


@dataclass(frozen=True)
class Sensitivity:
    """dx (n, B), u (m, B), the relative residual (B,), the elements that are not singular, (B,), and the cotangents of
    P and of A, as far as they were asked for."""

    dx: Array
    u: Array
    residual: Array
    healthy: NDArray[np.bool_]
    cotangents: tuple[Array, Array]


@dataclass(frozen=True)
class Pairing:
    """The points x (n, B) and y (m, B) with which multipliers are paired, and how many entries of P and of A are asked
    for, all or none (see ``pairing``)."""

    x: Array
    y: Array
    P: int
    A: int


def solve_batch(layout: Layout, values: Values, method: Method, threads: int) -> Answer:
    """Solve every element; their values are finite."""
    size = values.batch
    groups = -(-size // W)
    P, q, A, b = (_padded(part, groups * W) for part in (values.P, values.q, values.A, values.b))
    out = [np.empty((rows, groups * W)) for rows in (layout.n, layout.m, layout.m, 3, 5)]
    shared = P.shape[1] == 1 and A.shape[1] == 1
    numbers = method.numbers

    solve = solve_further_groups() if layout.further else solve_groups

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            solve(plan, layout.at, V, P, q, A, b, begin, end, shared, numbers, *out)

    spread(work_on, groups, layout.seconds, threads)
    x, y, s, info, measured = (part[:, :size] for part in out)
    return Answer(x, y, s, None if layout.further else measured, info[0], info[1], info[2])


def differentiate_batch(
    layout: Layout, P: Array, A: Array, state: Array, probe: Array, f: Array, g: Array, threads: int,
    pairing: Pairing | None = None,
) -> Sensitivity:  # fmt: skip
    """Solve J (dx, dv) = (f, g) for every element, with u = D dv (see ``sensitivity``, also for ``state``).

    ``probe`` (n + m, 1) is a random right-hand side. With ``pairing`` the cotangents of P and A are computed, too.
    """
    size = f.shape[1]
    groups = -(-size // W)
    P, A, state, f, g = (_padded(part, groups * W) for part in (P, A, state, f, g))
    dx, u, info = out = [np.empty((rows, groups * W)) for rows in (layout.n, layout.m, 2)]
    shared = P.shape[1] == 1 and A.shape[1] == 1
    wanted = (pairing.P, pairing.A) if pairing else (0, 0)
    dP, dA = (np.empty((count, groups * W)) for count in wanted)
    points = (pairing.x, pairing.y) if pairing and any(wanted) else (dx, u)
    x, y = (_padded(part, groups * W) for part in points)
    differentiate = differentiate_further_groups() if layout.further else differentiate_groups

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            differentiate(plan, layout.at, V, P, A, state, probe, f, g, begin, end, shared, *out)
            if any(wanted):
                pair_groups(plan, layout.common, dx, u, x, y, begin, end, dP, dA)

    spread(work_on, groups, layout.derivative_seconds, threads)
    return Sensitivity(dx[:, :size], u[:, :size], info[0, :size], info[1, :size] > 0, (dP[:, :size], dA[:, :size]))


def measure_batch(layout: Layout, values: Values, x: Array, y: Array, s: Array, threads: int) -> Array:
    """The residuals of every element's point, and the cost, (5, B) (see ``residuals``)."""
    size = values.batch
    groups = -(-size // W)
    width = groups * W
    P, q, A, b = (_padded(part, width) for part in (values.P, values.q, values.A, values.b))
    x, y, s = (_padded(part, width) for part in (x, y, s))
    out = np.empty((5, width))

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            measure_groups(plan, layout.at, V, P, q, A, b, x, y, s, begin, end, out)

    spread(work_on, groups, layout.measure_seconds, threads)
    return out[:, :size]


def _padded(part: Array, width: int) -> Array:
    """The values for a whole number of groups: the last element stands in for those that are missing.

    Of values that are the same for all elements there is one column, which the kernels read for each.
    """
    rows, batch = part.shape
    if batch == 1:
        return np.ascontiguousarray(part, dtype=float)
    if batch > 1 and part.strides[1] == 0:
        return np.ascontiguousarray(part[:, :1], dtype=float)
    if batch == width:
        return np.ascontiguousarray(part, dtype=float)
    padded = np.empty((rows, width))
    padded[:, :batch] = part
    padded[:, batch:] = part[:, -1:]
    return padded
