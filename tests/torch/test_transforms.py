"""torch.func's transforms of the layer, alone and inside each other, against the NumPy layer and differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.autograd import forward_ad  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402

from cvxlayers.derivative.exact import ExactDerivative  # noqa: E402
from cvxlayers.errors import DerivativeError, ParameterError, SolveError  # noqa: E402
from cvxlayers.torch import CvxpyLayer  # noqa: E402
from tests.contracts.case import Case  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402

WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


@cache
def torch_layer(name: str, polish: bool | None = None) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp, polish=polish)


def tensors(values: Sequence[Any], grad: bool = False) -> list[Any]:
    return [torch.tensor(np.asarray(v), requires_grad=grad) for v in values]


@pytest.fixture
def linearized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of all linearizations of the test; the steps of polishing are among them."""
    seen: list[int] = []
    original = ExactDerivative.linearize

    def counted(self: Any, values: Any, solution: Any) -> Any:
        seen.append(solution.batch)
        return original(self, values, solution)

    monkeypatch.setattr(ExactDerivative, "linearize", counted)
    return seen


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_the_contract_under_vmap(row: Case, solves: list[int]) -> None:
    """Solutions and gradients of mapped calls are those of the NumPy layer, by one batched solve."""
    layer, values = torch_layer(row.name), adapters.batch(row)
    given = tensors(values, grad=True)
    outputs = vmap(layer)(*given)
    assert solves == [adapters.BATCH]
    weights = [torch.tensor(w) for w in adapters.cotangents([o.detach().numpy() for o in outputs])]
    gradients = torch.autograd.grad(outputs, given, weights)
    adapters.assert_contract(layer.core, values, ([o.detach() for o in outputs], gradients), row.name)


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_jvp_is_the_numpy_layers_and_the_adjoint_of_vjp(row: Case) -> None:
    layer, values = torch_layer(row.name), adapters.batch(row)
    moves = adapters.tangents(values)
    record = layer.core.solve(values)
    outputs, changes = jvp(layer, tuple(tensors(values)), tuple(tensors(moves)))
    assert_all_close(outputs, record.outputs, adapters.TOLERANCE, "outputs")
    assert_all_close(changes, record.jvp(moves), adapters.TOLERANCE, "tangents")
    weights = adapters.cotangents(record.outputs)
    back = vjp(layer, *tensors(values))[1](tuple(tensors(weights)))
    forth = sum(np.vdot(w, c.numpy()).real for w, c in zip(weights, changes, strict=True))
    again = sum(np.vdot(b.numpy(), m).real for b, m in zip(back, moves, strict=True))
    assert_close(again, forth, 1e-9, "<Jv, w> = <v, J'w>")


def test_forward_mode_and_backward_through_it() -> None:
    layer, values = torch_layer("norm_ball"), adapters.batch(case("norm_ball"))
    A, b, c = tensors(values)
    move = tensors(adapters.tangents(values))[2]
    c.requires_grad_()
    with forward_ad.dual_level():
        (dual,) = layer(A, b, forward_ad.make_dual(c, move))
        x, tangent = forward_ad.unpack_dual(dual)
        record = layer.core.solve(values)
        assert_close(tangent.detach().numpy(), record.jvp([None, None, move.numpy()])[0], adapters.TOLERANCE, "tangent")
        (back,) = torch.autograd.grad((tangent * WEIGHT).sum(), c)
    expected = record.second_vjp([np.broadcast_to(WEIGHT, (3, 3))], [None, None, move.numpy()])
    assert_close(back.numpy(), expected[2], 1e-9, "gradient of the tangent")
    assert x.requires_grad


def test_vmap_in_any_place_and_within_vmap(solves: list[int]) -> None:
    layer = torch_layer("norm_ball")
    A, b, c = tensors(adapters.batch(case("norm_ball")))
    moved = c[:, None] + 0.01 * torch.arange(2)[:, None]  # (3, 2, 3)
    one = layer.core.solve([A, b[0], c]).outputs[0]
    two = layer.core.solve([A[:, None], b[0], moved]).outputs[0]
    solves.clear()
    (x,) = vmap(layer, in_dims=(0, None, 1))(A, b[0], c.T)
    assert_close(x, one, adapters.TOLERANCE, "axes")
    (x,) = vmap(vmap(layer, in_dims=(None, None, 0)), in_dims=(0, None, 0))(A, b[0], moved)
    assert_close(x, two, adapters.TOLERANCE, "vmap of vmap")
    (x,) = vmap(layer, in_dims=(0, None, 0))(A, b[0], moved)  # the layer sees (3, 3) once and (2, 3) beside it
    assert_close(x, two, adapters.TOLERANCE, "vmap of a batch")
    assert solves == [3, 6, 6]
    (x,) = vmap(layer, in_dims=(0, None, 0), chunk_size=2)(A, b[0], c)
    assert_close(x, one, 1e-9, "in chunks")
    assert solves == [3, 6, 6, 2, 1]


