"""Orders, the symbolic factorization, and the certificates' own check."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.ldl.elimination import SymbolicFactorization, analyse
from cvxlayers.ldl.ordering import minimum_degree
from cvxlayers.ldl.panels import WIDEST


def filled(K: sp.sparray, order: np.ndarray) -> np.ndarray:
    """L's pattern by brute force: K in this order, with each column's rows joined to a clique."""
    dense = (K.toarray() != 0)[np.ix_(order, order)]
    for j in range(dense.shape[0]):
        below = np.flatnonzero(dense[j + 1 :, j]) + j + 1
        dense[np.ix_(below, below)] = True
    return np.tril(dense, -1)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_pattern_is_that_of_elimination(density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    K = sp.random_array((40, 40), density=density, rng=rng)
    K = sp.coo_array(K + K.T)
    found = analyse(*K.coords, 40)
    assert isinstance(found, SymbolicFactorization) and sorted(found.order.tolist()) == list(range(40))
    wanted = filled(K, found.order)
    columns = np.repeat(np.arange(40), np.diff(found.column_start))
    by_column = np.zeros_like(wanted)
    by_column[found.row, columns] = True
    np.testing.assert_array_equal(by_column, wanted)
    counts = np.diff(found.column_start)
    assert found.operations == (counts * (counts + 3) // 2).sum()


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_panels_hold_each_entry_once(density: float, seed: int) -> None:
    K = sp.random_array((70, 70), density=density, rng=np.random.default_rng(seed))
    found = analyse(*sp.coo_array(K + K.T).coords, 70)
    assert found is not None
    columns = np.concatenate([np.arange(70), np.repeat(np.arange(70), np.diff(found.column_start))])
    places = found.panels.position(np.concatenate([np.arange(70), found.row]), columns)
    assert np.unique(places).size == places.size == found.panels.nnz == found.nnz + 70
    # What a panel takes from another: the columns of its own that are among the other's rows.
    owner = np.repeat(np.arange(found.panels.count), np.diff(found.panels.column))
    targets = np.repeat(np.arange(found.panels.count), np.diff(found.panels.update))
    updates = (found.panels.source, found.panels.begin, found.panels.end)
    for target, source, begin, end in zip(targets, *updates, strict=True):
        rows = found.panels.row[found.panels.name[source] : found.panels.name[source + 1]]
        np.testing.assert_array_equal(np.flatnonzero(owner[rows] == target), np.arange(begin, end))


def test_dense_parts_become_wide_panels() -> None:
    # Bounds, x, and 40 dense equalities: the bounds alone, x as twins with these before them, the rest as a chain.
    n, m = 64, 40
    A = np.concatenate([np.eye(n), np.ones((m, n))])
    K = sp.coo_array(np.block([[np.eye(n), A.T], [A, np.eye(n + m)]]))
    found = analyse(*K.coords, 2 * n + m)
    assert found is not None
    widths = np.diff(found.panels.column)
    assert (widths == 1).sum() == n and widths.max() <= WIDEST and (widths > 15).sum() == 5


def test_order_has_little_fill() -> None:
    # A grid of 30 x 30: natural order fills about 30 per column, minimum degree far less.
    path = sp.diags_array([np.ones(29), np.ones(29)], offsets=[-1, 1])
    grid = sp.coo_array(sp.kron(path, sp.eye_array(30)) + sp.kron(sp.eye_array(30), path))
    found = analyse(*grid.coords, 900)
    assert found is not None and found.nnz < 0.4 * 900 * 30


def test_dense_problems_eliminate_the_rows_first() -> None:
    # [[P, A'], [A, D]] with dense P and A: the rows of the diagonal block come first, which leaves P's fill alone.
    block = np.ones((30, 30))
    K = sp.coo_array(np.block([[block, block], [block, np.eye(30)]]))
    found = analyse(*K.coords, 60)
    assert found is not None and found.nnz == 30 * 30 + 30 * 29 // 2


def test_too_large_a_factor_is_refused() -> None:
    K = sp.coo_array(np.ones((30, 30)))
    assert analyse(*K.coords, 30, largest=400) is None


def test_orders_are_permutations() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 17):
        K = sp.coo_array(sp.random_array((size, size), density=0.3, rng=rng))
        for external in (True, False):
            assert sorted(minimum_degree(*K.coords, size, external).tolist()) == list(range(size))
