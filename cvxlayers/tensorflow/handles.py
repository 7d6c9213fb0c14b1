"""How the gradient in a graph finds its solved call again.

From the forward to the backward pass only tensors travel in a graph, the point among them: x, y, s and the statuses. A
solved call is worth more than that. TensorFlow takes an array that the host hands out for a tensor as it is, where its
memory begins as that of a point does, and hands the same memory back to the host later. So the call hangs on that
memory: it lives as long as the tensor does, and is found by its address. Where the tensor was copied it is not found,
and ``Layer.restore`` makes it again from the numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from cvxlayers.layer.record import Record
from cvxlayers.program.structure import Array

__all__ = ["keep", "record_of"]

_RECORDS: dict[int, tuple[weakref.ref[Array], tuple[int, ...], Record]] = {}


def keep(record: Record) -> Array:
    """The point of a solved call as an array ``(n + 2 m + 1,) + batch``, on whose memory the call hangs."""
    point = record.point
    if point.size:
        memory, place = point.base, point.ctypes.data
        assert isinstance(memory, np.ndarray)
        _RECORDS[place] = weakref.ref(memory, lambda _: _RECORDS.pop(place, None)), point.shape, record
    return point


def record_of(point: Array, shapes: Sequence[tuple[int, ...]]) -> Record | None:
    """The solved call that hangs on this point, if its parameters had these shapes."""
    found = _RECORDS.get(point.ctypes.data)
    if found is None or found[0]() is None or found[1] != point.shape or not point.flags.c_contiguous:
        return None
    record = found[2]
    return record if [array.shape for array in record.packed.arrays] == list(shapes) else None
