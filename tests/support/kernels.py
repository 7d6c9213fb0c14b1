"""Which tests are about an engine that is optional, and so have nothing to say where it is not installed.

Where all is installed, as in CI, none is left out.
"""

from __future__ import annotations

import pytest

from cvxlayers.kernels import jit
from cvxlayers.solvers.registry import SOLVERS

needs_kernels = pytest.mark.skipif(not jit.usable(), reason="the engine IPM needs Numba, which is not installed")
needs_ecos = pytest.mark.skipif(not SOLVERS["ECOS"].installed(), reason="ECOS is not installed")
