"""PSD, exponential and power cones in the linear system of the derivative (see ``sensitivity``).

Their blocks of D come with eigenvectors and eigenvalues: for exponential and power cones three vectors q_j with d_j,
for PSD cones those of the matrix, q_p, and Omega_pq, of which D has the eigenvectors q_p q_q' + q_q q_p'. In such
coordinates the rows A dx - h u = g, h = (1 - d) / d, stand alone. Where d is small they are multiplied by

    share = min(1, CAP / h),    so that    share A dx - min(h, CAP) u = share g,

and d = 0 leaves u = 0. With min(h, CAP) in H's place and A as it is, the matrix K differs from J by what one round of
refinement makes 1 / CAP times as large, as for second-order cones.

``state`` holds, from row m on, for each PSD cone the matrix of its eigenvectors, row by row, and the upper triangle of
h_pq, column by column; then for each exponential or power cone q_1, q_2, q_3 and h_1, h_2, h_3. Where d is 0 it has -1
for h. In V they stand where the scalings are during an iteration: Q, min(h, CAP) and share.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones import nonsymmetric
from cvxlayers.ipm.cones.nonsymmetric import first_row, put, triple
from cvxlayers.ipm.cones.psd import HALF_ROOT, place_of, times, times_transpose, transpose_times
from cvxlayers.kernels.decorators import kernel, kernel_where
from cvxlayers.kernels.jacobi import pack, unpack
from cvxlayers.kernels.simd import (
    absolute,
    index,
    load,
    load_from,
    maximum,
    minimum,
    noinline,
    select,
    splat,
    sqrt,
    store,
)

__all__ = ["load_blocks", "remove_idle", "residual", "write_blocks"]

FIELD = "matrices"
"""Of the record of a structure with such cones (see ``optional``)."""

CAP = 1e8
"""The largest h in K."""


@kernel_where(FIELD, lambda plan, at, V, state, column: None)
def load_blocks(plan: Any, at: Any, V: Any, state: Any, column: Any) -> None:
    """Eigenvectors, min(h, CAP) and share into V; the mask of rows, 0 where D = 0, into s.

    Lanes whose D is not finite get a 0 in ``error``.
    """
    base = at.m
    for k in range(at.matrices):
        order = index(plan, at.matrix_order + k)
        load_matrix(plan, at, V, state, column, k, base)
        base += order * order + order * (order + 1) // 2
    for k in range(at.exponentials + at.powers):
        load_triple(plan, at, V, state, column, k, base + 12 * k)


@kernel_where(FIELD, lambda plan, at, V, eps: None)
def write_blocks(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write -(H + eps I) into K's entries and diagonal."""
    for k in range(at.matrices):
        write_matrix(plan, at, V, k, eps)
    nonsymmetric.write_scaling(plan, at, V, eps)


@kernel_where(FIELD, lambda plan, at, V, y: None)
def remove_idle(plan: Any, at: Any, V: Any, y: Any) -> None:
    """Set to zero the parts of y along the eigenvectors with d = 0."""
    for k in range(at.matrices):
        remove_matrix(plan, at, V, k, y)
    for k in range(at.exponentials + at.powers):
        remove_triple(plan, at, V, k, y)


@kernel_where(FIELD, lambda plan, at, V: (splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)))
def residual(plan: Any, at: Any, V: Any) -> Any:
    """share (ry - A x) + min(h, CAP) y in the rows of these cones, from ry - A x, in ey.

    The largest entry of it along the eigenvectors, and of its last term, both over 1 + min(h, CAP); and the sum of its
    entries, which tells of NaN.
    """
    worst, Hy, total = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for k in range(at.matrices):
        error, term = matrix_residual(plan, at, V, k)
        worst, Hy = maximum(error, worst), maximum(term, Hy)
    for k in range(at.exponentials + at.powers):
        error, term = triple_residual(plan, at, V, k)
        worst, Hy = maximum(error, worst), maximum(term, Hy)
    for i in range(index(plan, at.cone_start + at.count), at.m):
        total += load(V, at.ey + i)
    return worst, Hy, total


@kernel
def ratio_of(h: Any, unit: Any) -> Any:
    """min(h, CAP) and share, in scaled units; share is 0 where D is."""
    zero, cap = splat(h, 0.0), splat(h, CAP)
    scaled = select(zero, h, cap, h * unit)
    return minimum(scaled, cap), select(zero, h, zero, cap / maximum(scaled, cap))


@kernel
def note_broken(at: Any, V: Any, h: Any) -> None:
    """A 0 into ``error`` where h is NaN."""
    zero, one = splat(V, 0.0), splat(V, 1.0)
    store(V, at.error, load(V, at.error) * select(h, splat(V, -10.0), one, zero))


