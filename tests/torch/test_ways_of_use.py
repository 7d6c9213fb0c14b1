"""How PyTorch is used at work: copies, threads, loaders, several processes, mixed precision, its own checks."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cvxlayers.torch import CvxpyLayer  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters, training  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402

HALVES = [torch.float16, torch.bfloat16]


@cache
def torch_layer(name: str) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp)


def leaves(name: str, batched: bool = False) -> list[Any]:
    row = case(name)
    values = adapters.batch(row) if batched else row.point()
    return [torch.tensor(np.asarray(v), requires_grad=True) for v in values]


# PyTorch's own checks


@pytest.mark.parametrize("name", ["norm_ball", "simplex_projection", "entropy", "scalar", "complex_vector"])
def test_gradcheck_in_both_modes(name: str) -> None:
    """Its step is large enough for the accuracy of a solver."""
    layer, options = torch_layer(name), {"eps": 1e-3, "atol": 1e-4, "rtol": 1e-4}
    assert torch.autograd.gradcheck(layer, leaves(name), check_forward_ad=True, **options)


@pytest.mark.parametrize("name", ["norm_ball", "simplex_projection", "quad_form", "soc_duals"])
def test_gradgradcheck_in_both_modes(name: str) -> None:
    layer, options = torch_layer(name), {"eps": 1e-3, "atol": 1e-4, "rtol": 1e-4}
    symmetric = lambda *given: layer(*[(g + g.mT) / 2 if g.ndim == 2 and name == "quad_form" else g for g in given])  # noqa: E731
    assert torch.autograd.gradgradcheck(symmetric, leaves(name), check_fwd_over_rev=True, **options)


def test_a_hessian_vector_product_against_differences_of_the_gradient() -> None:
    """Also for a shared parameter, whose gradient is a sum over the batch."""
    layer, (A, b, c) = torch_layer("norm_ball"), leaves("norm_ball", batched=True)
    b = b.detach()[0].requires_grad_()

    def gradient(b: Any) -> Any:
        loss = (torch.sin(layer(A, b, c)[0]) ** 2).sum()
        return torch.autograd.grad(loss, b, create_graph=True)[0]

    move = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    (product,) = torch.autograd.grad(gradient(b) @ move, b)
    found = [gradient(b + h * move).detach() for h in (1e-3, -1e-3, 5e-4, -5e-4)]
    coarse, fine = (found[0] - found[1]) / 2e-3, (found[2] - found[3]) / 1e-3
    assert_close(product.numpy(), ((4 * fine - coarse) / 3).numpy(), 1e-7, "Hessian-vector product")


def test_the_jacobians_of_torch_autograd() -> None:
    """The older interface, whose vectorized form maps with means of its own."""
    layer, given = torch_layer("norm_ball"), tuple(leaves("norm_ball"))
    plain = torch.autograd.functional.jacobian(lambda *v: layer(*v)[0], given)
    for options in ({"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
        found = torch.autograd.functional.jacobian(lambda *v: layer(*v)[0], given, **options)
        assert_all_close([J.detach() for J in found], [J.numpy() for J in plain], 1e-9, str(options))
    given = leaves("simplex_projection", batched=True)
    checks = {"check_batched_grad": True, "check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(torch_layer("simplex_projection"), given, eps=1e-3, atol=1e-4, rtol=1e-4, **checks)


# Mixed precision


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_precision_in_half_precision_out(half: Any) -> None:
    """The work is done in double precision at the numbers that came: what is lost is the last rounding alone."""
    layer = torch_layer("norm_ball")
    given = [v.detach().to(half).requires_grad_() for v in leaves("norm_ball", batched=True)]
    (x,) = layer(*given)
    assert x.dtype == half
    x.sum().backward()
    record = layer.core.solve([v.detach().double().numpy() for v in given])
    rounding = torch.finfo(half).eps
    assert_close(x.detach().double().numpy(), record.outputs[0], rounding, "solution")
    for v, expected in zip(given, record.vjp([np.ones((3, 3))]), strict=True):
        assert v.grad.dtype == half
        assert_close(v.grad.double().numpy(), expected, rounding, "gradient", floor=float(np.abs(expected).max()))


def test_autocast_and_the_scaling_of_gradients() -> None:
    """A network in half precision around the layer: it trains, and a scale that overflows only skips a step."""
    torch.manual_seed(0)
    model, rows = training.network(torch_layer("simplex_projection")), torch.randn(8, 4)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**4)
    losses = []
    for step in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = model(rows)
            assert x.dtype == torch.bfloat16
        loss = (x.float() - 1 / 6).square().sum()
        weight = model.linear.weight.detach().clone()
        (scaler.scale(loss) * (torch.inf if step == 3 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.linear.weight, weight) == (step == 3)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# Copies, threads, processes


def test_copies_of_all_kinds_solve_and_report_for_themselves() -> None:
    layer, given = torch_layer("norm_ball"), leaves("norm_ball")
    (x,) = layer(*given)
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    copies = [copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)),
              torch.load(stored, weights_only=False)]  # fmt: skip
    for other in copies[1:]:
        assert other.info is None
    for other in copies:
        again = leaves("norm_ball")
        (y,) = other(*again)
        y.sum().backward()
        assert_close(y.detach().numpy(), x.detach().numpy(), 1e-10, "solution")
    model = torch.nn.Sequential(layer)
    assert copy.deepcopy(model)[0]._handle != layer._handle
    assert model.state_dict() == {}


def test_threads_differentiate_their_own_calls() -> None:
    layer, given = torch_layer("norm_ball"), leaves("norm_ball")

    def work(scale: float) -> tuple[Any, int]:
        A, b, c = (v.detach().clone().requires_grad_() for v in given)
        shifted = b * scale
        size = 1 + int(10 * scale) % 3
        (x,) = layer(A.expand(size, 3, 3), shifted, c)
        return torch.autograd.grad(x.sum() / size, [A, b, c]), layer.info.statuses.size

    scales = [0.1 * i for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, scales))
    for scale, (gradients, size) in zip(scales, together, strict=True):
        alone, batch = work(scale)
        assert size == batch
        assert_all_close([g.numpy() for g in gradients], [g.numpy() for g in alone], 1e-10, f"scale {scale}")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_solve(method: str) -> None:
    """Also forked ones, after this process has solved and differentiated."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    layer = torch_layer("simplex_projection")
    rows = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6).sin()
    expected = layer(rows.clone().requires_grad_())[0]
    expected.sum().backward()
    loader = torch.utils.data.DataLoader(
        training.Projected(layer, rows), batch_size=2, num_workers=1, multiprocessing_context=method
    )
    found, processes = zip(*loader, strict=True)
    assert_close(torch.cat(found).numpy(), expected.detach().numpy(), 1e-10, "solutions")
    assert os.getpid() not in set(torch.cat(processes).tolist())


