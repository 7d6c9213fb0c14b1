"""Indefinite matrices are told from rounding, whatever the units of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cvxlayers.layer.definiteness import asymmetric, indefinite

UNITS = (1e-150, 1e-8, 1.0, 1e8, 1e150)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.diag([3.0, -7e-6]), True),
        (np.diag([4e8, -3e-9]), True),
        (np.diag([4e8, 3e-9]), False),
        (np.zeros((3, 3)), False),
        ([[0.0, 2e-13], [2e-13, 5.0]], True),  # a diagonal entry of zero leaves no room for others in its row
        ([[0.0, 1.0], [1.0, 0.0]], True),
        ([[1.0, 1.0], [1.0, 1.0]], False),
        ([[1.0, 1 + 1e-12], [1 + 1e-12, 1.0]], True),
        ([[9e12, 3e-1, 0], [3e-1, 1e-14, 0], [0, 0, 1]], False),  # singular: 0.3^2 = 9e12 * 1e-14
        ([[9e12, 3.001e-1, 0], [3.001e-1, 1e-14, 0], [0, 0, 1]], True),
        ([[2.0, 1 + 1j], [1 - 1j, 1.0]], False),
        ([[2.0, 1 + 1.01j], [1 - 1.01j, 1.0]], True),
        ([[1.0, 5.0], [-5.0, 1.0]], False),  # its symmetric part is the identity
        ([[-1e-150]], True),
    ],
)
def test_small_matrices(matrix: Any, expected: bool) -> None:
    for unit in UNITS:
        assert indefinite(np.array(matrix) * unit).tolist() is expected, unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_singular_products_pass_and_a_little_less_does_not(dtype: Any) -> None:
    """F F' as rounded in each precision, rows in units of their own; what is taken off is far above rounding."""
    rng, eps = np.random.default_rng(4), np.finfo(dtype).eps
    for n, k, batch in ((2, 1, 200), (7, 3, 100), (40, 12, 20), (150, 40, 2)):
        F = rng.normal(size=(batch, n, k)) * 10.0 ** rng.uniform(-6, 6, size=(batch, n, 1))
        if np.issubdtype(dtype, np.complexfloating):
            F = F + 1j * rng.normal(size=F.shape) * np.abs(F)
        F = F.astype(dtype)
        A = (F @ F.swapaxes(1, 2).conj()).astype(np.result_type(dtype, np.float64))
        assert not indefinite(A).any()
        assert not asymmetric(A).any()
        diagonal = np.diagonal(A, axis1=1, axis2=2)[:, :, None] * np.eye(n)
        assert indefinite(A - 100 * n * eps * diagonal).all()
        spoiled = A.copy()
        spoiled[batch // 2] -= 100 * n * eps * diagonal[batch // 2]
        assert np.flatnonzero(indefinite(spoiled)).tolist() == [batch // 2]


def test_rounding_is_that_of_the_precision_in_which_the_numbers_are() -> None:
    below = np.array([[1.0, 1 + 2.0**-21], [1 + 2.0**-21, 1.0]])  # five units of single rounding
    assert not indefinite(below)
    assert indefinite(below * (1 / 3))  # no numbers of single precision any more


def test_squares_that_underflow_are_no_contradiction() -> None:
    F = np.array([[1e-25], [1.0]], dtype=np.float32)
    A = F @ F.T
    assert A[0, 0] == 0 < A[0, 1]
    assert not indefinite(A.astype(np.float64))


def test_batches_of_any_shape_and_entries_that_are_not_finite() -> None:
    A = np.stack([np.eye(2), -np.eye(2), np.full((2, 2), np.nan), np.full((2, 2), np.inf), np.ones((2, 2))])
    assert indefinite(A).tolist() == [False, True, False, False, False]
    assert indefinite(A[:4].reshape(2, 2, 2, 2)).tolist() == [[False, True], [False, False]]
    assert indefinite(np.zeros((0, 3, 3))).shape == (0,)
    assert not asymmetric(A).any()


@pytest.mark.parametrize("unit", UNITS)
def test_symmetry_counts_in_the_units_of_rows_and_columns(unit: float) -> None:
    A = np.array([[4e9, 0.0, 30.0], [0.0, 1e-3, 2e-3], [30.0, 2e-3, 1e-3]])
    rounded = A * (1 + 1e-7 * np.arange(9).reshape(3, 3))
    assert not asymmetric(unit * rounded).any()
    A[1, 2] *= 1.1
    assert np.argwhere(asymmetric(unit * A)).tolist() == [[1, 2], [2, 1]]
    hermitian = np.array([[1.0, 1j], [-1j, 1.0]])
    assert not asymmetric(hermitian).any()
    assert asymmetric(hermitian.real + 1j * np.abs(hermitian.imag)).any()
