"""Small helpers that every cone uses: norms over the rows that neither overflow nor underflow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Flags", "Index", "gap_relative_to", "largest", "norm"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.intp]


def largest(v: Array) -> Array:
    """The infinity norm over the first axis: (d, L) gives (L,); zero for d = 0, NaN where v has a NaN."""
    # Without |v| as a whole: fresh memory for large temporaries costs more than the arithmetic.
    return np.asarray(np.maximum(v.max(axis=0, initial=0.0), -v.min(axis=0, initial=0.0)))


def norm(v: Array) -> Array:
    """The 2-norm over the first axis, (d, L) gives (L,), of numbers of any size."""
    size = largest(v)
    unit = np.where(size > 0, size, 1.0)
    scaled = v / unit
    return np.asarray(size * np.sqrt(np.einsum("il,il->l", scaled, scaled)))


def gap_relative_to(v: Array, gap: Array) -> Array:
    """gap / largest(v), and 0 where v is 0: how near a kink is, whatever the scale of v."""
    size = largest(v)
    return np.asarray(gap / np.where(size == 0, 1.0, size))
