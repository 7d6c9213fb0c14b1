"""Inequalities that a curved cone says already, as p >= 0 beside entr(p): they are left out.

Some entries of s no point of its cone has below zero: the first of a second-order cone, the diagonal of a matrix, the
last two of an exponential cone, all but the last of a power cone. A row a'x + s_i = b_i of the nonnegative cone follows
from such an entry a_v'x + s_v = b_v if a = c a_v and b_i >= c b_v with c > 0, since then s_i >= c s_v >= 0.

No solution is lost or gained. If y is optimal with the row, then y_v + c y_i in place of y_v and zero in place of y_i
are so without it: the unit vector of such an entry is in K*, c y_i s_v = y_i s_i = 0 where b_i = c b_v, and y_i = 0
where b_i > c b_v. With both rows the multiplier is not unique. Where p is too small to be told from zero, both s_i and
y_i then come no nearer to zero than the root of mu on the central path, and Newton's system is singular.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones import KINDS, Cones, groups
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Pattern

__all__ = ["without_implied"]


def without_implied(compiled: CompiledProblem) -> CompiledProblem:
    """The problem without the inequalities that a row of a curved cone implies; their multipliers are zero."""
    cones = compiled.structure.cones
    implied = _implied(compiled)
    if not implied.size:
        return compiled
    rows = np.delete(np.arange(cones.m), implied)
    entries = np.flatnonzero(~np.isin(compiled.structure.A.rows, implied))
    return replace(
        compiled,
        structure=replace(
            compiled.structure,
            A=_pattern(compiled.structure.A, entries, rows),
            cones=replace(cones, nonneg=cones.nonneg - implied.size),
        ),
        A=_rows(compiled.A, entries),
        b=_rows(compiled.b, rows),
        dual=sp.csr_array(compiled.dual[:, rows]),
    )


def _implied(compiled: CompiledProblem) -> NDArray[np.intp]:
    """The rows of the nonnegative cone that another row implies; rows that depend on parameters are not looked at."""
    structure, cones = compiled.structure, compiled.structure.cones
    heads = _heads(cones)
    if not (heads.size and cones.nonneg):
        return np.zeros(0, dtype=np.intp)
    varies = np.diff(compiled.b.linear.indptr) > 0
    varies[structure.A.rows[np.diff(compiled.A.linear.indptr) > 0]] = True
    A, b = sp.csr_array(structure.A.matrix(compiled.A.constant)), compiled.b.constant
    said: dict[bytes, float] = {}
    for v in heads[~varies[heads]].tolist():
        key, bound = _direction(A, b, v)
        said[key] = min(bound, said.get(key, np.inf))
    flat = np.arange(cones.zero, cones.zero + cones.nonneg)
    found = []
    for i in flat[~varies[flat]].tolist():
        key, bound = _direction(A, b, i)
        if key and bound >= said.get(key, np.inf):
            found.append(i)
    return np.array(found, dtype=np.intp)


def _direction(A: sp.csr_array, b: NDArray[np.float64], i: int) -> tuple[bytes, float]:
    """What is the same for all positive multiples of a row's coefficients, empty if there are none; and b_i over the
    size of the first."""
    begin, end = A.indptr[i], A.indptr[i + 1]
    values = A.data[begin:end]
    used = values != 0
    if not used.any():
        return b"", 0.0
    size = np.abs(values[used][0])
    return A.indices[begin:end][used].tobytes() + (values[used] / size).tobytes(), float(b[i] / size)


def _heads(cones: Cones) -> NDArray[np.intp]:
    """The rows of curved cones that are nonnegative in all of their points."""
    found = [np.zeros(0, dtype=np.intp)]
    for group in groups(cones):
        found.append(group.rows[:, list(KINDS[group.kind].nonnegative(group.dimension))].ravel())
    return np.sort(np.concatenate(found))


def _pattern(A: Pattern, entries: NDArray[np.intp], rows: NDArray[np.intp]) -> Pattern:
    """A's pattern with these rows, of which these entries are left."""
    return Pattern.of(np.searchsorted(rows, A.rows[entries]), A.columns[entries], (rows.size, A.shape[1]))


def _rows(part: AffineMap, rows: NDArray[np.intp]) -> AffineMap:
    return AffineMap(sp.csr_array(part.linear[rows]), part.constant[rows])
