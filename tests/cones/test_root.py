"""The search for roots of many increasing functions."""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.root import increasing_root


def cubic(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value = x**3 + 1e-3 * x - target
    return value, x - value / (3 * x**2 + 1e-3), np.zeros_like(x)


def test_all_lanes_converge_whatever_their_start() -> None:
    exact = np.concatenate([np.linspace(-9.0, 9.0, 101), [0.0, 1e-7, -1e-7]])
    target = exact**3 + 1e-3 * exact
    start = np.random.default_rng(0).uniform(-10, 10, exact.size)
    root = increasing_root(cubic, start, np.full_like(exact, -10.0), np.full_like(exact, 10.0), target)
    np.testing.assert_allclose(root, exact, rtol=1e-13, atol=1e-12)


def test_useless_steps_fall_back_to_bisection() -> None:
    def stubborn(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.arctan(x - target), np.full_like(x, np.nan), np.zeros_like(x)

    target = np.linspace(-5.0, 5.0, 7)
    root = increasing_root(stubborn, np.zeros(7), np.full(7, -100.0), np.full(7, 100.0), target)
    np.testing.assert_allclose(root, target, rtol=1e-12, atol=1e-12)


def test_a_root_beyond_the_bracket_gives_its_end_and_nan_gives_nan() -> None:
    target = np.array([1e4, -1e4, np.nan])
    root = increasing_root(cubic, np.zeros(3), np.full(3, -2.0), np.full(3, 2.0), target)
    np.testing.assert_allclose(root, [2.0, -2.0, np.nan], atol=1e-11)


def test_no_lanes() -> None:
    none = np.zeros(0)
    assert increasing_root(cubic, none, none, none, none).shape == (0,)
