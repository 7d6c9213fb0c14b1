"""What vmap's axis becomes, in any framework: one more leading axis of the batch, so that a mapped call is one call.

Frameworks tell which axis of each array is mapped, if any (None). ``xp`` is their array module; all that is asked of
it is ``moveaxis`` and ``broadcast_to``.

A derivative is linear in its operands, the tangents or cotangents, at parameters and at a point that hold still. They
may have leading axes of their own, ``depth`` of them, where several operands share one point, as under jacrev.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Derived", "Operand", "map_derivative", "map_parameters"]

Axis = int | None


def map_parameters(xp: Any, arrays: Sequence[Any], axes: Sequence[Axis], ranks: Sequence[int]) -> list[Any]:
    """Move each mapped axis to the front of the batch; arrays that are not mapped stay as they are.

    Ones are put between it and the array's own leading dimensions, so that these still align from the right. ``ranks``
    are the numbers of dimensions of the parameters.
    """
    own = [a.ndim - (axis is not None) - rank for a, axis, rank in zip(arrays, axes, ranks, strict=True)]
    longest = max(own, default=0)
    return [
        array if axis is None else _align(xp.moveaxis(array, axis, 0), rank, longest)
        for array, axis, rank in zip(arrays, axes, ranks, strict=True)
    ]


@dataclass(frozen=True)
class Operand:
    """The arrays of one operand and their mapped axes; they look like the parameters, or else like the outputs.

    No arrays at all stand for an operand that a derivative does not have.
    """

    arrays: Sequence[Any]
    axes: Sequence[Axis]
    like_parameters: bool = True


@dataclass(frozen=True)
class Derived:
    """The call that stands for a mapped one.

    ``finish`` takes its results, and whether they look like the parameters, and gives them with their mapped axis.
    """

    parameters: list[Any]
    point: Any
    operands: list[list[Any]]
    depth: int
    finish: Callable[[Sequence[Any], bool], tuple[list[Any], int]]


def map_derivative(
    xp: Any, size: int, parameters: Operand, point: tuple[Any, Axis], operands: Sequence[Operand],
    ranks: Sequence[int], depth: int,
) -> Derived:  # fmt: skip
    """The call that stands for a derivative with a mapped axis of this size.

    The point has the batch's dimensions behind its rows, so that its mapped axis stands in the second place.
    """
    if all(axis is None for axis in (*parameters.axes, point[1])):  # the same solutions, as under jacfwd and jacrev
        stacks = [_spread(xp, operand.arrays, operand.axes, size, 0) for operand in operands]
        return Derived(list(parameters.arrays), point[0], stacks, depth + 1, lambda results, _: (list(results), 0))
    spread = _spread(xp, parameters.arrays, parameters.axes, size, 0)
    (moved_point,) = _spread(xp, [point[0]], [point[1]], size, 1)
    longest = max((a.ndim - 1 - rank for a, rank in zip(spread, ranks, strict=True)), default=0)
    aligned = [_align(a, rank, longest) for a, rank in zip(spread, ranks, strict=True)]
    stacks = []
    for operand in operands:
        moved = _spread(xp, operand.arrays, operand.axes, size, depth)
        stacks.append(_reshaped(moved, aligned, depth) if operand.like_parameters and moved else moved)

    def finish(results: Sequence[Any], like_parameters: bool) -> tuple[list[Any], int]:
        return _reshaped(results, spread, depth) if like_parameters else list(results), depth

    return Derived(aligned, moved_point, stacks, depth, finish)


def _spread(xp: Any, arrays: Sequence[Any], axes: Sequence[Axis], size: int, position: int) -> list[Any]:
    """Every array with the mapped axis at this position, repeated where it was not mapped."""
    return [
        xp.broadcast_to(
            a.reshape((*a.shape[:position], 1, *a.shape[position:])), (*a.shape[:position], size, *a.shape[position:])
        )
        if axis is None
        else xp.moveaxis(a, axis, position)
        for a, axis in zip(arrays, axes, strict=True)
    ]


def _align(array: Any, rank: int, longest: int) -> Any:
    """Put ones after the mapped axis, so that the leading dimensions behind it number ``longest``."""
    missing = longest - (array.ndim - 1 - rank)
    return array.reshape((array.shape[0],) + (1,) * missing + tuple(array.shape[1:]))


def _reshaped(arrays: Sequence[Any], like: Sequence[Any], depth: int) -> list[Any]:
    """The arrays in the shapes of others, behind their own leading axes."""
    return [a.reshape((*a.shape[:depth], *other.shape)) for a, other in zip(arrays, like, strict=True)]
