"""The derivative where J is singular: the solution of least norm of what of the right side has one.

In (dx, u), J is the symmetric K = [[P, A'], [A, -H]] of ``system``. With R = delta diag(I, -I), R (K + R)^-1 is
the resolvent of the monotone matrix [[P, A'], [-A, H]]: the identity on its kernel, which is K's, and small across it.
So, from r_0 = (f, g), with t_k = (K + R)^-1 r_k,

    r_k+1 = r_k - K t_k = R t_k

tends to the part of r in the kernel, which no solution serves, and the sum of t_k - R^-1 r_inf to the solution of least
norm of the rest. Norms are those of units that change as the caller's do (see ``point_units``); the same is done with
array operations in ``cvxlayers.derivative.factor.refinement``.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.adjoint.point_units import rescale_at
from cvxlayers.ipm.adjoint.system import load_right, load_system, remove_idle, residual
from cvxlayers.ipm.kkt.direction import add, substitute
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import dot
from cvxlayers.kernels.simd import highest, load, load_from, noinline, select, splat, sqrt, store, store_to
from cvxlayers.ldl.factor import factorize

__all__ = ["solve_least_norm"]

COARSE = 1e-5
"""delta. What rounding leaves along the kernel is machine epsilon over it, and eigenvalues that are smaller by orders
of magnitude count as zero."""

SETTLED, MOST, FALLS, SMALL = 1e-14, 25, 0.8, 1e-8
"""A pass ends at this change relative to the right side, or after so many steps; what no longer falls by the third
factor, while it is below the last, is rounding."""

CLEAN, PASSES = 1e-9, 3
"""The part left by one pass beyond which another one does without it, and how many there may be: what rounding leaves
of it in the solution is not small."""

REFINEMENTS_CURVED = 3
"""Of a solution with the factors, where there are curved cones."""

ROUNDING = 1e-12
"""A part that no solution serves by rounding alone."""

PROBES, STAYS, SEEN = 5, 0.3, 1e-3
"""J is singular where, after so many steps, a random right side keeps a part of more than the last length that changes
by less than the second factor of it."""

HUGE = 1e300


@kernel
def solve_least_norm(plan: Any, at: Any, V: Any, x: Any, y: Any, state: Any, mu: Any, column: Any, asked: Any,
                     info: Any) -> None:  # fmt: skip
    """Solve in the lanes that are asked for, in scales of their own, which D and E become; x and y receive dx and u."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    rescale_at(plan, at, V, x, y, state, column)
    load_system(plan, at, V, y, state, mu, column, COARSE)
    factorize(plan, at, V)
    singular = probe_kernel(plan, at, V)
    free = load_served(plan, at, V)
    served = length(at, V, at.rx, at.ry)
    whole = sqrt(served * served + free * free)
    whole = select(whole, zero, whole, one)
    left, again = zero, asked
    for k in range(PASSES):
        split(plan, at, V, again, whole)
        last = length(at, V, at.rx, at.ry) / whole
        if k == 0:
            left = last
        keep_left(at, V, again, splat(V, 1.0 if k > 0 else 0.0))
        again = again * select(last, splat(V, CLEAN), one, zero)
        take_left(plan, at, V)
        if highest(again) == 0.0:
            break
    for i in range(at.n):
        store(V, at.x + i, load(V, at.kept_x + i))
    for i in range(at.m):
        store(V, at.y + i, load(V, at.kept_y + i))
    worst, terms = residual(plan, at, V)
    error = worst / select(terms, zero, terms, one)
    error = select(load(V, at.error), zero, error, splat(V, HUGE))
    free = free / whole
    left = sqrt(left * left + free * free)
    singular = select(left, splat(V, ROUNDING), one, singular)
    note(info, V, 0, column, asked, error)
    note(info, V, 1, column, asked, left)
    note(info, V, 2, column, asked, singular)


@kernel
def note(info: Any, V: Any, row: Any, column: Any, asked: Any, value: Any) -> None:
    """Write a row of info, in the lanes that are asked for."""
    store_to(info, row, column, select(asked, splat(V, 0.0), value, load_from(info, row, column)))


@kernel
def length(at: Any, V: Any, x: Any, y: Any) -> Any:
    """The length of a vector of n and one of m entries."""
    return sqrt(dot(V, x, x, at.n) + dot(V, y, y, at.m))


@kernel
def load_served(plan: Any, at: Any, V: Any) -> Any:
    """The right side into rx and ry, without what has no effect; return the length of what is asked of variables that
    nothing determines, which is left out."""
    noinline()
    load_right(at, V)
    remove_idle(plan, at, V, at.ry)
    total = splat(V, 0.0)
    for i in range(at.n):
        f, used = load(V, at.rx + i), load(V, at.x2 + i)
        total += f * f * (1.0 - used)
        store(V, at.rx + i, f * used)
    return sqrt(total)


