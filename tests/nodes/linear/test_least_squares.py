"""Least squares: independent solutions, ill-conditioned and rank-deficient data, every kind of derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError, SolveError
from cvxlayers.nodes.linear.least_squares import LeastSquares, least_squares
from tests.support.tolerance import assert_all_close, assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def sample(B: int = 2, C: int = 3, T: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    X, t = rng.normal(size=(B, C, T)), rng.normal(size=(B, 1, T))
    return tuple(map(torch.as_tensor, (X, t, rng.uniform(0.2, 2, (B, 1, T)), rng.uniform(0.1, 1, B))))


def stacked(X: Tensor, t: Tensor, w: Tensor, beta: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """The same problem as ordinary least squares: rows for the ridge."""
    B, C, _ = X.shape
    rows = torch.cat([X, torch.ones_like(t)], 1) if bias else X
    ridge = beta.sqrt()[:, None, None] * torch.eye(C, rows.shape[1], dtype=X.dtype)
    A = torch.cat([(rows * w.sqrt()).mT, ridge], 1)
    right = torch.cat([(t * w.sqrt()).mT, X.new_zeros(B, C, 1)], 1)
    u = torch.linalg.lstsq(A, right).solution[..., 0]
    return u[:, :C], u[:, C:] if bias else X.new_zeros(B, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_answers_and_gradients_are_those_of_the_stacked_problem(bias: bool) -> None:
    inputs = [x.requires_grad_() for x in sample(4, 3, 9)]
    found, known = least_squares(*inputs, bias=bias), stacked(*inputs, bias)
    assert_all_close([x.detach() for x in found], [x.detach() for x in known], 1e-12, "solution")
    value, expected = (u.sin().sum() + (u0 * u0).sum() for u, u0 in (found, known))
    assert_all_close(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), 1e-10, "gradients")


@pytest.mark.parametrize("bias", [True, False])
def test_derivatives(bias: bool) -> None:
    X, t, w, beta = sample(1, 2, 4)
    outputs = 2 if bias else 1
    assert_derivatives(lambda *inputs: least_squares(*inputs, bias)[:outputs], (X, t, w, beta), batched=False)
    assert_derivatives(lambda X, t: least_squares(X, t, None, 0.0, bias)[:outputs], (X, t), batched=False)


def test_vmap_and_single_precision() -> None:
    inputs = sample(3)
    assert_vmap(least_squares, inputs)
    assert_single_precision(least_squares, inputs)


def test_shared_targets_and_weights_get_the_sum_of_gradients() -> None:
    X, t, w, _ = sample(4)
    shared = [t[:1].clone().requires_grad_(), w[:1].clone().requires_grad_()]
    each = [part.detach().expand(4, 1, 6).clone().requires_grad_() for part in shared]
    for rows in (shared, each):
        u, u0 = least_squares(X, *rows, 0.1)
        (u.sum() + u0.sum()).backward()
    for one, other in zip(shared, each, strict=True):
        assert_close(one.grad, other.grad.sum(0, keepdim=True), 1e-12, "shared")


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9])
def test_ill_conditioned_data_loses_its_condition_and_not_the_square_of_it(condition: float) -> None:
    rng = np.random.default_rng(1)
    U, V = np.linalg.qr(rng.normal(size=(2, 3, 3)))[0], np.linalg.qr(rng.normal(size=(2, 30, 3)))[0]
    X = torch.as_tensor(U @ np.diag([1.0, condition**-0.5, 1 / condition]) @ V.transpose(0, 2, 1))
    u_true = torch.as_tensor(rng.normal(size=(2, 3)))
    u, _ = least_squares(X, u_true[:, None] @ X, bias=False)
    assert_close(u, u_true, 1e-14 * condition, f"condition {condition}")


def test_a_large_offset_in_single_precision_is_harmless() -> None:
    X, t, _, _ = sample(2, 2, 40)
    u, u0 = least_squares((X + 1000).float(), (t + 1000).float())
    expected = least_squares((X + 1000).float().double(), (t + 1000).float().double())
    assert_close(u, expected[0], 1e-5, "u")
    assert_close(u0, expected[1], 1e-5, "u0")


def test_rank_deficient_elements_are_named() -> None:
    X, t, _, _ = sample(3)
    X[1, 2] = X[1, 0] - 0.5 * X[1, 1]
    with pytest.raises(SolveError, match="several solutions, since their centred data is rank-deficient") as caught:
        least_squares(X, t)
    assert caught.value.indices == (1,)
    layer = LeastSquares(on_failure="nan")
    X.requires_grad_()
    u, u0 = layer(X, t)
    assert torch.isnan(u[1]).all()
    assert torch.isnan(u0[1]).all()
    u[[0, 2]].sum().backward()
    assert torch.isfinite(X.grad).all()
    assert not X.grad[1].any()
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal", "failed", "optimal"]
    with pytest.raises(SolveError, match="no weight"):
        least_squares(X.detach(), t, torch.zeros_like(t), 1.0)
    ridge, _ = least_squares(X.detach(), t, beta=1e-3)
    assert torch.isfinite(ridge).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_solution_of_least_norm(bias: bool) -> None:
    rng = np.random.default_rng(2)
    X, t = torch.as_tensor(rng.normal(size=(2, 5, 3))), torch.as_tensor(rng.normal(size=(2, 1, 3)))
    u, u0 = least_squares(X, t, bias=bias, least_norm=True)
    Xc, tc = (X - X.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)) if bias else (X, t)
    assert_close(u, (torch.linalg.pinv(Xc.mT) @ tc.mT)[..., 0], 1e-12, "pseudo-inverse")
    assert_close((u[:, None] @ X)[:, 0] + u0, t[:, 0], 1e-12, "interpolation")
    first = 2 if bias else 1
    assert_derivatives(lambda X, t: least_squares(X, t, None, 0.0, bias, True)[:first], (X[:1, :3, :2], t[:1, :, :2]))
    full = sample()
    both = least_squares(*full, bias=bias, least_norm=True), least_squares(*full, bias=bias)
    assert_all_close(*both, 1e-12, "where the solution is unique")


def test_shapes_and_empty_batches() -> None:
    X, t, w, _ = sample()
    assert least_squares(X[0], t[0], w[0])[0].shape == (3,)
    assert least_squares(X.expand(5, 2, 3, 6), t)[1].shape == (5, 2, 1)
    assert least_squares(X[:0], t[:0])[0].shape == (0, 3)
    assert float(least_squares(torch.ones(1, 1, 1), torch.full((1, 1, 1), 3.0), bias=False)[0]) == 3
    beta = torch.nn.Parameter(torch.tensor(0.5))
    layer = LeastSquares(beta)
    layer(X.float(), t.float())[0].sum().backward()
    assert beta.grad is not None


def test_bad_arguments_are_named() -> None:
    X, t, w, _ = sample()
    with pytest.raises(ParameterError, match=r"t: got shape \(2, 6\), expected \(..., 1, 6\)"):
        least_squares(X, t[:, 0])
    with pytest.raises(ParameterError, match="w: got negative weights, first at"):
        least_squares(X, t, -w)
    with pytest.raises(ParameterError, match="beta: got -1, expected a nonnegative finite number"):
        least_squares(X, t, beta=-1)
    with pytest.raises(ParameterError, match="X: got NaN or infinite entries in batch elements"):
        least_squares(X / 0, t)
    with pytest.raises(ParameterError, match=r"t: got torch\.float32"):
        least_squares(X, t.float())
    with pytest.raises(ParameterError, match="batch dimensions do not broadcast"):
        least_squares(X, t[:1].expand(3, 1, 6))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["X", "t", "w"])
def test_one_entry_that_is_not_finite_fails_alone(which: str, value: float, bias: bool) -> None:
    rng = np.random.default_rng(7)
    X, t, w = (torch.as_tensor(rng.uniform(0.5, 1.5, size)) for size in ((3, 2, 6), (3, 1, 6), (3, 1, 6)))
    w[1, 0, 4] = 0
    expected = least_squares(X, t, w, 0.1, bias)
    arguments = {"X": X.clone(), "t": t.clone(), "w": w.clone()}
    arguments[which][1, 0, 4] = value
    if which == "w" and value < 0:
        with pytest.raises(ParameterError, match="w: got negative weights"):
            least_squares(**arguments, beta=0.1, bias=bias)
        return
    with pytest.raises(ParameterError, match=rf"{which}: got NaN or infinite entries in batch elements \[1\]"):
        least_squares(**arguments, beta=0.1, bias=bias)
    leaves = {name: part.requires_grad_() for name, part in arguments.items()}
    u, u0 = least_squares(**leaves, beta=0.1, bias=bias, on_failure="nan")
    assert u[1].isnan().all() and u0[1].isnan().all()
    assert_close(u[::2].detach(), expected[0][::2], 1e-13, "the others")
    (u[::2].sum() + u0[::2].sum()).backward()
    assert all(part.grad.isfinite().all() for part in leaves.values())
