"""Between the caller's arrays (batch first) and the core's (features or rows first, batch last), and the adjoint of
each.

A parameter of shape ``shape`` is handed in as ``leading + shape``, where the leading shapes of all parameters
broadcast by
NumPy's rules to the batch's shape; every output comes back as ``batch + shape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cvxlayers.errors import ParameterError
from cvxlayers.layer.glance import all_finite
from cvxlayers.program.compiled import CompiledProblem, OutputSpec, ParameterSpec
from cvxlayers.program.structure import Array

__all__ = [
    "Packed",
    "pack",
    "pack_cotangents",
    "pack_tangents",
    "refuse_enlarged",
    "unpack",
    "unpack_cotangents",
    "unpack_tangents",
]

_DOUBLE = np.dtype(np.float64)

# What the real and the imaginary part of a complex parameter are multiplied with in it.
_UNITS = {"real": 1 + 0j, "imag": 1j}


class Packed(NamedTuple):
    """The parameters of one call.

    Attributes
    ----------
    theta : (k, B)
        The features.
    batch : tuple of int
        The batch's shape; () for a call without one, whose B is 1.
    arrays : tuple of arrays
        The parameters as they came, in float64 or complex128.
    shared : frozenset of int
        The numbers of the features that are the same for the whole batch.
    finite : bool
        Whether there is neither NaN nor infinity in theta.
    """

    theta: Array
    batch: tuple[int, ...]
    arrays: tuple[np.ndarray, ...]
    shared: frozenset[int] = frozenset()
    finite: bool = True


def pack(compiled: CompiledProblem, parameters: Sequence[Any]) -> Packed:
    """Check the shapes, broadcast the leading ones, and lay the features out as theta (k, B)."""
    specs = compiled.parameters
    if len(parameters) != len(specs):
        names = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
        raise ParameterError(
            f"parameters: got {len(parameters)} values, expected {len(specs)}, one for each of {names}, in this order."
        )
    arrays = tuple(_as_array(value, spec) for value, spec in zip(parameters, specs, strict=True))
    batch = _batch_shape(arrays, specs)
    count = math.prod(batch)
    if count == 1 and compiled.direct:
        parts = [arrays[f.parameter].reshape(specs[f.parameter].shape).flatten("F") for f in compiled.features]
        alone = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Packed(alone.reshape(-1, 1), batch, arrays, finite=all_finite(alone))
    theta, shared = np.empty((compiled.k, count)), set()
    for number, feature in enumerate(compiled.features):
        spec, array = specs[feature.parameter], arrays[feature.parameter]
        if array.size == spec.size < count * spec.size:
            shared.add(number)
        part = theta[feature.start : feature.stop]
        rows = _folded(array, spec.shape, batch)
        if feature.transform == "identity":
            if len(spec.shape) > 1:
                part = part.reshape((*rows.shape[:-1], count))
            part[...] = rows
            continue
        rows = rows.reshape((spec.size, rows.shape[-1]))
        if feature.transform == "log":
            part[:] = _logarithm(rows)
        else:
            part[:] = rows.real if feature.transform == "real" else rows.imag
    return Packed(theta, batch, arrays, frozenset(shared), all_finite(theta))


def refuse_enlarged(
    specs: Sequence[ParameterSpec],
    shapes: Sequence[Sequence[Any]],
    otherwise: str = "pass broadcast=True to the layer",
) -> None:
    """Raise the error for parameters of which each combines with each of another, in a batch that none has by itself.

    A scalar parameter of shape (64, 1) beside vectors (64, n) has 64 * 64 combinations, which hardly anybody means.
    Shapes that do not fit at all are left to others. A size may be None, where a framework does not know it yet;
    such sizes count as equal, and as other than one.

    Parameters
    ----------
    shapes : sequence of tuples
        Of the parameters' values, in the order of ``specs``.
    otherwise : str
        What to do where every combination is meant.
    """
    leading = [tuple(shape[: len(shape) - len(spec.shape)]) for spec, shape in zip(specs, shapes, strict=True)]
    batched = [own for own in leading if own]
    if len(batched) < 2 or all(own == batched[0] for own in batched):
        return
    joint = _joint(batched)
    if joint is None or _held(joint, batched) or not all(map(_ends_rightly, shapes, specs)):
        return
    found = ""  # put together without join, which torch.compile cannot trace where a size is not known
    for spec, own in zip(specs, leading, strict=True):
        if own:
            found = f"{found}{', ' if found else ''}'{spec.name}' has {own}"
    raise ParameterError(
        f"parameters: their batch dimensions ({found}) would broadcast to {joint}, which none of them has by itself: "
        f"each value of one with each of another. {_dropping(specs, leading)}"
        f"If every combination is meant, {otherwise}."
    )


def _ends_rightly(shape: Sequence[Any], spec: ParameterSpec) -> bool:
    """Whether the last sizes are the parameter's own, as far as they are known."""
    cut = len(shape) - len(spec.shape)
    return cut >= 0 and all(a is None or a == b for a, b in zip(shape[cut:], spec.shape, strict=True))


