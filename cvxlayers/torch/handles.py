"""How an operator finds its layer, and how a derivative finds its solved call again.

A graph that torch.compile or torch.export has made holds tensors, numbers and strings, no Python objects. So a layer is
known to its operator by a name. Names are drawn at random and never used twice, by any process: what was compiled and
cached for one layer never answers for another. The table of names holds the layers weakly: it keeps none alive, and a
graph that outlives its layer gets an error. A copy of a layer, or one that was unpickled in another process, has a name
of its own; a forked process has its parent's layers under their names.

From the forward to the backward pass only tensors travel, the point among them: x, y, s and the statuses. A solved call
is worth more than that, since its linearization is kept with it. It hangs on the memory of the point's tensor: it lives
as long as that does, and is found by its address. Where the point was copied (saved on another device, loaded from a
file) it is not found, and ``Layer.restore`` makes it again from the numbers.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch

from cvxlayers.errors import EngineError
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record

__all__ = ["enter", "keep", "layer_of", "record_of"]

_LAYERS: WeakValueDictionary[str, Layer] = WeakValueDictionary()
_POINTS: WeakValueDictionary[int, _Memory] = WeakValueDictionary()


class _Memory(np.ndarray):
    """The memory of a point, which a tensor keeps alive, and with it the solved call."""

    record: Record
    of_tensor: tuple[tuple[int, ...], tuple[int, ...]]


def enter(core: Layer) -> str:
    """A new name for a layer."""
    name = uuid.uuid4().hex
    _LAYERS[name] = core
    return name


def layer_of(name: str) -> Layer:
    """The layer of this name.

    Raises
    ------
    EngineError
        It is gone, or belongs to another process.
    """
    core = _LAYERS.get(name)
    if core is None:
        raise EngineError(
            "A compiled or exported graph refers to a CvxpyLayer that does not exist in this process; keep the layer "
            "alive as long as its graph, and compile again in each process."
        )
    return core


def keep(record: Record) -> torch.Tensor:
    """The point of a solved call as a tensor ``(n + 2 m + 1,) + batch`` on which the call hangs."""
    memory = record.point.view(_Memory)
    point = torch.from_numpy(memory)
    if point.numel():
        memory.record, memory.of_tensor = record, (point.shape, point.stride())
        _POINTS[point.data_ptr()] = memory
    return point


def record_of(point: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> Record | None:
    """The solved call that hangs on this point, if its parameters had these shapes."""
    memory = _POINTS.get(point.data_ptr())
    if memory is None or memory.of_tensor != (point.shape, point.stride()):
        return None
    record = memory.record
    return record if [a.shape for a in record.packed.arrays] == list(shapes) else None
