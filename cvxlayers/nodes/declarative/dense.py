"""Batches of symmetric systems K u = g: equilibrated LU with refinement, the pseudo-inverse where K is singular.

A singular K stands for a solution that is not unique, or for dependent constraints. The pseudo-inverse then gives the
least-norm solution of the least-squares problem: tangents move y as little as possible, and cotangents along directions
in which y is free are dropped. It is symmetric, so forward and reverse mode agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["probes", "rank_tolerance", "solve_symmetric"]


def rank_tolerance(dtype: torch.dtype) -> float:
    """Singular values below this fraction of the largest one count as zero: 1e-11 in float64, 1e-5 in float32."""
    return float(torch.finfo(dtype).eps ** 0.7)


def solve_symmetric(K: Tensor, g: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Solve K u = g for K (B, N, N) symmetric and g (B, N, R).

    ``n`` is the size of the leading block: the pseudo-inverse scales it as a whole, and every later row by itself, so
    that the least norm is that of the first n entries of u.

    Returns
    -------
    u (B, N, R), and which elements are singular (B,) bool.
    """
    B, N, R = g.shape
    if not (B and N and R):
        return torch.zeros_like(g), torch.zeros(B, dtype=torch.bool, device=g.device)
    d = _equilibrate(K)
    S = K * d[:, :, None] * d[:, None, :]
    LU, pivots, info = torch.linalg.lu_factor_ex(S)
    singular = (info != 0) | _nearly_singular(S, LU, pivots)
    u = _scaled_solve(LU, pivots, d, g)
    u = u + _scaled_solve(LU, pivots, d, g - K @ u)
    if bool(singular.any()):
        where = singular.nonzero()[:, 0]
        u[where] = _least_norm(K[where], g[where], n)
    return u, singular


def _equilibrate(K: Tensor) -> Tensor:
    """Positive d (B, N) that bring the rows of diag(d) K diag(d) to about unit size (Ruiz 2001)."""
    d = torch.ones(K.shape[:2], dtype=K.dtype, device=K.device)
    for _ in range(3):
        size = (K.abs() * d[:, None, :]).amax(-1) * d
        d = d / torch.where(size > 0, size, 1.0).sqrt()
    return d


def _scaled_solve(LU: Tensor, pivots: Tensor, d: Tensor, g: Tensor) -> Tensor:
    return d[:, :, None] * torch.linalg.lu_solve(LU, pivots, d[:, :, None] * g)


def _nearly_singular(S: Tensor, LU: Tensor, pivots: Tensor) -> Tensor:
    """Whether two steps of inverse iteration find a singular value below the tolerance: (B,) bool."""
    N = S.shape[1]
    v = (probes(N, S).T / N**0.5).expand(S.shape[0], N, 2)
    for _ in range(2):
        w = torch.linalg.lu_solve(LU, pivots, v)
        growth = w.norm(dim=1, keepdim=True)
        v = w / growth
    smallest = 1 / growth[:, 0].amax(-1)
    return ~(smallest > rank_tolerance(S.dtype) * S.abs().sum(-1).amax(-1))


def probes(n: int, like: Tensor) -> Tensor:
    """Two irregular vectors (2, n) of entries about one: always the same ones, for vmap forbids random numbers."""
    k = torch.arange(1, n + 1, dtype=torch.float64, device=like.device)
    phases = torch.stack([k * k * 2**0.5, k * k * 3**0.5]) % 1.0
    return (torch.where(phases < 0.5, 1.0, -1.0) * (0.75 + phases / 2)).to(like.dtype)


def _least_norm(K: Tensor, g: Tensor, n: int) -> Tensor:
    """The pseudo-inverse of K times g, with the first n rows scaled as one and the others each to unit size."""
    head = K[:, :n, :n].abs().amax((1, 2)) if n else K.new_ones(K.shape[0])
    d = K.new_ones(K.shape[:2])
    d[:, :n] = torch.where(head > 0, head, 1.0).rsqrt()[:, None]
    rows = torch.maximum(
        (K[:, n:, :n] * d[:, None, :n]).norm(dim=-1), K[:, n:, n:].diagonal(dim1=1, dim2=2).abs().sqrt()
    )
    d[:, n:] = 1 / torch.where(rows > 0, rows, 1.0)
    S = K * d[:, :, None] * d[:, None, :]
    finite = S.isfinite().all(-1).all(-1)[:, None, None]  # LAPACK raises where one is not; here it is that one's matter
    values, vectors = torch.linalg.eigh(torch.where(finite, S, 0.0))
    kept = values.abs() > rank_tolerance(K.dtype) * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    u = vectors @ (inverse[:, :, None] * (vectors.mT @ (d[:, :, None] * g)))
    return torch.where(finite, d[:, :, None] * u, torch.nan)
