"""The factorization and solutions with it, against dense linear algebra, for patterns that make panels of all kinds."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.cones.product import Cones
from cvxlayers.ipm.kkt.layout import KktLayout
from cvxlayers.ipm.kkt.symbolic import analyse_structure
from cvxlayers.ldl import factor
from cvxlayers.program.structure import Array, Structure
from tests.ipm.problems import structure_of

_factorize, _solve = factor.factorize, factor.solve


@numba.njit(error_model="numpy")
def factorize_and_solve(plan: Any, at: Any, V: Any) -> None:
    _factorize(plan, at, V)
    _solve(plan, at, V)


def dense(n: int, m: int, rng: np.random.Generator) -> tuple[Array, Array]:
    return np.ones((n, n)), np.ones((m, n))


def sparse(n: int, m: int, rng: np.random.Generator) -> tuple[Array, Array]:
    return tuple(sp.random_array(shape, density=0.05, rng=rng).toarray() for shape in ((n, n), (m, n)))  # type: ignore[return-value]


def bounded(n: int, m: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Bounds, so that the columns of x are twins with children, and dense rows."""
    return np.eye(n), np.concatenate([np.eye(n), np.ones((m, n))])


def bordered(n: int, m: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Dense blocks that share a few rows."""
    return np.kron(np.eye(n // 7 + 1), np.ones((7, 7)))[:n, :n], (rng.random((m, n)) < 0.7).astype(float)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("pattern", [dense, sparse, bounded, bordered])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 4), (23, 11), (40, 30), (67, 52)])
def test_it_solves_what_dense_algebra_solves(pattern: Any, n: int, m: int, single: bool) -> None:
    rng = np.random.default_rng(n)
    P, A = pattern(n, m, rng)
    structure = structure_of(P + P.T, A, Cones(zero=len(A) // 3, nonneg=len(A) - len(A) // 3))
    analysis = analyse_structure(structure)
    assert analysis is not None
    layout, plan = KktLayout.of(analysis), analysis.plan
    K, right = random_systems(structure, rng), rng.normal(size=(structure.n + structure.m, 8))
    rows, columns = structure.P.rows, structure.P.columns
    numbers, V = layout.take(single)
    if single:
        K, right = K[..., 0], right[:, 0]
    at = layout.record[0]
    V[at["diagonal"] + plan.place] = np.einsum("ii...->i...", K)
    off = rows != columns
    V[at["entries"] + plan.P_entry[off]] = K[rows[off], columns[off]]
    V[at["entries"] + plan.A_entry] = K[structure.n + structure.A.rows, structure.A.columns]
    V[at["v"] + plan.place] = right
    factorize_and_solve(numbers, at, V)
    found = V[at["v"] + plan.place]
    np.testing.assert_allclose(np.einsum("ij...,j...->i...", K, found), right, atol=1e-11)


def random_systems(structure: Structure, rng: np.random.Generator) -> Array:
    """Quasi-definite matrices [[P, A'], [A, -H]] (N, N, 8) of the structure's pattern."""
    n, m = structure.n, structure.m
    P, A = np.zeros((n, n, 8)), np.zeros((m, n, 8))
    P[structure.P.rows, structure.P.columns] = rng.normal(size=(structure.P.nnz, 8))
    P = P + P.swapaxes(0, 1)
    P += (1 + np.abs(P).sum(axis=1))[:, None] * np.eye(n)[..., None]
    A[structure.A.rows, structure.A.columns] = rng.normal(size=(structure.A.nnz, 8))
    H = np.eye(m)[..., None] * rng.uniform(0.5, 2.0, (m, 1, 8))
    return np.block(
        [[P.transpose(2, 0, 1), A.transpose(2, 1, 0)], [A.transpose(2, 0, 1), -H.transpose(2, 0, 1)]]
    ).transpose(1, 2, 0)


@pytest.mark.parametrize("single", [False, True])
def test_a_pivot_of_the_wrong_sign_is_replaced(single: bool) -> None:
    structure = structure_of(np.ones((12, 12)), np.zeros((0, 12)), Cones())
    analysis = analyse_structure(structure)
    assert analysis is not None
    layout = KktLayout.of(analysis)
    numbers, V = layout.take(single)
    at = layout.record[0]
    V[at["diagonal"] : at["diagonal"] + 12] = -1.0
    V[at["entries"] : at["entries"] + 66] = 0.0
    factorize_and_solve(numbers, at, V)
    np.testing.assert_array_equal(V[at["pivot"] : at["pivot"] + 12], factor.REPLACED)
