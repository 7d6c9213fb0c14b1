"""Which parameter lands where: for each entry of P, q, A and b, the parameters on which it depends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["CONSTANT", "SEVERAL", "Entries", "sources"]

CONSTANT, SEVERAL = -1, -2
"""Sources of entries that depend on no parameter, and on more than one."""


@dataclass(frozen=True)
class Entries:
    """The structural nonzeros of one part: row, column and source, each (entries,).

    ``source`` is the position of a parameter in ``compiled.parameters``, or CONSTANT or SEVERAL.
    """

    shape: tuple[int, int]
    rows: NDArray[np.integer]
    columns: NDArray[np.integer]
    source: NDArray[np.integer]


def sources(compiled: CompiledProblem) -> dict[str, Entries]:
    """The entries of P (both triangles), q, A and b (as single columns, without entries that are always zero).

    >>> import cvxpy as cp, cvxlayers
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> found = sources(cvxlayers.compile(cp.Problem(cp.Minimize(c @ x), [x >= 1])))
    >>> found["q"].source.tolist(), found["b"].source.tolist() == [CONSTANT] * 2
    ([0, 0], True)
    """
    structure = compiled.structure
    P, A = structure.P, structure.A
    source = _sources(compiled.P, compiled)
    above = P.rows != P.columns
    full = Entries(
        P.shape,
        np.concatenate([P.rows, P.columns[above]]),
        np.concatenate([P.columns, P.rows[above]]),
        np.concatenate([source, source[above]]),
    )
    return {
        "P": full,
        "q": _column(compiled.q, compiled),
        "A": Entries(A.shape, A.rows, A.columns, _sources(compiled.A, compiled)),
        "b": _column(compiled.b, compiled),
    }


def _column(part: AffineMap, compiled: CompiledProblem) -> Entries:
    source = _sources(part, compiled)
    rows = np.flatnonzero((source != CONSTANT) | (part.constant != 0))
    return Entries((part.rows, 1), rows, np.zeros_like(rows), source[rows])


def _sources(part: AffineMap, compiled: CompiledProblem) -> NDArray[np.integer]:
    """The source of each row of an affine map."""
    owner = np.zeros(compiled.k, dtype=np.int64)  # of each row of theta
    for feature in compiled.features:
        owner[feature.start : feature.stop] = feature.parameter
    linear = part.linear.tocoo()
    low = np.full(part.rows, np.iinfo(np.int64).max)
    high = np.full(part.rows, CONSTANT)
    np.minimum.at(low, linear.row, owner[linear.col])
    np.maximum.at(high, linear.row, owner[linear.col])
    return np.where((high != CONSTANT) & (low != high), SEVERAL, high)
