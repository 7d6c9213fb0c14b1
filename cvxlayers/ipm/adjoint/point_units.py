"""Scales for systems that are singular, in which their norms are measured: they change as the caller's units do.

They begin with the sizes of the terms of the point, dual_j = (|P||x| + |q| + |A|'|y|)_j and eta_i = min over j of
dual_j / |A_ij|, and go on with a fixed number of sweeps of Ruiz (2001) over P and the rows of A that are not left out.
The same scales are made with array operations in ``cvxlayers.derivative.system.equilibration``, where more is said.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kkt.equilibrate import norms, scale_further
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import largest
from cvxlayers.kernels.simd import absolute, index, load, load_from, maximum, noinline, select, splat, sqrt, store

__all__ = ["rescale_at"]

SWEEPS, NEIGHBOURS = 6, 2
"""How many, and how far what is known of some rows and columns spreads to others."""

FAINT, FAINTEST = 1e-6, 1e-10
"""What dual, and sigma, have to be beside the largest, in the scales of the problem, to tell anything."""


@kernel
def rescale_at(plan: Any, at: Any, V: Any, x: Any, y: Any, state: Any, column: Any) -> None:
    """Scale P and A, D and E further. The rows that are left out are zero in A, and ``s`` is their mask."""
    noinline()
    one = splat(V, 1.0)
    measure_terms(plan, at, V, x, y, column)
    begin_scales(plan, at, V)
    common_unit(plan, at, V, state, column)
    apply(plan, at, V)
    for _ in range(SWEEPS):
        norms(plan, at, V)
        share_largest(plan, at, V, at.y1)
        for i in range(at.n):
            store(V, at.x1 + i, 1.0 / sqrt(positive(load(V, at.x1 + i), one)))
        for i in range(at.m):
            store(V, at.y1 + i, 1.0 / sqrt(positive(load(V, at.y1 + i), one)))
        apply(plan, at, V)


@kernel
def positive(size: Any, other: Any) -> Any:
    """The size, or the other where there is none."""
    return select(size, 0.0 * other, size, other)


@kernel
def apply(plan: Any, at: Any, V: Any) -> None:
    """Multiply the scales, and the matrices, by the changes in x1 and y1."""
    noinline()
    for i in range(at.n):
        store(V, at.D + i, load(V, at.D + i) * load(V, at.x1 + i))
    for i in range(at.m):
        store(V, at.E + i, load(V, at.E + i) * load(V, at.y1 + i))
    scale_further(plan, at, V, splat(V, 1.0))


@kernel
def share_largest(plan: Any, at: Any, V: Any, y: Any) -> None:
    """Let all rows of a curved cone have the largest of their sizes."""
    noinline()
    for c in range(at.blocks):
        start, stop = index(plan, at.cone_start + c), index(plan, at.cone_start + c + 1)
        found = splat(V, 0.0)
        for i in range(start, stop):
            found = maximum(load(V, y + i), found)
        for i in range(start, stop):
            store(V, y + i, found)


@kernel
def measure_terms(plan: Any, at: Any, V: Any, x: Any, y: Any, column: Any) -> None:
    """1 / dual (or zero) into x1 and 1 / eta (or zero) into y1, in the present scales."""
    noinline()
    zero, one, cost = splat(V, 0.0), splat(V, 1.0), load(V, at.cost)
    for i in range(at.n):
        store(V, at.tx + i, absolute(load_from(x, i, column)) / load(V, at.D + i))
        store(V, at.x1 + i, absolute(load(V, at.q + i)))
    for i in range(at.m):
        store(V, at.ty + i, absolute(load_from(y, i, column)) * cost / load(V, at.E + i))
        store(V, at.y1 + i, zero)
    for j in range(at.n):
        own, xj = load(V, at.x1 + j), load(V, at.tx + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            i, p = index(plan, at.P_row + k), absolute(load(V, at.P + k))
            own += p * load(V, at.tx + i)
            if i != j:
                store(V, at.x1 + i, load(V, at.x1 + i) + p * xj)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            own += absolute(load(V, at.A + k)) * load(V, at.ty + index(plan, at.A_row + k))
        store(V, at.x1 + j, own)
    faint = FAINT * largest(V, at.x1, at.n)
    for j in range(at.n):
        dual = load(V, at.x1 + j)
        over = select(dual, faint, 1.0 / positive(dual, one), zero)
        store(V, at.x1 + j, over)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = at.y1 + index(plan, at.A_row + k)
            store(V, i, maximum(absolute(load(V, at.A + k)) * over, load(V, i)))
    share_largest(plan, at, V, at.y1)


@kernel
def begin_scales(plan: Any, at: Any, V: Any) -> None:
    """1 / dual and eta into x1 and y1; where they say nothing, what the largest entries of others say."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    for i in range(at.m):
        store(V, at.y1 + i, inverse(load(V, at.y1 + i), zero, one))
    for _ in range(NEIGHBOURS):
        for i in range(at.m):
            store(V, at.ty + i, zero)
        for j in range(at.n):
            found = zero
            for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
                size = absolute(load(V, at.A + k)) * load(V, at.y1 + index(plan, at.A_row + k))
                found = maximum(size, found)
            own = positive(load(V, at.x1 + j), inverse(found, zero, one))
            store(V, at.x1 + j, own)
            for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
                i = at.ty + index(plan, at.A_row + k)
                store(V, i, maximum(absolute(load(V, at.A + k)) * own, load(V, i)))
        for i in range(at.m):
            store(V, at.y1 + i, positive(load(V, at.y1 + i), inverse(load(V, at.ty + i), zero, one)))
    for j in range(at.n):
        store(V, at.x1 + j, positive(load(V, at.x1 + j), one))
    for i in range(at.m):
        store(V, at.y1 + i, positive(load(V, at.y1 + i), one))


