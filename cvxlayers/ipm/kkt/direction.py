"""Solutions of the KKT system [[P, A'], [A, -H]] (dx, dy) = (rx, ry), refined."""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones.symmetric import H_times, write_scaling
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import A_and_transpose_times, P_times, largest
from cvxlayers.kernels.simd import absolute, highest, index, load, maximum, noinline, select, splat, store
from cvxlayers.ldl.factor import factorize, solve

__all__ = ["add", "constant_entries", "factorize_kkt", "solve_kkt", "substitute"]

ENOUGH, FALLS = 1e-12, 0.5
"""The residual, relative to the right-hand side, at which refinement ends; and how much it must fall to go on."""


@kernel
def constant_entries(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write what does not change from iteration to iteration: P + eps I and A."""
    noinline()
    for j in range(at.n):
        own = splat(V, eps)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            entry = index(plan, at.P_entry + k)
            if entry < 0:
                own += load(V, at.P + k)
            else:
                store(V, at.entries + entry, load(V, at.P + k))
        store(V, at.diagonal + index(plan, at.place + j), own)
    for k in range(at.A_nnz):
        store(V, at.entries + index(plan, at.A_entry + k), load(V, at.A + k))


@kernel
def factorize_kkt(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Factorize K for the present scaling."""
    noinline()
    write_scaling(plan, at, V, eps)
    factorize(plan, at, V)


@kernel
def solve_kkt(plan: Any, at: Any, V: Any, rx: Any, ry: Any, dx: Any, dy: Any, active: Any, rounds: Any) -> None:
    """Solve, and improve dx and dy until the residual without regularization is small, or stops falling.

    At most ``rounds`` corrections, decided by the active lanes. ex, ey hold the residual, tx, ty the correction.
    """
    noinline()
    substitute(plan, at, V, rx, ry, dx, dy)
    n, m, tx, ty = at.n, at.m, at.tx, at.ty
    size = maximum(largest(V, rx, n), largest(V, ry, m)) + 1e-300
    before = splat(V, 1e300)
    for k in range(rounds + 1):
        error = residual(plan, at, V, rx, ry, dx, dy) / size
        if k > 0:
            worse = select(before, error, splat(V, 0.0), splat(V, 1.0))
            if highest(worse) > 0:
                add(V, dx, tx, n, -worse)
                add(V, dy, ty, m, -worse)
            # Where the residual no longer falls, as that of an inconsistent system, nothing is left to do.
            error = select(error, FALLS * before, splat(V, 0.0), select(worse, splat(V, 0.5), splat(V, 0.0), error))
        if k == rounds or highest(error * active) <= ENOUGH:
            return
        before = error
        substitute(plan, at, V, at.ex, at.ey, tx, ty)
        add(V, dx, tx, n, splat(V, 1.0))
        add(V, dy, ty, m, splat(V, 1.0))


@kernel
def add(V: Any, u: Any, v: Any, size: Any, factor: Any) -> None:
    """u + factor v into u; where the factor is 0 nothing is added, not even NaN."""
    noinline()
    zero = splat(V, 0.0)
    for i in range(size):
        store(V, u + i, load(V, u + i) + select(absolute(factor), zero, factor * load(V, v + i), zero))


@kernel
def substitute(plan: Any, at: Any, V: Any, rx: Any, ry: Any, dx: Any, dy: Any) -> None:
    """Solve with the regularized factors."""
    noinline()
    n, m, v, place = at.n, at.m, at.v, at.place
    for i in range(n):
        store(V, v + index(plan, place + i), load(V, rx + i))
    for i in range(m):
        store(V, v + index(plan, place + n + i), load(V, ry + i))
    for i in range(n + m, at.size):
        store(V, v + index(plan, place + i), splat(V, 0.0))
    solve(plan, at, V)
    for i in range(n):
        store(V, dx + i, load(V, v + index(plan, place + i)))
    for i in range(m):
        store(V, dy + i, load(V, v + index(plan, place + n + i)))


@kernel
def residual(plan: Any, at: Any, V: Any, rx: Any, ry: Any, dx: Any, dy: Any) -> Any:
    """The residual into ex and ey; return the larger of their norms."""
    noinline()
    ex, ey = at.ex, at.ey
    P_times(plan, at, V, dx, at.Pt)
    A_and_transpose_times(plan, at, V, dx, dy, ey, ex)
    H_times(plan, at, V, dy, at.Ht)
    found, total = splat(V, 0.0), splat(V, 0.0)
    for i in range(at.n):
        e = load(V, rx + i) - load(V, at.Pt + i) - load(V, ex + i)
        store(V, ex + i, e)
        found, total = maximum(absolute(e), found), total + e
    for i in range(at.m):
        e = load(V, ry + i) - load(V, ey + i) + load(V, at.Ht + i)
        store(V, ey + i, e)
        found, total = maximum(absolute(e), found), total + e
    return found + 0.0 * total  # NaN where there is one
