"""Newton's steps from a solver's point: what they reach where parts of an objective lie far apart."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from tests.support.kernels import needs_kernels
from tests.support.tolerance import assert_close


@needs_kernels
@pytest.mark.parametrize("weight", [1.0, 1e-3, 1e-5, 1e-6, 1e-7])
def test_small_multipliers_are_as_sharp_beside_an_objective_that_outweighs_them(weight: float) -> None:
    """min weight (exp a - c a) + (z - d)^2 is at a = log c, with da/dc = 1 / c, whatever the weight: the s of the cone
    outweighs its y as the second term does the first."""
    a, z, c, d = cp.Variable(), cp.Variable(), cp.Parameter(pos=True), cp.Parameter()
    problem = cp.Problem(cp.Minimize(weight * (cp.exp(a) - c * a) + cp.square(z - d)))
    layer = cvxlayers.Layer(cvxlayers.compile(problem, [c, d], [a, z]), "IPM")
    given = np.array([0.4, 1.3, 6.0, 15.0])
    record = layer.solve([given, np.array([1.0, -2.0, 2.5, 0.1])])
    gradient = record.vjp([np.ones(4), np.zeros(4)])[0]
    assert record.info.statuses.tolist() == ["optimal"] * 4
    assert_close(record.outputs[0], np.log(given), 1e-8, "a")
    assert_close(gradient * given, np.ones(4), 2e-6, "da/dc in its own units")