def per_example(layer: CvxpyLayer, values: Any) -> list[np.ndarray]:
    """Gradients of <WEIGHT, x> for each element, of all parameters, by the NumPy layer."""
    full = [np.broadcast_to(v, (3, *v.shape[v.ndim - len(s.shape) :])) for v, s in
            zip(values, layer.compiled.parameters, strict=True)]  # fmt: skip
    return list(layer.core.solve(full).vjp([np.broadcast_to(WEIGHT, (3, 3))]))


def test_vmap_of_grad_and_of_jvp() -> None:
    """Also for the parameter that is shared: its gradient is one for each element."""
    layer = torch_layer("norm_ball")
    A, b, c = tensors(adapters.batch(case("norm_ball")))
    gradient = grad(lambda *given: layer(*given)[0] @ WEIGHT, argnums=(0, 1, 2))
    found = vmap(gradient, in_dims=(0, None, 0))(A, b[0], c)
    assert_all_close(found, per_example(layer, [A.numpy(), b[0].numpy(), c.numpy()]), adapters.TOLERANCE, "gradients")
    move = torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64)
    push = vmap(lambda A, c, t: jvp(lambda c: layer(A, b[0], c), (c,), (t,))[1][0], in_dims=(0, 0, None))
    expected = layer.core.solve([A, b[0], c]).jvp([None, None, move])[0]
    assert_close(push(A, c, move), expected, adapters.TOLERANCE, "tangents")


def test_grad_of_vmap_sums_over_what_is_shared() -> None:
    layer = torch_layer("norm_ball")
    A, b, c = tensors(adapters.batch(case("norm_ball")))
    found = grad(lambda A, b, c: vmap(layer, (0, None, 0))(A, b, c)[0].sum(), argnums=(0, 1, 2))(A, b[0], c)
    assert_all_close(found, layer.core.solve([A, b[0], c]).vjp([np.ones((3, 3))]), adapters.TOLERANCE, "gradients")


def test_jacobians_agree_and_factorize_once(solves: list[int], linearized: list[int]) -> None:
    layer, values = torch_layer("norm_ball", polish=False), adapters.batch(case("norm_ball"))
    given, arguments = tensors(values), (0, 1, 2)
    forward = jacfwd(lambda *v: layer(*v)[0], arguments)(*given)
    reverse = jacrev(lambda *v: layer(*v)[0], arguments)(*given)
    assert solves == [3, 3]
    assert linearized == [3, 3]
    assert_all_close(forward, [J.numpy() for J in reverse], 1e-9, "jacobians")
    move = tensors(adapters.tangents(values))
    pushed = sum(torch.tensordot(J, t, t.ndim) for J, t in zip(forward, move, strict=True))
    assert_close(pushed, layer.core.solve(values).jvp([m.numpy() for m in move])[0], 1e-9, "along a direction")


def quadratic(layer: CvxpyLayer | None) -> Callable[[Any], Any]:
    """A function R^3 -> R^3 through the layer, or through the closed form of its solution: a ball of radius 2.

    minimize c'x subject to |A x + b| <= 2, here with A = 3 I + diag(c), so that both A and c move.
    """

    def inner(A: Any, b: Any, c: Any) -> Any:
        if layer is not None:
            return layer(A, b, c)[0]
        a = torch.diagonal(A, dim1=-2, dim2=-1)
        g = c / a
        return (-2 * g / torch.sqrt((g * g).sum(-1, keepdim=True)) - b) / a

    b = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    return lambda c: inner(3 * eye + eye * c, b * c, torch.sin(c) + 1.5) * c


TRANSFORMS = {"fwd": jacfwd, "rev": jacrev, "map": lambda f: lambda c: vmap(f)(torch.stack([c, c / 2]))}


@pytest.mark.parametrize("path", [p for n in (1, 2) for p in itertools.product(TRANSFORMS, repeat=n)], ids="-".join)
def test_transforms_inside_each_other(path: tuple[str, ...]) -> None:
    """First and second derivatives in every mixture of modes, against those of the closed form."""
    ours, theirs = quadratic(torch_layer("norm_ball")), quadratic(None)
    for name in path:
        ours, theirs = TRANSFORMS[name](ours), TRANSFORMS[name](theirs)
    at = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
    assert_close(ours(at), theirs(at).numpy(), 1e-7, "-".join(path))


@pytest.mark.parametrize("path", [("rev", "map", "fwd"), ("map", "rev", "map"), ("map", "rev", "rev")], ids="-".join)
def test_three_transforms(path: tuple[str, ...]) -> None:
    test_transforms_inside_each_other(path)


