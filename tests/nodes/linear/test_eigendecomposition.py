"""Eigendecomposition: definition, signs, coinciding eigenvalues, every kind of derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.nodes.linear.eigendecomposition import Eigendecomposition, eigendecomposition
from tests.support.tolerance import assert_all_close, assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def matrices(B: int = 3, M: int = 4, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(B, M, M)))


def with_eigenvalues(*values: float, seed: int = 1) -> Tensor:
    Q = torch.as_tensor(np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0])
    return Q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q.mT


def projector(X: Tensor, k: int) -> Tensor:
    _, V = eigendecomposition(X, k)
    return V @ V.mT


def test_the_pairs_are_eigenpairs_in_falling_order_with_fixed_signs() -> None:
    X = matrices()
    values, vectors = eigendecomposition(X)
    S = (X + X.mT) / 2
    assert_close(S @ vectors, vectors * values[:, None], 1e-13, "S V = V lam")
    assert_close(vectors.mT @ vectors, np.eye(4)[None].repeat(3, 0), 1e-13, "V'V = I")
    assert (values.diff(dim=-1) < 0).all()
    assert (vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) > 0).all()
    top = eigendecomposition(X, 2)
    assert_all_close(top, (values[:, :2], vectors[..., :2]), 0.0, "top 2")


def test_gradients_are_those_of_torch_but_for_signs() -> None:
    X = matrices().requires_grad_()
    values, vectors = eigendecomposition(X, 2)
    w = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    (found,) = torch.autograd.grad((values * w[0]).sum() + (w * vectors).sum(), X)
    lam, V = torch.linalg.eigh((X + X.mT) / 2)
    lam, V = lam.flip(-1)[:, :2], V.flip(-1)[..., :2]
    V = V * (V * vectors.detach()).sum(1, keepdim=True).sign().detach()
    (expected,) = torch.autograd.grad((lam * w[0]).sum() + (w * V).sum(), X)
    assert_close(found, expected, 1e-10, "gradient")


def test_derivatives() -> None:
    assert_derivatives(lambda X: eigendecomposition(X, 2), (matrices(1, 3),))


def test_vmap_and_single_precision() -> None:
    assert_vmap(lambda X: eigendecomposition(X, 2), (matrices(3, 3),))
    assert_single_precision(lambda X: eigendecomposition(X, 2), (matrices(2, 3),))


@pytest.mark.parametrize("values", [(3.0, 3.0, 1.0, 1.0, 0.0), (2.0, 2.0, 0.0, 0.0, 0.0), (5.0, 4.0, 1.0, 1.0, 1.0)])
def test_the_projector_onto_an_eigenspace_has_the_right_gradient_where_eigenvalues_coincide(
    values: tuple[float, ...],
) -> None:
    X, (D, W) = with_eigenvalues(*values), matrices(2, 5, seed=2)
    D = (D + D.mT) / 2
    (gradient,) = (torch.func.grad(lambda X: (W * projector(X, 2)).sum())(X),)
    # D P = sum over i in, j out of the eigenspace of (v_i v_i' D v_j v_j' + transpose) / (lam_i - lam_j) (Kato 1966).
    lam, V = np.linalg.eigh(X.numpy())
    lam, V = lam[::-1].copy(), torch.as_tensor(V[:, ::-1].copy())
    share = torch.as_tensor(1 / (lam[:2, None] - lam[None, 2:]))
    moved = V[:, :2] @ (share * (V[:, :2].mT @ D @ V[:, 2:])) @ V[:, 2:].mT
    expected = moved + moved.mT
    assert_close((gradient * D).sum(), (W * expected).sum(), 1e-10, "gradient along D")
    tangent = torch.func.jvp(lambda X: projector(X, 2), (X,), (D,))[1]
    assert_close(tangent, expected, 1e-10, "forward mode")


def derivative_of_vector(X: Tensor, j: int, w: Tensor) -> Tensor:
    """That of w'v_j in X, from LAPACK's eigenvectors in double precision (Magnus 1985)."""
    lam, V = (part.flip(-1) for part in torch.linalg.eigh(X.double()))
    v = V[:, j] * V[V[:, j].abs().argmax(), j].sign()
    share = lam[j] - lam
    share[j] = torch.inf
    A = V @ ((V.T @ w) / share)[:, None] @ v[None]
    return (A + A.T) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_large_eigenvalue_does_not_hide_the_gaps_between_small_ones(dtype: torch.dtype, unit: float) -> None:
    """Of order 30, with gaps of 2e-6 of the largest eigenvalue: less than single, far more than double rounding."""
    values = [7e5, *(1.5 * (30 - i) for i in range(1, 30))]
    X = (unit * with_eigenvalues(*values)).to(dtype).requires_grad_()
    w = torch.linspace(-1, 2, 30, dtype=torch.float64)
    layer = Eigendecomposition(k=3)
    (found,) = torch.autograd.grad((layer(X)[1][:, 2] * w.to(dtype)).sum(), X)
    assert found.dtype == dtype
    assert_close(found, derivative_of_vector(X.detach(), 2, w), 1e-3, "gradient", floor=0)
    tangent = torch.func.jvp(lambda X: layer(X)[1][:, 2] @ w.to(dtype), (X.detach(),), (torch.ones_like(X),))[1]
    assert_close(tangent, found.sum(), 1e-2, "forward mode", floor=0)


def test_blocks_in_units_of_their_own_keep_their_gaps() -> None:
    """A block of 1e-14 beside one of 1e8 is decomposed, and differentiated, as if it were alone."""
    small = 1e-14 * torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    X = torch.block_diag(1e8 * torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64), small).requires_grad_()
    (found,) = torch.autograd.grad(eigendecomposition(X, 3)[1][3, 2], X)
    expected = derivative_of_vector(small, 0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert_close(found[2:, 2:] * 1e-14, expected * 1e-14, 1e-10, "gradient", floor=0)


@pytest.mark.parametrize("gap", [0.0, 3e-7, 1e-5])
def test_projectors_in_single_precision_where_eigenvalues_nearly_coincide(gap: float) -> None:
    """Terms of a close pair that cancel leave rounding errors of single precision, which a gap would blow up."""
    X = with_eigenvalues(4 + gap, 4.0, 4 - gap, 2.0, 1 + gap, 1.0)
    W = matrices(1, 6, seed=3)[0]
    found = [
        torch.func.grad(lambda X, W: (W * projector(X, 3)).sum())(X.to(dtype), W.to(dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    assert_close(found[0], found[1], 1e-5, "gradient", floor=0)


def test_coinciding_eigenvalues_give_no_nan_and_symmetric_functions_are_right() -> None:
    X = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1).requires_grad_()
    values, vectors = eigendecomposition(X)
    (gradient,) = torch.autograd.grad((values**3).sum() + vectors.sum(), X, retain_graph=True)
    assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad((values**3).sum(), X)
    assert_close(gradient, 3 * np.eye(3)[None].repeat(2, 0), 1e-13, "of tr(X^3)")
    zero = torch.zeros(1, 2, 2, requires_grad=True)
    eigendecomposition(zero)[1].sum().backward()
    assert torch.equal(zero.grad, torch.zeros(1, 2, 2))


def test_second_derivatives_are_nan_rather_than_wrong_where_eigenvalues_coincide() -> None:
    X = torch.stack([with_eigenvalues(2.0, 2.0, 0.0), with_eigenvalues(3.0, 2.0, 0.0)]).requires_grad_()
    W = matrices(1, 3)
    (gradient,) = torch.autograd.grad((W * projector(X, 2)).sum(), X, create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), X)
    assert torch.isnan(second[0]).all()
    assert torch.isfinite(second[1]).all()


def test_shapes_and_empty_batches() -> None:
    assert [part.shape for part in eigendecomposition(torch.ones(2, 2))] == [(2,), (2, 2)]
    assert [part.shape for part in eigendecomposition(torch.ones(5, 0, 3, 3), 2)] == [(5, 0, 2), (5, 0, 3, 2)]
    assert [part.tolist() for part in eigendecomposition(torch.full((1, 1), -4.0))] == [[-4.0], [[1.0]]]
    layer = Eigendecomposition(1, on_failure="nan")
    values, _ = layer(torch.stack([torch.eye(2), torch.full((2, 2), torch.nan)]))
    assert values[0] == 1
    assert torch.isnan(values[1])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ParameterError, match=r"X: got shape \(2, 3\), expected square matrices"):
        eigendecomposition(torch.ones(2, 3))
    with pytest.raises(OptionError, match="k: got 4, expected an integer between 1 and 3"):
        eigendecomposition(torch.ones(3, 3), 4)
    with pytest.raises(ParameterError, match="X: got NaN or infinite entries in batch elements"):
        eigendecomposition(torch.full((2, 2), torch.inf))


def test_the_first_vectors_have_the_gradient_of_all_cut_off() -> None:
    X = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def gradients(lam: torch.Tensor, V: torch.Tensor) -> list[torch.Tensor]:
        (by_vectors,) = torch.autograd.grad((V * w).sum(), X, retain_graph=True)
        (by_values,) = torch.autograd.grad((lam**2).sum(), X, retain_graph=True)
        (both,) = torch.autograd.grad((V * w).sum() + (lam**2).sum(), X, create_graph=True)
        (second,) = torch.autograd.grad((both**2).sum(), X)
        return [by_vectors, by_values, both, second]

    first, every = eigendecomposition(X, 2), eigendecomposition(X)
    for found, expected in zip(gradients(*first), gradients(every[0][:, :2], every[1][..., :2]), strict=True):
        assert_close(found.detach(), expected.detach(), 1e-10, "gradient", floor=0)


def test_of_two_largest_entries_the_first_is_positive() -> None:
    _, V = eigendecomposition(torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, -1.0], [-1.0, 0.0]]]))
    assert (V[:, 0] > 0).all()


class Deaf(torch.autograd.Function):
    """The identity, through which no gradient comes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> None:
        return None


@pytest.mark.parametrize("policy", ["nan", "zero_grad"])
def test_no_cotangent_at_all_is_a_zero_gradient_for_failed_elements_too(policy: str) -> None:
    X = matrices()
    X[1, 0, 0] = torch.nan
    X.requires_grad_()
    lam, _ = eigendecomposition(X, on_failure=policy)
    (gradient,) = torch.autograd.grad(Deaf.apply(lam).sum(), X)
    assert_close(gradient, torch.zeros_like(X), 0.0, "gradient")
