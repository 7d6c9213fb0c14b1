"""The analysis of a structure: the KKT matrix of the interior-point method and its symbolic factorization.

The quasi-definite matrix, with variables (x, y) and one more pair (t, r) for each large second-order cone,

    K = [[P + eps I, A'], [A, -(H + eps I)]],    H = W'W

has H = diag(s / y) for nonnegative rows and 0 for equalities. For a second-order cone H = eta^2 (2 w w' - J), which is
stored as a block if the cone is small. Otherwise it is eta^2 (D + u u' - v v') with a diagonal D (Domahidi, Chu, Boyd
2013), and the columns eta v and eta u with the pivots -1 and 1 stand for the last two terms. H of a PSD, exponential or
power cone is a block.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones, svec_length
from cvxlayers.ldl.elimination import SymbolicFactorization, analyse
from cvxlayers.program.structure import Structure

__all__ = ["Analysis", "Plan", "analyse_structure", "analysis_of", "quick_analysis_of"]

Index = NDArray[np.int32]

SMALL = 32
"""The largest dimension of a second-order cone that is stored as a block, which is more accurate near the solution."""


ITERATIONS, OPERATION, SUBSTITUTION, PRODUCT, ROW = 12, 1.3e-9, 1e-8, 2e-8, 1e-7
"""Measured on a core of 2021: seconds for each operation of the factorization, entry of L, entry of K, and row."""

LARGEST_SIZE, LARGEST_ENTRIES, LARGEST_FACTOR = 400_000, 5_000_000, 40_000_000
"""Variables and rows, nonzeros of P, A and the blocks of PSD cones, and entries of L beyond which a problem is not for
this solver: what one problem is worked on in takes up to 600 MB, and the analysis a GB for a moment."""

QUICK_SIZE, QUICK_ENTRIES = 50_000, 2_000_000
"""Variables and rows, and nonzeros, up to which the analysis takes no more than some seconds, once."""

HIGH, MANY = 500, 1_000_000_000
"""With more operations than the second, and more for each entry of L than the first, nearly all of a factorization is
in few large dense blocks. There a library with blocks for every cache (faer, in Clarabel) is up to twice as fast; up to
there these kernels need 0.1 to 1.2 of its time, the less the more L comes from dense rows of A."""


class Plan(NamedTuple):
    """What the kernels need to know of a structure: arrays of int32.

    "Place" is a variable's number in the order of elimination. K's entries off the diagonal are numbered by columns.
    """

    place: Index  # (N,) of x, y and the extra variables
    sign: Index  # (N,) by place: 1 or -1, the sign of the pivot
    panel: Index  # L by panels: their records (see ``panels``)
    panel_row: Index  # the rows below each
    update: Index  # three numbers for each update
    k_entry: Index  # where each of K's entries lies in L
    P_start: Index
    P_row: Index
    P_entry: Index  # which of K's entries each of P's is; -1 on the diagonal
    A_start: Index
    A_row: Index
    A_entry: Index
    cone_start: Index  # (cones + 1,) rows of the second-order, PSD, exponential and power cones
    cone_extra: Index  # (cones,) the first of the two extra variables, or -1
    cone_entry: Index  # (cones + 1,) where a cone's entries of K begin in cone_map
    cone_map: Index  # a block's lower triangle by columns; large second-order: v without its first entry, then u
    matrix_order: Index  # (PSD cones,)
    matrix_start: Index  # (PSD cones,) where the scaling of each begins among all


@dataclass(frozen=True)
class Analysis:
    """A structure's plan, and what it costs."""

    n: int
    m: int
    cones: Cones
    plan: Plan
    elimination: SymbolicFactorization

    @property
    def entries(self) -> int:
        """The number of K's nonzeros below the diagonal."""
        return int(self.plan.k_entry.size)

    @property
    def light(self) -> bool:
        """Whether a factorization here is as fast as elsewhere, or faster."""
        operations = self.elimination.operations
        return operations <= max(MANY, HIGH * self.elimination.nnz)

    @property
    def derivative_seconds(self) -> float:
        """About how long a derivative of W problems takes on one thread: not much more than a step."""
        return 1.5 * self._step_seconds

    @property
    def measure_seconds(self) -> float:
        """About how long the residuals of W problems take on one thread."""
        return PRODUCT * self.entries + ROW * self.elimination.size

    @property
    def _step_seconds(self) -> float:
        """About how long one factorization and four solutions of W problems take."""
        seconds = OPERATION * self.elimination.operations + SUBSTITUTION * self.elimination.nnz
        return seconds + PRODUCT * self.entries + ROW * self.elimination.size

    @property
    def seconds(self) -> float:
        """About how long W problems take on one thread, in ITERATIONS steps."""
        return ITERATIONS * self._step_seconds


