"""Sparse affine maps from the parameters to the values of the standard form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from cvxlayers.program.linear import LinearMap, broadcast_column
from cvxlayers.program.structure import Array

__all__ = ["AffineMap"]


@dataclass(frozen=True)
class AffineMap:
    """values = linear @ theta + constant, for theta (k, B) and values (rows, B).

    Parameters
    ----------
    linear : csr_array, (rows, k)
    constant : (rows,)

    Examples
    --------
    >>> double = AffineMap(sp.csr_array([[2.0]]), np.array([1.0]))
    >>> double(np.array([[3.0, 4.0]]))
    array([[7., 9.]])
    """

    linear: sp.csr_array
    constant: Array

    @property
    def rows(self) -> int:
        return int(self.constant.size)

    @property
    def varies(self) -> bool:
        """Whether the values depend on theta at all."""
        return bool(self.linear.nnz)

    @cached_property
    def columns(self) -> slice:
        """The rows of theta on which the values depend, and those between them."""
        used = self.linear.indices
        return slice(int(used.min()), int(used.max()) + 1) if used.size else slice(0, 0)

    @cached_property
    def _map(self) -> LinearMap:
        return LinearMap(self.linear)

    @cached_property
    def _narrow(self) -> LinearMap:
        return LinearMap(sp.csr_array(self.linear[:, self.columns]))

    @cached_property
    def _shifted(self) -> bool:
        return bool(self.constant.any())

    @cached_property
    def _column(self) -> Array:
        return np.ascontiguousarray(self.constant[:, None])

    def __call__(self, theta: Array) -> Array:
        """The values, (rows, B); a read-only broadcast view where they do not depend on theta."""
        if not self.varies:
            return broadcast_column(self._column, theta.shape[1])
        values = self._map(theta)
        if self._shifted:
            values += self._column
        return values

    def pushforward(self, dtheta: Array) -> Array:
        """The change of the values for a change of theta, (k, B) -> (rows, B)."""
        return self._map(dtheta)

    def pullback(self, dvalues: Array) -> Array:
        """The cotangent of theta for a cotangent of the values, (rows, B) -> (k, B)."""
        return self._map.adjoint(dvalues)

    def pullback_columns(self, dvalues: Array, out: Array | None = None) -> Array:
        """The rows ``columns`` of that cotangent; the others are zero."""
        return self._narrow.adjoint(dvalues, out)
