"""The derivative's linear systems, for W elements of a batch at a time, by the factors of the iteration's pattern.

The matrix K of ``system`` is regularized a little and factorized, and solutions are refined. Where that does not
lead to the end, because J is singular or nearly so, ``least_norm`` goes on with larger numbers on the diagonal. What it
does not solve either, and lanes at a kink of a second-order cone, are left to others.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.adjoint.least_norm import solve_least_norm
from cvxlayers.ipm.adjoint.system import load_right, load_system, remove_idle, residual
from cvxlayers.ipm.kkt.direction import add, substitute
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import absolute, highest, load, maximum, noinline, select, splat, sqrt, store, store_to
from cvxlayers.ldl.factor import factorize

__all__ = ["INFO", "differentiate_group"]

INFO = 3
"""Rows of what is said of each element: the relative residual, or HUGE where it is left to others; the part of the
right side that no solution serves, relative to it; and 1 where J is singular."""

REGULARIZATION = 1e-8
"""What is added to the diagonal of the scaled matrix."""

SETTLED, GAIN, ROUNDS = 1e-14, 0.3, 8
"""Refinement ends at the first relative residual, where a round does not gain the second factor, or after so many. What
a third round would add lies far below what the point at which the derivative is taken is known to."""

GOOD, HUGE = 1e-12, 1e300
"""The relative residual beyond which a solution is not good enough; and that of lanes that have none."""

HARMLESS, PATIENCE, PATIENCE_CURVED = 3e-3, 6, 3
"""Relative change that the regularization may make in the solution for the random right-hand side; and after how many
rounds it has to be as small. Curved cones know their D no better than the point is known, so that a kernel may be
blurred."""


@kernel
def differentiate_group(plan: Any, at: Any, V: Any, x: Any, y: Any, state: Any, mu: Any, column: Any,
                        info: Any) -> None:  # fmt: skip
    """Solve for the elements column, ..., column + W - 1 of the batch; D and E and the scaled matrices are in V.

    f and g stand in V from ``right`` on, one below the other; dx and u go there from ``out`` on.

    state holds s, and from row m on what ``blocks`` says of PSD, exponential and power cones; mu is positive where
    the derivative is to be smoothed. The first rows of info (rows, B) receive what ``INFO`` tells.
    """
    zero, one = splat(V, 0.0), splat(V, 1.0)
    load_system(plan, at, V, y, state, mu, column, REGULARIZATION)
    factorize(plan, at, V)
    healthy = judge_probe(plan, at, V) * load(V, at.error)
    load_right(at, V)
    healthy = healthy * nothing_lost(at, V)
    error = refine(plan, at, V)
    well = select(error, splat(V, GOOD), zero, healthy * select(splat(V, HUGE), error, one, zero))
    write(at, V, one)
    store_to(info, 0, column, select(well, zero, error, splat(V, HUGE)))
    store_to(info, 1, column, zero)
    store_to(info, 2, column, zero)
    asked = (1.0 - well) * load(V, at.error)
    if highest(asked) > 0.0:
        solve_least_norm(plan, at, V, x, y, state, mu, column, asked, info)
        write(at, V, asked)


@kernel
def write(at: Any, V: Any, asked: Any) -> None:
    """The solution into ``out``, in the lanes that are asked for."""
    noinline()
    zero, over = splat(V, 0.0), 1.0 / load(V, at.cost)
    for i in range(at.n):
        store(V, at.out + i, select(asked, zero, load(V, at.x + i) * load(V, at.D + i), load(V, at.out + i)))
    for i in range(at.m):
        value = load(V, at.y + i) * load(V, at.E + i) * over
        store(V, at.out + at.n + i, select(asked, zero, value, load(V, at.out + at.n + i)))


@kernel
def nothing_lost(at: Any, V: Any) -> Any:
    """1 in the lanes in which nothing is asked of variables that nothing determines."""
    found = splat(V, 0.0)
    for i in range(at.n):
        found = maximum(absolute(load(V, at.rx + i)) * (1.0 - load(V, at.x2 + i)), found)
    return select(found, splat(V, 0.0), splat(V, 0.0), splat(V, 1.0))


@kernel
def judge_probe(plan: Any, at: Any, V: Any) -> Any:
    """1 in the lanes in which few solutions of the regularized system nearly solve J z = r, else 0: J is singular.

    Where it is, the first of them leaves of the random r a part that the others leave as it is. r is in V (see
    ``layout``), in scaled units.
    """
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    limit = splat(V, HARMLESS) / sqrt(splat(V, 1.0 * (at.n + at.m)))
    for i in range(at.n):
        store(V, at.rx + i, load(V, at.probe + i) * load(V, at.x2 + i))
    for i in range(at.m):
        store(V, at.ry + i, load(V, at.probe + at.n + i) * load(V, at.s + i))
    substitute(plan, at, V, at.rx, at.ry, at.x, at.y)
    remove_idle(plan, at, V, at.y)
    worst, _ = residual(plan, at, V)
    patience = PATIENCE if at.cones == at.m else PATIENCE_CURVED
    for _ in range(1, patience):
        going = select(limit, worst, zero, load(V, at.error))
        if highest(going) == 0.0:
            break
        before = worst
        substitute(plan, at, V, at.ex, at.ey, at.tx, at.ty)
        remove_idle(plan, at, V, at.ty)
        add(V, at.x, at.tx, at.n, one)
        add(V, at.y, at.ty, at.m, one)
        worst, _ = residual(plan, at, V)
        if highest(select(GAIN * before, worst, going, zero)) == 0.0:
            break
    return select(limit, worst, one, zero)


@kernel
def refine(plan: Any, at: Any, V: Any) -> Any:
    """x and y such that J z = (rx, ry), lane by lane as far as refinement goes; return the relative residual."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    for i in range(at.n):
        store(V, at.x + i, zero)
        store(V, at.ex + i, load(V, at.rx + i))
    for i in range(at.m):
        store(V, at.y + i, zero)
        store(V, at.ey + i, load(V, at.ry + i))
    before = splat(V, HUGE)
    for k in range(ROUNDS):
        substitute(plan, at, V, at.ex, at.ey, at.tx, at.ty)
        remove_idle(plan, at, V, at.ty)
        add(V, at.x, at.tx, at.n, one)
        add(V, at.y, at.ty, at.m, one)
        worst, whole = residual(plan, at, V)
        now = worst / select(whole, zero, whole, one)
        back = select(before, now, zero, one)
        if highest(back) > 0.0:
            add(V, at.x, at.tx, at.n, -back)
            add(V, at.y, at.ty, at.m, -back)
            if k + 1 < ROUNDS:
                residual(plan, at, V)
        going = select(now, splat(V, SETTLED), select(GAIN * before, now, one, zero), zero)
        before = select(before, now, now, before)
        if highest(going) == 0.0:
            break
    return before
