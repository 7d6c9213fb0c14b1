"""Eigenvalues and eigenvectors of small symmetric matrices, compiled: for orders at which LAPACK mostly looks around.

A matrix becomes tridiagonal by Householder's reflections (Householder 1958), and those of its rows that are its
eigenvectors turn with the sweeps of the implicit QL method, with Wilkinson's shift (Dubrulle, Martin, Wilkinson 1968;
Golub, Van Loan 2013, sections 8.3.1 and 8.3.5, there from the other end). All inner loops run along rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cvxlayers.kernels import jit
from cvxlayers.kernels.decorators import compiled, kernel

__all__ = ["decompose"]

EPS = 2.0**-52
"""An entry beside the diagonal that is smaller than so much of its two neighbours on it is zero."""

NOTHING = 1e-30
"""So is one that is smaller than so much of the matrix."""

VANISHING = 1e-270
"""A sum of squares below this has lost digits; beside a scaled matrix it is far below ``NOTHING``."""

SWEEPS = 60
"""For one eigenvalue, at most; three are usual."""

MODEST = 300
"""Matrices with largest entries beyond 2**300, or below its inverse, are scaled by a power of two."""


@kernel
def dot(x: Any, y: Any) -> Any:
    """x'y."""
    total = 0.0
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@kernel
def scaled(S: Any, A: Any) -> Any:
    """A = S over a power of two, whose exponent is returned with the largest entry of A."""
    largest = 0.0
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            A[i, j] = S[i, j]
            largest = max(largest, abs(S[i, j]))
    exponent = math.frexp(largest)[1]
    if not math.isfinite(largest) or abs(exponent) <= MODEST:
        return 0, largest
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            A[i, j] = math.ldexp(A[i, j], -exponent)
    return exponent, math.ldexp(largest, -exponent)


@kernel
def reflection(v: Any) -> Any:
    """v becomes that of I - t v v', with v[0] = 1, which takes it to (beta, 0, ..., 0); t, which may be 0, and beta."""
    alpha = v[0]
    v[0] = 0.0
    rest = dot(v, v)
    v[0] = 1.0
    if rest < VANISHING:
        return 0.0, alpha
    beta = -math.copysign(math.sqrt(alpha * alpha + rest), alpha)
    scale = 1.0 / (alpha - beta)
    for j in range(1, v.shape[0]):
        v[j] *= scale
    return (beta - alpha) / beta, beta


@kernel
def tridiagonalize(A: Any, d: Any, e: Any, t: Any, work: Any) -> None:
    """The diagonal d and what stands beside it, e[:-1], of Q'A Q; Q is kept as reflections: t, and rows of A."""
    n = A.shape[0]
    for k in range(n - 1):
        v, w = A[k, k + 1 :], work[k + 1 :]
        d[k] = A[k, k]
        t[k], e[k] = reflection(v)
        if t[k] == 0.0:
            continue
        for i in range(v.shape[0]):
            w[i] = t[k] * dot(A[k + 1 + i, k + 1 :], v)
        half = 0.5 * t[k] * dot(w, v)
        for j in range(v.shape[0]):
            w[j] -= half * v[j]
        for i in range(v.shape[0]):
            row, vi, wi = A[k + 1 + i, k + 1 :], v[i], w[i]
            for j in range(v.shape[0]):
                row[j] -= vi * w[j] + wi * v[j]
    d[n - 1], e[n - 1] = A[n - 1, n - 1], 0.0


@kernel
def transposed(A: Any, t: Any, R: Any) -> None:
    """R = Q' of the reflections."""
    n = A.shape[0]
    R[:] = 0.0
    for i in range(n):
        R[i, i] = 1.0
    for k in range(n - 2, -1, -1):
        v = A[k, k + 1 :]
        for i in range(v.shape[0] if t[k] != 0.0 else 0):
            row = R[k + 1 + i, k + 1 :]
            along = t[k] * dot(row, v)
            for j in range(v.shape[0]):
                row[j] -= along * v[j]


@kernel
def sweep(d: Any, e: Any, R: Any, first: Any, last: Any) -> None:
    """One sweep from the last of these rows to the first, shifted by what will be the eigenvalue of the first."""
    g = (d[first + 1] - d[first]) / (2.0 * e[first])
    g = d[last] - d[first] + e[first] / (g + math.copysign(math.sqrt(g * g + 1.0), g))
    sine, cosine, moved = 1.0, 1.0, 0.0
    for i in range(last - 1, first - 1, -1):
        f, b = sine * e[i], cosine * e[i]
        r = math.sqrt(f * f + g * g)
        e[i + 1] = r
        if r == 0.0:  # the matrix falls into two here
            d[i + 1] -= moved
            e[last] = 0.0
            return
        inverse = 1.0 / r
        sine, cosine = f * inverse, g * inverse
        g = d[i + 1] - moved
        r = (d[i] - g) * sine + 2.0 * cosine * b
        moved = sine * r
        d[i + 1] = g + moved
        g = cosine * r - b
        upper, lower = R[i], R[i + 1]
        for j in range(upper.shape[0]):
            u, v = upper[j], lower[j]
            lower[j] = sine * u + cosine * v
            upper[j] = cosine * u - sine * v
    d[first] -= moved
    e[first] = g
    e[last] = 0.0


@kernel
def diagonalize(d: Any, e: Any, R: Any, small: Any) -> Any:
    """d becomes the eigenvalues, the rows of R the eigenvectors; whether it got there."""
    n = d.shape[0]
    for first in range(n):
        for count in range(SWEEPS + 1):
            last = first
            while last < n - 1 and abs(e[last]) > EPS * (abs(d[last]) + abs(d[last + 1])) + small:
                last += 1
            if last == first:
                break
            if count == SWEEPS:
                return False
            sweep(d, e, R, first, last)
    return True


@kernel
def sort(d: Any, R: Any, order: Any, values: Any, rows: Any) -> None:
    """In falling order, and the entry of largest absolute value of each row, of several the first, positive."""
    for i in range(d.shape[0]):
        place = i
        while place > 0 and d[order[place - 1]] < d[i]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = i
    for i in range(d.shape[0]):
        source, target = R[order[i]], rows[i]
        largest, sign = 0.0, 1.0
        for j in range(source.shape[0]):
            if abs(source[j]) > largest:
                largest, sign = abs(source[j]), math.copysign(1.0, source[j])
        values[i] = d[order[i]]
        for j in range(source.shape[0]):
            target[j] = sign * source[j]


def _make_decompose(fingerprint: int) -> Any:
    def decompose_each(S: Any, values: Any, rows: Any, begin: Any, end: Any) -> None:
        """Eigenvalues (B, M) in falling order, NaN where they were not found, and eigenvectors as rows (B, M, M).

        Of the symmetric matrices S (B, M, M) from ``begin`` to before ``end``.
        """
        if fingerprint < 0:
            return
        n = S.shape[1]
        A, R = np.empty((n, n)), np.empty((n, n))
        d, e, t, work, order = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n, np.int64)
        for k in range(begin, end):
            exponent, largest = scaled(S[k], A)
            tridiagonalize(A, d, e, t, work)
            transposed(A, t, R)
            found = diagonalize(d, e, R, NOTHING * largest)
            sort(d, R, order, values[k], rows[k])
            for i in range(n):
                values[k, i] = math.ldexp(values[k, i], exponent) if found else math.nan

    return compiled("void(float64[:,:,::1], float64[:,::1], float64[:,:,::1], int64, int64)", decompose_each)


decompose = _make_decompose(jit.fingerprint("nodes/linear/eigen_kernel.py", "kernels"))
