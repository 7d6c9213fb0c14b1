"""The layer in compiled graphs: one solve forward, none backward, the same numbers; and whose layer a graph calls."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cvxlayers.errors import EngineError, SolveError  # noqa: E402
from cvxlayers.layer.layer import Layer  # noqa: E402
from cvxlayers.torch import CvxpyLayer  # noqa: E402
from tests.contracts.case import Case  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def layer_of(row: Case, **options: Any) -> CvxpyLayer:
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp, **options)


def compiled(function: Any, backend: str = "aot_eager", **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def count_solves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    for name in ("solve", "restore"):
        original = getattr(Layer, name)

        def counted(self: Layer, *args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            seen.append(_name)
            return _original(self, *args, **options)

        monkeypatch.setattr(Layer, name, counted)
    return seen


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_the_contract_under_compile(row: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solutions and gradients are the NumPy layer's; the backward pass finds the solved call and solves nothing."""
    layer, values = layer_of(row), adapters.batch(row)
    given = [torch.tensor(v, requires_grad=True) for v in values]
    calls = count_solves(monkeypatch)
    outputs = compiled(layer)(*given)
    weights = [torch.tensor(w) for w in adapters.cotangents([o.detach().numpy() for o in outputs])]
    gradients = torch.autograd.grad(outputs, given, weights)
    assert calls == ["solve"]
    adapters.assert_contract(layer.core, values, ([o.detach() for o in outputs], gradients), row.name)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_batch_size_that_changes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arithmetic around the layer, so that the inductor has no kernel to compile with a C++ compiler."""
    layer, values = layer_of(case("norm_ball")), adapters.batch(case("norm_ball"))
    step = compiled(lambda *given: layer(*given)[0], backend, dynamic=True)
    calls = count_solves(monkeypatch)
    for size in (3, 2):
        given = [torch.tensor(v[:size], requires_grad=True) for v in values]
        x, expected = step(*given), layer(*given)[0]
        weight = torch.arange(3.0 * size, dtype=torch.float64).reshape(size, 3)
        found, right = (torch.autograd.grad(output, given, weight) for output in (x, expected))
        assert_all_close(found, [g.numpy() for g in right], 1e-10, f"batch of {size}")
    assert calls == ["solve", "solve"] * 2


def test_transforms_inside_compile() -> None:
    layer = layer_of(case("norm_ball"))
    A, b, c = (torch.tensor(v) for v in adapters.batch(case("norm_ball")))
    solution = lambda A, b, c: layer(A, b, c)[0]  # noqa: E731
    functions = {
        "vmap": torch.func.vmap(solution, (0, None, 0)),
        "vmap of grad": torch.func.vmap(torch.func.grad(lambda *v: solution(*v).sum(), 2), (0, None, 0)),
        "jacfwd": torch.func.jacfwd(solution, 2),
        "hessian": torch.func.hessian(lambda A, b, c: (solution(A, b, c) ** 2).sum(), 2),
    }
    for name, function in functions.items():
        assert_close(compiled(function)(A, b[0], c), function(A, b[0], c).numpy(), 1e-10, name)


def test_options_of_a_call_and_its_report() -> None:
    layer, values = layer_of(case("norm_ball")), case("norm_ball").point()
    given = [torch.tensor(v, requires_grad=True) for v in values]
    (x,) = compiled(lambda *v: layer(*v, solver_args={"max_iters": 60, "eps": 1e-9, "verbose": False}))(*given)
    x.sum().backward()
    assert layer.info is not None and layer.info.statuses.tolist() == ["optimal"]
    assert layer.info.derivative is not None and float(layer.info.derivative.residual[0]) < 1e-9
    few = CvxpyLayer.from_compiled(layer.compiled, solver="SCS")
    compiled(lambda *v: few(*v, solver_args={"max_iters": 1}))(*given)
    assert few.info is not None and few.info.engines.tolist() != ["SCS"]  # one iteration is not enough


def shifted(by: float) -> CvxpyLayer:
    x, c = cp.Variable(2), cp.Parameter(2)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c - by)), [x >= 0]), [c], [x])


def test_each_graph_calls_its_own_layer() -> None:
    """Layers of equal shapes under one compiled function, and copies: nothing of one answers for the other."""
    one, two = shifted(1.0), shifted(2.0)
    apply = compiled(lambda layer, c: layer(c)[0])
    c = torch.zeros(2)
    layers = [one, two, copy.deepcopy(two), copy.copy(two), pickle.loads(pickle.dumps(one))]
    for layer, expected in zip(layers, (1.0, 2.0, 2.0, 2.0, 1.0), strict=True):
        assert_close(apply(layer, c), np.full(2, expected), 1e-6, "solution")
        assert layer.info is not None
    handles = [layer._handle for layer in layers]
    assert len(set(handles)) == len(handles)


def test_a_graph_keeps_no_layer_alive_and_says_when_it_is_gone() -> None:
    layer = shifted(1.0)
    graph = torch.export.export(layer, (torch.zeros(2),)).module()
    assert_close(graph(torch.ones(2))[0].detach(), np.full(2, 2.0), 1e-6, "exported")
    del layer
    gc.collect()
    with pytest.raises(EngineError, match="does not exist in this process"):
        graph(torch.ones(2))


def test_errors_in_compiled_code_keep_their_type() -> None:
    built = adapters.interval()
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    step = compiled(layer)
    with pytest.raises(SolveError, match=r"1 \(infeasible\)"):
        step(torch.tensor([1.0, 3.0]), torch.tensor(2.0))
    with pytest.raises(Exception, match="got 1 values, expected 2"):
        step(torch.tensor([1.0, 3.0]))
    with pytest.raises(Exception, match="do not broadcast together"):
        step(torch.ones(2), torch.ones(3))
    with pytest.raises(Exception, match=r"high.squeeze\(-1\)"):
        step(torch.ones(4), torch.ones(4, 1))


def test_the_operators_pass_pytorchs_own_examination() -> None:
    layer, values = layer_of(case("norm_ball")), adapters.batch(case("norm_ball"))
    given = [torch.tensor(v, requires_grad=True) for v in values]
    torch.library.opcheck(torch.ops.cvxlayers.solve.default, (given, layer._handle, "", True))
    (x, point) = torch.ops.cvxlayers.solve(given, layer._handle, "", True)
    first = [torch.ones_like(x).requires_grad_()]
    for kind, one, other in (("vjp", first, []), ("jvp", given, []), ("vjp2", first, given), ("jvp2", given, given)):
        arguments = (given, point, one, other, kind, layer._handle, "", 0)
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        if not other:
            tests = (*tests, "test_aot_dispatch_dynamic")
        torch.library.opcheck(torch.ops.cvxlayers.differentiate.default, arguments, test_utils=tests)
