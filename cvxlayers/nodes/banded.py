"""LU with partial pivoting of a batch of banded matrices, as one call of LAPACK.

The matrices of a batch stand one below the other in one long banded matrix. Where one ends and the next begins the
band holds zeros, so the pivot search, which takes the entry of largest absolute value, never leaves a matrix that has
a pivot of its own. One call of gttrf or gbtrf therefore factorizes all of them as if each were alone (Anderson et al.
1999, LAPACK Users' Guide). Rows are divided by their largest entry first; a pivot that is then no larger than
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

from cvxlayers.nodes.outcome import Solved
from cvxlayers.solution import Status

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


def judge(x: Tensor, singular: Tensor, residual: Tensor, size: Tensor) -> Solved:
    """Verify: the residual Ax - d of each element (B, ...) against the sizes |A| |x| + |d| that it is made of."""
    over = tuple(range(1, residual.ndim))
    worst = residual.abs().amax(over) / size.amax(over).clamp_min(torch.finfo(x.dtype).tiny)
    good = ~singular & (worst <= BACKWARD_ERROR * torch.finfo(x.dtype).eps)
    status = torch.where(good, int(Status.OPTIMAL), int(Status.FAILED))
    x = torch.where(singular.reshape(-1, *[1] * (x.ndim - 1)), torch.nan, x)
    return Solved((x,), status, torch.zeros_like(status), torch.where(singular, torch.nan, worst))


def solve_tridiagonal(lower: Array, diag: Array, upper: Array, d: Array) -> tuple[Array, Array]:
    """(B, N - 1), (B, N), (B, N - 1), (B, N, K) to x (B, N, K) and which elements are singular (B,)."""
    B, N, K = d.shape
    none = np.zeros((B, 1), dtype=d.dtype)
    below, above = np.hstack([none, lower]), np.hstack([upper, none])
    rows = _largest(np.abs(below), np.abs(diag), np.abs(above))
    below, middle, above, right = below / rows, diag / rows, above / rows, d / rows[..., None]
    columns = np.abs(middle)
    columns[:, 1:] = np.maximum(columns[:, 1:], np.abs(above[:, :-1]))
    columns[:, :-1] = np.maximum(columns[:, :-1], np.abs(below[:, 1:]))
    # Three rows of the identity at the end: LAPACK's wrappers take no empty bands.
    n, flat = B * N, np.zeros((3, B * N + 3), dtype=d.dtype)
    flat[0, :n], flat[1, :n], flat[1, n:], flat[2, :n] = below.reshape(-1), middle.reshape(-1), 1, above.reshape(-1)
    gttrf, gttrs = lapack.get_lapack_funcs(("gttrf", "gttrs"), (d,))
    factors = gttrf(flat[0, 1:], flat[1], flat[2, :-1])
    singular = _mend(factors[1][:n], columns)
    x, info = gttrs(*factors[:5], np.pad(right.reshape(n, K), ((0, 3), (0, 0))))
    _refuse(info)
    return np.ascontiguousarray(x[:n]).reshape(B, N, K), singular


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
    right = d / rows.reshape(B, N * M, 1)
    x, info = gbtrs(factor, band, band, right.reshape(B * N * M, d.shape[-1]), pivots)
    _refuse(info)
    return np.ascontiguousarray(x).reshape(d.shape), singular


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
