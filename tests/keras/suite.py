"""The Keras layer on the backend that KERAS_BACKEND names; ``test_backends`` runs this file once for each."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import cvxpy as cp
import keras
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import ArtefactError, EngineError, OptionError, ParameterError, UnknownLeafError
from cvxlayers.keras import CvxpyLayer
from cvxlayers.keras.backend import adapter
from tests.contracts.case import Case
from tests.contracts.table import case
from tests.support import adapters, mutations
from tests.support.tolerance import assert_all_close, assert_close

BACKEND = keras.backend.backend()


@cache
def keras_layer(name: str, dtype: str = "float64") -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp, dtype=dtype)


def denoising(**options: Any) -> CvxpyLayer:
    """Total variation: a signal, and how much its jumps cost."""
    x, signal, price = cp.Variable(5, name="x"), cp.Parameter(5, name="signal"), cp.Parameter(nonneg=True, name="price")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - signal) / 2 + price * cp.norm1(cp.diff(x))))
    return CvxpyLayer(problem, [signal, price], [x], **options)


def each(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def numpy(tensors: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def answer(layer: CvxpyLayer, values: Any) -> adapters.Answer:
    """Outputs, and gradients by the backend's own means."""
    values = [np.asarray(v) for v in values]
    give = (lambda given: layer(given[0])) if len(values) == 1 else (lambda given: layer(list(given)))
    weights = adapters.cotangents(numpy(each(give(values))))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given = [tf.constant(v) for v in values]
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = each(give(given))
        return numpy(outputs), numpy(tape.gradient(outputs, given, [tf.constant(w) for w in weights]))
    if BACKEND == "jax":
        import jax

        outputs, pull = jax.vjp(lambda *given: each(give(given)), *map(jax.numpy.asarray, values))
        return outputs, [
            np.conj(g)
            for g in pull([jax.numpy.asarray(w.conj(), o.dtype) for w, o in zip(weights, outputs, strict=True)])
        ]
    import torch

    given = [torch.tensor(v, requires_grad=True) for v in values]
    outputs = each(give(given))
    torch.autograd.backward(outputs, [torch.tensor(w, dtype=o.dtype) for w, o in zip(weights, outputs, strict=True)])
    return [o.detach().numpy() for o in outputs], [g.grad.numpy() for g in given]


@pytest.mark.parametrize("row", adapters.ROWS, ids=str)
def test_outputs_and_gradients_are_those_of_the_numpy_layer(row: Case) -> None:
    layer, values = keras_layer(row.name), adapters.batch(row)
    adapters.assert_contract(layer.core, values, answer(layer, values), row.name)


def test_float32_is_the_default() -> None:
    row = case("norm_ball")
    layer, values = keras_layer("norm_ball", "float32"), adapters.single(adapters.batch(row))
    outputs, gradients = answer(layer, values)
    assert {np.asarray(a).dtype for a in (*outputs, *gradients)} == {np.dtype(np.float32)}
    record = layer.core.solve(values)
    assert_all_close(outputs, record.outputs, 1e-6, "outputs")
    assert_all_close(gradients, record.vjp(adapters.cotangents(record.outputs)), 1e-6, "gradients")
    assert CvxpyLayer(layer.compiled).compute_dtype == "float32"


def test_inputs_by_order_by_name_and_as_integers() -> None:
    layer = denoising(dtype="float64")
    signal, price = np.arange(5), np.array(0.5)
    (expected,) = layer.core(signal, price)
    for given in ([signal, price], (signal, price), {"price": price, "signal": signal}):
        assert_close(keras.ops.convert_to_numpy(layer(given)), expected, 1e-12, "solution")
    with pytest.raises(
        ParameterError, match=r"got \['signal', 'weight'\], expected a value for each of \['signal', 'price'\]"
    ):
        layer.call({"signal": signal, "weight": price})
    with pytest.raises(ParameterError, match="got 1 values, expected 2"):
        layer.call([signal])
    with pytest.raises(ParameterError, match=r"shape \(4,\), expected \(5,\)"):
        layer.call([signal[:4], price])


