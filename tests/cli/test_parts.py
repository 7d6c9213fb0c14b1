"""The parts of the command line that are easier to test alone."""

from __future__ import annotations

from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.cli.finite_difference import FIRST_STEP, directional_derivative
from cvxlayers.cli.load import MisuseError, Target, parse_target, unique_names
from cvxlayers.cli.memory import estimate
from cvxlayers.cli.sampling import allowed_direction, sample_value
from cvxlayers.cli.sources import CONSTANT, SEVERAL, sources
from cvxlayers.compiler.parameters import parameter_spec
from cvxlayers.layer import checks


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("model.py", "model.py", None),
        ("model.py:problem", "model.py", "problem"),
        ("folder/model.py:problem", "folder/model.py", "problem"),
        ("C:\\x.py", "C:\\x.py", None),
        ("C:\\x.py:name", "C:\\x.py", "name"),
        ("C:/x.py", "C:/x.py", None),
        ("C:/x.py:name", "C:/x.py", "name"),
        ("a:b/model.py", "a:b/model.py", None),
    ],
)
def test_targets(text: str, path: str, name: str | None) -> None:
    assert parse_target(text) == Target(Path(path), name)


@pytest.mark.parametrize("text", ["model.py:", "model.py:1", "model.py:a b"])
def test_targets_with_a_bad_name(text: str) -> None:
    with pytest.raises(MisuseError, match="a Python name was expected"):
        parse_target(text)


def test_an_existing_file_with_a_colon_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "model.py:problem"
    odd.touch()
    assert parse_target(str(odd)) == Target(odd)


def test_unique_names_never_collide() -> None:
    assert unique_names(["a", "a", "a_2", "a"], taken=["b"]) == ["a", "a_3", "a_2", "a_4"]
    assert unique_names(["status"], taken=["status"]) == ["status_2"]


PARAMETERS = {
    "plain": cp.Parameter((2, 3)),
    "scalar": cp.Parameter(),
    "pos": cp.Parameter(4, pos=True),
    "nonneg": cp.Parameter(4, nonneg=True),
    "neg": cp.Parameter(4, neg=True),
    "nonpos": cp.Parameter(4, nonpos=True),
    "PSD": cp.Parameter((3, 3), PSD=True),
    "NSD": cp.Parameter((3, 3), NSD=True),
    "symmetric": cp.Parameter((3, 3), symmetric=True),
    "hermitian": cp.Parameter((3, 3), hermitian=True),
    "complex": cp.Parameter(3, complex=True),
    "imag": cp.Parameter(3, imag=True),
    "diag": cp.Parameter((3, 3), diag=True),
    "boolean": cp.Parameter(5, boolean=True),
    "integer": cp.Parameter(5, integer=True),
    "bounds": cp.Parameter(4, bounds=[-1, np.array([1.0, 2.0, np.inf, 3.0])]),
    "sparsity": cp.Parameter((3, 3), sparsity=[(0, 1), (2, 0)]),
}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_samples_have_the_attributes_and_directions_keep_them(kind: str) -> None:
    parameter, random = PARAMETERS[kind], np.random.default_rng(0)
    specs = [parameter_spec(parameter)]
    for _ in range(5):
        value = sample_value(parameter, False, random)
        assert value.shape == parameter.shape
        checks.check_attributes([np.asarray(value)], specs)
        direction = allowed_direction(parameter, value, False, FIRST_STEP, random)
        assert direction.shape == value.shape and direction.any()
        if kind not in ("boolean", "integer"):
            for step in (FIRST_STEP, -FIRST_STEP):
                checks.check_attributes([np.asarray(value + step * direction)], specs)


def test_directions_stay_on_the_boundary_that_a_value_lies_on() -> None:
    random = np.random.default_rng(0)
    direction = allowed_direction(PARAMETERS["nonneg"], np.array([0.0, 1.0, 0.0, 2.0]), False, FIRST_STEP, random)
    assert direction[0] == direction[2] == 0 and direction[1] != 0
    v = np.array([1.0, 2.0, -1.0])
    direction = allowed_direction(PARAMETERS["PSD"], np.outer(v, v), False, FIRST_STEP, random)
    np.testing.assert_allclose(direction, np.outer(v, v) * direction[0, 0], atol=1e-12)
    assert not allowed_direction(PARAMETERS["nonneg"], np.zeros(4), False, FIRST_STEP, random).any()


def test_finite_differences_settle_on_smooth_functions_only() -> None:
    smooth = directional_derivative(lambda t: np.stack([np.exp(t), np.sin(2 * t)], axis=1), 1.0)
    assert smooth.settled
    np.testing.assert_allclose(smooth.value, [1.0, 2.0], rtol=1e-8)
    noise = np.random.default_rng(0)
    rough = directional_derivative(lambda t: np.stack([t + 1e-3 * noise.standard_normal(t.size)], axis=1), 1.0)
    assert not rough.settled
    nearby = directional_derivative(lambda t: np.stack([np.maximum(3 * t, t - 2e-3)], axis=1), 1.0)
    assert nearby.settled
    np.testing.assert_allclose(nearby.value, [3.0], rtol=1e-8)
    gone = directional_derivative(lambda t: np.full((t.size, 1), np.nan), 1.0)
    assert not gone.settled


def test_entries_know_their_parameter() -> None:
    x, a, b = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x)), [a @ x <= b + a[0], x >= 1]), [a, b])
    found = sources(compiled)
    assert found["P"].source.tolist() == [CONSTANT] * 2
    assert sorted(found["A"].source.tolist()) == [CONSTANT, CONSTANT, 0, 0]
    assert sorted(found["b"].source.tolist()) == [SEVERAL, CONSTANT, CONSTANT]
    assert found["q"].rows.size == 0


def test_memory_counts_the_factor_of_a_dense_problem() -> None:
    n = 6
    x, A = cp.Variable(n), cp.Parameter((n, n))
    compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum(x)), [A @ x >= 1]))
    memory = estimate(compiled)
    assert memory.values == 8 * (n + n * n + n) and memory.solution == 8 * 3 * n
    # Eliminating one diagonal block fills the other: L has both triangles with their diagonals, and the square between.
    assert memory.factorization == 12 * (n + n * n + n * (n + 1) // 2)


def test_memory_of_a_problem_without_constraints() -> None:
    x, c = cp.Variable(3), cp.Parameter(3)
    assert estimate(cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x) + c @ x)))).factorization == 12 * 3
