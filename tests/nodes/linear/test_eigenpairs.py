"""Eigenpairs of small matrices by the kernel, beside LAPACK's: orders, sizes, clusters, threads, failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import SolveError
from cvxlayers.nodes.linear import eigen_kernel, eigenpairs
from cvxlayers.nodes.linear.eigendecomposition import Eigendecomposition, eigendecomposition
from tests.support.tolerance import assert_close

EPS = float(np.finfo(float).eps)


def symmetric(B: int, M: int, seed: int = 0) -> Tensor:
    X = torch.as_tensor(np.random.default_rng(seed).normal(size=(B, M, M)))
    return (X + X.mT) / 2


def with_eigenvalues(values: Any, seed: int = 1) -> Tensor:
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return torch.as_tensor(Q * np.asarray(values) @ Q.T)[None]


def graded(M: int) -> Tensor:
    scale = torch.logspace(0, -40, M, dtype=torch.float64)
    return symmetric(1, M, 3) * scale[:, None] * scale


def banded(M: int) -> Tensor:
    """Wilkinson's matrix, whose largest eigenvalues come in pairs that agree to all digits."""
    beside = np.diag(np.ones(M - 1), 1)
    return torch.as_tensor(np.diag(np.abs(np.arange(M) - M // 2).astype(float)) + beside + beside.T)[None]


@pytest.fixture
def lapack(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that decomposes as where there is no Numba."""

    def call(S: Tensor) -> tuple[Tensor, Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(eigenpairs.jit, "usable", lambda: False)
            return eigenpairs.eigenpairs(S)

    return call


def assert_eigenpairs(S: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = eigenpairs.eigenpairs(S)
    M = S.shape[-1]
    size = S.abs().amax((-2, -1), keepdim=True).clamp_min(np.finfo(float).tiny)
    assert_close((S / size) @ vectors, vectors * (values[:, None] / size), 4 * M * EPS, "S V = V lam")
    assert_close(vectors.mT @ vectors, torch.eye(M).double().expand(S.shape), 8 * M * EPS, "V'V = I")
    assert (values.diff(dim=-1) <= 0).all()
    assert (vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) > 0).all()
    return values, vectors


@pytest.mark.parametrize("M", [1, 2, 3, 4, 7, 16, 33, 48, 49])
def test_random_matrices_of_each_order(M: int, lapack: Any) -> None:
    S = symmetric(3, M)
    values, vectors = assert_eigenpairs(S)
    expected, expected_vectors = lapack(S)
    assert_close(values, expected, 4 * M * EPS, "eigenvalues")
    assert_close(vectors, expected_vectors, 1e-10, "eigenvectors")


SPECIAL = {
    "0": torch.zeros(1, 5, 5, dtype=torch.float64),
    "I": torch.eye(6, dtype=torch.float64)[None],
    "diagonal": torch.diag(torch.tensor([1.0, -3.0, 2.0, 0.0], dtype=torch.float64))[None],
    "ones": torch.ones(1, 20, 20, dtype=torch.float64),
    "swap": torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64),
    "hollow": torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]], dtype=torch.float64),
    "halves": with_eigenvalues([1.0] * 8 + [0.0] * 8),
    "clusters": with_eigenvalues([1.0, 1.0 + 1e-14, 1.0 - 1e-14, 0.5, 0.5 + 1e-9, -1.0]),
    "logarithmic": with_eigenvalues(np.logspace(0, -30, 24)),
    "graded": graded(12),
    "rising": graded(12).flip(-1, -2),
    "W21": banded(21),
    "W48": banded(48),
}


@pytest.mark.parametrize("S", list(SPECIAL.values()), ids=list(SPECIAL))
def test_special_matrices(S: Tensor, lapack: Any) -> None:
    values, _ = assert_eigenpairs(S)
    assert_close(values, lapack(S)[0], 4 * S.shape[-1] * EPS, "eigenvalues")


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-90, 1e90, 1e200, 1e307])
def test_entries_of_any_size(size: float) -> None:
    S = symmetric(2, 9) / 4
    values, vectors = assert_eigenpairs(S * size)
    assert_close(values / size, eigenpairs.eigenpairs(S)[0], 1e-12 if size > 1e-300 else 1e-10, "eigenvalues")
    assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("size", [1e-130, 1e-145, 1e-155, 1e-158, 1e-160, 3e-162])
def test_entries_whose_squares_lose_digits(size: float) -> None:
    S = torch.eye(4, dtype=torch.float64)
    S[0, 1:] = S[1:, 0] = size * torch.tensor([1.0, 1.3, 0.7], dtype=torch.float64)
    lam, V = eigendecomposition(S[None])
    assert_close(lam, torch.ones(1, 4), 10 * EPS, "eigenvalues")
    assert_close(V[0].mT @ V[0], torch.eye(4), 10 * EPS, "V'V")


def test_a_kernel_matrix_with_a_distant_cluster() -> None:
    rng = np.random.default_rng(5)
    x = torch.as_tensor(np.concatenate([np.zeros((50, 1)), 18.9 + 0.4 * rng.random((50, 4))], 1))
    S = torch.exp(-((x[:, :, None] - x[:, None, :]) ** 2))
    lam, V = eigendecomposition(S)
    assert_close(lam, torch.linalg.eigvalsh(S).flip(-1), 100 * EPS, "eigenvalues")
    assert_close(V.mT @ V, torch.eye(5).expand(50, 5, 5), 100 * EPS, "V'V")


def test_half_and_single_precision_do_not_overflow_in_sums() -> None:
    for dtype, large in ((torch.float16, 4e4), (torch.float32, 2e38)):
        lam, _ = eigendecomposition(torch.diag(torch.tensor([large, 0.0], dtype=dtype))[None])
        assert_close(lam[0], torch.tensor([large, 0.0], dtype=dtype), 1e-12, str(dtype))


def test_threads_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    S = symmetric(200, 12)
    alone = eigenpairs.eigenpairs(S)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for found, expected in zip(eigenpairs.eigenpairs(S), alone, strict=True):
        assert torch.equal(found, expected)


def test_layouts_and_empty_batches() -> None:
    S = symmetric(4, 5)
    strided = torch.empty(5, 5, 4, dtype=torch.float64).permute(2, 0, 1).copy_(S)
    assert torch.equal(eigenpairs.eigenpairs(strided)[1], eigenpairs.eigenpairs(S)[1])
    assert [part.shape for part in eigenpairs.eigenpairs(S[:0])] == [(0, 5), (0, 5, 5)]


def test_of_two_largest_entries_the_first_is_positive(lapack: Any) -> None:
    S = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, -1.0], [-1.0, 0.0]]], dtype=torch.float64)
    for pairs in (eigenpairs.eigenpairs, lapack):
        assert (pairs(S)[1][:, 0] > 0).all()


def test_single_precision_is_worked_on_in_double() -> None:
    X = symmetric(2, 6).float()
    values, vectors = eigendecomposition(X)
    assert values.dtype == vectors.dtype == torch.float32
    assert_close(values, eigendecomposition(X.double())[0].float(), 0.0, "eigenvalues")


def test_what_is_not_found_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_fails(S: Any, values: Any, rows: Any, begin: int, end: int) -> None:
        decompose(S, values, rows, begin, end)
        if begin == 0:
            values[0] = np.nan

    decompose = eigen_kernel.decompose
    monkeypatch.setattr(eigen_kernel, "decompose", first_fails)
    with pytest.raises(SolveError, match="1 of 3 batch elements have no verified solution: 0 "):
        eigendecomposition(symmetric(3, 4))
    layer = Eigendecomposition(2, on_failure="nan")
    values, _ = layer(symmetric(3, 4))
    assert torch.isnan(values).any(-1).tolist() == [True, False, False]
    assert layer.info.statuses.tolist() == ["failed", "optimal", "optimal"]


def test_sums_that_overflow_are_a_failure() -> None:
    X = torch.full((1, 3, 3), 1.5e308, dtype=torch.float64)
    with pytest.raises(SolveError, match="1 of 1 batch elements"):
        eigendecomposition(X)
