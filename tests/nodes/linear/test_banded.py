"""Tridiagonal and block-tridiagonal systems: dense answers, zero pivots, singular elements, all derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.nodes.linear.block_tridiagonal import BlockTridiagonalSolve, block_tridiagonal_solve
from cvxlayers.nodes.linear.tridiagonal import TridiagonalSolve, tridiagonal_solve
from tests.support.tolerance import assert_all_close, assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def bands(B: int, N: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(torch.as_tensor(rng.normal(size=size)) for size in ((B, N - 1), (B, N), (B, N - 1), (B, N, K)))


def blocks(B: int, N: int, M: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    sizes = ((B, N - 1, M, M), (B, N, M, M), (B, N - 1, M, M), (B, N * M, K))
    return tuple(torch.as_tensor(rng.normal(size=size)) for size in sizes)


def dense(lower: Tensor, diag: Tensor, upper: Tensor) -> Tensor:
    return torch.diag_embed(diag) + torch.diag_embed(lower, -1) + torch.diag_embed(upper, 1)


def dense_blocks(lower: Tensor, diag: Tensor, upper: Tensor) -> Tensor:
    B, N, M = diag.shape[:3]
    A = torch.zeros(B, N, M, N, M, dtype=diag.dtype)
    for i in range(N):
        A[:, i, :, i] = diag[:, i]
        if i:
            A[:, i, :, i - 1], A[:, i - 1, :, i] = lower[:, i - 1], upper[:, i - 1]
    return A.reshape(B, N * M, N * M)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 1), (3, 1, 2), (4, 2, 3), (5, 60, 2)])
def test_tridiagonal_answers_and_gradients_are_those_of_the_dense_matrix(sizes: tuple[int, int, int]) -> None:
    inputs = [x.requires_grad_() for x in bands(*sizes)]
    x = tridiagonal_solve(*inputs)
    expected = torch.linalg.solve(dense(*inputs[:3]), inputs[3])
    assert_close(x.detach(), expected.detach(), 1e-9, "x", floor=0)
    w = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    found, known = (torch.autograd.grad(y, inputs, w, materialize_grads=True) for y in (x, expected))
    assert_all_close(found, known, 1e-8, "gradients", floor=1e-9)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 1, 2), (3, 1, 2, 2), (2, 7, 3, 2)])
def test_block_answers_and_gradients_are_those_of_the_dense_matrix(sizes: tuple[int, int, int, int]) -> None:
    inputs = [x.requires_grad_() for x in blocks(*sizes)]
    x = block_tridiagonal_solve(*inputs)
    expected = torch.linalg.solve(dense_blocks(*inputs[:3]), inputs[3])
    assert_close(x.detach(), expected.detach(), 1e-9, "x", floor=0)
    w = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    found, known = (torch.autograd.grad(y, inputs, w, materialize_grads=True) for y in (x, expected))
    assert_all_close(found, known, 1e-8, "gradients", floor=1e-9)


def test_a_zero_pivot_gives_no_nan() -> None:
    # The recursion without pivoting divides by the first entry of the diagonal.
    lower, diag, upper, d = bands(3, 8, 1)
    diag[0], diag[1, 0] = 0.0, 0.0
    x = tridiagonal_solve(lower, diag, upper, d)
    assert_close(dense(lower, diag, upper) @ x, d, 1e-12, "A x = d")
    lower, diag, upper, d = blocks(2, 4, 2, 1)
    diag[:, 0] = 0.0
    x = block_tridiagonal_solve(lower, diag, upper, d)
    assert_close(dense_blocks(lower, diag, upper) @ x, d, 1e-12, "blocks")


def test_elements_that_need_scaling_or_pivots_are_right_beside_those_that_need_neither() -> None:
    lower, diag, upper, d = bands(6, 9, 2, seed=3)
    diag[0] = 4.0  # dominant: needs neither
    diag[1, 0] = diag[1, 1::2] = 0.0  # pivots
    rows = torch.logspace(-40, 40, 9, dtype=torch.float64)  # scaling: pivots as small beside the largest entry
    lower[2], diag[2], upper[2], d[2] = lower[2] * rows[1:], diag[2] * rows, upper[2] * rows[:-1], d[2] * rows[:, None]
    lower[3], upper[3], diag[3] = (
        1e200 * lower[3],
        1e200 * upper[3],
        1e-200 * diag[3],
    )  # no pivot stands on the diagonal
    diag[3, -1] = 1e200
    lower[4], diag[4], upper[4] = 0.0, 1e-310, 0.0  # d / diag is beyond the largest number
    diag[5, 0] = upper[5, 0] = 0.0  # singular, and LAPACK's pivot is zero
    layer = TridiagonalSolve("nan")
    inputs = [x.clone().requires_grad_() for x in (lower, diag, upper, d)]
    x = layer(*inputs)
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal"] * 4 + ["failed"] * 2
    A = dense(lower, diag, upper)
    scale = A[:4].abs().amax(2, keepdim=True)
    assert_close(x[:4].detach(), torch.linalg.solve(A[:4] / scale, d[:4] / scale), 1e-9, "x", floor=0)
    alone = torch.cat([tridiagonal_solve(*(part[i : i + 1] for part in (lower, diag, upper, d))) for i in range(4)])
    assert_close(x[:4].detach(), alone, 1e-12, "each alone", floor=0)
    x[:4].sum().backward()
    assert all(torch.isfinite(part.grad).all() for part in inputs)


def test_derivatives_of_both() -> None:
    assert_derivatives(tridiagonal_solve, bands(1, 3, 1), batched=False)
    assert_derivatives(block_tridiagonal_solve, blocks(1, 2, 2, 1), batched=False)


def test_vmap_and_single_precision_of_both() -> None:
    for solve, inputs in ((tridiagonal_solve, bands(3, 4, 2)), (block_tridiagonal_solve, blocks(3, 3, 2, 2))):
        assert_vmap(solve, inputs)
        assert_single_precision(solve, inputs)


def test_a_singular_element_is_named_and_harms_no_other() -> None:
    lower, diag, upper, d = bands(3, 3, 2)
    lower[1] = upper[1] = -1.0
    diag[1] = torch.tensor([1.0, 2.0, 1.0])  # the Laplacian of a path: constants are its null space
    with pytest.raises(SolveError, match="singular to working precision") as caught:
        tridiagonal_solve(lower, diag, upper, d)
    assert caught.value.indices == (1,)
    layer = TridiagonalSolve("nan")
    inputs = [x.clone().requires_grad_() for x in (lower, diag, upper, d)]
    x = layer(*inputs)
    assert torch.isnan(x[1]).all()
    assert_close(x[0].detach(), torch.linalg.solve(dense(lower, diag, upper)[0], d[0]), 1e-10, "its neighbour")
    x[[0, 2]].sum().backward()
    assert all(torch.isfinite(part.grad).all() for part in inputs)
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal", "failed", "optimal"]
    again = BlockTridiagonalSolve("zero_grad")(*(x[..., None, None] for x in (lower, diag, upper)), d)
    assert_close(again[2], x[2].detach(), 1e-10, "blocks of order one")
    assert torch.equal(again[1], torch.zeros_like(again[1]))


def test_a_matrix_singular_up_to_rounding_is_singular() -> None:
    thirds = torch.tensor([1 / 3], dtype=torch.float64)
    with pytest.raises(SolveError):  # (1/3, 1/7; 7/9, 1/3) has determinant 0 but for rounding
        tridiagonal_solve(thirds * 7 / 3, torch.cat([thirds, thirds]), thirds * 3 / 7, torch.ones(2).double())


def test_badly_scaled_rows_are_not_mistaken_for_singular_ones() -> None:
    lower, diag, upper, d = bands(1, 5, 1)
    rows = torch.tensor([1e-150, 1e120, 1.0, 1e-30, 1e60], dtype=torch.float64)
    x = tridiagonal_solve(lower * rows[1:], diag * rows, upper * rows[:-1], d * rows[:, None])
    assert_close(x, tridiagonal_solve(lower, diag, upper, d), 1e-10, "row scaling")


def test_shapes_broadcast_and_empty_batches() -> None:
    lower, diag, upper, d = bands(4, 3, 2)
    assert tridiagonal_solve(lower, diag, upper, d[..., 0]).shape == (4, 3)
    assert tridiagonal_solve(lower[0], diag[0], upper[0], d[0]).shape == (3, 2)
    assert tridiagonal_solve(lower[:1], diag[:1], upper[:1], d).shape == (4, 3, 2)
    assert tridiagonal_solve(lower[:0], diag[:0], upper[:0], d[:0]).shape == (0, 3, 2)
    shared = lower[:1].clone().requires_grad_()
    tridiagonal_solve(shared, diag, upper, d).sum().backward()
    each = lower[:1].expand(4, 2).clone().requires_grad_()
    tridiagonal_solve(each, diag, upper, d).sum().backward()
    assert_close(shared.grad, each.grad.sum(0, keepdim=True), 1e-12, "a shared band gets the sum")
    lower, diag, upper, d = blocks(2, 3, 2, 1)
    assert block_tridiagonal_solve(lower, diag, upper, d[..., 0]).shape == (2, 6)
    assert block_tridiagonal_solve(lower[:0], diag[:0], upper[:0], d[:0]).shape == (0, 6, 1)


def test_bad_arguments_are_named() -> None:
    lower, diag, upper, d = bands(2, 3, 1)
    with pytest.raises(ParameterError, match=r"lower: got shape \(2, 3\), expected \(..., 2\)"):
        tridiagonal_solve(diag, diag, upper, d)
    with pytest.raises(ParameterError, match=r"d: got shape \(2, 2, 1\), expected \(..., 3\)"):
        tridiagonal_solve(lower, diag, upper, d[:, :2])
    with pytest.raises(ParameterError, match=r"upper: got torch\.float32 on cpu, expected torch\.float64"):
        tridiagonal_solve(lower, diag, upper.float(), d)
    with pytest.raises(ParameterError, match="diag: got NaN or infinite entries in batch elements"):
        tridiagonal_solve(lower, diag / 0, upper, d)
    with pytest.raises(ParameterError, match="batch dimensions do not broadcast"):
        tridiagonal_solve(lower.expand(5, 2, 2)[:, 0], diag, upper, d)
    with pytest.raises(OptionError, match="on_failure"):
        TridiagonalSolve("ignore")
    lower, diag, upper, d = blocks(2, 3, 2, 1)
    with pytest.raises(ParameterError, match=r"diag: got shape \(2, 3, 2, 1\)"):
        block_tridiagonal_solve(lower, diag[..., :1], upper, d)
    with pytest.raises(ParameterError, match=r"d: got shape \(2, 5, 1\), expected \(..., 6\)"):
        block_tridiagonal_solve(lower, diag, upper, d[:, :5])
