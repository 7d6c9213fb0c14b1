"""JAX's transformations of the layer, alone and inside each other, against finite differences and the NumPy layer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

from cvxlayers.errors import DerivativeError  # noqa: E402
from cvxlayers.jax import CvxpyLayer  # noqa: E402
from tests.contracts.case import Case  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@cache
def jax_layer(name: str) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp)


@pytest.mark.parametrize("name", ["norm_ball", "simplex_projection", "entropy", "dgp_box", "scalar"])
def test_both_modes_against_finite_differences(name: str) -> None:
    """JAX's own; their step is large enough for the solver's accuracy."""
    check_grads(jax_layer(name), case(name).point(), order=1, modes=("fwd", "rev"), eps=1e-3, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, jax.jacrev, lambda f: jax.jit(jax.grad(f))])
def test_the_derivative_in_a_number_of_python_is_that_in_an_array(transform: Any) -> None:
    layer, values = jax_layer("scalar"), case("scalar").point()
    assert len(values) == 1

    def output(value: Any) -> Any:
        return layer(value)[0]

    number = float(values[0])
    np.testing.assert_allclose(transform(output)(number), transform(output)(jnp.asarray(number)))


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_jvp_is_the_numpy_layers_and_the_adjoint_of_vjp(row: Case) -> None:
    layer, values = jax_layer(row.name), adapters.batch(row)
    moves = adapters.tangents(values)
    record = layer.core.solve(values)
    outputs, changes = jax.jit(lambda v, t: jax.jvp(layer, v, t))(tuple(values), tuple(moves))
    assert_all_close(outputs, record.outputs, adapters.TOLERANCE, "outputs")
    assert_all_close(changes, record.jvp(moves), adapters.TOLERANCE, "tangents")
    weights = adapters.cotangents(record.outputs)
    # JAX pairs complex numbers without conjugation
    back = jax.vjp(layer, *values)[1](tuple(map(jnp.asarray, weights)))
    forth = sum(np.sum(w * np.asarray(c)) for w, c in zip(weights, changes, strict=True))
    again = sum(np.sum(np.asarray(b) * m) for b, m in zip(back, moves, strict=True))
    assert_close(again.real, forth.real, 1e-9, "<Jv, w> = <v, J'w>")


def test_vmap_is_one_batched_solve(solves: list[int]) -> None:
    layer = jax_layer("norm_ball")
    A, b, c = adapters.batch(case("norm_ball"))
    expected = layer.core.solve([A, b[0], c]).outputs[0]
    solves.clear()
    (x,) = jax.vmap(layer, in_axes=(0, None, 1))(A, b[0], c.T)
    assert solves == [3]
    assert_close(x, expected, adapters.TOLERANCE, "solution")
    (x,) = jax.jit(jax.vmap(layer, in_axes=(0, None, 0)))(A, b[0], c)
    assert solves == [3, 3]
    assert_close(x, expected, adapters.TOLERANCE, "compiled")


def test_vmap_within_vmap_and_over_a_batch(solves: list[int]) -> None:
    layer = jax_layer("norm_ball")
    A, b, c = adapters.batch(case("norm_ball"))
    moved = c[:, None] + 0.01 * np.arange(2)[:, None]  # (3, 2, 3)
    expected = layer.core.solve([A[:, None], b[0], moved]).outputs[0]
    solves.clear()
    (x,) = jax.vmap(jax.vmap(layer, in_axes=(None, None, 0)), in_axes=(0, None, 0))(A, b[0], moved)
    assert solves == [6]
    assert_close(x, expected, adapters.TOLERANCE, "vmap of vmap")
    (x,) = jax.vmap(layer, in_axes=(0, None, 0))(A, b[0], moved)  # the layer sees (3, 3) once and (2, 3) beside it
    assert_close(x, expected, adapters.TOLERANCE, "vmap of a batch")


def per_example(layer: CvxpyLayer, values: Any, weight: np.ndarray) -> list[np.ndarray]:
    """Gradients of <weight, x> for each element, of all parameters, by the NumPy layer."""
    full = [np.broadcast_to(v, (3, *v.shape[v.ndim - len(s.shape) :])) for v, s in
            zip(values, layer.compiled.parameters, strict=True)]  # fmt: skip
    return list(layer.core.solve(full).vjp([np.broadcast_to(weight, (3, 3))]))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_vmap_of_grad_and_of_jvp(compiled: bool) -> None:
    """Also for the parameter that is shared: its gradient is one for each element."""
    layer, weight = jax_layer("norm_ball"), np.array([1.0, -2.0, 0.5])
    A, b, c = adapters.batch(case("norm_ball"))
    wrap = jax.jit if compiled else (lambda function: function)
    gradient = jax.grad(lambda *given: layer(*given)[0] @ weight, argnums=(0, 1, 2))
    found = wrap(jax.vmap(gradient, in_axes=(0, None, 0)))(A, b[0], c)
    assert_all_close(found, per_example(layer, [A, b[0], c], weight), adapters.TOLERANCE, "gradients")
    move = np.array([0.3, 0.2, -0.1])
    push = jax.vmap(lambda A, c, t: jax.jvp(lambda c: layer(A, b[0], c), (c,), (t,))[1][0], in_axes=(0, 0, None))
    expected = layer.core.solve([A, b[0], c]).jvp([None, None, move])[0]
    assert_close(wrap(push)(A, c, move), expected, adapters.TOLERANCE, "tangents")


def test_grad_of_vmap_sums_over_what_is_shared() -> None:
    layer = jax_layer("norm_ball")
    A, b, c = adapters.batch(case("norm_ball"))
    found = jax.grad(lambda A, b, c: jax.vmap(layer, (0, None, 0))(A, b, c)[0].sum(), argnums=(0, 1, 2))(A, b[0], c)
    assert_all_close(found, layer.core.solve([A, b[0], c]).vjp([np.ones((3, 3))]), adapters.TOLERANCE, "gradients")


def test_jacfwd_and_jacrev_agree_and_solve_once(solves: list[int]) -> None:
    layer, values = jax_layer("norm_ball"), adapters.batch(case("norm_ball"))
    arguments = tuple(range(len(values)))
    forward = jax.jit(jax.jacfwd(layer, arguments))(*values)
    reverse = jax.jit(jax.jacrev(layer, arguments))(*values)
    assert len(solves) == 2
    for one, other in zip(forward, reverse, strict=True):
        assert_all_close(one, other, 1e-9, "jacobians")
    move = adapters.tangents(values)
    pushed = [sum(np.tensordot(J, t, t.ndim) for J, t in zip(part, move, strict=True)) for part in forward]
    assert_all_close(pushed, layer.core.solve(values).jvp(move), 1e-9, "directional derivatives")


def test_scan_and_its_gradient() -> None:
    """Projected gradient steps: the carry goes through the layer in each."""
    layer, (start,) = jax_layer("simplex_projection"), case("simplex_projection").point()
    target = np.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])

    def descend(x: Any, step: Any, loop: bool) -> Any:
        def body(x: Any, _: Any) -> Any:
            return layer(x - step * (x - target))[0], None

        if loop:
            return jax.lax.scan(body, x, None, length=3)[0]
        for _ in range(3):
            x, _ = body(x, None)
        return x

    loss = lambda x, step, loop: (descend(x, step, loop) ** 2).sum()  # noqa: E731
    scanned = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(jnp.asarray(start), 0.3, True)
    unrolled = jax.value_and_grad(loss, (0, 1))(jnp.asarray(start), 0.3, False)
    assert_close(scanned[0], unrolled[0], 1e-12, "loss")
    assert_all_close(scanned[1], unrolled[1], 1e-10, "gradients")
    assert np.abs(unrolled[1][1]) > 1e-3


def test_checkpoint_and_cond() -> None:
    layer, (c,) = jax_layer("simplex_projection"), case("simplex_projection").point()
    plain = jax.grad(lambda c: (layer(c)[0] ** 2).sum())(c)
    again = jax.jit(jax.grad(lambda c: (jax.checkpoint(layer)(c)[0] ** 2).sum()))(c)
    assert_close(again, plain, 1e-12, "checkpoint")
    chosen = jax.grad(lambda c: (jax.lax.cond(c[0] < 9, lambda c: layer(c)[0], lambda c: c, c) ** 2).sum())(
        jnp.asarray(c)
    )
    assert_close(chosen, plain, 1e-12, "cond")


def test_second_derivatives_are_refused_and_linear_ones_are_not() -> None:
    layer, (c,) = jax_layer("simplex_projection"), case("simplex_projection").point()

    def loss(c: Any) -> Any:
        return (layer(c)[0] ** 2).sum()

    for second in (jax.hessian(loss), jax.grad(lambda c: jax.grad(loss)(c).sum()), jax.jacfwd(jax.jacfwd(loss))):
        with pytest.raises(DerivativeError, match="a second one was asked for"):
            jax.jit(second)(c)
    weight = np.arange(6.0)
    pull = jax.grad(lambda t: jax.jvp(layer, (c,), (t,))[1][0] @ weight)(np.ones(6))
    assert_close(pull, layer.core.solve([c]).vjp([weight])[0], adapters.TOLERANCE, "derivative in the tangent")
    push = jax.jacrev(lambda w: jax.vjp(layer, c)[1]((w,))[0])(weight)
    assert_close(push, jax.jacfwd(lambda c: layer(c)[0])(c).T, 1e-10, "derivative in the cotangent")


ONE_CORE = """
import os, faulthandler
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
faulthandler.dump_traceback_later(60, exit=True)  # instead of waiting
import cvxpy as cp, jax, jax.numpy as jnp, numpy as np
from cvxlayers.jax import CvxpyLayer
x, c = cp.Variable(), cp.Parameter((700, 700))
layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x - cp.sum(c))), [x >= 0]), [c], [x])
value = jnp.full((700, 700), 1e-6)
gradient = jax.jit(jax.grad(lambda v: sum(layer(jnp.sin(k * v))[0] for k in (1, 2, 3))))
for _ in range(6):  # dispatched one after the other, without waiting
    found = gradient(value)
    value = value + 1e-9 * found
np.testing.assert_allclose(found, 6.0, rtol=1e-5)
"""

TWO_DEVICES = """
import cvxpy as cp, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from cvxlayers.jax import CvxpyLayer
y, d = cp.Variable(3), cp.Parameter(3)
layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - d)), [y >= 0]), [d], [y])
halves = NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch"))
rows = jax.device_put(jnp.arange(12.0).reshape(4, 3) - 5, halves)
assert len(jax.devices()) == len(rows.sharding.device_set) == 2
found = jax.jit(jax.grad(lambda rows: (layer(rows)[0] ** 2).sum() / 2))(rows)
np.testing.assert_allclose(found, np.maximum(np.asarray(rows), 0), atol=1e-4)
"""


def run(program: str, flags: str) -> None:
    root = Path(__file__).resolve().parents[2]
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(root)}
    answer = subprocess.run([sys.executable, "-c", program], env={**os.environ, **settings}, cwd=root,
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_one_core_does_not_deadlock() -> None:
    """A large parameter, where reading a JAX array inside a callback would wait for ever."""
    run(ONE_CORE, "")


def test_two_devices_share_a_batch() -> None:
    run(TWO_DEVICES, "--xla_force_host_platform_device_count=2")
