"""An estimate of the memory that a compiled problem needs: once, and for each element of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Structure

__all__ = ["Memory", "estimate"]

NUMBER = 8  # bytes of a float64
INDEX = 4  # bytes of an int32
LARGEST = 5_000_000  # entries of the KKT matrix up to which its fill-in is computed, which then takes about a second


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes
    ----------
    maps : int
        Once: patterns, the affine maps to P, q, A and b, and the recovery of the variables.
    values, solution : int
        Per batch element: the numbers of P, q, A and b; and of x, y and s.
    factorization : int or None
        Per batch element that is being worked on: the triangular factor of the KKT matrix, in a minimum-degree order.
        None where the matrix is too large to find out quickly.
    """

    maps: int
    values: int
    solution: int
    factorization: int | None


def estimate(compiled: CompiledProblem) -> Memory:
    """The memory that a compiled problem needs.

    >>> import cvxpy as cp, cvxlayers
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> memory = estimate(cvxlayers.compile(cp.Problem(cp.Minimize(c @ x), [x >= 0])))
    >>> memory.values  # q: 2, A: 2, b: 2
    48
    """
    structure = compiled.structure
    maps = (compiled.P, compiled.q, compiled.A, compiled.b, compiled.offset)
    once = sum(_csr_bytes(part.linear) + part.constant.nbytes for part in maps)
    once += _csr_bytes(compiled.primal) + _csr_bytes(compiled.dual)
    once += sum(pattern.indices.nbytes + pattern.indptr.nbytes for pattern in (structure.P, structure.A))
    numbers = structure.P.nnz + structure.n + structure.A.nnz + structure.m
    return Memory(once, numbers * NUMBER, (structure.n + 2 * structure.m) * NUMBER, _factor_bytes(structure))


def _csr_bytes(matrix: sp.csr_array) -> int:
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def _factor_bytes(structure: Structure) -> int | None:
    """The size of L in K = L D L' for K = [[P + I, A'], [A, -(H + I)]].

    H is full in the block of every cone that is neither zero nor nonnegative. K is quasi-definite, so that L exists in
    every symmetric order (Vanderbei 1995), and its fill-in depends on the pattern alone.
    """
    blocks = [block for block in structure.cones.blocks if not block.polyhedral]
    dense = sum((block.stop - block.start) ** 2 for block in blocks)
    if structure.P.nnz + structure.A.nnz + dense + structure.n + structure.m > LARGEST:
        return None
    n, m = structure.n, structure.m
    P = structure.P.matrix(np.full(structure.P.nnz, 1e-3))
    A = structure.A.matrix(np.full(structure.A.nnz, 1e-3))
    full = [sp.coo_array(np.full((block.stop - block.start,) * 2, 1e-3)) for block in blocks]
    elementwise = structure.cones.zero + structure.cones.nonneg
    H = sp.block_diag([sp.coo_array((elementwise, elementwise)), *full])
    K = sp.block_array([[P + P.T + n * sp.eye_array(n), A.T], [A, -(H + m * sp.eye_array(m))]], format="csc")
    factors = splu(K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return int(factors.L.nnz) * (NUMBER + INDEX)
