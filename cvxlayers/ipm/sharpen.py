"""The exact point on the active rows, where all cones are polyhedral: what an interior-point method only approaches.

Near a solution the scaled y_i exceeds s_i where row i is active. On these rows s = 0, on the others y = 0, and

    Px + A'y = -q,    A x = b  (active rows)

is solved by corrections of the present point, with the factors of the iteration's matrix for H = 0 in active rows and a
large H in the others. Where multipliers or points are not unique the corrections, being small, keep them near those of
the central path. Where an entry of y on active rows, or of s on others, comes out negative, its row changes sides, and
once more. The point is taken where it is no worse than the one it came from (Ye 1992 on finite termination).
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kkt.direction import add, factorize_kkt, substitute
from cvxlayers.ipm.method import HUGE, SOLVED, STOPPED
from cvxlayers.kernels.decorators import inline_kernel, kernel
from cvxlayers.kernels.products import A_and_transpose_times, P_times, largest
from cvxlayers.kernels.simd import absolute, highest, load, maximum, minimum, noinline, select, splat, store

__all__ = ["sharpen"]

IDLE = 1e8
"""H of rows that are not active."""

ROUNDS, SETTLED, GAIN = 6, 1e-15, 0.5
"""Corrections end after so many, at the first residual, or where one does not gain the second factor."""

REPAIRS = 2
"""How often the active rows are changed where an entry of y on them, or of s on the others, comes out negative: steps
of the primal-dual active set method (Hintermueller, Ito, Kunisch 2003)."""

EXACT = 1e-12
"""A point of such an error (or the method's tolerance, if that is larger) needs no more iterations."""

AHEAD, LEAST = 1e-4, 1e-50
"""What mu has fallen by before the active rows are looked at again, and the mu at which that ends."""

SECOND = 1e-8
"""The error at which a second look follows the first (see ``iteration.EARLY``)."""

AT_REST = 1e-9
"""The last correction of an early exact point. Where the KKT matrix is worse conditioned than its regularization,
corrections are too short, and what they leave is hardly seen in the equations."""

WORTH = 1e-5
"""The error up to which a point that the method has come to rest at is worth the attempt."""


@inline_kernel
def sharpen(plan: Any, at: Any, V: Any, goal: Any, tol: Any, eps: Any, last: Any) -> Any:
    """Sharpen the points that are kept of lanes that have come to rest, and let those go on whose active rows were not
    the right ones: to an error of ``SECOND``, to tol, then as far as mu falls.

    Return the errors at which lanes are to end. The last way is for problems of parts whose objectives lie so far apart
    that the error of one hides that of the other.
    """
    one, zero = splat(V, 1.0), splat(V, 0.0)
    state, best = load(V, at.state), load(V, at.best)
    asked = select(splat(V, 1.5), state, one, select(state, splat(V, STOPPED - 0.5), one, zero))
    asked = asked * select(splat(V, WORTH), best, one, zero)
    if highest(asked) == 0.0:
        return goal
    guess_active(at, V)
    exact = zero
    for _ in range(1 + REPAIRS):
        place_active(plan, at, V)
        factorize_kkt(plan, at, V, eps)
        moved = correct_point(plan, at, V)
        before, after = natural_error(at, V), exact_error(plan, at, V)
        found = asked * (1.0 - exact) * select(splat(V, max(EXACT, tol)), after, one, zero)
        found = found * select(splat(V, AT_REST), moved, one, zero)
        better = maximum(asked * (1.0 - exact) * select(before, after, one, zero), found)
        take(at, V, better)
        best = select(better, zero, minimum(after, best), best)
        store(V, at.best, best)
        exact = maximum(exact, found)
        if highest(asked * (1.0 - exact)) == 0.0:
            break
    # Without a goal it is worth another look after every few decades of mu, as long as it falls.
    mu, mark = load(V, at.mu), load(V, at.mark)
    falling = select(mu, splat(V, LEAST), select(mark, mu, one, zero), zero)
    again = zero if last else asked * select(goal, zero, one, falling) * (1.0 - exact)
    store(V, at.mark, select(again, zero, AHEAD * mu, mark))
    state = select(exact, zero, splat(V, SOLVED), select(again, zero, zero, state))
    store(V, at.state, state)
    store(V, at.merit, select(again, zero, splat(V, HUGE), load(V, at.merit)))
    store(V, at.waiting, select(again, zero, zero, load(V, at.waiting)))
    second = splat(V, max(SECOND, tol))
    return select(goal, second, second, select(goal, splat(V, tol), splat(V, tol), zero))


@kernel
def guess_active(at: Any, V: Any) -> None:
    """Mark the active rows of the kept points with 1 in c."""
    noinline()
    one, zero = splat(V, 1.0), splat(V, 0.0)
    for i in range(at.m):
        active = one if i < at.first else select(load(V, at.kept_y + i), load(V, at.kept_s + i), one, zero)
        store(V, at.c + i, active)


@kernel
def place_active(plan: Any, at: Any, V: Any) -> None:
    """Start from the kept points, with H and y for the active rows."""
    noinline()
    for i in range(at.n):
        store(V, at.x1 + i, load(V, at.kept_x + i))
    for i in range(at.m):
        active = load(V, at.c + i)
        store(V, at.h + i, splat(V, IDLE) * (1.0 - active))
        store(V, at.y1 + i, load(V, at.kept_y + i) * active)


@kernel
def correct_point(plan: Any, at: Any, V: Any) -> Any:
    """x1 and y1 such that the equations hold, lane by lane as far as corrections go; return the size of the last."""
    noinline()
    one, zero = splat(V, 1.0), splat(V, 0.0)
    moved = zero
    before = equations(plan, at, V)
    for _ in range(ROUNDS):
        substitute(plan, at, V, at.ex, at.ey, at.tx, at.ty)
        for i in range(at.m):
            store(V, at.ty + i, load(V, at.ty + i) * load(V, at.c + i))
        moved = maximum(largest(V, at.tx, at.n), largest(V, at.ty, at.m))
        add(V, at.x1, at.tx, at.n, one)
        add(V, at.y1, at.ty, at.m, one)
        now = equations(plan, at, V)
        back = select(before, now, zero, one)
        if highest(back) > 0.0:
            add(V, at.x1, at.tx, at.n, -back)
            add(V, at.y1, at.ty, at.m, -back)
            equations(plan, at, V)
        going = select(now, splat(V, SETTLED), select(GAIN * before, now, one, zero), zero)
        before = select(before, now, now, before)
        if highest(going) == 0.0:
            break
    return moved


@kernel
def equations(plan: Any, at: Any, V: Any) -> Any:
    """-(Px + A'y + q) and, in active rows, b - Ax, into ex and ey, and b - Ax into Ht; return the largest entry."""
    noinline()
    P_times(plan, at, V, at.x1, at.Pt)
    A_and_transpose_times(plan, at, V, at.x1, at.y1, at.Ht, at.x2)
    worst, total = splat(V, 0.0), splat(V, 0.0)
    for i in range(at.n):
        r = -(load(V, at.Pt + i) + load(V, at.x2 + i) + load(V, at.q + i))
        store(V, at.ex + i, r)
        worst, total = maximum(absolute(r), worst), total + r
    for i in range(at.m):
        rest = load(V, at.b + i) - load(V, at.Ht + i)
        store(V, at.Ht + i, rest)
        r = rest * load(V, at.c + i)
        store(V, at.ey + i, r)
        worst, total = maximum(absolute(r), worst), total + r
    return worst + 0.0 * total  # NaN where there is one


@kernel
def natural_error(at: Any, V: Any) -> Any:
    """The error of the points that are kept, where the smaller of s and y counts in each row."""
    noinline()
    found = load(V, at.best)
    for i in range(at.first, at.cones):
        found = maximum(minimum(load(V, at.kept_s + i), load(V, at.kept_y + i)), found)
    return found


@kernel
def exact_error(plan: Any, at: Any, V: Any) -> Any:
    """The error of the points (x1, y1), with s into dy: what the equations lack, and negative entries of s and y, which
    become zero, and whose rows change their side in c."""
    noinline()
    one, zero = splat(V, 1.0), splat(V, 0.0)
    found, total = zero, sum_of(V, at.ex, at.n) + sum_of(V, at.Ht, at.m)
    for j in range(at.n):
        size = absolute(load(V, at.Pt + j)) + absolute(load(V, at.x2 + j)) + absolute(load(V, at.q + j))
        found = maximum(absolute(load(V, at.ex + j)) / (1.0 + size), found)
    for i in range(at.m):
        rest, active = load(V, at.Ht + i), load(V, at.c + i)
        s = rest * (1.0 - active)
        lacks = absolute(rest) * active
        if i >= at.first:
            y = load(V, at.y1 + i)
            lacks, found = maximum(-s, lacks), maximum(-y, found)
            store(V, at.c + i, select(y * active, s * (1.0 - active), one, zero))
            store(V, at.y1 + i, maximum(y, zero))
            s = maximum(s, zero)
        found = maximum(lacks / (1.0 + absolute(load(V, at.b + i))), found)
        store(V, at.dy + i, s)
    return found + 0.0 * total


@kernel
def sum_of(V: Any, u: Any, size: Any) -> Any:
    """The sum of the entries."""
    total = splat(V, 0.0)
    for i in range(size):
        total += load(V, u + i)
    return total


@kernel
def take(at: Any, V: Any, which: Any) -> None:
    """Keep the sharpened points in these lanes."""
    noinline()
    zero = splat(V, 0.0)
    for i in range(at.n):
        store(V, at.kept_x + i, select(which, zero, load(V, at.x1 + i), load(V, at.kept_x + i)))
    for i in range(at.m):
        store(V, at.kept_y + i, select(which, zero, load(V, at.y1 + i), load(V, at.kept_y + i)))
        store(V, at.kept_s + i, select(which, zero, load(V, at.dy + i), load(V, at.kept_s + i)))
