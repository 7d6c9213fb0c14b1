"""The JAX layer gives what the NumPy layer gives, in double and in single precision, eagerly and compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import cvxlayers  # noqa: E402
from cvxlayers.errors import OptionError, ParameterError, SolveError  # noqa: E402
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


def answer(layer: Any, values: Sequence[Any], compiled: bool = False) -> adapters.Answer:
    """Outputs and gradients; JAX's gradient of a complex number is the conjugate of dL/dx + i dL/dy."""

    def weighted(arrays: Sequence[Any]) -> Any:
        outputs = layer(*arrays)
        pairs = zip(adapters.cotangents(outputs), outputs, strict=True)
        return sum(jnp.real(jnp.vdot(jnp.asarray(w).astype(o.dtype), o)) for w, o in pairs), outputs

    function = jax.grad(weighted, has_aux=True)
    gradients, outputs = (jax.jit(function) if compiled else function)([jnp.asarray(v) for v in values])
    return outputs, [g.conj() for g in gradients]


@pytest.mark.parametrize(("batched", "compiled"), [(False, False), (True, True)], ids=["eager", "jit-batch"])
@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_outputs_and_gradients_are_those_of_the_numpy_layer(row: Case, batched: bool, compiled: bool) -> None:
    layer, values = jax_layer(row.name), adapters.batch(row) if batched else row.point()
    adapters.assert_contract(layer.core, values, answer(layer, values, compiled), row.name)


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_float32_in_float32_out(row: Case) -> None:
    """Also without x64, where JAX has no float64 at all: the point still crosses in double precision."""
    layer, values = jax_layer(row.name), adapters.single(adapters.batch(row))
    with jax.enable_x64(False):
        outputs, gradients = answer(layer, values, compiled=True)
    assert {np.asarray(o).dtype for o in outputs} <= {np.dtype(np.float32), np.dtype(np.complex64)}
    assert [np.asarray(g).dtype for g in gradients] == [v.dtype for v in values]
    record = layer.core.solve(values)
    expected = record.vjp([w.astype(np.complex64 if np.iscomplexobj(w) else np.float32)
                           for w in adapters.cotangents(record.outputs)])  # fmt: skip
    assert_all_close(outputs, record.outputs, 1e-6, "outputs")
    assert_all_close(gradients, expected, 1e-6, "gradients")


def test_a_mixture_promotes_and_each_gradient_keeps_its_dtype() -> None:
    A, b, c = case("norm_ball").point()
    given = [jnp.asarray(A, jnp.float32), jnp.asarray(b), jnp.asarray(c, jnp.bfloat16)]
    assert jax_layer("norm_ball")(*given)[0].dtype == jnp.float64
    gradients = jax.grad(lambda given: jax_layer("norm_ball")(*given)[0].sum())(given)
    assert [g.dtype for g in gradients] == [jnp.float32, jnp.float64, jnp.bfloat16]


@pytest.mark.parametrize(
    "shapes", [((3,), (), ()), ((), (3,), ()), ((2, 1), (1, 3), (2, 3)), ((2, 3), (3,), ()), ((0,), (), (0,))], ids=str
)
def test_leading_dimensions_broadcast(shapes: Sequence[tuple[int, ...]]) -> None:
    rng, point, layer = np.random.default_rng(0), case("norm_ball").point(), jax_layer("norm_ball")
    values = [p + 0.05 * rng.normal(size=(*lead, *p.shape)) for lead, p in zip(shapes, point, strict=True)]
    adapters.assert_contract(layer.core, values, answer(layer, values), "eager")
    adapters.assert_contract(layer.core, values, answer(layer, values, compiled=True), "jit")


def test_no_parameters_and_an_unused_output() -> None:
    layer = jax_layer("no_parameters")
    expected = layer.core()
    assert_close(jax.jit(lambda: layer())()[0], expected[0], 1e-12, "jit")
    row, layer = case("qp_with_duals"), jax_layer("qp_with_duals")
    gradients = jax.grad(lambda given: layer(*given)[0].sum())(row.point())
    expected = layer.core.solve(row.point()).vjp([np.ones(5), None, None])
    assert_all_close([np.asarray(g) for g in gradients], expected, 1e-10, "gradients")


def test_options_of_a_call() -> None:
    layer, point = jax_layer("logistic"), case("logistic").point()
    short = {"max_iters": 2}  # the next engine goes on
    found = jax.jit(lambda *given: layer(*given, solver_args=short)[0])(*point)
    assert np.array_equal(found, layer.core.solve(point, short).outputs[0])
    assert not np.array_equal(found, layer.core.solve(point).outputs[0])
    with pytest.raises(OptionError, match="tolerence"):
        layer(*point, solver_args={"tolerence": 1e-9})


