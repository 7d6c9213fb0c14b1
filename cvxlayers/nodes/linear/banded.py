"""LU with partial pivoting of a batch of banded matrices, as one call of LAPACK.

The matrices of a batch stand one below the other in one long banded matrix. Where one ends and the next begins the
band holds zeros, so the pivot search, which takes the entry of largest absolute value, never leaves a matrix that has
a pivot of its own. One call of gttrf or gbtrf therefore factorizes all of them as if each were alone (Anderson et al.
1999, LAPACK Users' Guide). Where rows are divided by their largest entry first, a pivot that is no larger than
rounding errors of its column tells that the matrix is singular to working precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from cvxlayers.nodes.rules.call_result import SolvedNode
from cvxlayers.program.solution import Status

__all__ = ["ADVICE", "judge", "solve_blocks", "solve_tridiagonal", "through_numpy"]

Array = NDArray[Any]

ADVICE = {
    Status.FAILED: "the matrix of a failed element is singular to working precision: no solution, or many; add a "
    "multiple of the identity"
}

ROUNDINGS = 16
"""A pivot below so many units of rounding of its column counts as zero."""

BACKWARD_ERROR = 1e3
"""The residual of a verified solution is at most so many units of rounding of |A| |x| + |d|."""


def through_numpy(solve: Callable[..., tuple[Array, Array]], *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Call a function of arrays with tensors of any device; float16 and bfloat16 are computed in float32."""
    first = tensors[0]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    if not first.shape[0]:  # an empty batch
        return torch.zeros_like(tensors[-1]), first.new_zeros(0, dtype=torch.bool)
    x, singular = solve(*(t.detach().to("cpu", dtype).numpy() for t in tensors))
    return torch.from_numpy(x).to(first.device, first.dtype), torch.from_numpy(singular).to(first.device)


def judge(x: Tensor, singular: Tensor, residual: Tensor, size: Tensor) -> SolvedNode:
    """Verify: the residual Ax - d of each element (B, ...) against the sizes |A| |x| + |d| that it is made of."""
    over = tuple(range(1, residual.ndim))
    worst = residual.abs().amax(over) / size.amax(over).clamp_min(torch.finfo(x.dtype).tiny)
    good = ~singular & (worst <= BACKWARD_ERROR * torch.finfo(x.dtype).eps)
    status = torch.where(good, int(Status.OPTIMAL), int(Status.FAILED))
    if singular.any():
        x = torch.where(singular.reshape(-1, *[1] * (x.ndim - 1)), torch.nan, x)
        worst = torch.where(singular, torch.nan, worst)
    return SolvedNode((x,), status, torch.zeros_like(status), worst)


def solve_tridiagonal(lower: Array, diag: Array, upper: Array, d: Array) -> tuple[Array, Array]:
    """(B, N - 1), (B, N), (B, N - 1), (B, N, K) to x (B, N, K) and which elements are singular (B,).

    First without scaling rows; elements with a pivot that is small beside their largest entry, or an x that is not
    finite, are solved again with it.
    """
    x, poor = _plain(lower, diag, upper, d)
    singular = np.zeros(len(d), dtype=bool)
    if poor.any():
        x[poor], singular[poor] = _scaled(*(part[poor] for part in (lower, diag, upper, d)))
    return x, singular


def _plain(lower: Array, diag: Array, upper: Array, d: Array) -> tuple[Array, Array]:
    """x, and whose pivots do not show at once that all is well."""
    chain, entries = _chain(lower, diag, upper)
    largest = np.abs(entries).max((0, 2))
    (gtsv,) = lapack.get_lapack_funcs(("gtsv",), (d,))
    _, pivots, _, x, info = gtsv(chain[0, 1:], chain[1], chain[2, :-1], _column(d), overwrite_b=True)
    _refuse(info)
    if info > 0:  # a pivot of zero, where LAPACK stops
        return np.empty_like(d), np.ones(len(d), dtype=bool)
    small = np.abs(pivots[: diag.size]).reshape(diag.shape).min(1)
    x = _uncolumned(x, d)
    good = small > np.finfo(d.dtype).eps ** 0.5 * largest
    finite = np.isfinite(x)
    return x, ~(good if finite.all() else good & finite.all((1, 2)))


