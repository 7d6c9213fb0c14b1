"""A problem without parameters is solved again and again by one solver, without a word on stderr."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers


def test_repeated_calls_without_parameters_do_not_panic(capfd: pytest.CaptureFixture[str]) -> None:
    x = cp.Variable(2)
    layer = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5]))
    for _ in range(3):
        np.testing.assert_allclose(layer()[0], [0.5, 0.5], atol=1e-7)
    assert "panic" not in capfd.readouterr().err
