"""How an eager derivative finds its solved call again.

Between the forward and the backward pass JAX keeps arrays, the point among them. Outside of compiled code it is the
very array that the forward pass gave, on which the record of the call hangs: it lives as long as the array does. In
compiled code there are only numbers, from which ``Layer.restore`` makes the record again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import jax

from cvxlayers.layer.record import Record

__all__ = ["keep", "record_of"]

_RECORDS: dict[int, tuple[weakref.ref[jax.Array], Record]] = {}


def keep(point: jax.Array, record: Record) -> None:
    """Hang the record of a call on the array of its point."""
    number = id(point)
    _RECORDS[number] = weakref.ref(point, lambda _: _RECORDS.pop(number, None)), record


def record_of(point: object, shapes: Sequence[tuple[int, ...]]) -> Record | None:
    """The record that hangs on this very array, if its parameters had these shapes."""
    found = _RECORDS.get(id(point))
    if found is None or found[0]() is not point:
        return None
    record = found[1]
    return record if [array.shape for array in record.packed.arrays] == list(shapes) else None