@kernel
def inverse(size: Any, zero: Any, one: Any) -> Any:
    """1 / size, or zero where there is none."""
    return select(size, zero, 1.0 / select(size, zero, size, one), zero)


@kernel
def common_unit(plan: Any, at: Any, V: Any, state: Any, column: Any) -> None:
    """Multiply x1 by, and divide y1 by, the root of a size of the objective: the largest |x_j| dual_j, but not so small
    that all entries of P would be less than one; where P is zero, the largest eta sigma of curved cones, with
    sigma_i = (|A||x| + |b| + |s|)_i."""
    noinline()
    zero, one, objective, size, curved = splat(V, 0.0), splat(V, 1.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for j in range(at.n):
        own = load(V, at.x1 + j)
        size = maximum(load(V, at.tx + j) / own, size)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            entry = absolute(load(V, at.P + k)) * own * load(V, at.x1 + index(plan, at.P_row + k))
            objective = maximum(entry, objective)
    size = maximum(inverse(objective, zero, one), size)
    for i in range(at.m):
        store(V, at.ty + i, absolute(load(V, at.b + i)) + absolute(load_from(state, i, column)) * load(V, at.E + i))
    for j in range(at.n):
        xj = load(V, at.tx + j)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = at.ty + index(plan, at.A_row + k)
            store(V, i, load(V, i) + absolute(load(V, at.A + k)) * xj)
    share_largest(plan, at, V, at.ty)
    found = largest(V, at.ty, at.m)
    for i in range(at.m):
        sigma = load(V, at.ty + i)
        store(V, at.ty + i, select(sigma, FAINTEST * found, sigma, found))
    for i in range(at.cones, at.m):  # of the curved cones
        curved = maximum(load(V, at.ty + i) * load(V, at.y1 + i) * load(V, at.s + i), curved)
    unit = sqrt(select(objective, zero, size, positive(curved, one)))
    for i in range(at.n):
        store(V, at.x1 + i, load(V, at.x1 + i) * unit)
    for i in range(at.m):
        store(V, at.y1 + i, load(V, at.y1 + i) / unit)