def test_several_variables_come_as_a_tuple_and_shapes_are_known_without_solving() -> None:
    layer = keras_layer("qp_with_duals")
    point = case("qp_with_duals").point()
    assert [tuple(o.shape) for o in layer(list(point))] == [(5,), (4,), (2,)]
    shapes = [(None, *p.shape) for p in point]
    assert layer.compute_output_shape(shapes) == ((None, 5), (None, 4), (None, 2))
    assert layer.compute_output_shape([p.shape for p in point]) == ((5,), (4,), (2,))
    mixed = [(7, 1, *point[0].shape), (None, *point[1].shape), *(p.shape for p in point[2:])]
    with pytest.raises(ParameterError, match=r"to \(7, None\).*broadcast=True"):
        layer.compute_output_shape(mixed)
    assert CvxpyLayer(layer.compiled, broadcast=True).compute_output_shape(mixed)[0] == (7, None, 5)
    mixed[1] = (7, None, *point[1].shape)
    assert layer.compute_output_shape(mixed)[0] == (7, None, 5)
    outputs = layer([keras.Input(p.shape, dtype="float64") for p in point])
    assert [(o.shape, o.dtype) for o in outputs] == [
        ((None, 5), "float64"),
        ((None, 4), "float64"),
        ((None, 2), "float64"),
    ]
    single = keras_layer("simplex_projection", "float32")
    assert single.compute_output_shape((None, 6)) == (None, 6)
    assert single.compute_output_shape([(None, 6)]) == (None, 6)
    with pytest.raises(ParameterError, match=r"shape \(None, 7\), expected \(6,\)"):
        single.compute_output_shape((None, 7))
    with pytest.raises(ParameterError, match="do not broadcast together"):
        denoising().compute_output_shape({"signal": (3, 5), "price": (4,)})


def data(count: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = np.repeat(rng.normal(size=(count, 2)), [3, 2], axis=1)
    return (target + 0.3 * rng.normal(size=(count, 5))).astype("float32"), target.astype("float32")


def test_fit_save_load_and_predict(tmp_path: Path) -> None:
    """The price is learned; what is loaded needs neither the CVXPY problem nor CVXPY."""
    keras.utils.set_random_seed(0)
    learned = {"initializer": 0.01, "constraint": "non_neg", "regularizer": keras.regularizers.L2(1e-4)}
    layer = denoising(weights={"price": learned}, name="denoise", solver_args={"eps": 1e-10}, on_failure="zero_grad")
    model = keras.Sequential([keras.Input((5,)), layer])
    assert model.output_shape == (None, 5)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    noisy, clean = data()
    losses = model.fit(noisy, clean, epochs=8, batch_size=20, verbose=0).history["loss"]  # 20, 20 and 8
    assert losses[-1] < 0.9 * losses[0]
    assert float(keras.ops.convert_to_numpy(layer.trainable_weights[0])) > 0.1
    expected = model.predict(noisy, verbose=0)
    assert_close(expected, layer.core(noisy, keras.ops.convert_to_numpy(layer.weights[0]))[0], 1e-6, "prediction")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].core.on_failure == "zero_grad"
    assert again.layers[0].get_config() == layer.get_config()
    assert_close(again.predict(noisy, verbose=0), expected, 1e-6, "loaded")
    again.compile(keras.optimizers.Adam(0.01), "mse")
    again.fit(noisy, clean, epochs=1, verbose=0)


LOAD = """
import sys
import keras
import numpy as np
import cvxlayers.keras
layer = keras.models.load_model("model.keras").layers[0]
assert "cvxpy" not in sys.modules
print(layer(np.array([[0.0, 0.0, 0.0, 3.0, 3.0]])).tolist()[0])
"""


@pytest.mark.skipif(BACKEND != "jax", reason="the same on all backends, and JAX starts fastest")
def test_a_model_is_loaded_without_cvxpy(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((5,)), denoising(weights={"price": 0.6})]).save(tmp_path / "model.keras")
    answer = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = [float(number) for number in answer.stdout.strip("[]\n").split(",")]
    assert_close(found, [0.2, 0.2, 0.2, 2.7, 2.7], 1e-6, "solution")  # each level moves by 0.6 / its length


