"""Kernels are kept on disk; without a folder to write to that costs a warning, and nothing else."""

from __future__ import annotations

import warnings

import numba
import numpy as np
import pytest

from cvxlayers.kernels import decorators


def test_no_folder_for_the_cache_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    made = numba.njit

    def refusing(*args: object, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return made(*args, **options)

    monkeypatch.setattr(numba, "njit", refusing)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        double = decorators.compiled(numba.float64(numba.float64), lambda x: 2 * x)
    assert double(1.5) == 3.0


def test_a_kernel_that_can_be_kept_warns_of_nothing() -> None:
    def half(x: float) -> float:
        return x / 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decorators.compiled(numba.float64(numba.float64), half)(np.float64(3.0)) == 1.5
