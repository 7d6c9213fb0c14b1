"""The TensorFlow layer gives what the NumPy layer gives, eagerly and inside tf.function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import cvxlayers  # noqa: E402
from cvxlayers.errors import OptionError, ParameterError, SolveError  # noqa: E402
from cvxlayers.tensorflow import CvxpyLayer  # noqa: E402
from tests.contracts.case import Case  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters, differences  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402


@cache
def tf_layer(name: str) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp)


def weighted(outputs: Sequence[Any]) -> Any:
    """Re <w, outputs> with the contract's fixed cotangents w."""
    pairs = zip(adapters.cotangents([np.empty(o.shape, o.dtype.as_numpy_dtype) for o in outputs]), outputs, strict=True)
    return tf.add_n([tf.reduce_sum(tf.math.real(tf.cast(w.conj(), o.dtype) * o)) for w, o in pairs])


def answer(layer: Any, values: Sequence[Any], compiled: bool = False) -> adapters.Answer:
    def run(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = layer(*given)
            total = weighted(outputs)
        return outputs, tape.gradient(total, given)

    return (tf.function(run) if compiled else run)(*map(tf.constant, values))


@pytest.mark.parametrize(("batched", "compiled"), [(False, False), (True, True)], ids=["eager", "function-batch"])
@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_outputs_and_gradients_are_those_of_the_numpy_layer(row: Case, batched: bool, compiled: bool) -> None:
    layer, values = tf_layer(row.name), adapters.batch(row) if batched else row.point()
    adapters.assert_contract(layer.core, values, answer(layer, values, compiled), row.name)


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_float32_in_float32_out(row: Case) -> None:
    layer, values = tf_layer(row.name), adapters.single(adapters.batch(row))
    outputs, gradients = answer(layer, values)
    assert {o.dtype for o in outputs} <= {tf.float32, tf.complex64}
    assert [g.dtype.as_numpy_dtype for g in gradients] == [v.dtype for v in values]
    record = layer.core.solve(values)
    expected = record.vjp(adapters.single(adapters.cotangents(record.outputs)))
    assert_all_close(outputs, record.outputs, 1e-6, "outputs")
    assert_all_close(gradients, expected, 1e-6, "gradients")


def test_a_mixture_promotes_and_each_gradient_keeps_its_dtype() -> None:
    A, b, c = case("norm_ball").point()
    given = [tf.constant(A, tf.float32), tf.Variable(b), tf.constant(c, tf.bfloat16)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        (x,) = tf_layer("norm_ball")(*given)
    assert x.dtype == tf.float64
    assert [g.dtype for g in tape.gradient(x, given)] == [tf.float32, tf.float64, tf.bfloat16]
    halves = [tf.constant(A, tf.float16), tf.constant(b, tf.bfloat16), tf.constant(np.round(c), tf.int32)]
    assert tf_layer("norm_ball")(*halves)[0].dtype == tf.float32


@pytest.mark.parametrize(
    "shapes", [((3,), (), ()), ((), (3,), ()), ((2, 1), (1, 3), (2, 3)), ((2, 3), (3,), ()), ((0,), (), (0,))], ids=str
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
def test_leading_dimensions_broadcast(shapes: Sequence[tuple[int, ...]], compiled: bool) -> None:
    rng, point, layer = np.random.default_rng(0), case("norm_ball").point(), tf_layer("norm_ball")
    values = [p + 0.05 * rng.normal(size=(*lead, *p.shape)) for lead, p in zip(shapes, point, strict=True)]
    adapters.assert_contract(layer.core, values, answer(layer, values, compiled), "gradients")


def test_no_parameters_and_an_unused_output() -> None:
    layer = tf_layer("no_parameters")
    assert layer()[0].dtype == tf.float32
    assert_close(tf.function(lambda: layer())()[0], layer.core()[0], 1e-6, "function")
    row, layer = case("qp_with_duals"), tf_layer("qp_with_duals")
    given = [tf.constant(v) for v in row.point()]
    expected = layer.core.solve(row.point()).vjp([np.ones(5), None, None])
    for run in (layer, tf.function(lambda *v: layer(*v))):
        with tf.GradientTape() as tape:
            tape.watch(given)
            x = run(*given)[0]
        assert_all_close(tape.gradient(x, given), expected, 1e-10, "gradients")


def test_the_complex_convention_is_tensorflows_own() -> None:
    """TensorFlow's gradient of Re(z c) is conj(c): dL/dx + i dL/dy. Ours is the same, by finite differences too."""
    z, c = tf.constant(1.0 + 2.0j, tf.complex128), 3.0 - 1.0j
    with tf.GradientTape() as tape:
        tape.watch(z)
        real = tf.math.real(z * c)
    assert tape.gradient(real, z).numpy() == np.conj(c)
    x, p = cp.Variable(2, complex=True), cp.Parameter(2, complex=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.abs(x) <= 1]), [p], [x])
    point, weight = np.array([0.3 + 0.2j, 2.0 - 1.0j]), np.array([1.0 - 0.5j, 0.7 + 2.0j])

    def losses(values: Any) -> Any:
        return tf.reduce_sum(tf.math.real(layer(values)[0] * weight), axis=-1)

    with tf.GradientTape() as tape:
        value = tf.constant(point)
        tape.watch(value)
        total = losses(value)
    ways = [[d * e] for e in np.eye(2) for d in (1, 1j)]
    found = differences.differentiate(lambda values: [losses(values[0]).numpy()], [point], ways)
    assert max(way.agreement for way in found) < 1e-8
    slopes = np.array([way.tangents[0] for way in found]).reshape(2, 2)
    gradient = tape.gradient(total, value)
    assert_close(gradient, slopes[:, 0] + 1j * slopes[:, 1], 1e-8, "complex gradient")
    assert_close(gradient[0], np.conj(weight[0]), 1e-8, "inside the disc the layer is the identity")


def test_a_real_tensor_for_a_complex_parameter_gets_a_real_gradient() -> None:
    (v,) = (np.real(p) for p in case("complex_vector").point()[:1])
    layer, others = tf_layer("complex_vector"), case("complex_vector").point()[1:]
    given = tf.constant(v)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = weighted(layer(given, *others))
    record = layer.core.solve([v, *others])
    expected = record.vjp(adapters.cotangents(record.outputs))[0].real
    found = tape.gradient(total, given)
    assert found.dtype == tf.float64
    assert_close(found, expected, 1e-10, "gradient")


def test_options_of_a_call() -> None:
    layer, point = tf_layer("logistic"), case("logistic").point()
    short = {"max_iters": 2}  # the next engine goes on
    (found,) = tf.function(lambda *given: layer(*given, solver_args=short))(*point)
    assert np.array_equal(found, layer.core.solve(point, short).outputs[0])
    assert not np.array_equal(found, layer.core.solve(point).outputs[0])
    with pytest.raises(OptionError, match="tolerence"):
        layer(*point, solver_args={"tolerence": 1e-9})


def test_wrong_calls_name_what_came_and_what_was_expected() -> None:
    layer = tf_layer("norm_ball")
    A, b, c = map(tf.constant, case("norm_ball").point())
    graph = tf.function(lambda *given: layer(*given))  # TensorFlow wraps what is raised while it builds one
    for call, error in ((layer, ParameterError), (graph, Exception)):
        with pytest.raises(error, match="got 2 values, expected 3"):
            call(A, b)
        with pytest.raises(error, match=r"shape \(3,\), expected \(3, 3\)"):
            call(b, b, c)
        with pytest.raises(error, match=r"do not broadcast together.*\(2,\).*\(4,\)|\(4,\).*\(2,\)"):
            call(tf.stack([A] * 2), tf.stack([b] * 4), c)
    with pytest.raises(ParameterError, match="expected a tensor of numbers, got one of string"):
        layer("A", b, c)
    with pytest.raises(ParameterError, match="expected real numbers"):
        layer(tf.cast(A, tf.complex64), b, c)


def interval(**options: Any) -> CvxpyLayer:
    built = adapters.interval()
    return CvxpyLayer(built.problem, built.parameters, built.variables, **options)


def test_a_failure_names_its_elements_also_in_a_graph() -> None:
    layer, low, high = interval(), np.array([1.0, 3.0, -1.0]), np.array(2.0)
    with pytest.raises(SolveError, match=r"1 \(infeasible\)"):
        layer(low, high)
    with pytest.raises(tf.errors.OpError, match=r"1 \(infeasible\)"):
        tf.function(lambda *given: layer(*given))(low, high)
    low[1] = np.nan
    with pytest.raises(ParameterError, match="parameter 'low'"):
        layer(low, high)
    with pytest.raises(tf.errors.OpError, match="parameter 'low'"):
        tf.function(lambda *given: layer(*given))(low, high)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
def test_a_failing_element_leaves_the_others_their_gradients(compiled: bool) -> None:
    layer = interval(on_failure="zero_grad")

    def run(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            (x,) = layer(*given)
        return tape.gradient(x, given)

    given = tf.constant([1.0, 3.0, -1.0]), tf.fill([3], 2.0)
    gradients = (tf.function(run) if compiled else run)(*given)
    assert_all_close(gradients, ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]), 1e-6, "gradients")
    assert np.isnan(interval(on_failure="nan")(*given)[0]).tolist() == [False, True, False]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