def test_an_in_place_change_after_the_call_is_noticed() -> None:
    layer, (c,) = torch_layer("simplex_projection"), tensors(case("simplex_projection").point(), grad=True)
    given = c * 2
    (x,) = layer(given)
    given.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_a_copied_point_is_restored(linearized: list[int]) -> None:
    """Where what was saved comes back from elsewhere, the derivative starts from its numbers."""
    layer, values = torch_layer("norm_ball", polish=False), adapters.batch(case("norm_ball"))
    given = tensors(values, grad=True)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        (x,) = layer(*given)
    found = torch.autograd.grad((x * WEIGHT).sum(), given)
    record = layer.core.solve(values)
    assert_all_close(found, record.vjp([np.broadcast_to(WEIGHT, (3, 3))]), 1e-10, "gradients")


def test_checkpointing_solves_again_and_gives_the_same(solves: list[int]) -> None:
    layer, values = torch_layer("norm_ball"), adapters.batch(case("norm_ball"))
    given = tensors(values, grad=True)
    (x,) = torch.utils.checkpoint.checkpoint(layer, *given, use_reentrant=False)
    found = torch.autograd.grad((x * WEIGHT).sum(), given)
    assert solves == [3, 3]
    expected = layer.core.solve(values).vjp([np.broadcast_to(WEIGHT, (3, 3))])
    assert_all_close(found, expected, adapters.TOLERANCE, "gradients")


def test_the_solved_call_lives_as_long_as_its_graph() -> None:
    import gc
    import weakref

    from cvxlayers.torch import handles

    layer, given = torch_layer("norm_ball"), tensors(adapters.batch(case("norm_ball")), grad=True)
    (x,) = layer(*given)
    call = weakref.ref(x.grad_fn.record)
    x.sum().backward()
    del x
    assert call() is None
    gc.collect()
    before = len(handles._POINTS)
    outputs, pullback = torch.func.vjp(layer, *given)
    assert len(handles._POINTS) == before + 1
    pullback(tuple(torch.ones_like(o) for o in outputs))
    del outputs, pullback
    assert len(handles._POINTS) == before
    torch.vmap(layer)(*[t.detach() for t in given])
    assert len(handles._POINTS) == before


def test_calls_of_autograd_alone_skip_the_dispatcher_and_lose_nothing() -> None:
    layer, given = torch_layer("simplex_projection"), tensors(adapters.batch(case("simplex_projection")), grad=True)
    (x,) = layer(*given)
    assert type(x.grad_fn).__module__ == "torch.autograd.function" and hasattr(x.grad_fn, "record")
    weights = torch.linspace(-1.0, 1.0, x.numel(), dtype=x.dtype).reshape(x.shape)
    # A gradient of the gradient, mapped cotangents of either kind, and no gradient asked for.
    (first,) = torch.autograd.grad((x * weights).sum(), given, create_graph=True)
    assert first.requires_grad
    eye = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    (x,) = layer(*given)
    (old,) = torch.autograd.grad(x, given, eye, is_grads_batched=True, retain_graph=True)
    (new,) = torch.vmap(lambda v: torch.autograd.grad(x, given, v, retain_graph=True))(eye)
    looped = torch.stack([torch.autograd.grad(x, given, v, retain_graph=True)[0] for v in eye])
    torch.testing.assert_close(old, looped, rtol=0, atol=1e-12)
    torch.testing.assert_close(new, looped, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert layer(*given)[0].grad_fn is None


def test_errors_keep_their_type_and_text_under_transforms() -> None:
    built = adapters.interval()
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    low, high = torch.tensor([1.0, 3.0, -1.0]), torch.tensor(2.0)
    with pytest.raises(SolveError, match=r"1 \(infeasible\)"):
        vmap(layer, (0, None))(low, high)
    with pytest.raises(ParameterError, match=r"shape \(2, 1, 3\), expected \(3, 3\)"):
        vmap(torch_layer("norm_ball"))(*torch.ones(3, 2, 3))


def test_third_derivatives_are_refused() -> None:
    layer, (c,) = torch_layer("simplex_projection"), tensors(case("simplex_projection").point())
    with pytest.raises(DerivativeError, match="third derivative"):
        jacfwd(hessian(lambda c: (layer(c)[0] ** 3).sum()))(c)
    with pytest.raises(DerivativeError, match="third derivative"):
        jacrev(hessian(lambda c: (layer(c)[0] ** 3).sum()))(c)


@pytest.mark.parametrize("name", ["sdp_order_3", "entropy", "cobb_douglas"])
def test_second_derivatives_on_other_cones_are_refused_and_first_ones_are_not(name: str) -> None:
    layer, given = torch_layer(name), tensors(case(name).point(), grad=True)
    loss = sum((o * o).sum() for o in layer(*given))
    gradients = torch.autograd.grad(loss, given, create_graph=True)
    expected = layer.core.solve(case(name).point())
    assert_all_close(
        [g.detach() for g in gradients], expected.vjp([2 * o for o in expected.outputs]), 1e-6, "first derivative"
    )
    with pytest.raises(DerivativeError, match="for zero, nonnegative and second-order cones"):
        torch.autograd.grad(sum(g.sum() for g in gradients), given)
