"""Values at the door: each attribute, each way of breaking it, named with the parameter and the batch element."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers


def layer_of(parameter: cp.Parameter, **options: Any) -> cvxlayers.Layer:
    x = cp.Variable(parameter.shape, complex=parameter.is_complex())
    return cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - parameter))), **options)


GOOD = np.array([[2.0, 1.0], [1.0, 3.0]])
CASES: list[tuple[dict[str, Any], np.ndarray, np.ndarray, str]] = [
    ({"nonneg": True}, GOOD, -GOOD, "nonneg"),
    ({"nonpos": True}, -GOOD, GOOD, "nonpos"),
    ({"pos": True}, GOOD, 0 * GOOD, "pos"),
    ({"neg": True}, -GOOD, 0 * GOOD, "neg"),
    ({"symmetric": True}, GOOD, np.triu(GOOD), "symmetric"),
    ({"PSD": True}, GOOD, -GOOD, "PSD"),
    ({"PSD": True}, GOOD, np.triu(GOOD), "PSD"),
    ({"NSD": True}, -GOOD, GOOD, "NSD"),
    ({"diag": True}, np.diag([1.0, 2.0]), GOOD, "diag"),
    ({"boolean": True}, np.eye(2), GOOD, "boolean"),
    ({"integer": True}, GOOD, GOOD / 2, "integer"),
    ({"bounds": [0, 3]}, GOOD, 2 * GOOD, "bounds"),
    ({"bounds": [None, np.array([[2.0, 1.0], [1.0, 3.0]])]}, GOOD, GOOD + np.array([[0, 0.1], [0, 0]]), "bounds"),
    ({"sparsity": [(0, 1), (1, 1)]}, np.array([[0, 1.0], [0, 2.0]]), GOOD, "sparsity"),
    ({"hermitian": True}, GOOD + 1j * np.array([[0, 1], [-1, 0]]), GOOD + 1j, "hermitian"),
    ({"imag": True}, 1j * GOOD, GOOD + 1j, "imag"),
    ({"PSD": True}, np.diag([4.0, 1e-9]), np.diag([4.0, -3e-7]), "PSD"),
    ({"PSD": True}, np.ones((2, 2)), np.array([[1.0, 0.2], [0.2, 0.0]]), "PSD"),
    ({"NSD": True}, np.diag([-4.0, 0.0]), np.diag([-4.0, 3e-7]), "NSD"),
    ({"symmetric": True}, np.diag([1e8, 0.0]), np.array([[1e8, 0.0], [1.0, 0.0]]), "symmetric"),
    ({"bounds": [0, 1e8]}, 1e7 * GOOD, np.array([[-9.0, 1e8], [0.0, 1.0]]), "bounds"),
]


@pytest.mark.parametrize(("attribute", "good", "bad", "word"), CASES, ids=[f"{c[3]}-{i}" for i, c in enumerate(CASES)])
def test_a_value_that_breaks_an_attribute_is_refused(
    attribute: dict[str, Any], good: np.ndarray, bad: np.ndarray, word: str
) -> None:
    layer = layer_of(cp.Parameter((2, 2), name="W", **attribute))
    (solution,) = layer(np.stack([good, good]))
    np.testing.assert_allclose(solution, np.stack([good, good]), atol=1e-7)
    with pytest.raises(cvxlayers.ParameterError, match=rf"'W'.*{word}.*element \(1,\)"):
        layer(np.stack([good, bad]))


@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
@pytest.mark.parametrize(("attribute", "good", "bad", "word"), CASES, ids=[f"{c[3]}-{i}" for i, c in enumerate(CASES)])
def test_a_value_that_breaks_an_attribute_fails_alone(
    attribute: dict[str, Any], good: np.ndarray, bad: np.ndarray, word: str, on_failure: str
) -> None:
    layer = layer_of(cp.Parameter((2, 2), name="W", **attribute), on_failure=on_failure)
    batch = np.stack([good, bad, good])
    batch = np.concatenate([batch, np.where(np.eye(2), np.nan, batch[:1])])  # and one with NaN beside it
    record = layer.solve([batch.reshape(2, 2, 2, 2)])
    assert record.info.statuses.tolist() == ["optimal", "failed", "optimal", "failed"]
    assert record.info.engines.tolist()[1] == ""
    (solution,) = (output.reshape(4, 2, 2) for output in record.outputs)
    np.testing.assert_allclose(solution[[0, 2]], batch[[0, 2]], atol=1e-7)
    expected = np.nan if on_failure == "nan" else 0.0
    np.testing.assert_array_equal(solution[[1, 3]], np.full((2, 2, 2), expected))
    (gradient,) = record.vjp([np.ones((2, 2, 2, 2))])
    np.testing.assert_array_equal(gradient.reshape(4, 2, 2)[[1, 3]], np.full((2, 2, 2), expected))
    assert np.isfinite(gradient.reshape(4, 2, 2)[[0, 2]]).all()
    again = layer.restore([batch.reshape(2, 2, 2, 2)], record.point)
    np.testing.assert_allclose(again.vjp([np.ones((2, 2, 2, 2))])[0], gradient, atol=1e-9)


@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_a_shared_value_that_breaks_an_attribute_fails_every_element(on_failure: str) -> None:
    x, c, w = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) + w * cp.norm1(x)))
    layer = cvxlayers.Layer.from_problem(problem, [c, w], on_failure=on_failure)
    record = layer.solve([np.ones((3, 2)), -0.25])
    assert record.info.statuses.tolist() == ["failed"] * 3
    for gradient, shape in zip(record.vjp([np.ones((3, 2))]), [(3, 2), ()], strict=True):
        assert gradient.shape == shape
        np.testing.assert_array_equal(gradient, np.full(shape, np.nan if on_failure == "nan" else 0.0))


def test_unchecked_values_are_solved_whatever_the_policy() -> None:
    layer = layer_of(cp.Parameter((2, 2), nonneg=True), check_parameters=False, on_failure="nan")
    np.testing.assert_allclose(layer(np.stack([GOOD, -GOOD]))[0], np.stack([GOOD, -GOOD]), atol=1e-7)


def test_the_check_can_be_switched_off() -> None:
    layer = layer_of(cp.Parameter((2, 2), nonneg=True), check_parameters=False)
    np.testing.assert_allclose(layer(-GOOD)[0], -GOOD, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_named(value: float) -> None:
    layer = layer_of(cp.Parameter((2, 2), name="W"))
    batch = np.stack([GOOD, GOOD, GOOD])
    batch[2, 0, 1] = value
    with pytest.raises(cvxlayers.ParameterError, match=r"'W'.*NaN or infinite.*\(2,\)"):
        layer(batch)
    np.testing.assert_array_equal(batch[0], GOOD)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_entry_leaves_the_other_elements_alone(value: float) -> None:
    parameter = cp.Parameter((2, 2), name="W", PSD=True)
    batch = np.stack([GOOD, GOOD, 2 * GOOD])
    batch[1, 0, 1] = value
    layer = layer_of(parameter, on_failure="nan")
    record = layer.solve([batch])
    (solution,) = record.outputs
    assert np.isnan(solution[1]).all()
    np.testing.assert_allclose(solution[[0, 2]], batch[[0, 2]], atol=1e-7)
    assert record.info.statuses.tolist() == ["optimal", "failed", "optimal"]
    (gradient,) = record.vjp([np.where(np.isnan(solution), 0.0, 1.0)])
    np.testing.assert_allclose(
        gradient, np.broadcast_to(np.array([1.0, 0.0, 1.0])[:, None, None], (3, 2, 2)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([np.zeros((2, 2))], "got 1 values, expected 2"),
        ([np.zeros((2, 2)), np.zeros(3)], r"'b'.*\(3,\).*\(2,\)"),
        ([np.zeros((4, 2, 2)), np.zeros((3, 2))], r"do not broadcast.*'A' has \(4,\).*'b' has \(3,\)"),
        ([np.zeros((2, 2), dtype=complex), np.zeros(2)], "'A'.*real"),
        ([np.zeros((2, 2)), "ab"], "'b'"),
    ],
)
def test_wrong_shapes_and_types_are_named(values: list[Any], words: str) -> None:
    x, A, b = cp.Variable(2), cp.Parameter((2, 2), name="A"), cp.Parameter(2, name="b")
    layer = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + cp.sum_squares(x))), [A, b])
    with pytest.raises(cvxlayers.ParameterError, match=words):
        layer(*values)


def test_a_log_log_convex_program_takes_positive_values_only() -> None:
    x, a = cp.Variable(pos=True), cp.Parameter(pos=True, name="a")
    layer = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(x), [x >= a]), gp=True, check_parameters=False)
    with pytest.raises(cvxlayers.ParameterError, match=r"'a'.*positive"):
        layer([1.0, -1.0])


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_what_has_no_logarithm_fails_alone(on_failure: str, checked: bool) -> None:
    """min x + 9 a / x has the solution 3 sqrt(a)."""
    x, a, b = cp.Variable(pos=True), cp.Parameter(pos=True), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(x + b * a / x))
    layer = cvxlayers.Layer.from_problem(problem, [a, b], gp=True, on_failure=on_failure, check_parameters=checked)
    values = np.array([4.0, -0.5, 0.25, 0.0, np.nan, np.inf])
    good = [0, 2]
    record = layer.solve([values, 9.0])
    assert record.info.statuses.tolist() == ["optimal", "failed", "optimal", "failed", "failed", "failed"]
    (solution,) = record.outputs
    np.testing.assert_allclose(solution[good], [6.0, 1.5], rtol=1e-8)
    bad = np.delete(solution, good)
    assert np.isnan(bad).all() if on_failure == "nan" else (bad == 1.0).all()
    to_a, to_b = record.vjp([np.ones(6)])
    np.testing.assert_allclose(to_a[good], [0.75, 3.0], rtol=1e-8)
    np.testing.assert_array_equal(np.delete(to_a, good), np.full(4, np.nan if on_failure == "nan" else 0.0))
    if on_failure == "nan":
        assert np.isnan(to_b)
        to_a, to_b = record.vjp([np.isfinite(solution).astype(float)])
        np.testing.assert_array_equal(np.delete(to_a, good), np.zeros(4))
    np.testing.assert_allclose(to_b, 7.5 / 18, rtol=1e-8)
    (tangent,) = record.jvp([np.ones(6), None])
    np.testing.assert_allclose(tangent[good], [0.75, 3.0], rtol=1e-8)
    again = layer.restore([values, 9.0], record.point)
    np.testing.assert_allclose(again.vjp([np.ones(6)])[0], record.vjp([np.ones(6)])[0], rtol=1e-9)