def test_a_functional_model_with_several_inputs() -> None:
    keras.utils.set_random_seed(0)
    features = keras.Input((3,))
    signal = keras.layers.Dense(5, name="head")(features)
    price = keras.ops.squeeze(keras.layers.Dense(1, activation="softplus")(features), -1)
    model = keras.Model(features, denoising()({"signal": signal, "price": price}))
    assert model.output_shape == (None, 5)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    given = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    before = keras.ops.convert_to_numpy(model.get_layer("head").kernel)
    losses = model.fit(given, data(32)[1], epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(before, keras.ops.convert_to_numpy(model.get_layer("head").kernel))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assert_close(copy.predict(given, verbose=0), model.predict(given, verbose=0), 1e-6, "clone")


def test_weights_only_and_what_they_may_be() -> None:
    layer = denoising(
        weights={"signal": np.arange(5.0), "price": {"initializer": 0.25, "trainable": False}}, dtype="float64"
    )
    assert_close(keras.ops.convert_to_numpy(layer()), layer.core(np.arange(5.0), 0.25)[0], 1e-12, "solution")
    assert [w.path.split("/")[-1] for w in layer.trainable_weights] == ["signal"]
    assert [w.path.split("/")[-1] for w in layer.non_trainable_weights] == ["price"]
    x, one, two = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - one) + cp.norm1(x - two)))
    layer = CvxpyLayer(problem, [one, two], [x], weights={two: "ones", one: keras.initializers.Constant(2.0)})
    assert [float(w[0]) for w in layer.get_weights()] == [2.0, 1.0]
    with pytest.raises(OptionError, match="got 'regulariser', expected an initializer or a mapping"):
        denoising(weights={"price": {"regulariser": "l2"}})
    with pytest.raises(UnknownLeafError, match=r"no parameter \['cost'\]; it has \['signal', 'price'\]"):
        denoising(weights={"cost": 1.0})
    twin = [cp.Parameter(2, name="p"), cp.Parameter(2, name="p")]
    with pytest.raises(UnknownLeafError, match="same name"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(x - twin[0]) + cp.norm1(x - twin[1]))), twin, [x])


def test_a_compiled_problem_becomes_a_layer(tmp_path: Path) -> None:
    layer, (c,) = keras_layer("simplex_projection"), case("simplex_projection").point()
    layer.compiled.save(tmp_path / "simplex.cvxl")
    compiled = cvxlayers.load(tmp_path / "simplex.cvxl")
    again = CvxpyLayer.from_compiled(compiled, solver="SCS", solver_args={"eps": 1e-9}, dtype="float64")
    assert_close(keras.ops.convert_to_numpy(again(c)), keras.ops.convert_to_numpy(layer(c)), 1e-6, "solution")
    assert again.info is not None
    assert again.info.engines.tolist() == ["SCS"]
    with pytest.raises(OptionError, match="part of a compiled problem"):
        CvxpyLayer(compiled, gp=True)


def test_a_failure_in_predict_says_which_element() -> None:
    built = adapters.interval()
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    low, high = keras.Input(()), keras.Input(())
    model = keras.Model([low, high], layer([low, high]))
    values = [np.array([1.0, 3.0, -1.0], "float32"), np.full(3, 2.0, "float32")]
    assert model.output_shape == (None,)
    with pytest.raises(Exception, match=r"1 \(infeasible\)"):
        model.predict(values, verbose=0)


def test_a_broken_attribute_fails_alone_and_all_may_fail() -> None:
    built, (c, w) = adapters.shrinkage(), adapters.SHRINKAGE
    layer = CvxpyLayer(built.problem, built.parameters, built.variables, on_failure="zero_grad", dtype="float64")
    (x,), gradients = answer(layer, (c, w))
    assert_close(x, adapters.SHRUNK[0], 1e-6, "output")
    assert np.abs(gradients[0][[0, 2]]).min() > 0.01
    assert (np.asarray(gradients[0])[1] == 0).all() and gradients[1][1] == 0
    (x,), gradients = answer(layer, (c, -1 - abs(w)))
    assert all((np.asarray(part) == 0).all() for part in (x, *gradients))
    inputs = keras.Input((2,)), keras.Input((1,))
    price = keras.ops.squeeze(keras.layers.Dense(1, kernel_initializer="ones")(inputs[1]), -1)
    model = keras.Model(
        inputs, CvxpyLayer(built.problem, built.parameters, built.variables, on_failure="nan")([inputs[0], price])
    )
    model.compile("sgd", lambda _, x: keras.ops.mean(keras.ops.where(keras.ops.isnan(x), 0.0, x) ** 2))
    model.fit([c, -1 - abs(w[:, None])], c, epochs=1, verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()
    found = model.predict([c, w[:, None]], verbose=0)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]
    assert_close(found[[0, 2]], adapters.SHRUNK[0][[0, 2]], 1e-5, "prediction")


