"""Parameter values at the door: finite, and true to the attributes that the problem's convexity rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cvxlayers.errors import ParameterError
from cvxlayers.layer.definiteness import asymmetric, indefinite
from cvxlayers.program.compiled import CompiledProblem, ParameterSpec

__all__ = [
    "check_attributes",
    "finite_elements",
    "refuse_infinite",
    "refuse_nonpositive",
    "true_elements",
]

Condition = Callable[[np.ndarray], NDArray[np.bool_]]

# Rounding of a value that was computed in float32 and meets its bounds in exact arithmetic, relative to each bound.
_RELATIVE = 1e-5


def finite_elements(
    arrays: Sequence[np.ndarray], specs: Sequence[ParameterSpec], batch: tuple[int, ...], bounds: Sequence[bool]
) -> NDArray[np.bool_]:
    """Which elements of the batch have only finite parameter entries, or infinite ones in ``bounds``: (B,)."""
    finite = np.ones(batch, dtype=bool)
    if all(np.isfinite(array).all() for array in arrays):
        return finite.reshape(-1)
    for array, spec, bound in zip(arrays, specs, bounds, strict=True):
        trailing = tuple(range(array.ndim - len(spec.shape), array.ndim))
        finite = finite & ~_not_a_number(array, bound).any(axis=trailing)
    return finite.reshape(-1)


def _not_a_number(array: np.ndarray, bound: bool) -> NDArray[np.bool_]:
    """Where an entry is NaN, or infinite although the parameter is no bound."""
    return np.asarray(np.isnan(array) if bound else ~np.isfinite(array))


def refuse_infinite(arrays: Sequence[np.ndarray], specs: Sequence[ParameterSpec], bounds: Sequence[bool]) -> None:
    """Raise the error that names the first parameter with NaN or infinite entries, and its batch elements."""
    for array, spec, bound in zip(arrays, specs, bounds, strict=True):
        trailing = tuple(range(array.ndim - len(spec.shape), array.ndim))
        bad = _not_a_number(array, bound).any(axis=trailing)
        if bad.any():
            where = (
                [tuple(int(i) for i in index) for index in np.argwhere(np.atleast_1d(bad))[:5]]
                if array.ndim > len(spec.shape)
                else []
            )
            place = f" in batch elements {', '.join(map(str, where))}" if where else ""
            raise ParameterError(
                f"parameter '{spec.name}': it has NaN or infinite entries{place}; every entry must be finite. Find "
                "where they arise, or "
                'pass on_failure="nan" or "zero_grad" to let the other elements of the batch go on.'
            )


def refuse_nonpositive(compiled: CompiledProblem, arrays: Sequence[np.ndarray]) -> None:
    """Raise the error that names the first value of a log-log convex program (gp=True) that has no logarithm."""
    for feature in compiled.features:
        spec, array = compiled.parameters[feature.parameter], arrays[feature.parameter]
        bad = array <= 0 if feature.transform == "log" else np.zeros(0, dtype=bool)
        if bad.any():
            index = tuple(np.argwhere(bad)[0].tolist())
            place = _place(index[: array.ndim - len(spec.shape)])
            raise ParameterError(
                f"parameter '{spec.name}': a log-log convex program (gp=True) takes positive values only, got "
                f"{array[index]:g}{place}; make it positive, for example with exp or softplus, or pass "
                'on_failure="nan" or "zero_grad" to let the other elements of the batch go on.'
            )


def check_attributes(arrays: Sequence[np.ndarray], specs: Sequence[ParameterSpec]) -> None:
    """Raise ParameterError where a value breaks an attribute of its parameter (NaN entries are left to others)."""
    for array, spec in zip(arrays, specs, strict=True):
        for attribute, bad in _broken(array, spec):
            if bad.any():
                place = _place(np.argwhere(bad)[0].tolist()[: array.ndim - len(spec.shape)])
                raise ParameterError(
                    f"parameter '{spec.name}': it was declared {attribute}, but its value{place} is not "
                    f"{_MEANING[attribute]}, so the "
                    'problem need not be convex there; correct the value, pass on_failure="nan" or "zero_grad" to '
                    "let the other elements of the batch go on, or check_parameters=False to skip this check."
                )


def true_elements(
    arrays: Sequence[np.ndarray], specs: Sequence[ParameterSpec], batch: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which elements of the batch have no value that breaks an attribute of its parameter: (B,)."""
    true = np.ones(batch, dtype=bool)
    for array, spec in zip(arrays, specs, strict=True):
        leading = array.shape[: array.ndim - len(spec.shape)]
        for _, bad in _broken(array, spec):
            if bad.any():
                true &= ~bad.any(axis=tuple(range(len(leading), bad.ndim)))
    return true.reshape(-1)


