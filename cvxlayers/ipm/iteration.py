"""The primal-dual interior-point method on the homogeneous embedding, for W elements of a batch at a time.

It looks for x, y, s, tau >= 0, kappa >= 0, with s and y in their cones, and

    Px + A'y + q tau = 0,    Ax + s = b tau,    kappa + q'x + b'y + x'Px / tau = 0,    s'y = tau kappa = 0,

the embedding of Goulart and Chen (2024, section 2; Andersen and Ye 1999). With tau > 0 the point over tau solves the
problem; with kappa > 0 one of b'y < 0 and q'x < 0 holds, and y or x proves that there is no solution. Each Newton step

    (dx, dy) = (x1, y1) + dtau (x2, y2),    K (x1, y1) = (rx, ry + c),    K (x2, y2) = (-q, b)

takes one factorization and three solutions: (x2, y2), the affine step, and the combined one (Mehrotra 1992).
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones import optional
from cvxlayers.ipm.cones.symmetric import H_times, combined_shift, inverse_max_step, rescale, shift, unit_scaling
from cvxlayers.ipm.kkt.direction import add, constant_entries, factorize_kkt, solve_kkt, substitute
from cvxlayers.ipm.method import HUGE, INFEASIBLE, SOLVED, STOPPED, UNBOUNDED
from cvxlayers.ipm.sharpen import sharpen
from cvxlayers.kernels.decorators import inline_kernel, kernel
from cvxlayers.kernels.products import A_and_transpose_times, P_times, dot, largest
from cvxlayers.kernels.simd import (
    absolute,
    highest,
    load,
    maximum,
    minimum,
    noinline,
    select,
    splat,
    store,
    store_to,
)

__all__ = ["solve_group"]

CERTIFIED, WEAK, FAR = 1e-11, 3e-7, 1e-1
"""A certificate of infeasibility y has |A'y| <= CERTIFIED |y| and FAR |A'y| <= CERTIFIED |b'y| in scaled units: no x of
less than the inverse is feasible. Likewise Ax + s, and Px, beside x and q'x for a problem without a minimum. Where no
progress is made a weaker one is kept; whether it proves anything is for ``certificate`` to say."""

EARLY = 1e-6
"""The error at which the active rows of a problem without curved cones are found out, and the exact point on them."""

KEPT = 1e-4
"""Points of smaller error are kept while others are tried."""

FALLS, PATIENCE, SMALL_ERROR, SMALL_PATIENCE = 0.9, 15.0, 1e-8, 2.0
"""A lane stops when more than ``PATIENCE`` steps together have not made its error fall by the first factor; fewer
suffice once the error is small."""

SMALL_MU = 1e-12
"""The mu up to which its fall alone is progress, where the error is not small."""

BACK, LEAST = 0.01, 1e-12
"""Steps end before the boundary, by this part of the way; without curved cones, by a tenth of mu if that is less,
which makes the last steps converge faster, but by no less than the second number, lest rounding leads beyond it. (Close
to the boundary of a second-order cone there is no way back.)"""

NEAR = 1e-3
"""At the end of a step no exponential or power cone may be closer to its boundary than the others by more than this."""


@inline_kernel
def solve_group(plan: Any, at: Any, V: Any, column: Any, settings: Any, x: Any, y: Any, s: Any, info: Any) -> None:
    """Solve the elements column, ..., column + W - 1 of the batch, of which the scaled problem is in V.

    settings: tolerance, static regularization, largest number of iterations, rounds of refinement.
    """
    tol, eps, limit, rounds = settings[0], settings[1], int(settings[2]), int(settings[3])
    constant_entries(plan, at, V, eps)
    if optional.lopsided(at):
        begin_at_unit(plan, at, V)
    else:
        symmetric_initialization(plan, at, V, eps, rounds)
    begin_count(at, V)
    one, zero = splat(V, 1.0), splat(V, 0.0)
    active, goal = one, splat(V, tol if at.blocks else max(tol, EARLY))
    for iteration in range(limit + 1):
        measure(plan, at, V)
        state = judge(at, V, goal, iteration == limit)
        active = select(state, zero, zero, one)
        if highest(active) == 0.0:
            if at.blocks:
                break
            goal = sharpen(plan, at, V, goal, tol, eps, iteration == limit)
            active = select(load(V, at.state), zero, zero, one)
            if highest(active) == 0.0:
                break
        store(V, at.steps, load(V, at.steps) + active)
        step(plan, at, V, eps, rounds, active)
    write(at, V, column, x, y, s, info)


@kernel
def begin_count(at: Any, V: Any) -> None:
    """tau = kappa = 1, and what is kept of each lane."""
    for k in (at.tau, at.kappa):
        store(V, k, splat(V, 1.0))
    for k in (at.best, at.merit, at.proof, at.reached):
        store(V, k, splat(V, HUGE))
    for k in (at.state, at.steps, at.waiting, at.mark):
        store(V, k, splat(V, 0.0))


@kernel
def begin_at_unit(plan: Any, at: Any, V: Any) -> None:
    """The points s = y on the central path, which cones without a symmetric scaling need (Goulart and Chen 2024)."""
    noinline()
    zero = splat(V, 0.0)
    for i in range(at.n):
        store(V, at.x + i, zero)
    for v in (at.s, at.y):
        for i in range(at.m):
            store(V, v + i, zero)
        shift(plan, at, V, v)
        optional.unit_initialization(plan, at, V, v)


@kernel
def symmetric_initialization(plan: Any, at: Any, V: Any, eps: Any, rounds: Any) -> None:
    """The points of least norm without the cones, then moved into them (Vandenberghe 2010)."""
    noinline()
    n, m, rx, ry, x, y, s = at.n, at.m, at.rx, at.ry, at.x, at.y, at.s
    one, zero = splat(V, 1.0), splat(V, 0.0)
    unit_scaling(plan, at, V)
    factorize_kkt(plan, at, V, eps)
    for i in range(n):
        store(V, rx + i, -load(V, at.q + i))
    if at.P_nnz:
        solve_kkt(plan, at, V, rx, at.b, x, y, one, rounds)
        for i in range(m):
            store(V, s + i, -load(V, y + i))
    else:
        for i in range(n):
            store(V, at.x1 + i, zero)
        solve_kkt(plan, at, V, at.x1, at.b, x, s, one, rounds)
        for i in range(m):
            store(V, s + i, -load(V, s + i))
            store(V, ry + i, zero)
        solve_kkt(plan, at, V, rx, ry, at.x1, y, one, rounds)
    for i in range(at.first):
        store(V, s + i, zero)
    shift(plan, at, V, s)
    shift(plan, at, V, y)


@kernel
def measure(plan: Any, at: Any, V: Any) -> None:
    """Residuals, gap, mu, and how far the point is from a solution or a certificate, in scaled units."""
    noinline()
    tau, kappa = load(V, at.tau), load(V, at.kappa)
    over = 1.0 / tau
    P_times(plan, at, V, at.x, at.Px)
    A_and_transpose_times(plan, at, V, at.x, at.y, at.Ax, at.Aty)
    xPx = dot(V, at.x, at.Px, at.n)
    qx = dot(V, at.q, at.x, at.n)
    by = dot(V, at.b, at.y, at.m)
    dual, slope, curved, x_size = dual_residual(at, V, tau)
    primal, ray, primal_size = primal_residual(at, V, tau)
    dual = dual * over / (1.0 + maximum(slope, curved) * over)
    primal = primal * over / (1.0 + primal_size * over)
    half = 0.5 * xPx * over
    balance = qx + by + xPx * over
    gap = absolute(balance) * over / (1.0 + maximum(absolute(half + qx), absolute(half + by)) * over)
    worst, zero = maximum(maximum(dual, primal), gap), splat(V, 0.0)
    store(V, at.error, select(tau, zero, worst, splat(V, HUGE)))  # where rounding has taken tau beyond 0 nothing holds
    store(V, at.gap, kappa + balance)
    store(V, at.mu, (dot(V, at.s, at.y, at.m) + tau * kappa) / (1.0 + at.degree))
    # y proves that no x is feasible if A'y = 0 and b'y < 0, x that there is no minimum if Px = 0, Ax + s = 0, q'x < 0.
    never, tiny = splat(V, HUGE), splat(V, 1e-300)
    y_size, x_size = maximum(largest(V, at.y, at.m), tiny), maximum(x_size, tiny)
    low, down = maximum(-by, tiny), maximum(-qx, tiny)
    infeasible = slope * maximum(1.0 / y_size, FAR / low)
    unbounded = maximum(ray, FAR * curved) * maximum(1.0 / x_size, FAR / down)
    store(V, at.infeasible, select(-by, zero, infeasible, never))
    store(V, at.unbounded, select(-qx, zero, unbounded, never))


@kernel
def dual_residual(at: Any, V: Any, tau: Any) -> Any:
    """rx = -(Px + A'y + q tau); the largest entries of it, of A'y, of Px and of x."""
    noinline()
    worst, slope, curved, x_size = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for i in range(at.n):
        Px, Aty = load(V, at.Px + i), load(V, at.Aty + i)
        r = -(Px + Aty + load(V, at.q + i) * tau)
        store(V, at.rx + i, r)
        worst = maximum(absolute(r), worst)
        slope = maximum(absolute(Aty), slope)
        curved = maximum(absolute(Px), curved)
        x_size = maximum(absolute(load(V, at.x + i)), x_size)
    return worst, slope, curved, x_size


@kernel
def primal_residual(at: Any, V: Any, tau: Any) -> Any:
    """ry = b tau - Ax - s; the largest entry of it; how far -Ax lies outside K (for curved cones a bound of that); and
    the largest entries of Ax and s."""
    noinline()
    worst, ray, size = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for i in range(at.m):
        Ax, s = load(V, at.Ax + i), load(V, at.s + i)
        r = load(V, at.b + i) * tau - Ax - s
        store(V, at.ry + i, r)
        worst = maximum(absolute(r), worst)
        outside = maximum(Ax, splat(V, 0.0)) if at.first <= i < at.cones else absolute(Ax + s)
        ray = maximum(outside, ray)
        size = maximum(maximum(absolute(Ax), absolute(s)), size)
    return worst, ray, size


@kernel
def judge(at: Any, V: Any, goal: Any, last: Any) -> Any:
    """Keep the points that are the best so far, and decide which lanes go on; return the states."""
    noinline()
    one, zero = splat(V, 1.0), splat(V, 0.0)
    error, best, state = load(V, at.error), load(V, at.best), load(V, at.state)
    active = select(state, zero, zero, one)
    onward = select(goal, zero, zero, one) * select(splat(V, SMALL_ERROR), error, one, zero)  # as far as mu falls
    better = select(active, zero, maximum(select(best, error, one, zero), onward), zero)
    kept = better * select(splat(V, KEPT), error, one, zero)
    if highest(kept) > 0.0:
        keep(at, V, kept, 1.0 / load(V, at.tau))
    best = select(better, zero, error, best)
    store(V, at.best, best)
    # Progress is that of the point, that of the proofs that there is none, which are often near at the beginning, or
    # that of mu, since an ill-conditioned problem's error may rise for many steps before it falls.
    mu = load(V, at.mu)
    fallen = lowered(V, at.merit, select(onward, zero, mu, error))
    fallen = maximum(lowered(V, at.proof, minimum(load(V, at.infeasible), load(V, at.unbounded))), fallen)
    far = select(best, splat(V, SMALL_ERROR), one, zero)
    fallen = maximum(far * lowered(V, at.reached, maximum(mu, splat(V, SMALL_MU))), fallen)
    waiting = select(fallen, zero, zero, load(V, at.waiting) + 1.0)
    store(V, at.waiting, waiting)
    patience = select(splat(V, SMALL_ERROR), best, splat(V, SMALL_PATIENCE), splat(V, PATIENCE))
    verdict = splat(V, STOPPED) if last else select(waiting, patience, splat(V, STOPPED), zero)
    # Where nothing more is gained a weaker certificate is put forward, if the point is no better as a solution.
    weak = select(verdict, zero, select(best, splat(V, KEPT), splat(V, WEAK), splat(V, CERTIFIED)), splat(V, CERTIFIED))
    verdict = select(weak, load(V, at.unbounded), splat(V, UNBOUNDED), verdict)
    verdict = select(weak, load(V, at.infeasible), splat(V, INFEASIBLE), verdict)
    verdict = select(goal, error, splat(V, SOLVED), verdict)
    verdict = select(onward * load(V, at.mark), mu, splat(V, STOPPED), verdict)  # it is time to look at the active rows
    state = select(active, zero, verdict, state)
    store(V, at.state, state)
    return state


@kernel
def lowered(V: Any, kept: Any, now: Any) -> Any:
    """1 in lanes in which a number has fallen enough below the one that is kept, which it then replaces; else 0."""
    one, zero, before = splat(V, 1.0), splat(V, 0.0), load(V, kept)
    found = select(FALLS * before, now, one, zero)
    store(V, kept, select(found, zero, now, before))
    return found


@inline_kernel
def step(plan: Any, at: Any, V: Any, eps: Any, rounds: Any, active: Any) -> None:
    """One predictor-corrector step of the active lanes."""
    tau, kappa, gap, mu = load(V, at.tau), load(V, at.kappa), load(V, at.gap), load(V, at.mu)
    over = 1.0 / tau
    one = splat(V, 1.0)
    rescale(plan, at, V)
    factorize_kkt(plan, at, V, eps)
    slack = constant_direction(plan, at, V, rounds, active)
    # The affine step: c = s, for which no refinement pays.
    for i in range(at.m):
        c = load(V, at.s + i)
        store(V, at.c + i, c)
        store(V, at.r + i, load(V, at.ry + i) + c)
    substitute(plan, at, V, at.rx, at.r, at.x1, at.y1)
    dtau = (gap - kappa + along(at, V, over)) / slack
    finish(plan, at, V, dtau)
    dkappa = -kappa - kappa * dtau * over
    ahead = 1.0 / maximum(step_rate(plan, at, V, tau, kappa, dtau, dkappa), one)
    rest = 1.0 - optional.backtrack_step(plan, at, V, ahead, dtau, dkappa, 0.0, active)
    sigma = rest * rest * rest
    # The combined step.
    product = tau * kappa + dtau * dkappa - sigma * mu
    combined_shift(plan, at, V, sigma * mu)
    for i in range(at.n):
        store(V, at.rx + i, (1.0 - sigma) * load(V, at.rx + i))
    for i in range(at.m):
        store(V, at.r + i, (1.0 - sigma) * load(V, at.ry + i) + load(V, at.c + i))
    solve_kkt(plan, at, V, at.rx, at.r, at.x1, at.y1, active, rounds)
    dtau = ((1.0 - sigma) * gap - product * over + along(at, V, over)) / slack
    finish(plan, at, V, dtau)
    dkappa = -(product + kappa * dtau) * over
    add(V, at.x1, at.x2, at.n, dtau)
    fastest = step_rate(plan, at, V, tau, kappa, dtau, dkappa)
    back = splat(V, BACK) if at.blocks else maximum(minimum(splat(V, BACK), 0.1 * mu), splat(V, LEAST))
    alpha = minimum(one, (1.0 - back) / maximum(fastest, splat(V, 1e-300)))
    alpha = optional.backtrack_step(plan, at, V, alpha, dtau, dkappa, 0.0, active)  # which is cheaper to find out
    alpha = optional.backtrack_step(plan, at, V, alpha, dtau, dkappa, NEAR, active)
    advance(at, V, alpha, dtau, dkappa, active)


@kernel
def constant_direction(plan: Any, at: Any, V: Any, rounds: Any, active: Any) -> Any:
    """(x2, y2), and what dtau is divided by: kappa / tau + |x / tau - x2|_P^2 + y2'H y2 > 0."""
    noinline()
    over = 1.0 / load(V, at.tau)
    for i in range(at.n):
        store(V, at.x1 + i, -load(V, at.q + i))
    solve_kkt(plan, at, V, at.x1, at.b, at.x2, at.y2, active, rounds)
    for i in range(at.n):
        store(V, at.ex + i, load(V, at.x + i) * over - load(V, at.x2 + i))
    P_times(plan, at, V, at.ex, at.Pt)
    H_times(plan, at, V, at.y2, at.Ht)
    return load(V, at.kappa) * over + dot(V, at.ex, at.Pt, at.n) + dot(V, at.y2, at.Ht, at.m)


@kernel
def along(at: Any, V: Any, over: Any) -> Any:
    """(q + 2 P x / tau)'x1 + b'y1."""
    total = splat(V, 0.0)
    for i in range(at.n):
        total += (load(V, at.q + i) + 2.0 * over * load(V, at.Px + i)) * load(V, at.x1 + i)
    return total + dot(V, at.b, at.y1, at.m)


@kernel
def finish(plan: Any, at: Any, V: Any, dtau: Any) -> None:
    """dy = y1 + dtau y2 and ds = -c - H dy."""
    noinline()
    for i in range(at.m):
        store(V, at.dy + i, load(V, at.y1 + i) + dtau * load(V, at.y2 + i))
    H_times(plan, at, V, at.dy, at.ds)
    for i in range(at.m):
        store(V, at.ds + i, -(load(V, at.c + i) + load(V, at.ds + i)))


@kernel
def step_rate(plan: Any, at: Any, V: Any, tau: Any, kappa: Any, dtau: Any, dkappa: Any) -> Any:
    """The inverse of the longest step that keeps s, y, tau and kappa where they must be."""
    found = maximum(-(dtau / tau), -(dkappa / kappa))
    found = maximum(found, inverse_max_step(plan, at, V, at.s, at.ds))
    return maximum(found, inverse_max_step(plan, at, V, at.y, at.dy))


@kernel
def advance(at: Any, V: Any, alpha: Any, dtau: Any, dkappa: Any, active: Any) -> None:
    """Take the step in the active lanes; one whose step is not finite stops."""
    noinline()
    zero = splat(V, 0.0)
    total = dtau * dtau + dkappa * dkappa + dot(V, at.x1, at.x1, at.n)
    total += dot(V, at.dy, at.dy, at.m) + dot(V, at.ds, at.ds, at.m)
    sound = select(splat(V, 1e280), total, active, zero)
    state = load(V, at.state)
    store(V, at.state, select(active, sound, splat(V, STOPPED), state))
    alpha = select(sound, zero, alpha, zero)
    add(V, at.x, at.x1, at.n, alpha)
    add(V, at.y, at.dy, at.m, alpha)
    add(V, at.s, at.ds, at.m, alpha)
    store(V, at.tau, load(V, at.tau) + select(sound, zero, alpha * dtau, zero))
    store(V, at.kappa, load(V, at.kappa) + select(sound, zero, alpha * dkappa, zero))


@kernel
def keep(at: Any, V: Any, which: Any, over: Any) -> None:
    """Keep the points over tau in these lanes."""
    noinline()
    half = splat(V, 0.5)
    for i in range(at.n):
        store(V, at.kept_x + i, select(which, half, load(V, at.x + i) * over, load(V, at.kept_x + i)))
    for i in range(at.m):
        store(V, at.kept_y + i, select(which, half, load(V, at.y + i) * over, load(V, at.kept_y + i)))
        store(V, at.kept_s + i, select(which, half, load(V, at.s + i) * over, load(V, at.kept_s + i)))


@kernel
def write(at: Any, V: Any, column: Any, x: Any, y: Any, s: Any, info: Any) -> None:
    """Write the best points, or the certificates, in the units given, and what became of each lane."""
    noinline()
    one, zero = splat(V, 1.0), splat(V, 0.0)
    state, best, cost = load(V, at.state), load(V, at.best), load(V, at.cost)
    certificate = select(state, splat(V, SOLVED), select(splat(V, STOPPED), state, one, zero), zero)
    last = select(splat(V, KEPT), best, certificate, one)
    keep(at, V, last, 1.0 / load(V, at.tau))
    for i in range(at.n):
        store_to(x, i, column, load(V, at.kept_x + i) * load(V, at.D + i))
    for i in range(at.m):
        store_to(y, i, column, load(V, at.kept_y + i) * load(V, at.E + i) / cost)
        store_to(s, i, column, load(V, at.kept_s + i) * load(V, at.E_inverse + i))
    store_to(info, 0, column, state)
    store_to(info, 1, column, load(V, at.steps))
    store_to(info, 2, column, best)
