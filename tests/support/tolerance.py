"""The one tolerance helper: it asserts, and it prints the worst error either way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["assert_all_close", "assert_close", "relative_error", "say"]


def relative_error(actual: Any, expected: Any, floor: float = 1.0) -> float:
    """The largest absolute difference, relative to the largest expected entry or ``floor``, whichever is larger.

    NaN counts as an infinite error unless both have it in the same place.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return 0.0
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    difference = np.where(same, 0.0, np.abs(np.where(same, 0, actual) - np.where(same, 0, expected)))
    scale = max(floor, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
    return float(np.where(np.isnan(difference), np.inf, difference).max()) / scale


def say(text: str) -> None:
    """Print a measured figure: pytest shows it where a test fails, and with ``-rP`` everywhere."""
    print(text)  # noqa: T201


def assert_close(actual: Any, expected: Any, tolerance: float, what: str, floor: float = 1.0) -> float:
    """Assert that ``relative_error`` is at most ``tolerance``; prints the error and returns it."""
    error = relative_error(actual, expected, floor)
    say(f"{what}: worst relative error {error:.1e}, tolerance {tolerance:.0e}")
    assert error <= tolerance, (
        f"{what}: worst relative error {error:.3e} > {tolerance:.0e}\nactual\n{np.asarray(actual)}\n"
        f"expected\n{np.asarray(expected)}"
    )
    return error


def assert_all_close(
    actual: Sequence[Any], expected: Sequence[Any], tolerance: float, what: str, floor: float = 1.0
) -> float:
    """``assert_close`` for sequences of arrays, each with its own scale."""
    assert len(actual) == len(expected), f"{what}: {len(actual)} arrays, expected {len(expected)}"
    errors = [
        assert_close(one, other, tolerance, f"{what}[{i}]", floor)
        for i, (one, other) in enumerate(zip(actual, expected, strict=True))
    ]
    return max(errors, default=0.0)
