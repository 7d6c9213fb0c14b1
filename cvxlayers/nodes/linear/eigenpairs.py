"""Eigenpairs of a batch of symmetric matrices: compiled for small ones where Numba can be imported, by LAPACK else."""

from __future__ import annotations

from typing import Any

import torch

from cvxlayers.kernels import jit
from cvxlayers.kernels.threads import parallel_for

__all__ = ["eigenpairs", "working_dtype"]

Tensor = torch.Tensor

SMALL = 48
"""The largest order at which the kernel is faster than LAPACK, which then works on blocks."""

CUBE = 2e-9
"""About the seconds of the kernel for one matrix, over the cube of its order."""


def working_dtype(S: Tensor) -> torch.dtype:
    """Double precision, also for single and half where the kernel is used, as it knows no other."""
    return torch.float64 if S.dtype == torch.float64 or _kernel_takes(S) else torch.float32


def eigenpairs(S: Tensor) -> tuple[Tensor, Tensor]:
    """Of symmetric matrices S (B, M, M), in their ``working_dtype``: eigenvalues (B, M) in falling order, and columns.

    The columns of (B, M, M), which lie one after the other in memory, are the eigenvectors, each with its entry of
    largest absolute value positive (the first of several). The eigenvalues of a matrix for which the kernel has not
    found them are NaN.
    """
    if _kernel_takes(S):
        return _compiled(S)
    values, vectors = torch.linalg.eigh(S)
    falling = vectors.flip(-1)
    return values.flip(-1), falling.mul_(_signs(falling.mT).mT)


def _kernel_takes(S: Tensor) -> bool:
    return S.device.type == "cpu" and S.shape[-1] <= SMALL and jit.usable()


def _compiled(S: Tensor) -> tuple[Tensor, Tensor]:
    from cvxlayers.nodes.linear.eigen_kernel import decompose  # here, because it loads Numba

    B, M = S.shape[:2]
    values, vectors = S.new_empty((B, M)), S.new_empty_strided((B, M, M), (M * M, 1, M))
    given: tuple[Any, ...] = S.contiguous().numpy(), values.numpy(), vectors.mT.numpy()
    parallel_for(lambda begin, end: decompose(*given, begin, end), B, CUBE * M**3, torch.get_num_threads())
    return values, vectors


def _signs(rows: Tensor) -> Tensor:
    """(B, M, 1): the sign of the entry of largest absolute value of each row, of several that of the first."""
    high, low = rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)
    if not bool((high == low).any()):
        return torch.where(high > low, 1.0, -1.0).to(rows.dtype)
    return rows.gather(-1, rows.abs().argmax(-1, keepdim=True)).sign()
