"""One kernel from the parameters to the outputs, and one back: the same numbers as step by step."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.ipm import IPM

CURVED = [False, True]


def problem(curved: bool) -> CompiledProblem:
    """Parameters in all of P, q, A and b, a dual variable among the outputs, and in the curved case further cones."""
    x, root = cp.Variable(3), cp.Parameter((3, 3))
    A, b, c = cp.Parameter((2, 3)), cp.Parameter(2), cp.Parameter(3)
    meets = A @ x <= b
    objective = cp.sum_squares(root @ x) + c @ x + (cp.sum(cp.exp(x)) if curved else cp.norm(x))
    program = cp.Problem(cp.Minimize(objective), [meets, x >= -1])
    return cvxlayers.compile(program, [root, A, b, c], [x, meets.dual_variables[0]])


def parameters(batch: int, shared: bool) -> list[np.ndarray]:
    """Of which A is the same for all elements, or not."""
    rng = np.random.default_rng(5)
    A = rng.normal(size=(2, 3)) if shared else rng.normal(size=(batch, 2, 3))
    root = np.eye(3) + 0.2 * rng.normal(size=(batch, 3, 3))
    return [root, A, rng.uniform(0.2, 1.0, size=(batch, 2)), rng.normal(size=(batch, 3))]


@pytest.mark.parametrize("curved", CURVED)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 8, 19])
def test_there_and_back_as_step_by_step(batch: int, shared: bool, curved: bool) -> None:
    compiled = problem(curved)
    packed = packing.pack(compiled, parameters(batch, shared))
    values, solution, rows = IPM(compiled.structure, Settings()).solve_from_parameters(
        compiled, packed.theta, packed.shared
    )
    expected = compiled.evaluate(packed.theta, packed.shared)
    for name in ("P", "q", "A", "b"):
        np.testing.assert_allclose(getattr(values, name), getattr(expected, name), rtol=1e-14, atol=1e-14)
    solved = Layer(compiled, "IPM").solve(parameters(batch, shared)).solution
    assert solved.whole
    assert solved.residuals is not None
    assert solved.residuals.within(1e-10)
    np.testing.assert_allclose(rows, compiled.recover(solution.x, solution.y), rtol=1e-13, atol=1e-13)

    linearization = ExactDerivative(compiled.structure).linearize(values, solution)
    drows = np.random.default_rng(6).normal(size=rows.shape)
    pulled = linearization.pull(compiled, drows)
    steps = compiled.pullback(linearization.vjp(*compiled.recover_adjoint(drows)))
    assert np.abs(steps).max() > 1e-2
    for part, expected_part in zip(pulled, compiled.by_feature(steps), strict=True):
        np.testing.assert_allclose(part, expected_part, rtol=1e-9, atol=1e-9)