def test_data_parallel_on_two_processes(tmp_path: Path) -> None:
    """Each has half of the rows; the averaged gradient is half of the gradient of the whole."""
    layer = torch_layer("simplex_projection")
    rows = torch.cos(torch.arange(24.0)).reshape(6, 4)
    model = training.network(layer)
    (model(rows) ** 2).sum().backward()
    whole = [p.grad.numpy() / 2 for p in model.parameters()]
    torch.multiprocessing.spawn(training.train_in_parallel, (str(tmp_path), layer, rows), nprocs=2)
    for rank in range(2):
        gradients = torch.load(tmp_path / f"gradients-{rank}.pt")
        assert_all_close([g.numpy() for g in gradients], whole, 1e-5, f"process {rank}")


def test_a_layer_without_parameters_has_the_default_dtype() -> None:
    x = cp.Variable(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x >= 0]), parameters=[], variables=[x])
    (found,) = layer()
    assert found.dtype is torch.float32
    assert_close(found @ torch.ones(3), torch.tensor(3.0), 1e-6, "solution")


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_tensor_that_has_escaped_from_a_transform(requires_grad: bool) -> None:
    """Its gradient goes to the tensor that it stood for, as through PyTorch's own functions."""
    x, c = cp.Variable(5), cp.Parameter(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), parameters=[c], variables=[x])
    w = torch.arange(-2.5, 2.5, dtype=torch.float64, requires_grad=requires_grad)
    escaped: list[torch.Tensor] = []

    def keep(z: torch.Tensor) -> torch.Tensor:
        escaped.append(z)
        return z.sum()

    torch.func.grad(keep)(w)
    (found,) = layer(escaped[0])
    assert found.requires_grad is requires_grad
    assert_close(found.detach(), w.detach().clamp(min=0), 1e-8, "solution")
    if requires_grad:
        found.sum().backward()
        assert_close(w.grad, (w > 0).double(), 1e-8, "gradient")
