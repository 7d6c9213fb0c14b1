"""PSD cones inside the iteration: Nesterov-Todd scaling, the terms of the complementarity, and steps to the boundary.

Matrices are packed as in ``cones.svec``. With S = L L', Y = N N' and N'L = U diag(l) Q', R = L Q diag(l)^-1/2 has
R'Y R = R^-1 S R^-T = diag(l) (Vandenberghe 2010, section 4.3). So W V = R'V R, and

    H V = G V G,    G = R R',    c = S - sigma mu Y^-1 + R (l \\ (-(diag(l) + U) o U)) R',    U = R'dY_a R,

where (l \\ X)_ij = 2 X_ij / (l_i + l_j), A o B = (A B + B A) / 2 and Y^-1 = R diag(l)^-1 R'. The columns of N'L are
made orthogonal by rotations, which are those of Q.

Cone k is the k-th of the PSD cones. From row ``at.scaling + matrix_start[k]`` of V on it has R, G and l; ``at.work`` is
space for three matrices of the largest order.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.jacobi import cholesky, congruent, eigenvalues, orthogonalize, pack, unpack
from cvxlayers.kernels.simd import index, load, maximum, minimum, noinline, splat, sqrt, store

__all__ = [
    "H_times",
    "add_unit",
    "combined_shift",
    "inside",
    "inverse_max_step",
    "rescale",
    "unit_scaling",
    "write_scaling",
]

HALF_ROOT = 0.7071067811865476


@kernel
def place_of(plan: Any, at: Any, k: Any) -> Any:
    """Of cone k the first row, the order, and where R begins."""
    row = index(plan, at.cone_start + at.count + k)
    return row, index(plan, at.matrix_order + k), at.scaling + index(plan, at.matrix_start + k)


@kernel
def unit_scaling(plan: Any, at: Any, V: Any) -> None:
    """H = I."""
    noinline()
    for k in range(at.matrices):
        _, order, R = place_of(plan, at, k)
        for i in range(order):
            for j in range(order):
                store(V, R + order * order + i * order + j, splat(V, 1.0 if i == j else 0.0))


@kernel
def rescale(plan: Any, at: Any, V: Any) -> None:
    """The scaling at s and y, which are positive definite."""
    noinline()
    for k in range(at.matrices):
        row, order, R = place_of(plan, at, k)
        square = order * order
        G, l = R + square, R + 2 * square  # noqa: E741 - the letter of the formula
        M, N = at.work, at.work + square
        unpack(V, at.s + row, order, R)
        cholesky(V, R, order)
        unpack(V, at.y + row, order, N)
        cholesky(V, N, order)
        transpose_times(V, N, R, order, M)
        orthogonalize(V, M, R, order)
        for j in range(order):
            total = splat(V, 0.0)
            for i in range(order):
                value = load(V, M + i * order + j)
                total += value * value
            total = maximum(sqrt(total), splat(V, 1e-150))
            store(V, l + j, total)
            over = 1.0 / sqrt(total)
            for i in range(order):
                store(V, R + i * order + j, over * load(V, R + i * order + j))
        times_transpose(V, R, R, order, G)


@kernel
def transpose_times(V: Any, A: Any, B: Any, k: Any, C: Any) -> None:
    """C = A'B."""
    noinline()
    for i in range(k):
        for j in range(k):
            total = splat(V, 0.0)
            for p in range(k):
                total += load(V, A + p * k + i) * load(V, B + p * k + j)
            store(V, C + i * k + j, total)


@kernel
def times_transpose(V: Any, A: Any, B: Any, k: Any, C: Any) -> None:
    """C = A B', if that is symmetric."""
    noinline()
    for i in range(k):
        for j in range(i + 1):
            total = splat(V, 0.0)
            for p in range(k):
                total += load(V, A + i * k + p) * load(V, B + j * k + p)
            store(V, C + i * k + j, total)
            store(V, C + j * k + i, total)


@kernel
def times(V: Any, A: Any, B: Any, k: Any, C: Any) -> None:
    """C = A B."""
    noinline()
    for i in range(k):
        for j in range(k):
            total = splat(V, 0.0)
            for p in range(k):
                total += load(V, A + i * k + p) * load(V, B + p * k + j)
            store(V, C + i * k + j, total)