def _joint(leading: Sequence[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """What they broadcast to; None where they do not."""
    joint = []
    for place in range(-max(map(len, leading)), 0):
        sizes = [own[place] for own in leading if len(own) >= -place and own[place] != 1]
        known = [size for size in sizes if size is not None]
        if any(size != known[0] for size in known):
            return None
        joint.append((known or sizes or [1])[0])
    return tuple(joint)


def _held(joint: tuple[Any, ...], leading: Sequence[tuple[Any, ...]]) -> bool:
    """Whether some parameter has the batch dimensions to which all broadcast, by itself."""
    return any(
        len(own) == len(joint) and all(a != 1 or b == 1 for a, b in zip(own, joint, strict=True)) for own in leading
    )


def _dropping(specs: Sequence[ParameterSpec], leading: Sequence[tuple[Any, ...]]) -> str:
    """The advice which dimension of size one to drop, if that mends it."""
    for culprit in leading:
        for axis in range(-1, -len(culprit) - 1, -1):
            if culprit[axis] != 1:
                continue
            short = culprit[: len(culprit) + axis] + culprit[len(culprit) + axis + 1 :]
            mended = [short if own == culprit else own for own in leading]
            joint = _joint(mended)
            if joint is None or not _held(joint, mended):
                continue
            guilty = [spec for spec, own in zip(specs, leading, strict=True) if own == culprit]
            calls = " and ".join(f"{spec.name}.squeeze({axis - len(spec.shape)})" for spec in guilty)
            name, shape = guilty[0].name, guilty[0].shape
            return (
                f"One value of parameter '{name}' has the shape {shape}: drop the dimension of size 1 before that, by "
                f"{calls} (or the function squeeze of the framework, with axis={axis - len(shape)}). "
            )
    return ""


def pack_tangents(compiled: CompiledProblem, packed: Packed, tangents: Sequence[Any]) -> Array:
    """The tangent of theta (k, B) for tangents of the parameters; None stands for zero."""
    dtheta = np.zeros_like(packed.theta)
    for feature in compiled.features:
        spec, tangent = compiled.parameters[feature.parameter], tangents[feature.parameter]
        if tangent is None:
            continue
        rows = _to_rows(_as_array(tangent, spec), spec.shape, packed.batch)
        if feature.transform == "log":
            rows = rows / np.exp(packed.theta[feature.start : feature.stop])
        elif feature.transform != "identity":
            rows = rows.real if feature.transform == "real" else rows.imag
        dtheta[feature.start : feature.stop] = rows
    return dtheta


def unpack_cotangents(compiled: CompiledProblem, packed: Packed, parts: Sequence[Array]) -> tuple[np.ndarray, ...]:
    """The cotangents of the parameters, in the shapes in which they came: summed over what was broadcast.

    ``parts`` are those of the features (see ``CompiledProblem.by_feature``); what comes back may share their memory.

    A complex parameter's is  dL/d(real part) + i dL/d(imaginary part).
    """
    gradients: list[np.ndarray | None] = [None] * len(packed.arrays)
    logarithms = compiled.by_feature(packed.theta) if compiled.gp else parts
    for feature, weights, logarithm in zip(compiled.features, parts, logarithms, strict=True):
        parameter, transform = feature.parameter, feature.transform
        shape, array = compiled.parameters[parameter].shape, packed.arrays[parameter]
        if transform == "log":
            weights = np.divide(weights, np.exp(logarithm), out=np.zeros_like(weights), where=weights != 0)
        part = _summed(weights, shape, packed.batch, array.shape[: array.ndim - len(shape)])
        if transform in _UNITS:
            part = part * _UNITS[transform]
        before = gradients[parameter]
        gradients[parameter] = part if before is None else before + part
    return tuple(
        [np.zeros_like(array) if gradient is None else gradient
         for gradient, array in zip(gradients, packed.arrays, strict=True)]
    )  # fmt: skip


def unpack(compiled: CompiledProblem, rows: Array, batch: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The outputs, each ``batch + shape``, from the recovered rows."""
    return tuple(_output(spec, _recovered(spec, rows), batch) for spec in compiled.outputs)


def unpack_tangents(
    compiled: CompiledProblem, rows: Array, drows: Array, batch: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """The tangents of the outputs for tangents of the recovered rows."""
    tangents = []
    for spec in compiled.outputs:
        part = drows[spec.start : spec.stop]
        if spec.exponential:
            part = part * np.exp(rows[spec.start : spec.stop])
        tangents.append(_output(spec, part, batch))
    return tuple(tangents)


def pack_cotangents(compiled: CompiledProblem, rows: Array, cotangents: Sequence[Any], batch: tuple[int, ...]) -> Array:
    """The cotangent of the recovered rows for cotangents of the outputs; None stands for zero."""
    parts = [
        _cotangent(spec, cotangent, rows[spec.start : spec.stop], batch)
        for spec, cotangent in zip(compiled.outputs, cotangents, strict=True)
    ]
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float64)


def _cotangent(spec: OutputSpec, cotangent: Any, rows: Array, batch: tuple[int, ...]) -> np.ndarray:
    """That of one output's rows, which may share the memory of what came."""
    if cotangent is None:
        return np.zeros(rows.shape)
    array = np.asarray(cotangent)
    if spec.flat and rows.shape[1] == 1 and array.shape == batch + spec.shape and array.dtype is _DOUBLE:
        return array.reshape(-1, 1)
    part = _to_rows(array, spec.shape, batch)
    if spec.complex:
        part = np.concatenate([part.real, part.imag])
    elif part.dtype.kind == "c":
        part = part.real
    if spec.exponential:
        part = np.where(part != 0, part * np.exp(rows), 0.0)  # rows are NaN where there is no solution
    return part if part.shape == rows.shape else np.broadcast_to(part, rows.shape)


def _as_array(value: Any, spec: ParameterSpec) -> np.ndarray:
    """The value in float64 (complex128 for a complex parameter), with its trailing shape checked."""
    if type(value) is np.ndarray and value.dtype is _DOUBLE and not spec.complex and _ends_in(value, spec.shape):
        return value
    try:
        array = np.asarray(value)
        array = array.astype(np.complex128 if spec.complex else np.float64, casting="same_kind", copy=False)
    except (TypeError, ValueError) as exc:
        kind = "complex" if spec.complex else "real"
        came = f"an array of dtype {array.dtype}" if "array" in locals() else type(value).__name__
        raise ParameterError(f"parameter '{spec.name}': expected {kind} numbers of shape {spec.shape}, got {came}; "
                             "convert it first.") from exc  # fmt: skip
    if not _ends_in(array, spec.shape):
        raise ParameterError(
            f"parameter '{spec.name}': got an array of shape {array.shape}, expected {spec.shape} or "
            f"{_batched(spec.shape)} with any batch dimensions in front; reshape it, or check the order in which the "
            "parameters are handed in."
        )
    return array


def _ends_in(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    extra = array.ndim - len(shape)
    return extra >= 0 and array.shape[extra:] == shape


def _batched(shape: tuple[int, ...]) -> str:
    return "(..., " + ", ".join(map(str, shape)) + ")" if shape else "(...)"


def _batch_shape(arrays: Sequence[np.ndarray], specs: Sequence[ParameterSpec]) -> tuple[int, ...]:
    leading = [array.shape[: array.ndim - len(spec.shape)] for array, spec in zip(arrays, specs, strict=True)]
    if leading and leading.count(leading[0]) == len(leading):
        return leading[0]
    try:
        return np.broadcast_shapes(*leading)
    except ValueError as exc:
        found = ", ".join(f"'{spec.name}' has {shape}" for spec, shape in zip(specs, leading, strict=True))
        raise ParameterError(
            f"parameters: their batch dimensions do not broadcast together: {found}; give each parameter the same "
            "batch dimensions, size 1, or none."
        ) from exc


def _to_rows(array: np.ndarray, shape: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """leading + shape -> (size, B), or (size, 1) where there are no leading dimensions; entries in Fortran order."""
    folded = _folded(array, shape, batch)
    return folded.reshape((math.prod(shape), folded.shape[-1]))


def _folded(array: np.ndarray, shape: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """The same with the entries' dimensions apart, in reverse: shape' + (B,), or shape' + (1,); a view if it can be."""
    leading = array.shape[: array.ndim - len(shape)]
    if leading and leading != batch:
        array = np.broadcast_to(array, batch + shape)
        leading = batch
    return array.reshape((math.prod(leading), *shape)).T


def _summed(part: np.ndarray, shape: tuple[int, ...], batch: tuple[int, ...], leading: tuple[int, ...]) -> np.ndarray:
    """(B, size) -> leading + shape, summed over the batch's dimensions that were broadcast: the adjoint of _folded."""
    if leading == batch:
        return part.reshape(batch + shape)
    if not leading:
        return (part.sum(axis=0) if part.shape[0] != 1 else part[0]).reshape(shape)
    full = part.reshape(batch + shape)
    extra = len(batch) - len(leading)
    stretched = tuple(extra + i for i, size in enumerate(leading) if size == 1 and batch[extra + i] != 1)
    if extra or stretched:
        return full.sum(axis=tuple(range(extra)) + stretched).reshape(leading + shape)
    return full


def _batch_first(rows: np.ndarray, shape: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """(size, B) -> batch + shape, a copy: the rows may be a part of something larger."""
    if len(shape) < 2:
        return rows.T.copy().reshape(batch + shape)
    folded = rows.reshape((*reversed(shape), rows.shape[1]))
    return np.ascontiguousarray(folded.transpose(range(folded.ndim - 1, -1, -1))).reshape(batch + shape)


def _logarithm(rows: np.ndarray) -> np.ndarray:
    """NaN where there is none: what that means for an element is not decided here."""
    return np.log(rows, out=np.full(rows.shape, np.nan), where=rows > 0)


def _recovered(spec: OutputSpec, rows: Array) -> Array:
    part = rows[spec.start : spec.stop]
    return np.exp(part) if spec.exponential else part


def _output(spec: OutputSpec, part: Array, batch: tuple[int, ...]) -> np.ndarray:
    if spec.complex:
        half = part.shape[0] // 2
        return _batch_first(part[:half] + 1j * part[half:], spec.shape, batch)
    return _batch_first(part, spec.shape, batch)