def test_wrong_calls_name_what_came_and_what_was_expected() -> None:
    layer = jax_layer("norm_ball")
    A, b, c = case("norm_ball").point()
    for call in (layer, jax.jit(layer)):
        with pytest.raises(ParameterError, match="got 2 values, expected 3"):
            call(A, b)
        with pytest.raises(ParameterError, match=r"shape \(3,\), expected \(3, 3\)"):
            call(b, b, c)
        with pytest.raises(ParameterError, match=r"do not broadcast together.*\(2,\).*\(4,\)"):
            call(np.stack([A] * 2), np.stack([b] * 4), c)


def interval(**options: Any) -> CvxpyLayer:
    built = adapters.interval()
    return CvxpyLayer(built.problem, built.parameters, built.variables, **options)


def test_a_failure_names_its_elements_also_under_jit() -> None:
    layer, low, high = interval(), np.array([1.0, 3.0, -1.0]), np.array(2.0)
    with pytest.raises(SolveError, match=r"1 \(infeasible\)"):
        layer(low, high)
    with pytest.raises(Exception, match=r"1 \(infeasible\)"):
        jax.block_until_ready(jax.jit(layer)(low, high))
    low[1] = np.nan
    with pytest.raises(ParameterError, match="parameter 'low'"):
        layer(low, high)
    with pytest.raises(Exception, match="parameter 'low'"):
        jax.block_until_ready(jax.jit(layer)(low, high))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_a_failing_element_leaves_the_others_their_gradients(compiled: bool) -> None:
    low, high = np.array([1.0, 3.0, -1.0]), np.full(3, 2.0)
    function = jax.grad(lambda given: interval(on_failure="zero_grad")(*given)[0].sum())
    gradients = (jax.jit(function) if compiled else function)((low, high))
    assert_all_close(gradients, ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]), 1e-6, "gradients")
    (x,) = interval(on_failure="nan")(low, high)
    assert np.isnan(x).tolist() == [False, True, False]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_a_broken_attribute_fails_alone_and_all_may_fail(compiled: bool) -> None:
    built = adapters.shrinkage()

    def run(on_failure: str, c: np.ndarray, w: np.ndarray) -> Any:
        layer = CvxpyLayer(built.problem, built.parameters, built.variables, on_failure=on_failure)

        def total(c: Any, w: Any) -> Any:
            (x,) = layer(c, w)
            return x.sum(), x

        function = jax.grad(total, (0, 1), has_aux=True)
        gradients, x = (jax.jit(function) if compiled else function)(jnp.asarray(c), jnp.asarray(w))
        return x, *gradients

    c, w = adapters.SHRINKAGE
    assert_all_close(run("zero_grad", c, w), adapters.SHRUNK, 1e-6, "one")
    for on_failure, expected in (("zero_grad", 0.0), ("nan", np.nan)):
        for part in run(on_failure, c, -1 - abs(w)):
            np.testing.assert_array_equal(part, np.full(part.shape, expected))


def test_a_scalar_parameter_of_a_dense_layer_is_squeezed_or_refused() -> None:
    built, (c, w) = adapters.shrinkage(), map(jnp.asarray, (adapters.SHRINKAGE[0], [0.5, 1.0, 1.5]))
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    for call in (layer, jax.jit(layer), jax.grad(lambda c, w: layer(c, w)[0].sum())):
        with pytest.raises(ParameterError, match=r"w\.squeeze\(-1\)"):
            call(c, w[:, None])
    with pytest.raises(ParameterError, match=r"w\.squeeze\(-1\)"):
        jax.vmap(layer)(jnp.stack([c, c]), jnp.stack([w, w])[..., None])
    assert layer(c, w)[0].shape == (3, 2)
    assert jax.vmap(layer, (0, None))(c, w)[0].shape == (3, 3, 2)
    assert jax.jit(jax.vmap(layer, (None, 0)))(c, w)[0].shape == (3, 3, 2)
    every = CvxpyLayer(built.problem, built.parameters, built.variables, broadcast=True)
    assert jax.jit(every)(c, w[:, None])[0].shape == (3, 3, 2)


def test_a_saved_problem_becomes_a_layer(tmp_path: Any) -> None:
    layer, point = jax_layer("norm_ball"), case("norm_ball").point()
    layer.compiled.save(tmp_path / "norm_ball.cvxl")
    again = CvxpyLayer.from_compiled(cvxlayers.load(tmp_path / "norm_ball.cvxl"))
    assert_close(again(*point)[0], cvxlayers.Layer(layer.compiled)(*point)[0], adapters.TOLERANCE, "solution")
    assert again.info is not None
    assert again.info.statuses.tolist() == ["optimal"]
