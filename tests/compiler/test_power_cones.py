"""N-dimensional power cones: the exponents, the axis, several of different dimensions, and the engines."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import CompileError, EngineError
from cvxlayers.layer.layer import Layer
from tests.support.tolerance import assert_close

SHARES = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
PRICES = np.array([2.0, 1.0, 0.5])


def richest(W: cp.Variable, z: cp.Variable, axis: int) -> tuple[cp.Problem, cp.Constraint]:
    """The largest sum of geometric means, each on a budget of one."""
    cone = cp.PowConeND(W, z, SHARES.T if axis == 0 else SHARES, axis=axis)
    spent = PRICES @ W if axis == 0 else W @ PRICES
    return cp.Problem(cp.Maximize(cp.sum(z)), [cone, spent <= 1]), cone


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("engine", ["CLARABEL", "IPM", "SCS"])
def test_cones_in_columns_and_in_rows(axis: int, engine: str) -> None:
    W, z = cp.Variable((3, 2) if axis == 0 else (2, 3)), cp.Variable(2)
    problem, cone = richest(W, z, axis)
    layer = Layer.from_problem(problem, [], [W, z, *cone.dual_variables], solver=engine)
    assert layer.compiled.structure.cones.power_nd == tuple(map(tuple, SHARES.tolist()))
    found, value, price, dual = layer()
    expected, means = SHARES / PRICES, ((SHARES / PRICES) ** SHARES).prod(axis=1)
    assert_close(found if axis == 1 else found.T, expected, 1e-8, "W")
    assert_close(value, means, 1e-8, "z")
    assert_close(price if axis == 1 else price.T, PRICES * means[:, None], 1e-7, "the dual of W")
    assert_close(dual, -np.ones(2), 1e-7, "the dual of z")


def test_exponents_add_up_to_one() -> None:
    x, z = cp.Variable(3), cp.Variable()
    cone = cp.PowConeND(x, z, np.array([0.1, 0.2, 0.7 + 5e-7]))  # CVXPY looks at the sum up to 1e-6
    made = cvxlayers.compile(cp.Problem(cp.Maximize(z), [cone, x <= 1]), [])
    (alpha,) = made.structure.cones.power_nd
    assert abs(sum(alpha) - 1.0) <= 1e-15


def test_several_of_different_dimensions() -> None:
    """CVXPY 1.9.3 cannot list them, and raises a ValueError."""
    x, y, t = cp.Variable(3), cp.Variable(4), cp.Variable(2)
    cones = [cp.PowConeND(x, t[0], np.ones(3) / 3), cp.PowConeND(y, t[1], np.ones(4) / 4)]
    problem = cp.Problem(cp.Maximize(cp.sum(t)), [*cones, x <= 1, y <= 2])
    assert_close(Layer.from_problem(problem, [], [t])()[0], np.array([1.0, 2.0]), 1e-8, "the means")


def test_their_dual_variables_are_refused() -> None:
    """They do not stand in y as one block of rows; those of other constraints do."""
    x, y, t, c = cp.Variable(3), cp.Variable(4), cp.Variable(2), cp.Parameter(3)
    cones = [cp.PowConeND(x, t[0], np.ones(3) / 3), cp.PowConeND(y, t[1], np.ones(4) / 4)]
    bound = x <= c
    problem = cp.Problem(cp.Maximize(cp.sum(t)), [*cones, bound, y <= 2])
    for cone in cones:
        for dual in cone.dual_variables:
            with pytest.raises(CompileError, match="beside power cones of other dimensions"):
                cvxlayers.compile(problem, [c], [x, dual])
    (price,) = Layer.from_problem(problem, [c], [bound.dual_variables[0]])(np.ones(3))
    assert_close(price, np.ones(3) / 3, 1e-7, "the dual of the bound")


@pytest.mark.parametrize("engine", ["ECOS", "DIFFCP"])
def test_engines_without_power_cones_say_so(engine: str) -> None:
    W, z = cp.Variable((3, 2)), cp.Variable(2)
    with pytest.raises(EngineError, match="power_nd"):
        Layer.from_problem(richest(W, z, 0)[0], [], [W], solver=engine)()


def test_no_point_and_no_end() -> None:
    x, z, c = cp.Variable(3), cp.Variable(), cp.Parameter()
    cone = cp.PowConeND(x, z, np.array([0.2, 0.3, 0.5]))
    layer = Layer.from_problem(cp.Problem(cp.Maximize(z), [cone, x <= c, z >= 0.5]), [c], [z], on_failure="nan")
    record = layer.solve([np.array([1.0, 0.2, 3.0])])
    assert record.info.statuses.tolist() == ["optimal", "infeasible", "optimal"]
    assert_close(record.outputs[0][[0, 2]], np.array([1.0, 3.0]), 1e-8, "z")
    endless = Layer.from_problem(cp.Problem(cp.Maximize(z), [cone, x[:2] <= c]), [c], [z], on_failure="nan")
    assert endless.solve([np.array([1.0])]).info.statuses.tolist() == ["unbounded"]


def test_saved_and_loaded(tmp_path) -> None:
    W, z = cp.Variable((3, 2)), cp.Variable(2)
    made = cvxlayers.compile(richest(W, z, 0)[0], [], [W])
    made.save(tmp_path / "means.cvxl")
    assert cvxlayers.load(tmp_path / "means.cvxl").structure.cones == made.structure.cones
