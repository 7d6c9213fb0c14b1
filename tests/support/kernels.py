"""Which tests are about the kernels, and so have nothing to say where Numba, which is optional, is not installed."""

from __future__ import annotations

import pytest

from cvxlayers.kernels import jit

needs_kernels = pytest.mark.skipif(not jit.usable(), reason="the engine IPM needs Numba, which is not installed")