def test_a_scalar_parameter_of_a_dense_layer_is_squeezed_or_refused() -> None:
    signal, features = keras.Input((5,)), keras.Input((3,))
    price = keras.layers.Dense(1, activation="softplus")(features)
    with pytest.raises(ParameterError, match=r"'price' has \(None, 1\).*price\.squeeze\(-1\).*axis=-1.*broadcast=True"):
        denoising()([signal, price])
    with pytest.raises(ParameterError, match="price"):
        denoising().compute_output_shape([(None, 5), (None, 1)])
    with pytest.raises(ParameterError, match=r"price\.squeeze\(-1\)"):
        denoising()([np.ones((4, 5)), np.ones((4, 1))])
    layer = denoising()
    model = keras.Model([signal, features], layer([signal, keras.ops.squeeze(price, -1)]))
    assert model.output_shape == (None, 5)
    assert model.predict([np.ones((4, 5)), np.ones((4, 3))], verbose=0).shape == (4, 5)
    assert layer.compute_output_shape([(None, 5), (1,)]) == (None, 5)
    assert layer.compute_output_shape([(None, 5), ()]) == (None, 5)
    assert layer.compute_output_shape([(None, 5), (8,)]) == (8, 5)
    assert layer.compute_output_shape([(None, 7, 5), (None, 1)]) == (None, 7, 5)
    every = CvxpyLayer.from_config(denoising(broadcast=True).get_config())
    assert every.core.broadcast
    assert keras.Model([signal, features], every([signal, price])).output_shape == (None, None, 5)
    assert every([np.ones((4, 5)), np.ones((3, 1))]).shape == (3, 4, 5)


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = keras_layer("simplex_projection").compiled
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(EngineError, match="Keras runs on 'openvino'"):
        adapter(compiled)


def test_only_jax_compiles_the_layer() -> None:
    assert keras_layer("simplex_projection").supports_jit == (BACKEND == "jax")


def tampered(config: dict[str, Any], change: Any) -> dict[str, Any]:
    """A configuration whose problem has other arrays, or another header, and a digest that fits them."""
    arrays, header = mutations.take_apart(base64.b64decode(config["problem"]))
    change(arrays, header)
    return {**config, "problem": base64.b64encode(mutations.build(arrays, header)).decode()}


def far_away(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    arrays["q_indices"] = arrays["q_indices"] + 12345678


@pytest.mark.parametrize(
    "change",
    [
        lambda config: tampered(config, far_away),
        lambda config: tampered(config, lambda arrays, header: header.update(n=7)),
        lambda config: {**config, "problem": None},
        lambda config: {**config, "problem": "no base64"},
        lambda config: {**config, "problem": config["problem"][: len(config["problem"]) // 8 * 4]},
        lambda config: {name: value for name, value in config.items() if name != "problem"},
        lambda config: {**config, "weights": 3},
        lambda config: {**config, "weights": {"nobody": {"initializer": "zeros"}}},
        lambda config: {**config, "weights": {"price": {"initializer": {"class_name": "Nothing", "config": {}}}}},
        lambda config: {**config, "solver_args": [1]},
        lambda config: {**config, "on_failure": "ignore"},
        lambda config: {**config, "unknown": 1},
    ],
)
def test_a_configuration_that_was_tampered_with_is_refused(change: Any) -> None:
    config = denoising(weights={"price": 0.4}).get_config()
    assert CvxpyLayer.from_config(config).get_config() == config
    with pytest.raises(ArtefactError):
        CvxpyLayer.from_config(change(config))


def test_mutations_of_the_problem_in_a_configuration(rng: np.random.Generator) -> None:
    config = denoising().get_config()
    refused = 0
    for _ in range(60):
        kind = mutations.KINDS[rng.integers(len(mutations.KINDS))]
        mutated, words = mutations.mutate(base64.b64decode(config["problem"]), kind, rng)
        try:
            CvxpyLayer.from_config({**config, "problem": base64.b64encode(mutated).decode()})
        except ArtefactError:
            refused += 1
    assert refused > 20, words


def test_a_tampered_model_file_is_refused(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((5,)), denoising(weights={"price": 0.6})]).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    config = json.loads(members["config.json"])
    (entry,) = [layer for layer in config["config"]["layers"] if layer["class_name"] == "CvxpyLayer"]
    entry["config"] = tampered(entry["config"], far_away)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(ArtefactError, match="its array q_indices"):
        keras.models.load_model(tmp_path / "model.keras")


def test_a_configuration_runs_no_code_of_its_own() -> None:
    with pytest.warns(UserWarning, match="lambda"):
        code = keras.saving.serialize_keras_object(lambda shape, dtype=None: keras.ops.ones(shape))
    config = denoising(weights={"price": 0.6}).get_config()
    config["weights"]["price"]["initializer"] = code
    with pytest.raises(ArtefactError, match="lambda"):
        CvxpyLayer.from_config(config)
