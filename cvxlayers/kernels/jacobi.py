"""Small dense matrices, lane by lane: packing, Cholesky factors, and what Jacobi's rotations give.

A matrix M of order k is k^2 rows of V, row by row, from row M on. All lanes are rotated alike, each by its own angles,
until the last of them is done.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import absolute, highest, load, maximum, minimum, noinline, select, splat, sqrt, store

__all__ = ["cholesky", "congruent", "eigenvalues", "orthogonalize", "pack", "unpack"]

ROOT = 0.7071067811865476

SWEEPS, ORTHOGONAL = 20, 1e-14
"""At most so many sweeps over all pairs; columns with a cosine up to the second count as orthogonal."""

CLOSE = 1e-4
"""How closely the least eigenvalue is bounded from below, relative to it and to one."""

TINY = 1e-300


@kernel
def unpack(V: Any, v: Any, k: Any, M: Any) -> None:
    """The symmetric matrix of a packed vector v."""
    noinline()
    for j in range(k):
        for i in range(j):
            value = ROOT * load(V, v + i)
            store(V, M + i * k + j, value)
            store(V, M + j * k + i, value)
        store(V, M + j * k + j, load(V, v + j))
        v += j + 1


@kernel
def pack(V: Any, M: Any, k: Any, v: Any) -> None:
    """The packed vector of a symmetric matrix, from its upper triangle."""
    noinline()
    for j in range(k):
        for i in range(j):
            store(V, v + i, load(V, M + i * k + j) / ROOT)
        store(V, v + j, load(V, M + j * k + j))
        v += j + 1


@kernel
def cholesky(V: Any, M: Any, k: Any) -> None:
    """Overwrite M = L L' with L, with zeros above its diagonal; pivots are kept positive."""
    noinline()
    for j in range(k):
        d = load(V, M + j * k + j)
        for p in range(j):
            value = load(V, M + j * k + p)
            d -= value * value
        d = sqrt(maximum(d, splat(V, TINY)))
        store(V, M + j * k + j, d)
        over = 1.0 / d
        for i in range(j + 1, k):
            value = load(V, M + i * k + j)
            for p in range(j):
                value -= load(V, M + i * k + p) * load(V, M + j * k + p)
            store(V, M + i * k + j, value * over)
            store(V, M + j * k + i, splat(V, 0.0))


@kernel
def congruent(V: Any, L: Any, D: Any, k: Any) -> None:
    """Overwrite the symmetric matrix D with L^-1 D L^-T."""
    noinline()
    for i in range(k):
        over = 1.0 / load(V, L + i * k + i)
        for j in range(k):
            value = load(V, D + i * k + j)
            for p in range(i):
                value -= load(V, L + i * k + p) * load(V, D + p * k + j)
            store(V, D + i * k + j, value * over)
    for j in range(k):
        over = 1.0 / load(V, L + j * k + j)
        for i in range(k):
            value = load(V, D + i * k + j)
            for p in range(j):
                value -= load(V, L + j * k + p) * load(V, D + i * k + p)
            store(V, D + i * k + j, value * over)


@kernel
def tangent(a: Any, b: Any, c: Any) -> Any:
    """The tangent, at most one in size, of the rotation that makes [[a, c], [c, b]] diagonal."""
    zero = splat(a, 0.0)
    apart_by = b - a
    size = absolute(apart_by) + sqrt(apart_by * apart_by + 4.0 * c * c) + TINY
    return 2.0 * c / select(zero, apart_by, -size, size)


@kernel
def orthogonalize(V: Any, M: Any, B: Any, k: Any) -> None:
    """Rotate the columns of M until they are orthogonal, and those of B with them (Hestenes 1958)."""
    noinline()
    for _ in range(SWEEPS):
        worst = splat(V, 0.0)
        for p in range(k - 1):
            for q in range(p + 1, k):
                a, b, c = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
                for i in range(k):
                    u, v = load(V, M + i * k + p), load(V, M + i * k + q)
                    a, b, c = a + u * u, b + v * v, c + u * v
                worst = maximum(absolute(c) / sqrt(maximum(a * b, splat(V, TINY))), worst)
                t = tangent(a, b, c)
                turn(V, M, p, q, k, t)
                turn(V, B, p, q, k, t)
        if highest(worst) <= ORTHOGONAL:
            return


@kernel
def turn(V: Any, M: Any, p: Any, q: Any, k: Any, t: Any) -> None:
    """Rotate columns p and q of M by the angle with this tangent."""
    cosine = 1.0 / sqrt(1.0 + t * t)
    sine = t * cosine
    for i in range(k):
        u, v = load(V, M + i * k + p), load(V, M + i * k + q)
        store(V, M + i * k + p, cosine * u - sine * v)
        store(V, M + i * k + q, sine * u + cosine * v)


@kernel
def eigenvalues(V: Any, M: Any, k: Any) -> Any:
    """Rotate a symmetric matrix until it is nearly diagonal (Jacobi 1846); return a bound below its least eigenvalue.

    What is left off the diagonal has a norm, and no eigenvalue is further than that from the diagonal (Weyl 1912).
    """
    noinline()
    least = splat(V, 0.0)
    for _ in range(SWEEPS):
        left, least = off_diagonal(V, M, k)
        if highest(left - CLOSE * maximum(absolute(least), splat(V, 1.0))) <= 0.0:
            return least - left
        for p in range(k - 1):
            for q in range(p + 1, k):
                rotate(V, M, p, q, k)
    left, least = off_diagonal(V, M, k)
    return least - left


@kernel
def off_diagonal(V: Any, M: Any, k: Any) -> Any:
    """The Frobenius norm of a symmetric matrix off its diagonal, and the least entry on it."""
    total, least = splat(V, 0.0), load(V, M)
    for i in range(k):
        least = minimum(load(V, M + i * k + i), least)
        for j in range(i):
            value = load(V, M + i * k + j)
            total += 2.0 * value * value
    return sqrt(total), least


@kernel
def rotate(V: Any, M: Any, p: Any, q: Any, k: Any) -> None:
    """One rotation of a symmetric matrix, which makes its entry (p, q) zero."""
    noinline()
    a, b, c = load(V, M + p * k + p), load(V, M + q * k + q), load(V, M + p * k + q)
    t = tangent(a, b, c)
    cosine = 1.0 / sqrt(1.0 + t * t)
    sine = t * cosine
    for i in range(k):
        if i != p and i != q:
            u, v = load(V, M + i * k + p), load(V, M + i * k + q)
            u, v = cosine * u - sine * v, sine * u + cosine * v
            store(V, M + i * k + p, u)
            store(V, M + p * k + i, u)
            store(V, M + i * k + q, v)
            store(V, M + q * k + i, v)
    store(V, M + p * k + p, a - t * c)
    store(V, M + q * k + q, b + t * c)
    store(V, M + p * k + q, splat(V, 0.0))
    store(V, M + q * k + p, splat(V, 0.0))