def test_a_broken_attribute_fails_alone_and_all_may_fail(compiled: bool) -> None:
    built = adapters.shrinkage()

    def run(on_failure: str, c: np.ndarray, w: np.ndarray) -> Any:
        layer = CvxpyLayer(built.problem, built.parameters, built.variables, on_failure=on_failure)

        def differentiated(*given: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(given)
                (x,) = layer(*given)
                loss = tf.reduce_sum(x)
            return x, *tape.gradient(loss, given)

        return (tf.function(differentiated) if compiled else differentiated)(tf.constant(c), tf.constant(w))

    c, w = adapters.SHRINKAGE
    assert_all_close(run("zero_grad", c, w), adapters.SHRUNK, 1e-6, "one")
    for on_failure, expected in (("zero_grad", 0.0), ("nan", np.nan)):
        for part in run(on_failure, c, -1 - abs(w)):
            np.testing.assert_array_equal(part.numpy(), np.full(part.shape, expected))


def test_a_scalar_parameter_of_a_dense_layer_is_squeezed_or_refused() -> None:
    built, (c, w) = adapters.shrinkage(), map(tf.constant, (adapters.SHRINKAGE[0], np.array([0.5, 1.0, 1.5])))
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    with pytest.raises(ParameterError, match=r"w\.squeeze\(-1\)"):
        layer(c, w[:, None])
    with pytest.raises(Exception, match=r"(?s)ParameterError.*w\.squeeze\(-1\)"):  # when it is traced
        tf.function(lambda *given: layer(*given))(c, w[:, None])
    signature = [tf.TensorSpec([None, 2], tf.float64), tf.TensorSpec([None, None], tf.float64)]
    unknown = tf.function(lambda *given: layer(*given), input_signature=signature)
    with pytest.raises(tf.errors.OpError, match=r"w\.squeeze\(-1\)"):
        unknown(c, w[:, None])
    assert unknown(c, w[None, :])[0].shape == (1, 3, 2)
    assert layer(c, w)[0].shape == (3, 2)
    every = CvxpyLayer(built.problem, built.parameters, built.variables, broadcast=True)
    assert tf.function(lambda *given: every(*given))(c, w[:, None])[0].shape == (3, 3, 2)


def test_a_saved_problem_becomes_a_layer(tmp_path: Any) -> None:
    layer, point = tf_layer("norm_ball"), case("norm_ball").point()
    layer.compiled.save(tmp_path / "norm_ball.cvxl")
    again = CvxpyLayer.from_compiled(cvxlayers.load(tmp_path / "norm_ball.cvxl"))
    assert_close(again(*point)[0], cvxlayers.Layer(layer.compiled)(*point)[0], adapters.TOLERANCE, "solution")
    assert again.info is not None
    assert again.info.statuses.tolist() == ["optimal"]


def test_the_call_of_cvxpylayers_0_1() -> None:
    """Its quick start for TensorFlow works after changing the import; the result unpacks as its list did."""
    n, m = 2, 3
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.pnorm(A @ x - b, p=1)), [x >= 0])
    layer = CvxpyLayer(problem, parameters=[A, b], variables=[x])
    A_tf = tf.Variable(tf.random.stateless_normal((m, n), seed=(0, 1)))
    b_tf = tf.Variable(tf.random.stateless_normal((m,), seed=(0, 2)))
    with tf.GradientTape() as tape:
        (solution,) = layer(A_tf, b_tf, solver_args={"eps": 1e-8, "max_iters": 10000, "acceleration_lookback": 0})
        summed = tf.math.reduce_sum(solution)
    gradA, gradb = tape.gradient(summed, [A_tf, b_tf])
    assert gradA.shape == (m, n)
    assert gradb.shape == (m,)
    assert np.isfinite(gradA).all()
    assert np.isfinite(gradb).all()
