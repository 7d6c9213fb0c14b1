"""The kernels that Python calls, as the functions of a cone: for the modules ``exponential`` and ``power``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from cvxlayers.cones.arrays import Array, largest
from cvxlayers.cones.blocks import EigenBlocks
from cvxlayers.cones.kernels import exponential, power
from cvxlayers.cones.kernels.numbers import OPTIONS
from cvxlayers.kernels import jit

__all__ = ["CompiledCone", "compiled_cone"]

_FINGERPRINT = jit.fingerprint("cones/kernels", "cones/exponential.py", "cones/power_nd.py")
"""Changes with the source of any kernel that is called here, and of what they take from elsewhere."""

_GIVEN = types.Array(types.float64, 2, "C", readonly=True)
_ALPHA = types.Array(types.float64, 1, "C", readonly=True)
_VALUES, _MATRICES = types.Array(types.float64, 2, "C"), types.Array(types.float64, 3, "C")
_NUMBERS = types.Array(types.float64, 1, "C")
_NONE = np.zeros(0)


class CompiledCone:
    """A cone in R^3 by its kernels; z (3, L), and alpha (L,) for power cones, as in the modules of the cones."""

    def __init__(self, powers: bool) -> None:
        self._moreau, self._linearize = self.kernels = (
            _make_moreau(_FINGERPRINT, powers),
            _make_linearize(_FINGERPRINT, powers),
        )

    def project(self, z: Array, alpha: Array | None = None) -> Array:
        """Proj_K(z)."""
        return self._decomposed(z, alpha)[0]

    def project_dual(self, z: Array, alpha: Array | None = None) -> Array:
        """Proj_{K*}(z)."""
        return np.negative(self._decomposed(-z, alpha)[1])

    def distance(self, s: Array, alpha: Array | None = None) -> Array:
        """The infinity norm of s - Proj_K(s), (L,)."""
        return largest(self._decomposed(s, alpha)[1])

    def dual_distance(self, y: Array, alpha: Array | None = None) -> Array:
        """The infinity norm of y - Proj_{K*}(y), (L,)."""
        return largest(self._decomposed(-y, alpha)[0])

    def linearize_dual(self, z: Array, alpha: Array | None = None) -> EigenBlocks:
        """The derivative of Proj_{K*} at z."""
        z, alpha = _ready(z, alpha)
        Q, eigenvalues, gap = np.empty((3, *z.shape)), np.empty_like(z), np.empty(z.shape[1])
        self._linearize(z, alpha, Q, eigenvalues, gap)
        return EigenBlocks(Q, eigenvalues, gap)

    def _decomposed(self, z: Array, alpha: Array | None) -> tuple[Array, Array]:
        z, alpha = _ready(z, alpha)
        p, d = np.empty_like(z), np.empty_like(z)
        self._moreau(z, alpha, p, d)
        return p, d


@lru_cache(maxsize=2)
def compiled_cone(kind: str) -> CompiledCone:
    """The cone of this kind, "exponential" or "power"; compiled, or loaded, at the first call."""
    return CompiledCone(powers=kind == "power")


def _ready(z: Array, alpha: Array | None) -> tuple[Array, Array]:
    return np.ascontiguousarray(z), _NONE if alpha is None else np.ascontiguousarray(alpha)


# What a closure holds is part of the cache's key, and a kernel in it would be another one in each process: so a flag.


def _make_moreau(fingerprint: int, powers: bool) -> Any:
    def decompose_lanes(z: Any, alpha: Any, p: Any, d: Any) -> None:
        """p = Proj_K(z) and d = Proj_{K°}(z), lane by lane."""
        if fingerprint < 0:
            return
        for k in range(z.shape[1]):
            if powers:
                found = power.moreau(z[0, k], z[1, k], z[2, k], alpha[k])
            else:
                found = exponential.moreau(z[0, k], z[1, k], z[2, k])
            p[0, k], p[1, k], p[2, k], d[0, k], d[1, k], d[2, k] = found

    return jit.compiled(types.void(_GIVEN, _ALPHA, _VALUES, _VALUES), decompose_lanes, OPTIONS)


def _make_linearize(fingerprint: int, powers: bool) -> Any:
    def linearize_lanes(z: Any, alpha: Any, Q: Any, eigenvalues: Any, gap: Any) -> None:
        """Eigenvectors and eigenvalues of the derivative of Proj_{K*} at z, and distances from kinks, lane by lane."""
        if fingerprint < 0:
            return
        Q[:] = 0.0
        eigenvalues[:] = 0.0
        for k in range(z.shape[1]):
            for i in range(3):
                Q[i, i, k] = 1.0
            if powers:
                gap[k] = power.linearize(z[0, k], z[1, k], z[2, k], alpha[k], Q, eigenvalues, k)
            else:
                gap[k] = exponential.linearize(z[0, k], z[1, k], z[2, k], Q, eigenvalues, k)

    return jit.compiled(types.void(_GIVEN, _ALPHA, _MATRICES, _VALUES, _NUMBERS), linearize_lanes, OPTIONS)
