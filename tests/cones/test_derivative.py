"""D against finite differences, its spectrum, its values at kinks, diffcp's D, and the margin that warns of kinks."""

from __future__ import annotations

import numpy as np
import pytest
from diffcp import _diffcp
from diffcp import cones as diffcp_cones

from cvxlayers.cones import (
    Cones,
    dual_derivative,
    from_scs_order,
    power,
    project,
    project_dual,
    to_scs_order,
)
from tests.cones.cases import CURVED, SINGLE, margin, outside, outside_dual, points, sharp_points
from tests.support.tolerance import assert_close

every_cone = pytest.mark.parametrize("cones", SINGLE.values(), ids=SINGLE.keys())
every_curved_cone = pytest.mark.parametrize("cones", CURVED.values(), ids=CURVED.keys())


def dense(cones: Cones, v: np.ndarray) -> np.ndarray:
    """D as (m, m, B)."""
    D = dual_derivative(cones, v)
    full = np.zeros((cones.m, cones.m, v.shape[1]))
    full[np.arange(cones.m), np.arange(cones.m)] = D.diagonal
    for rows, blocks in D.blocks:
        for cone, place in enumerate(rows):
            full[np.ix_(place, place)] += blocks[:, :, cone]
    return full


def richardson(cones: Cones, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite differences of Proj_{K*}, (m, m, B), and how far the best two estimates of each lane disagree, (B,)."""
    columns, gaps = [], []
    for direction in np.eye(cones.m):
        step = direction[:, None] * np.abs(v).max(axis=0)
        sizes = 2.0 ** -np.arange(5, 14)
        central = np.stack(
            [(project_dual(cones, v + h * step) - project_dual(cones, v - h * step)) / (2 * h) for h in sizes]
        )
        better = (4 * central[1:] - central[:-1]) / 3
        best = (16 * better[1:] - better[:-1]) / 15
        gap = np.abs(np.diff(best, axis=0)).max(axis=1)
        choice, lanes = gap.argmin(axis=0), np.arange(v.shape[1])
        columns.append((best[choice, :, lanes] / step.max(axis=0)[:, None]).T)
        gaps.append(gap[choice, lanes] / step.max(axis=0))
    return np.stack(columns, axis=1), np.max(gaps, axis=0)


@every_cone
def test_agrees_with_finite_differences(cones: Cones) -> None:
    v = points(cones, 400)
    v = v[:, margin(cones, v) > 0.02]
    assert v.shape[1] > 150
    D, gap = richardson(cones, v)
    trusted = gap < 1e-8
    assert trusted.mean() > 0.8
    assert_close(dense(cones, v)[:, :, trusted], D[:, :, trusted], 3e-8, "D")


@every_cone
@pytest.mark.parametrize("place", ["anywhere", "sharp"])
def test_symmetric_with_spectrum_in_the_unit_interval(cones: Cones, place: str) -> None:
    v = points(cones, 500) if place == "anywhere" else sharp_points(cones)
    D = dense(cones, v)
    assert_close(D, D.swapaxes(0, 1), 0.0, "symmetry")
    values = np.linalg.eigvalsh(np.moveaxis(D, -1, 0))
    assert values.min() >= -1e-14
    assert values.max() <= 1 + 1e-14


@every_curved_cone
def test_identity_inside_the_dual_and_zero_inside_the_polar(cones: Cones) -> None:
    v = points(cones, 1000)
    inside, polar = outside_dual(cones, v) < -1e-9, outside(cones, -v) < -1e-9
    assert inside.any()
    assert polar.any()
    identity = np.broadcast_to(np.eye(cones.m)[:, :, None], (cones.m, cones.m, inside.sum()))
    assert_close(dense(cones, v[:, inside]), identity, 1e-14, "I")
    assert_close(dense(cones, v[:, polar]), np.zeros((cones.m, cones.m, polar.sum())), 1e-14, "0")


@every_curved_cone
def test_projection_is_D_times_v(cones: Cones) -> None:
    # The projection is positively homogeneous, so that Euler's theorem gives D v = Proj_{K*}(v) wherever D exists.
    for v in (points(cones, 1000), sharp_points(cones)):
        size = np.maximum(np.abs(v).max(axis=0), 1e-300)
        assert_close(dual_derivative(cones, v).matvec(v) / size, project_dual(cones, v) / size, 1e-14, "D v")


@every_cone
def test_matvec_is_the_blocks_and_is_its_own_transpose(cones: Cones) -> None:
    v, w, u = points(cones, 100, 0), points(cones, 100, 1), points(cones, 100, 2)
    D = dual_derivative(cones, v)
    assert_close(D.matvec(w), np.einsum("ijb,jb->ib", dense(cones, v), w), 1e-14, "D w")
    forward = np.einsum("ib,ib->b", u, D.matvec(w))
    assert_close(forward, np.einsum("ib,ib->b", D.matvec(u), w), 1e-13, "<u, D w> and <D u, w>")


@pytest.mark.parametrize(
    "name", ["nonneg", "second_order_2", "second_order_5", "psd_1", "psd_2", "psd_4", "exponential"]
)
def test_agrees_with_diffcp(name: str) -> None:
    cones = SINGLE[name]
    names = {"nonneg": "l", "second_order": "q", "psd": "s", "exponential": "ep"}
    block = cones.blocks[0]
    size = 1 if block.kind == "exponential" else int(block.data)
    parsed = diffcp_cones.parse_cone_dict(
        {names[block.kind]: size if block.kind in ("nonneg", "exponential") else [size]}
    )
    v, w = points(cones, 100), points(cones, 100, seed=1)
    chosen = margin(cones, v) > 0.02
    v, w = v[:, chosen], w[:, chosen]
    there, back = to_scs_order(cones), from_scs_order(cones)
    expected = np.empty_like(v)
    for lane in range(v.shape[1]):
        operator = _diffcp.dprojection(v[there, lane], diffcp_cones.parse_cone_dict_cpp(parsed), True)
        expected[:, lane] = operator.matvec(w[there, lane])[back]
    # diffcp stops its own search for the projection onto the exponential cone before rounding does.
    tolerance = 1e-6 if name == "exponential" else 1e-12
    assert_close(dual_derivative(cones, v).matvec(w), expected, tolerance, "diffcp's D w")


def test_psd_with_repeated_eigenvalues_of_both_signs() -> None:
    # At diag(2, 2, -1, -1) the weight between the two pairs is 2 / (2 + 1), inside them 1 and 0.
    cones = Cones(psd=(4,))
    v = np.zeros((10, 1))
    v[[0, 2, 5, 9], 0] = [2.0, 2.0, -1.0, -1.0]
    between = 2.0 / 3.0
    weights = [1.0, 1.0, 1.0, between, between, 0.0, between, between, 0.0, 0.0]
    assert_close(dense(cones, v)[:, :, 0], np.diag(weights), 1e-15, "D")


def test_documented_choices_at_kinks() -> None:
    for cones in (Cones(nonneg=3), *CURVED.values()):
        assert_close(dense(cones, np.zeros((cones.m, 1)))[:, :, 0], 0.5 * np.eye(cones.m), 1e-15, f"{cones} at 0")
    soc = Cones(second_order=(3,))
    v = np.array([[5.0, 3.0, 4.0], [-5.0, 3.0, 4.0]]).T
    normal, ray = np.array([1.0, -0.6, -0.8]), np.array([1.0, 0.6, 0.8])
    D = dense(soc, v)
    assert_close(D[:, :, 0], np.eye(3) - 0.25 * np.outer(normal, normal), 1e-15, "mean on the boundary of K")
    assert_close(D[:, :, 1], 0.25 * np.outer(ray, ray), 1e-15, "mean on the boundary of -K")
    # -K's face u, v <= 0 with w = 0: y = (1, 2, 0) has u, v free and w half.
    D = dense(Cones(exponential=1), np.array([[1.0], [2.0], [0.0]]))[:, :, 0]
    np.testing.assert_array_equal(D, np.diag([0.0, 1.0, 0.5]))


@pytest.mark.parametrize(("alpha", "slope"), [(0.3, 0.0), (0.7, 1.0), (0.5, 1.0 / (1.0 + 2 * 1.5))])
def test_power_with_no_third_entry(alpha: float, slope: float) -> None:
    # Beside (1, -1.5, 0) the third entry of Proj_K is slope w to first order.
    v = np.array([[-1.0], [1.5], [0.0]])
    D = dense(Cones(power=(alpha,)), v)[:, :, 0]
    np.testing.assert_allclose(D, np.diag([0.0, 1.0, 1.0 - slope]), atol=1e-15)
    w = 1e-12
    third = project(Cones(power=(alpha,)), np.array([[1.0], [-1.5], [w]]))[2, 0]
    assert third / w == pytest.approx(slope, abs=1e-6)


def test_exponential_near_its_boundaries_against_the_principal_curvature_limit() -> None:
    # Close to the boundary of -K, D tends to normal normal', and close to that of K* to I - ray ray'.
    r = np.linspace(-6.0, 6.0, 25)
    ray = np.stack([r, np.ones_like(r), np.exp(r)])
    normal = np.stack([np.ones_like(r), 1 - r, -np.exp(-r)])
    ray, normal = ray / np.linalg.norm(ray, axis=0), normal / np.linalg.norm(normal, axis=0)
    tiny = 1e-13
    near_K = dense(Cones(exponential=1), -(ray + tiny * normal))
    near_polar = dense(Cones(exponential=1), -(tiny * ray + normal))
    assert_close(near_K, normal[:, None] * normal[None], 1e-6, "beside -K")
    identity = np.eye(3)[:, :, None]
    assert_close(near_polar, identity - ray[:, None] * ray[None], 1e-6, "beside K*")


@every_cone
def test_margin_is_independent_of_scale_and_small_beside_kinks(cones: Cones) -> None:
    v = points(cones, 300)
    expected = margin(cones, v)
    for scale in (1e-100, 1e-8, 1e8, 1e100):
        np.testing.assert_allclose(margin(cones, scale * v), expected, rtol=1e-6, atol=1e-13)
    if cones.zero:
        assert np.isinf(expected).all()
        return
    y, s = project_dual(cones, v), project_dual(cones, v) - v
    split = (np.abs(y).max(axis=0) > 1e-9) & (np.abs(s).max(axis=0) > 1e-9)
    for boundary in (y[:, split], -s[:, split]):
        assert margin(cones, boundary).max(initial=0.0) <= 1e-12
    np.testing.assert_array_equal(margin(cones, np.zeros((cones.m, 1))), 0.0)


def test_margins_known_in_closed_form() -> None:
    assert margin(Cones(nonneg=3), np.array([[4.0], [-1.0], [2.0]]))[0] == 0.25
    assert margin(Cones(second_order=(3,)), np.array([[0.0], [3.0], [4.0]]))[0] == pytest.approx(5 / np.sqrt(2) / 4)
    assert margin(Cones(psd=(2,)), np.array([[4.0], [0.0], [-1.0]]))[0] == pytest.approx(0.25)
    # Deep in the face's region of -K, the nearest kink of (1, 2, 3) is the plane u = 0.
    assert margin(Cones(exponential=1), np.array([[1.0], [2.0], [-3.0]]))[0] == pytest.approx(1 / 3)


@every_cone
def test_derivative_does_not_jump_within_the_margin(cones: Cones) -> None:
    # Proj is smooth in a ball of that radius, so that D changes little over a thousandth of it.
    v = points(cones, 500)
    gap = margin(cones, v) * np.abs(v).max(axis=0)
    gap = np.where(np.isinf(gap), 1.0, gap)
    direction = np.random.default_rng(5).standard_normal(v.shape)
    moved = v + 1e-3 * gap * direction / np.linalg.norm(direction, axis=0)
    assert np.abs(dense(cones, moved) - dense(cones, v)).max() <= 0.05


def test_power_cone_alone_takes_an_exponent_for_each_lane() -> None:
    v, alpha = points(SINGLE["power_0.3"], 30), np.linspace(0.1, 0.9, 30)
    found = power.linearize_dual(v, alpha)
    D, gap = found.dense(), found.gap / np.abs(v).max(axis=0)
    for lane in range(30):
        cones = Cones(power=(float(alpha[lane]),))
        assert_close(D[:, :, lane], dense(cones, v[:, [lane]])[:, :, 0], 1e-15, "D")
        assert gap[lane] == pytest.approx(margin(cones, v[:, [lane]])[0], rel=1e-13)