@kernel
def load_triple(plan: Any, at: Any, V: Any, state: Any, column: Any, k: Any, base: Any) -> None:
    """Of an exponential or power cone: q_j, min(h, CAP) and share into its 15 rows, and the columns of F, H = F F'."""
    noinline()
    row, place, factor = first_row(plan, at, k), at.barrier + 15 * k, at.factor + 9 * k
    zero, one = splat(V, 0.0), splat(V, 1.0)
    unit = load(V, at.E + row) * load(V, at.E + row) / load(V, at.cost)
    h1, h2, h3 = (
        load_from(state, base + 9, column), load_from(state, base + 10, column), load_from(state, base + 11, column),
    )  # fmt: skip
    used = select(maximum(maximum(h1, h2), h3), splat(V, -0.5), one, zero)
    note_broken(at, V, h1 + h2 + h3)
    for j in range(3):
        g, share = ratio_of(load_from(state, base + 9 + j, column), unit)
        store(V, place + j, g)
        store(V, place + 3 + j, share)
        root = sqrt(select(used, zero, g, one))
        for i in range(3):
            q = load_from(state, base + 3 * j + i, column)
            store(V, place + 6 + 3 * j + i, q)
            store(V, factor + 3 * j + i, root * q)
        store(V, at.s + row + j, used)


@kernel
def remove_triple(plan: Any, at: Any, V: Any, k: Any, y: Any) -> None:
    """The idle parts of an exponential or power cone."""
    noinline()
    row, place = first_row(plan, at, k), at.barrier + 15 * k
    y1, y2, y3 = triple(V, y + row)
    z1, z2, z3, zero, one = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 1.0)
    for j in range(3):
        q1, q2, q3 = triple(V, place + 6 + 3 * j)
        along = (q1 * y1 + q2 * y2 + q3 * y3) * select(load(V, place + 3 + j), zero, one, zero)
        z1, z2, z3 = z1 + along * q1, z2 + along * q2, z3 + along * q3
    put(V, y + row, z1, z2, z3)


@kernel
def triple_residual(plan: Any, at: Any, V: Any, k: Any) -> Any:
    """The residual of an exponential or power cone; return what ``residual`` does of it."""
    noinline()
    row, place = first_row(plan, at, k), at.barrier + 15 * k
    y1, y2, y3 = triple(V, at.y + row)
    e1, e2, e3 = triple(V, at.ey + row)
    z1, z2, z3, worst, Hy = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for j in range(3):
        q1, q2, q3 = triple(V, place + 6 + 3 * j)
        along, term, over = parts_of(
            V, place + j, place + 3 + j, q1 * e1 + q2 * e2 + q3 * e3, q1 * y1 + q2 * y2 + q3 * y3
        )
        z1, z2, z3 = z1 + along * q1, z2 + along * q2, z3 + along * q3
        worst, Hy = maximum(absolute(along) * over, worst), maximum(absolute(term) * over, Hy)
    put(V, at.ey + row, z1, z2, z3)
    return worst, Hy


@kernel
def parts_of(V: Any, g: Any, share: Any, e: Any, y: Any) -> Any:
    """share e + g y along an eigenvector, the last term, which is 0 for an idle one, and 1 / (1 + g)."""
    zero, weight, own = splat(V, 0.0), load(V, share), load(V, g)
    term = select(weight, zero, own * y, zero)
    return weight * e + term, term, 1.0 / (1.0 + own)


@kernel
def load_matrix(plan: Any, at: Any, V: Any, state: Any, column: Any, k: Any, base: Any) -> None:
    """Of a PSD cone: Q, and the upper triangles of min(h, CAP) and of share."""
    noinline()
    row, order, Q = place_of(plan, at, k)
    square, d = order * order, order * (order + 1) // 2
    zero, one, used = splat(V, 0.0), splat(V, 1.0), splat(V, -1.0)
    unit = load(V, at.E + row) * load(V, at.E + row) / load(V, at.cost)
    for i in range(square):
        store(V, Q + i, load_from(state, base + i, column))
    for i in range(d):
        value = load_from(state, base + square + i, column)
        note_broken(at, V, value)
        used = maximum(value, used)
        g, share = ratio_of(value, unit)
        store(V, Q + square + i, g)
        store(V, Q + square + d + i, share)
    used = select(used, splat(V, -0.5), one, zero)
    for i in range(d):
        store(V, at.s + row + i, used)


@kernel
def turn_in(V: Any, Q: Any, v: Any, order: Any, M: Any, N: Any) -> None:
    """M = Q'(the matrix packed in v) Q, with N as work space."""
    unpack(V, v, order, M)
    times(V, M, Q, order, N)
    transpose_times(V, Q, N, order, M)


@kernel
def turn_out(V: Any, Q: Any, M: Any, order: Any, N: Any, v: Any) -> None:
    """Pack Q M Q' into v, for a symmetric M, with N as work space."""
    times(V, Q, M, order, N)
    times_transpose(V, N, Q, order, M)
    pack(V, M, order, v)