def _place(element: Sequence[int]) -> str:
    return f" in batch element {tuple(element)}" if element else ""


def _broken(array: np.ndarray, spec: ParameterSpec) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each attribute that asks something of the values, and where they break it: by entry, or by value."""
    if array.size and (spec.attributes or spec.bounds or spec.sparsity is not None):
        for attribute, broken in _conditions(spec):
            yield attribute, broken(array)


def _conditions(spec: ParameterSpec) -> Iterator[tuple[str, Condition]]:
    """What a value must not do: (attribute, where an array breaks it)."""
    for attribute in sorted(spec.attributes):
        if attribute in BROKEN:
            yield attribute, BROKEN[attribute]
    if spec.bounds is not None:
        lower, upper = (np.reshape(bound, spec.shape, order="F") for bound in spec.bounds)
        low, high = (_RELATIVE * np.where(np.isfinite(bound), np.abs(bound), 0) for bound in (lower, upper))
        yield "with bounds", lambda array: (array < lower - low) | (array > upper + high)
    if spec.sparsity is not None:
        free = np.zeros(spec.size, dtype=bool)
        free[list(spec.sparsity)] = True
        fixed = ~free.reshape(spec.shape, order="F")
        yield "with sparsity", lambda array: (array != 0) & fixed


def _not_psd(array: np.ndarray) -> NDArray[np.bool_]:
    finite = np.isfinite(array).all(axis=(-2, -1))
    return (asymmetric(array).any(axis=(-2, -1)) & finite) | indefinite(array)


def _off_diagonal(array: np.ndarray) -> NDArray[np.bool_]:
    return (array != 0) & ~np.eye(array.shape[-1], dtype=bool)


BROKEN: dict[str, Condition] = {
    "nonneg": lambda a: a < 0,
    "nonpos": lambda a: a > 0,
    "pos": lambda a: a <= 0,
    "neg": lambda a: a >= 0,
    "symmetric": asymmetric,
    "hermitian": asymmetric,
    "PSD": _not_psd,
    "PSD in its symmetric part": indefinite,
    "NSD": lambda a: _not_psd(-a),
    "diag": _off_diagonal,
    "boolean": lambda a: (a != 0) & (a != 1) & ~np.isnan(a),
    "integer": lambda a: (a != np.round(a)) & ~np.isnan(a),
    "imag": lambda a: a.real != 0,
}
_MEANING = {
    "with bounds": "within them",
    "with sparsity": "zero elsewhere",
    "boolean": "0 or 1",
    "integer": "whole",
    "imag": "purely imaginary",
    "nonneg": "nonnegative",
    "nonpos": "nonpositive",
    "pos": "positive",
    "neg": "negative",
    "symmetric": "symmetric",
    "hermitian": "Hermitian",
    "PSD": "symmetric positive semidefinite (up to rounding in the units of its own diagonal)",
    "PSD in its symmetric part": "positive semidefinite there (up to rounding in the units of its own diagonal)",
    "NSD": "symmetric negative semidefinite (up to rounding in the units of its own diagonal)",
    "diag": "diagonal",
}