_known: dict[int, Analysis | None] = {}


def analysis_of(structure: Structure) -> Analysis | None:
    """The analysis of a structure, computed once as long as the structure lives; None where it is too large."""
    key = id(structure)
    if key not in _known:
        _known[key] = analyse_structure(structure)
        weakref.finalize(structure, _known.pop, key, None)
    return _known[key]


def quick_analysis_of(structure: Structure) -> Analysis | None:
    """The same, but None as well where it is not known and would take more than some seconds."""
    small = _size(structure) <= QUICK_SIZE and _entries(structure) <= QUICK_ENTRIES
    return analysis_of(structure) if small or id(structure) in _known else None


def _size(structure: Structure) -> int:
    return structure.n + structure.m


def _entries(structure: Structure) -> int:
    blocks = sum(svec_length(svec_length(k)) for k in structure.cones.psd)
    return structure.P.nnz + structure.A.nnz + blocks


def analyse_structure(structure: Structure) -> Analysis | None:
    """Order and factorize symbolically the KKT matrix of a structure; None where it is too large."""
    if _size(structure) > LARGEST_SIZE or _entries(structure) > LARGEST_ENTRIES:
        return None
    n, m = structure.n, structure.m
    starts, extras, cone_rows, cone_columns, cone_entry = _cone_pattern(structure.cones, n, n + m)
    size = n + m + 2 * int((extras >= 0).sum())
    off = structure.P.rows != structure.P.columns
    rows = np.concatenate([structure.P.rows[off], n + structure.A.rows, cone_rows])
    columns = np.concatenate([structure.P.columns[off], structure.A.columns, cone_columns])
    elimination = analyse(rows, columns, size, LARGEST_FACTOR)
    if elimination is None:
        return None
    place = np.empty(size, dtype=np.int32)
    place[elimination.order] = np.arange(size, dtype=np.int32)
    low = np.maximum(place[rows], place[columns])
    high = np.minimum(place[rows], place[columns])
    by_column = np.lexsort((low, high))
    number = np.empty(rows.size, dtype=np.int32)
    number[by_column] = np.arange(rows.size, dtype=np.int32)
    P_entry = np.full(structure.P.nnz, -1, dtype=np.int32)
    P_entry[off], A_entry, cone_map = np.split(number, np.cumsum([off.sum(), structure.A.nnz]))
    sign = np.ones(size, dtype=np.int32)
    sign[place[n : n + m]] = -1
    sign[place[extras[extras >= 0]]] = -1
    panels = elimination.panels
    plan = Plan(
        place, sign, panels.records(high[by_column]).ravel(), panels.row.astype(np.int32), panels.updates().ravel(),
        panels.position(low[by_column], high[by_column]),
        structure.P.indptr, structure.P.indices, P_entry, structure.A.indptr, structure.A.indices, A_entry,
        starts, extras, cone_entry, cone_map, *_matrices(structure.cones),
    )  # fmt: skip
    return Analysis(n, m, structure.cones, Plan(*(np.ascontiguousarray(part, np.int32) for part in plan)), elimination)


def _matrices(cones: Cones) -> tuple[Index, Index]:
    """The orders of the PSD cones, and where the scaling of each (see ``psd``) begins among all."""
    orders = np.asarray(cones.psd, dtype=np.int32)
    sizes = 2 * orders**2 + orders
    return orders, np.cumsum(sizes) - sizes


def _cone_pattern(cones: Cones, n: int, extra: int) -> tuple[Index, Index, Index, Index, Index]:
    """Rows of the cones, their extra variables, and rows and columns of their entries of K, with where each begins."""
    start = cones.zero + cones.nonneg
    starts, extras, rows, columns, entries = [start], [], [], [], [0]
    optional = [*(svec_length(k) for k in cones.psd), *[3] * (cones.exponential + len(cones.power))]
    for number, d in enumerate([*cones.second_order, *optional]):
        block = n + start + np.arange(d)
        if d <= SMALL or number >= len(cones.second_order):
            j, i = np.triu_indices(d, 1)
            rows.append(block[i])
            columns.append(block[j])
            extras.append(-1)
        else:
            rows += [block[1:], block]
            columns += [np.full(d - 1, extra), np.full(d, extra + 1)]
            extras.append(extra)
            extra += 2
        start += d
        starts.append(start)
        entries.append(sum(part.size for part in rows))
    none = [np.zeros(0, dtype=np.int64)]
    parts = (starts, extras, np.concatenate(rows + none), np.concatenate(columns + none), entries)
    first, second, third, fourth, fifth = (np.asarray(part, dtype=np.int32) for part in parts)
    return first, second, third, fourth, fifth
