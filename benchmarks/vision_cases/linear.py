"""Least squares, eigendecomposition and banded systems: beside dense linear algebra with PyTorch's own derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.vision_cases.case import Case, Forward, generator
from cvxlayers.nodes.linear.block_tridiagonal import block_tridiagonal_solve
from cvxlayers.nodes.linear.eigendecomposition import eigendecomposition
from cvxlayers.nodes.linear.least_squares import least_squares
from cvxlayers.nodes.linear.tridiagonal import tridiagonal_solve

__all__ = ["CASES"]

RIDGE = 0.1


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def _with_ones(X: Tensor) -> tuple[Tensor, Tensor]:
    """The features with a row of ones, and the ridge, which leaves that row out."""
    rows = torch.cat([X, torch.ones_like(X[:, :1])], 1)
    ridge = RIDGE * torch.ones(rows.shape[1], dtype=X.dtype)
    ridge[-1] = 0
    return rows, ridge


def normal_equations(X: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    rows, ridge = _with_ones(X)
    u = torch.linalg.solve((rows * w) @ rows.mT + torch.diag(ridge), (rows * w) @ t.mT)[..., 0]
    return u[:, :-1], u[:, -1:]


def stacked_lstsq(X: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    rows, ridge = _with_ones(X)
    root = torch.diag(ridge.sqrt())[:-1].expand(X.shape[0], -1, -1)
    A, right = (
        torch.cat([(rows * w.sqrt()).mT, root], 1),
        torch.cat([(t * w.sqrt()).mT, torch.zeros_like(X[..., :1])], 1),
    )
    u = torch.linalg.lstsq(A, right).solution[..., 0]
    return u[:, :-1], u[:, -1:]


def _least_squares(quick: bool) -> Case:
    B, C, T = (2, 3, 8) if quick else (64, 32, 256)
    X, t, w = _random(B, C, T), _random(B, 1, T, seed=1), 0.1 + _random(B, 1, T, seed=2).abs()

    def check(outputs: Sequence[Tensor]) -> float:
        u, u0 = outputs
        error = w * ((u[:, None] @ X) + u0[..., None] - t)
        gradient = torch.cat([(X @ error.mT)[..., 0] + RIDGE * u, error.sum(-1)], 1)
        return float(gradient.abs().max() / (X * w * t).abs().sum(-1).max())

    def ddn(module: Any) -> Forward:
        layer = module.WeightedLeastSquaresLayer(RIDGE, cache_decomposition=True)
        return lambda X, t, w: layer(X, t, w)

    ours = partial(least_squares, beta=RIDGE)
    baselines = {"normal equations, autograd": normal_equations, "lstsq, autograd": stacked_lstsq}
    size = f"{B} x {C} x {T}"
    return Case("least squares", size, (X, t, w), ours, check, baselines, ("ddn.pytorch.leastsquares", ddn))


def _plain_least_squares(quick: bool) -> Case:
    """Without weights and without bias."""
    B, C, T = (2, 3, 8) if quick else (64, 32, 256)
    X, t = _random(B, C, T), _random(B, 1, T, seed=1)

    def check(outputs: Sequence[Tensor]) -> float:
        (u,) = outputs
        gradient = (X @ (u[:, None] @ X - t).mT)[..., 0] + RIDGE * u
        return float(gradient.abs().max() / (X * t).abs().sum(-1).max())

    def normal(X: Tensor, t: Tensor) -> Tensor:
        return torch.linalg.solve(X @ X.mT + RIDGE * torch.eye(C, dtype=X.dtype), X @ t.mT)[..., 0]

    def ddn(module: Any) -> Forward:
        layer = module.LeastSquaresLayer(RIDGE, cache_decomposition=True, enable_bias=False)
        return lambda X, t: layer(X, t)[0]

    def ours(X: Tensor, t: Tensor) -> Tensor:
        return least_squares(X, t, beta=RIDGE, bias=False)[0]

    baselines = {"normal equations, autograd": normal}
    size = f"{B} x {C} x {T}"
    return Case("least squares, plain", size, (X, t), ours, check, baselines, ("ddn.pytorch.leastsquares", ddn))


def _signed(V: Tensor) -> Tensor:
    return V * V.gather(1, V.detach().abs().argmax(1, keepdim=True)).detach().sign()


def _eigen(k: int | None, quick: bool) -> Case:
    B, M = (2, 4) if quick else (64, 32)
    X, count = _random(B, M, M), k or M

    def torch_eigh(X: Tensor) -> tuple[Tensor, Tensor]:
        lam, V = torch.linalg.eigh((X + X.mT) / 2)
        return lam.flip(-1)[:, :count], _signed(V.flip(-1)[..., :count])

    def check(outputs: Sequence[Tensor]) -> float:
        lam, V = outputs
        return float(((X + X.mT) @ V / 2 - V * lam[:, None]).abs().max() / lam.abs().max())

    name = "eigendecomposition" if k is None else f"eigendecomposition, top {k}"
    return Case(name, f"{B} x {M} x {M}", (X,), partial(eigendecomposition, k=k), check, {"eigh, autograd": torch_eigh})


def _eigenvectors(k: int | None, quick: bool) -> Case:
    """The vectors alone, as ``ddn`` has them: in rising order and with any sign, so that signs are given to both."""
    B, M = (2, 4) if quick else (64, 32)
    X, count = _random(B, M, M), k or M
    expected = _signed(torch.linalg.eigh((X + X.mT) / 2).eigenvectors)[..., -count:]

    def check(outputs: Sequence[Tensor]) -> float:
        return float((outputs[0] - expected).abs().max())

    def torch_eigh(X: Tensor) -> Tensor:
        return _signed(torch.linalg.eigh((X + X.mT) / 2).eigenvectors[..., -count:])

    def ours(X: Tensor) -> Tensor:
        return eigendecomposition(X, k)[1].flip(-1)

    def ddn(module: Any) -> Forward:
        apply = module.EigenDecompositionFcn.apply
        signs = (apply(X, k) * expected).sum(1, keepdim=True).sign()
        return lambda X: apply(X, k) * signs

    name = "eigenvectors" if k is None else f"eigenvectors, top {k}"
    baselines = {"eigh, autograd": torch_eigh}
    return Case(name, f"{B} x {M} x {M}", (X,), ours, check, baselines, ("ddn.pytorch.eigen_decomposition", ddn))


def dense(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
    A = torch.diag_embed(diag) + torch.diag_embed(lower, -1) + torch.diag_embed(upper, 1)
    return torch.linalg.solve(A, d)


def thomas(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
    """Elimination without pivoting, each of its operations recorded."""
    ups, rights = [upper[:, :1] / diag[:, :1]], [d[:, 0] / diag[:, :1]]
    for i in range(1, diag.shape[1]):
        pivot = diag[:, i : i + 1] - lower[:, i - 1 : i] * ups[-1]
        ups.append(upper[:, i : i + 1] / pivot if i < upper.shape[1] else pivot)
        rights.append((d[:, i] - lower[:, i - 1 : i] * rights[-1]) / pivot)
    xs = [rights[-1]]
    for i in range(diag.shape[1] - 2, -1, -1):
        xs.append(rights[i] - ups[i] * xs[-1])
    return torch.stack(xs[::-1], 1)


def cyclic(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
    """Parallel cyclic reduction without pivoting (Hockney 1965), log2 N vectorized steps, each of them recorded."""
    h, N, pad = 1, diag.shape[1], torch.nn.functional.pad
    while h < N:
        a, c = -lower / diag[:, :-h], -upper / diag[:, h:]
        more = pad(c * lower, (0, h)) + pad(a * upper, (h, 0))
        d = d + pad(c[..., None] * d[:, h:], (0, 0, 0, h)) + pad(a[..., None] * d[:, :-h], (0, 0, h, 0))
        lower, upper = a[:, h:] * lower[:, : N - 2 * h], c[:, : N - 2 * h] * upper[:, h:]
        if 2 * h >= N:
            lower, upper = lower[:, :0], upper[:, :0]
        diag, h = diag + more, 2 * h
    return d / diag[..., None]


def _tridiagonal(quick: bool) -> Case:
    B, N, K = (2, 8, 1) if quick else (64, 256, 1)
    inputs = (_random(B, N - 1), 4 + _random(B, N, seed=1).abs(), _random(B, N - 1, seed=2), _random(B, N, K, seed=3))

    def check(outputs: Sequence[Tensor]) -> float:
        lower, diag, upper, d = inputs
        A = torch.diag_embed(diag) + torch.diag_embed(lower, -1) + torch.diag_embed(upper, 1)
        return float((A @ outputs[0] - d).abs().max() / d.abs().max())

    def ddn(module: Any) -> Forward:
        solve = module.TriDiagSolveFcn.apply
        return lambda lower, diag, upper, d: solve(diag, lower, upper, d)

    baselines = {"dense solve, autograd": dense, "Thomas, unrolled": thomas, "cyclic reduction, autograd": cyclic}
    size = f"{B} x {N}"
    return Case("tridiagonal", size, inputs, tridiagonal_solve, check, baselines, ("ddn.pytorch.tridiagsolve", ddn))


def _dense_blocks(lower: Tensor, diag: Tensor, upper: Tensor) -> Tensor:
    B, N, M = diag.shape[:3]
    A = diag.new_zeros(B, N, N, M, M)
    i = torch.arange(N)
    A[:, i, i] = diag
    A[:, i[1:], i[:-1]] = lower
    A[:, i[:-1], i[1:]] = upper
    return A.transpose(2, 3).reshape(B, N * M, N * M)


def block_thomas(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
    """Block elimination, pivoting only within the blocks, each of its operations recorded."""
    N, M = diag.shape[1:3]
    right = d.reshape(d.shape[0], N, M, -1)
    ups, rights = [], [torch.linalg.solve(diag[:, 0], right[:, 0])]
    for i in range(1, N):
        before = diag[:, i - 1] - lower[:, i - 2] @ ups[-1] if ups else diag[:, 0]
        ups.append(torch.linalg.solve(before, upper[:, i - 1]))
        pivot = diag[:, i] - lower[:, i - 1] @ ups[-1]
        rights.append(torch.linalg.solve(pivot, right[:, i] - lower[:, i - 1] @ rights[-1]))
    xs = [rights[-1]]
    for i in range(N - 2, -1, -1):
        xs.append(rights[i] - ups[i] @ xs[-1])
    return torch.stack(xs[::-1], 1).reshape(d.shape)


def _blocks(quick: bool) -> Case:
    B, N, M = (2, 3, 2) if quick else (32, 32, 4)
    eye = torch.eye(M, dtype=torch.float64)
    bands = (
        0.5 * _random(B, N - 1, M, M),
        _random(B, N, M, M, seed=1) + 5 * eye,
        0.5 * _random(B, N - 1, M, M, seed=2),
    )
    inputs = (*bands, _random(B, N * M, 1, seed=3))

    def check(outputs: Sequence[Tensor]) -> float:
        return float((_dense_blocks(*bands) @ outputs[0] - inputs[3]).abs().max() / inputs[3].abs().max())

    def dense_solve(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
        return torch.linalg.solve(_dense_blocks(lower, diag, upper), d)

    def ddn(module: Any) -> Forward:
        solve = module.BlockTriDiagSolveFcn.apply
        return lambda lower, diag, upper, d: solve(diag, lower, upper, d)

    baselines = {"dense solve, autograd": dense_solve, "block Thomas, unrolled": block_thomas}
    return Case(
        "block-tridiagonal", f"{B} x {N} blocks of {M}", inputs, block_tridiagonal_solve, check, baselines,
        ("ddn.pytorch.tridiagsolve", ddn),
    )  # fmt: skip


CASES: dict[str, Callable[[bool], Case]] = {
    "least squares": _least_squares,
    "least squares plain": _plain_least_squares,
    "eigendecomposition": partial(_eigen, None),
    "eigendecomposition top 2": partial(_eigen, 2),
    "eigenvectors": partial(_eigenvectors, None),
    "eigenvectors top 2": partial(_eigenvectors, 2),
    "tridiagonal": _tridiagonal,
    "block-tridiagonal": _blocks,
}