@kernel
def write_scaling(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write -(H + eps I) into K's entries and diagonal."""
    noinline()
    # With E_a = w (e_i e_j' + e_j e_i') for packed entry a = (i, j), w = 1/2 on the diagonal and 1/sqrt(2) off it,
    # H_ab = tr(E_a G E_b G) = 2 w_a w_b (G_ik G_jl + G_il G_jk), b = (k, l).
    for k in range(at.matrices):
        row, order, R = place_of(plan, at, k)
        G = R + order * order
        e = at.cone_map + index(plan, at.cone_entry + at.count + k)
        a = row
        for j in range(order):
            for i in range(j + 1):
                own = load(V, G + i * order + i) * load(V, G + j * order + j)
                if i != j:
                    mixed = load(V, G + i * order + j)
                    own += mixed * mixed
                store(V, at.diagonal + index(plan, at.place + at.n + a), -(own + eps))
                e = write_column(plan, at, V, G, order, i, j, e)
                a += 1


@kernel
def write_column(plan: Any, at: Any, V: Any, G: Any, order: Any, i: Any, j: Any, e: Any) -> Any:
    """The entries of column (i, j) below the diagonal; return where the next column begins."""
    weight = 1.0 if i == j else 2.0 * HALF_ROOT
    for q in range(j, order):
        for p in range(i + 1 if q == j else 0, q + 1):
            value = load(V, G + i * order + p) * load(V, G + j * order + q)
            value += load(V, G + i * order + q) * load(V, G + j * order + p)
            store(V, at.entries + index(plan, e), -(weight * (0.5 if p == q else HALF_ROOT)) * value)
            e += 1
    return e


@kernel
def H_times(plan: Any, at: Any, V: Any, v: Any, Hv: Any) -> None:
    """Hv on the rows of these cones."""
    noinline()
    for k in range(at.matrices):
        row, order, R = place_of(plan, at, k)
        square = order * order
        M, N = at.work, at.work + square
        unpack(V, v + row, order, M)
        times(V, R + square, M, order, N)
        times_transpose(V, N, R + square, order, M)
        pack(V, M, order, Hv + row)


@kernel
def combined_shift(plan: Any, at: Any, V: Any, sigma_mu: Any) -> None:
    """c for the combined step, from the affine one, which is in dy."""
    noinline()
    for k in range(at.matrices):
        row, order, R = place_of(plan, at, k)
        square = order * order
        l, M, N, U = R + 2 * square, at.work, at.work + square, at.work + 2 * square  # noqa: E741
        unpack(V, at.dy + row, order, M)
        times(V, M, R, order, N)
        transpose_times(V, R, N, order, U)
        times(V, U, U, order, M)
        for i in range(order):
            for j in range(order):
                place = i * order + j
                li, lj = load(V, l + i), load(V, l + j)
                value = -(load(V, U + place) + 2.0 * load(V, M + place) / (li + lj))
                if i == j:
                    value -= sigma_mu / li
                store(V, N + place, value)
        times(V, R, N, order, M)
        times_transpose(V, M, R, order, N)
        pack(V, N, order, at.c + row)
        for i in range(row, row + order * (order + 1) // 2):
            store(V, at.c + i, load(V, at.c + i) + load(V, at.s + i))


@kernel
def inverse_max_step(plan: Any, at: Any, V: Any, v: Any, dv: Any) -> Any:
    """The inverse of the longest step for which v + step dv stays in the cones, or a little more; at least 0."""
    noinline()
    found = splat(V, 0.0)
    for k in range(at.matrices):
        row, order, _ = place_of(plan, at, k)
        M, N = at.work, at.work + order * order
        unpack(V, v + row, order, M)
        cholesky(V, M, order)
        unpack(V, dv + row, order, N)
        congruent(V, M, N, order)
        found = maximum(-eigenvalues(V, N, order), found)
    return found


@kernel
def inside(plan: Any, at: Any, V: Any, v: Any) -> Any:
    """The least eigenvalue of all, and the sum of those that are positive; nearly."""
    noinline()
    least, total = splat(V, 1e300), splat(V, 0.0)
    for k in range(at.matrices):
        row, order, _ = place_of(plan, at, k)
        unpack(V, v + row, order, at.work)
        least = minimum(eigenvalues(V, at.work, order), least)
        for i in range(order):
            total += maximum(load(V, at.work + i * order + i), splat(V, 0.0))
    return least, total


@kernel
def add_unit(plan: Any, at: Any, V: Any, v: Any, length: Any) -> None:
    """Add this multiple of the identity to each matrix."""
    noinline()
    for k in range(at.matrices):
        row, order, _ = place_of(plan, at, k)
        for j in range(order):
            i = v + row + j * (j + 3) // 2
            store(V, i, load(V, i) + length)
