"""Whether matrices are symmetric and positive semidefinite, each entry judged in its own units.

A positive semidefinite matrix has |a_ij| <= (a_ii a_jj)^1/2, so that S = D A D with D = diag(a_ii)^-1/2 has entries of
at most one, in whatever units the variables are. Rounding changes an entry of S by a few units in its last place, and
an eigenvalue by n times as much (F F' as computed: Higham 2002, section 3.5). An eigenvalue of S below that
is negative in earnest, however small it is beside the largest entry of A: a diagonal entry below zero always is.
Cholesky's method needs no scaling to see that, as its errors scale along with the matrix (Demmel 1989; Higham 2002,
theorem 10.7).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["asymmetric", "indefinite"]

ROUNDINGS = 8
"""So many units of rounding, times the order plus as much again, may an eigenvalue of S be below zero."""

ASYMMETRY = 1e-5
"""How far two entries that should agree may be apart, in their own units: rounding of what was computed in float32."""

Mask = NDArray[np.bool_]


def indefinite(array: np.ndarray) -> Mask:
    """Where the Hermitian part of finite matrices (..., n, n) is indefinite or negative, by more than rounding: (...).

    Rounding is that of double precision, or that of single precision where all entries of a matrix are single numbers.

    Examples
    --------
    >>> indefinite(np.array([np.diag([1e8, -1e-8]), np.ones((2, 2)), [[0.0, 1e-9], [1e-9, 1.0]]])).tolist()
    [True, False, True]
    """
    finite = np.isfinite(array).all(axis=(-2, -1))
    safe = array if finite.all() else np.where(finite[..., None, None], array, 0)
    part = safe + np.swapaxes(safe, -2, -1).conj()
    part *= 0.5
    if _has_factors(part):
        return np.zeros(array.shape[:-2], dtype=bool)
    flat = part.reshape(-1, *array.shape[-2:])
    bad = _not_semidefinite(flat, _single(safe.reshape(flat.shape)))
    return bad.reshape(array.shape[:-2]) & finite


def asymmetric(array: np.ndarray) -> Mask:
    """Which entries of matrices (..., n, n) differ from their counterparts (conjugate, for complex ones): (..., n, n).

    An entry is measured by the units of its row and its column, which are those that bring the largest entry of every
    row to size one.

    Examples
    --------
    >>> asymmetric(np.array([[1e9, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.4, 1.0]])).tolist()
    [[False, False, False], [False, False, True], [False, True, False]]
    """
    with np.errstate(invalid="ignore"):
        apart = np.abs(array - np.swapaxes(array, -2, -1).conj())
        sizes = np.maximum(np.abs(array), np.swapaxes(np.abs(array), -2, -1))
        suspect = apart > ASYMMETRY * sizes  # nowhere, mostly
        if not suspect.any():
            return np.asarray(suspect)
        units = np.ones(array.shape[:-1])
        for _ in range(_SWEEPS):
            largest = (sizes * units[..., None, :]).max(axis=-1) * units
            units = units / np.sqrt(np.where(largest > 0, largest, 1.0))
        return np.asarray(suspect & (apart * units[..., :, None] * units[..., None, :] > ASYMMETRY))


_SWEEPS = 8


def _has_factors(matrices: np.ndarray) -> bool:
    """Whether each of them has a Cholesky factor."""
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True


def _single(matrices: np.ndarray) -> Mask:
    """Which matrices (B, n, n) hold numbers of single precision only: what was computed in it was rounded to it."""
    kind = np.complex64 if np.iscomplexobj(matrices) else np.float32
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray((matrices.astype(kind) == matrices).all(axis=(1, 2)))


def _not_semidefinite(A: np.ndarray, single: Mask) -> Mask:
    """Which of Hermitian matrices (B, n, n) have an eigenvalue below zero when their diagonals are scaled to one."""
    n = A.shape[-1]
    rounding, least = (np.where(single, getattr(np.finfo(np.float32), name), getattr(np.finfo(np.float64), name))
                       for name in ("eps", "tiny"))  # fmt: skip
    diagonal = np.diagonal(A, axis1=1, axis2=2).real
    bad: Mask = np.asarray((diagonal < 0).any(axis=1))
    unit = 1 / np.sqrt(np.maximum(diagonal, least[:, None]))  # smaller squares may have been lost
    with np.errstate(over="ignore"):
        S = A * unit[:, :, None] * unit[:, None, :]
    slack = ROUNDINGS * (n + ROUNDINGS) * rounding
    S[:, np.arange(n), np.arange(n)] = 1 + slack[:, None]
    S[bad] = np.eye(n)
    if not _has_factors(S):
        doubtful = np.array([i for i in range(len(S)) if not _has_factors(S[i])])
        S = S[doubtful]
        large = (np.abs(S) > 2).any(axis=(1, 2))
        S[large] = -np.eye(n)
        bad[doubtful] = np.linalg.eigvalsh(S)[:, 0] < 0
    return bad