@kernel
def keep_left(at: Any, V: Any, asked: Any, before: Any) -> None:
    """What is left of the right side, in rx and ry, into x1 and y1, or, with ``before`` one, added to them."""
    noinline()
    zero = splat(V, 0.0)
    for i in range(at.n):
        now = select(asked, zero, load(V, at.rx + i), zero)
        store(V, at.x1 + i, now + select(before, zero, load(V, at.x1 + i), zero))
    for i in range(at.m):
        now = select(asked, zero, load(V, at.ry + i), zero)
        store(V, at.y1 + i, now + select(before, zero, load(V, at.y1 + i), zero))


@kernel
def take_left(plan: Any, at: Any, V: Any) -> None:
    """The right side less what is left of it, into rx and ry."""
    load_served(plan, at, V)
    add(V, at.rx, at.x1, at.n, splat(V, -1.0))
    add(V, at.ry, at.y1, at.m, splat(V, -1.0))


@kernel
def split(plan: Any, at: Any, V: Any, asked: Any, whole: Any) -> None:
    """One pass: the solution of a part of (rx, ry) into kept_x and kept_y, what is left into rx and ry."""
    noinline()
    zero, one, steps, before = splat(V, 0.0), splat(V, 1.0), splat(V, 0.0), splat(V, HUGE)
    for i in range(at.n):
        store(V, at.kept_x + i, select(asked, zero, zero, load(V, at.kept_x + i)))
    for i in range(at.m):
        store(V, at.kept_y + i, select(asked, zero, zero, load(V, at.kept_y + i)))
    all_asked = asked
    for _ in range(MOST):
        solve_neighbour(plan, at, V)
        add(V, at.kept_x, at.x, at.n, asked)
        add(V, at.kept_y, at.y, at.m, asked)
        change = replace_left(at, V, asked) / whole
        steps += asked
        rounding = select(change, FALLS * before, select(splat(V, SMALL), change, one, zero), zero)
        asked = asked * select(change, splat(V, SETTLED), 1.0 - rounding, zero)
        if highest(asked) == 0.0:
            break
        before = change
    steps = steps * (1.0 / COARSE) * all_asked
    add(V, at.kept_x, at.rx, at.n, -steps)
    add(V, at.kept_y, at.ry, at.m, steps)


@kernel
def solve_neighbour(plan: Any, at: Any, V: Any) -> None:
    """(K + R)^-1 (rx, ry) into x and y, refined: the rounding of the factors is large where they are small, and larger
    beside curved cones, whose flat directions have large numbers in K."""
    noinline()
    substitute(plan, at, V, at.rx, at.ry, at.x, at.y)
    remove_idle(plan, at, V, at.y)
    for _ in range(1 if at.cones == at.m else REFINEMENTS_CURVED):
        residual(plan, at, V)
        add(V, at.ex, at.x, at.n, splat(V, -COARSE))
        add(V, at.ey, at.y, at.m, splat(V, COARSE))
        substitute(plan, at, V, at.ex, at.ey, at.tx, at.ty)
        remove_idle(plan, at, V, at.ty)
        add(V, at.x, at.tx, at.n, splat(V, 1.0))
        add(V, at.y, at.ty, at.m, splat(V, 1.0))


@kernel
def replace_left(at: Any, V: Any, asked: Any) -> Any:
    """R (x, y) into rx and ry, in the lanes that are asked for; return the length of the change."""
    noinline()
    zero, total = splat(V, 0.0), splat(V, 0.0)
    for i in range(at.n):
        now, before = COARSE * load(V, at.x + i), load(V, at.rx + i)
        total += (now - before) * (now - before)
        store(V, at.rx + i, select(asked, zero, now, before))
    for i in range(at.m):
        now, before = -(COARSE * load(V, at.y + i)), load(V, at.ry + i)
        total += (now - before) * (now - before)
        store(V, at.ry + i, select(asked, zero, now, before))
    return sqrt(total)


@kernel
def probe_kernel(plan: Any, at: Any, V: Any) -> Any:
    """1 in the lanes in which a random right side has a part that the steps leave as it is: J is singular."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    for i in range(at.n):
        store(V, at.rx + i, load(V, at.probe + i) * load(V, at.x2 + i))
    for i in range(at.m):
        store(V, at.ry + i, load(V, at.probe + at.n + i) * load(V, at.s + i))
    remove_idle(plan, at, V, at.ry)
    change = zero
    for _ in range(PROBES):
        substitute(plan, at, V, at.rx, at.ry, at.x, at.y)
        remove_idle(plan, at, V, at.y)
        change = replace_left(at, V, one)
    now = length(at, V, at.rx, at.ry)
    return select(now, splat(V, SEEN), select(STAYS * now, change, one, zero), zero)