@kernel
def remove_matrix(plan: Any, at: Any, V: Any, k: Any, y: Any) -> None:
    """The idle parts of a PSD cone."""
    noinline()
    row, order, Q = place_of(plan, at, k)
    square, d = order * order, order * (order + 1) // 2
    M, N, zero = at.work, at.work + square, splat(V, 0.0)
    share = Q + square + d
    turn_in(V, Q, y + row, order, M, N)
    for j in range(order):
        for i in range(j + 1):
            value = select(load(V, share), zero, load(V, M + i * order + j), zero)
            store(V, M + i * order + j, value)
            store(V, M + j * order + i, value)
            share += 1
    turn_out(V, Q, M, order, N, y + row)


@kernel
def matrix_residual(plan: Any, at: Any, V: Any, k: Any) -> Any:
    """The residual of a PSD cone; return what ``residual`` does of it."""
    noinline()
    row, order, Q = place_of(plan, at, k)
    square, d = order * order, order * (order + 1) // 2
    M, N, U, worst, Hy = at.work, at.work + square, at.work + 2 * square, splat(V, 0.0), splat(V, 0.0)
    turn_in(V, Q, at.y + row, order, U, N)
    turn_in(V, Q, at.ey + row, order, M, N)
    g = Q + square
    for j in range(order):
        for i in range(j + 1):
            e, y = load(V, M + i * order + j), load(V, U + i * order + j)
            along, term, over = parts_of(V, g, g + d, e, y)
            worst, Hy = maximum(absolute(along) * over, worst), maximum(absolute(term) * over, Hy)
            store(V, M + i * order + j, along)
            store(V, M + j * order + i, along)
            g += 1
    turn_out(V, Q, M, order, N, at.ey + row)
    return worst, Hy


@kernel
def write_matrix(plan: Any, at: Any, V: Any, k: Any, eps: Any) -> None:
    """Write a PSD cone's -(H + eps I).

    With E_a = w_a (e_i e_j' + e_j e_i') for packed entry a = (i, j), as in ``psd``, and q_q'E_a q_p,

        H_ab = 2 w_a w_b sum_p Q_ip (Q_kp T_pl + Q_lp T_pk),    T_pl = sum_q h_pq Q_jq Q_lq,    b = (k, l).
    """
    noinline()
    row, order, Q = place_of(plan, at, k)
    square = order * order
    T, R = at.work, at.work + square
    e, a = at.cone_map + index(plan, at.cone_entry + at.count + k), row
    used, one = load(V, at.s + row), splat(V, 1.0)
    for j in range(order):
        gather(V, Q, order, j, T)
        for i in range(j + 1):
            for p in range(order):
                q = load(V, Q + i * order + p)
                for l in range(order):  # noqa: E741 - the letter of the formula
                    store(V, R + p * order + l, q * load(V, T + p * order + l))
            own = column_entry(V, Q, R, order, i, j)
            own = select(used, splat(V, 0.5), own * (0.5 if i == j else 1.0), one)
            store(V, at.diagonal + index(plan, at.place + at.n + a), -(own + eps))
            e = write_column(plan, at, V, Q, R, order, i, j, e, used)
            a += 1


@kernel
def gather(V: Any, Q: Any, order: Any, j: Any, T: Any) -> None:
    """T_pl = sum_q h_pq Q_jq Q_lq for one j."""
    noinline()
    h = Q + order * order
    for p in range(order):
        for l in range(order):  # noqa: E741 - the letter of the formula
            total = splat(V, 0.0)
            for q in range(order):
                place = h + (q * (q + 1) // 2 + p if p <= q else p * (p + 1) // 2 + q)
                total += load(V, place) * load(V, Q + j * order + q) * load(V, Q + l * order + q)
            store(V, T + p * order + l, total)


@kernel
def column_entry(V: Any, Q: Any, R: Any, order: Any, k: Any, l: Any) -> Any:  # noqa: E741
    """sum_p Q_kp R_pl + Q_lp R_pk."""
    total = splat(V, 0.0)
    for p in range(order):
        total += load(V, Q + k * order + p) * load(V, R + p * order + l)
        total += load(V, Q + l * order + p) * load(V, R + p * order + k)
    return total


@kernel
def write_column(plan: Any, at: Any, V: Any, Q: Any, R: Any, order: Any, i: Any, j: Any, e: Any, used: Any) -> Any:
    """The entries of column (i, j) below the diagonal; return where the next column begins."""
    noinline()
    weight = 1.0 if i == j else 2.0 * HALF_ROOT
    zero = splat(V, 0.0)
    for q in range(j, order):
        for p in range(i + 1 if q == j else 0, q + 1):
            value = column_entry(V, Q, R, order, p, q) * (weight * (0.5 if p == q else HALF_ROOT))
            store(V, at.entries + index(plan, e), select(used, zero, -value, zero))
            e += 1
    return e
