"""The compiled projections onto exponential and power cones beside those by array operations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cvxlayers.cones import exponential, power, projection
from cvxlayers.cones.kernels.entry import CompiledCone, compiled_cone
from tests.cones.cases import SINGLE, points, sharp_points
from tests.cones.test_projection import EXTREMES

EPS = np.finfo(float).eps
CASES: dict[str, tuple[str, ModuleType, float | None]] = {
    "exponential": ("exponential", exponential, None),
    **{f"power_{alpha}": ("power", power, alpha) for alpha in (0.02, 0.3, 0.5, 0.9)},
}
every_case = pytest.mark.parametrize(("kind", "module", "alpha"), CASES.values(), ids=CASES.keys())


def extremes() -> np.ndarray:
    """Numbers from 1e-300 to 1e300 in every combination of sizes and signs."""
    signed = [sign * value for value in EXTREMES if value != 1e-320 for sign in (1.0, -1.0)]
    return np.array(np.meshgrid(*[signed] * 3)).reshape(3, -1)


def along_normals(rng: np.random.Generator) -> np.ndarray:
    """Points of the exponential cone's boundary moved along their normals, from flat places to steep ones."""
    r, a, b = rng.uniform(-30, 30, 3000), 10.0 ** rng.uniform(-6, 6, 3000), 10.0 ** rng.uniform(-6, 6, 3000)
    return a * np.stack([r, np.ones_like(r), np.exp(r)]) + b * np.stack([np.ones_like(r), 1 - r, -np.exp(-r)])


def samples(where: str, rng: np.random.Generator) -> np.ndarray:
    cones = SINGLE["exponential"]
    return {
        "anywhere": points(cones, 3000),
        "sharp": sharp_points(cones),
        "extremes": extremes(),
        "normals": along_normals(rng),
        "boundary": exponential.project(points(cones, 3000)),
        "dual boundary": exponential.project_dual(points(cones, 3000)),
    }[where]


def exponents(alpha: float | None, z: np.ndarray) -> tuple[np.ndarray, ...]:
    return () if alpha is None else (np.full(z.shape[1], alpha),)


def both(kind: str, module: ModuleType, name: str, *arguments: np.ndarray) -> tuple[Any, Any]:
    return getattr(compiled_cone(kind), name)(*arguments), getattr(module, name)(*arguments)


@every_case
@pytest.mark.parametrize("where", ["anywhere", "sharp", "extremes", "normals", "boundary", "dual boundary"])
def test_the_same_projections(
    kind: str, module: ModuleType, alpha: float | None, where: str, rng: np.random.Generator
) -> None:
    z = samples(where, rng)
    size = np.maximum(np.abs(z).max(axis=0), 1e-290)
    for name in ("project", "project_dual", "distance", "dual_distance"):
        found, expected = both(kind, module, name, z, *exponents(alpha, z))
        assert (np.abs(found - expected) / size).max() <= 8 * EPS, name


@every_case
@pytest.mark.parametrize("where", ["anywhere", "sharp", "extremes", "normals", "boundary", "dual boundary"])
def test_the_same_derivatives(
    kind: str, module: ModuleType, alpha: float | None, where: str, rng: np.random.Generator
) -> None:
    z = samples(where, rng)
    size = np.maximum(np.abs(z).max(axis=0), 1e-290)
    found, expected = both(kind, module, "linearize_dual", z, *exponents(alpha, z))
    assert np.abs(found.dense() - expected.dense()).max() <= 16 * EPS
    assert (np.abs(found.gap - expected.gap) / size).max() <= 16 * EPS
    identity = np.einsum("ijl,ikl->jkl", found.Q, found.Q)
    assert np.abs(identity - np.eye(3)[:, :, None]).max() <= 8 * EPS
    assert ((found.eigenvalues >= 0) & (found.eigenvalues <= 1)).all()


@every_case
def test_a_lane_that_is_not_finite_is_lost_alone(kind: str, module: ModuleType, alpha: float | None) -> None:
    z = points(SINGLE["exponential"], 9)
    broken = z.copy()
    broken[0, 2], broken[1, 4], broken[2, 6] = np.nan, np.inf, -np.inf
    good = np.array([0, 1, 3, 5, 7, 8])
    cone, more = compiled_cone(kind), exponents(alpha, z)
    for name in ("project", "project_dual", "distance", "dual_distance"):
        found = np.atleast_2d(getattr(cone, name)(broken, *more))
        assert np.isnan(found[:, [2, 4, 6]]).all()
        np.testing.assert_array_equal(found[:, good], np.atleast_2d(getattr(cone, name)(z, *more))[:, good])
    found, whole = cone.linearize_dual(broken, *more), cone.linearize_dual(z, *more)
    assert np.isnan(found.dense()[..., [2, 4, 6]]).all()
    assert np.isnan(found.gap[[2, 4, 6]]).all()
    np.testing.assert_array_equal(found.dense()[..., good], whole.dense()[..., good])


@every_case
def test_no_lanes_and_lanes_that_do_not_lie_side_by_side(kind: str, module: ModuleType, alpha: float | None) -> None:
    none, cone = np.zeros((3, 0)), compiled_cone(kind)
    assert cone.project(none, *exponents(alpha, none)).shape == (3, 0)
    assert cone.linearize_dual(none, *exponents(alpha, none)).dense().shape == (3, 3, 0)
    z = points(SINGLE["exponential"], 20)
    expected = cone.project(z[:, ::2], *exponents(alpha, z[:, ::2]))
    np.testing.assert_array_equal(cone.project(np.ascontiguousarray(z[:, ::2]), *exponents(alpha, expected)), expected)
    z.setflags(write=False)
    cone.project(z, *exponents(alpha, z))


def test_without_numba_the_array_operations_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(projection._cone("exponential"), CompiledCone)
    projection._cone.cache_clear()
    monkeypatch.setattr(projection.jit, "usable", lambda: False)
    try:
        assert projection._cone("exponential") is exponential
        assert projection._cone("power") is power
    finally:
        projection._cone.cache_clear()