def _scaled(lower: Array, diag: Array, upper: Array, d: Array) -> tuple[Array, Array]:
    """x and who is singular, where every row is divided by its largest entry."""
    none = np.zeros((len(d), 1), dtype=d.dtype)
    below, above = np.hstack([none, lower]), np.hstack([upper, none])
    rows = _largest(np.abs(below), np.abs(diag), np.abs(above))
    below, middle, above = below / rows, diag / rows, above / rows
    columns = np.abs(middle)
    columns[:, 1:] = np.maximum(columns[:, 1:], np.abs(above[:, :-1]))
    columns[:, :-1] = np.maximum(columns[:, :-1], np.abs(below[:, 1:]))
    chain, _ = _chain(below[:, 1:], middle, above[:, :-1])
    gttrf, gttrs = lapack.get_lapack_funcs(("gttrf", "gttrs"), (d,))
    factors = gttrf(chain[0, 1:], chain[1], chain[2, :-1])
    singular = _mend(factors[1][: diag.size], columns)
    right, beyond = _divided(d, rows[..., None])
    x, info = gttrs(*factors[:5], _column(right), overwrite_b=True)
    _refuse(info)
    return _uncolumned(x, d), singular | beyond


def _chain(lower: Array, diag: Array, upper: Array) -> tuple[Array, Array]:
    """The bands (3, B N + 3) of the long matrix, and as (3, B, N) those of its parts.

    Three rows of the identity stand at the end: LAPACK's wrappers take no empty bands.
    """
    n = diag.size
    chain = np.zeros((3, n + 3), dtype=diag.dtype)
    chain[1, n:] = 1
    entries = chain[:, :n].reshape(3, *diag.shape)
    entries[0, :, 1:], entries[1], entries[2, :, :-1] = lower, diag, upper
    return chain, entries


def _column(d: Array) -> Array:
    """d for the long matrix, (B N + 3, K)."""
    right = np.zeros((d.shape[0] * d.shape[1] + 3, d.shape[2]), dtype=d.dtype, order="F")
    right[:-3] = d.reshape(-1, d.shape[2])
    return right


def _uncolumned(x: Array, d: Array) -> Array:
    return np.ascontiguousarray(x[:-3]).reshape(d.shape)


def solve_blocks(lower: Array, diag: Array, upper: Array, d: Array) -> tuple[Array, Array]:
    """(B, N - 1, M, M), (B, N, M, M), (B, N - 1, M, M), (B, N M, K) to x (B, N M, K) and who is singular (B,)."""
    B, N, M = diag.shape[:3]
    edge = np.zeros((B, 1, M, M), dtype=d.dtype)
    below, above = np.concatenate([edge, lower], 1), np.concatenate([upper, edge], 1)
    rows = _largest(*(np.abs(part).max(-1) for part in (below, diag, above)))
    below, middle, above = (part / rows[..., None] for part in (below, diag, above))
    # The column of block n holds, one below the other, the blocks of rows n - 1, n, n + 1; column q is moved up by q.
    stacked = np.concatenate([np.roll(above, 1, 1), middle, np.roll(below, -1, 1)], 2)
    band = 2 * M - 1
    T = np.zeros((B, N, M, 3 * band + 1), dtype=d.dtype)
    for q in range(M):
        T[:, :, q, 3 * M - 2 - q : 6 * M - 2 - q] = stacked[..., q]
    columns = np.abs(stacked).max(2).reshape(B, N * M)
    gbtrf, gbtrs = lapack.get_lapack_funcs(("gbtrf", "gbtrs"), (d,))
    factor, pivots, info = gbtrf(T.reshape(B * N * M, 3 * band + 1).T, band, band, overwrite_ab=True)
    _refuse(info)
    singular = _mend(factor[2 * band], columns)
    right, beyond = _divided(d, rows.reshape(B, N * M, 1))
    x, info = gbtrs(factor, band, band, right.reshape(B * N * M, d.shape[-1]), pivots)
    _refuse(info)
    return np.ascontiguousarray(x).reshape(d.shape), singular | beyond


def _divided(d: Array, rows: Array) -> tuple[Array, Array]:
    """d by rows, and in which elements that overflows; those become zero, so that others stay clean."""
    with np.errstate(over="ignore"):
        right = d / rows
    beyond: Array = np.any(~np.isfinite(right), axis=(1, 2))
    right[beyond] = 0
    return right, beyond


def _largest(*parts: Array) -> Array:
    """The largest entry of each row; 1 for a row of zeros."""
    largest = np.maximum.reduce(parts)
    return np.where(largest == 0, 1, largest).astype(largest.dtype)


def _mend(pivots: Array, columns: Array) -> Array:
    """Who has a pivot that is zero to working precision; the pivots of those become one, so that others stay clean."""
    small = np.abs(pivots) <= ROUNDINGS * np.finfo(pivots.dtype).eps * columns.reshape(-1)
    singular = small.reshape(columns.shape).any(1)
    pivots[np.repeat(singular, columns.shape[1])] = 1
    return singular


def _refuse(info: int) -> None:
    """A negative info is a wrong argument, which is ours."""
    if info < 0:
        raise AssertionError(f"LAPACK refused argument {-info}.")
