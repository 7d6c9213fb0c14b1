"""Parameter values from an npz file, and results into one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cvxlayers.cli.load import MisuseError, unique_names
from cvxlayers.errors import ParameterError
from cvxlayers.files import archive
from cvxlayers.files.output import obstacle, replacing
from cvxlayers.layer.packing import refuse_enlarged
from cvxlayers.program.compiled import ParameterSpec

__all__ = ["ParameterFile", "read_parameters", "refuse_unwritable", "write_npz"]


@dataclass(frozen=True)
class ParameterFile:
    """Arrays for all parameters, in the order of ``specs`` (whose names are those of the file), and their batch."""

    specs: tuple[ParameterSpec, ...]
    arrays: tuple[np.ndarray, ...]
    batch: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of batch elements; 1 without batch dimensions."""
        return int(np.prod(self.batch, dtype=int))

    def part(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """The elements start:stop of the flattened batch; a parameter without batch dimensions stays as it is."""
        index = np.unravel_index(np.arange(start, stop), self.batch) if self.batch else ()
        parts = []
        for array, spec in zip(self.arrays, self.specs, strict=True):
            own = array.ndim > len(spec.shape)
            parts.append(np.broadcast_to(array, self.batch + spec.shape)[index] if own else array)
        return tuple(parts)

    def element(self, i: int) -> tuple[np.ndarray, ...]:
        """One element of the flattened batch, without batch dimensions."""
        at = np.unravel_index(i, self.batch) if self.batch else ()
        pairs = zip(self.arrays, self.specs, strict=True)
        return tuple(np.broadcast_to(array, self.batch + spec.shape)[at] for array, spec in pairs)


def read_parameters(path: Path, parameters: Sequence[ParameterSpec], broadcast: bool) -> ParameterFile:
    """Read one array for each parameter, by name, without unpickling anything.

    ``broadcast`` as for ``cvxlayers.Layer``.

    Raises
    ------
    MisuseError
        The file is missing or no npz file.
    ParameterError
        Parameters are missing or unknown, an array has the wrong shape or dtype, or they need ``broadcast``.
    """
    names = unique_names([spec.name for spec in parameters])
    specs = tuple(replace(spec, name=name) for spec, name in zip(parameters, names, strict=True))
    found = _read(path)
    _check_names(path, specs, found)
    arrays = tuple(_checked(spec, found[spec.name]) for spec in specs)
    leading = [array.shape[: array.ndim - len(spec.shape)] for array, spec in zip(arrays, specs, strict=True)]
    try:
        batch = np.broadcast_shapes(*leading)
    except ValueError as exc:
        shapes = ", ".join(f"{name} has {shape}" for name, shape in zip(names, leading, strict=True))
        raise ParameterError(
            f"--params {path}: the batch dimensions do not broadcast together ({shapes}); give every parameter the "
            "same ones, or none."
        ) from exc
    if not broadcast:
        refuse_enlarged(specs, [array.shape for array in arrays], "pass --broadcast")
    return ParameterFile(specs, arrays, batch)


def refuse_unwritable(path: Path, option: str = "--out", what: str = "it") -> None:
    """MisuseError if a file cannot be written there, before work is spent on what goes into it."""
    if why := obstacle(path):
        raise MisuseError(
            f"{option} {path}: {what} cannot be written: {why}; expected the name of a file, in a folder that can be "
            "written to, or of a pipe."
        )


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file in one step, as ``output.replacing`` does it."""
    try:
        with replacing(path) as file:
            archive.write(file, arrays, level=1)
    except OSError as exc:
        raise MisuseError(f"--out {path}: it cannot be written: {exc.strerror or exc}.") from exc


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # np.load would leave a damaged one open
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise MisuseError(
                    f"--params {path}: a single array; expected an npz file with one array per parameter."
                )
            return {name: found[name] for name in found.files}
    except FileNotFoundError as exc:
        raise MisuseError(f"--params {path}: there is no such file.") from exc
    except archive.BROKEN as exc:
        raise MisuseError(
            f"--params {path}: it is not an npz file of plain arrays ({exc}); write one with numpy.savez."
        ) from exc


def _check_names(path: Path, specs: tuple[ParameterSpec, ...], found: Mapping[str, np.ndarray]) -> None:
    wanted = [spec.name for spec in specs]
    missing = [spec for spec in specs if spec.name not in found]
    unknown = [name for name in found if name not in wanted]
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append("missing " + ", ".join(f"{spec.name} of shape {_batched(spec)}" for spec in missing))
    if unknown:
        parts.append("unknown " + ", ".join(_guess(name, wanted) for name in unknown))
    every = ", ".join(f"{spec.name} {_batched(spec)}" for spec in specs) or "none at all"
    raise ParameterError(f"--params {path}: {'; '.join(parts)}. The problem's parameters: {every}.")


def _guess(name: str, wanted: list[str]) -> str:
    near = difflib.get_close_matches(name, wanted, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _checked(spec: ParameterSpec, array: np.ndarray) -> np.ndarray:
    kinds = "biufc" if spec.complex else "biuf"
    if array.dtype.kind not in kinds:
        kind = "complex" if spec.complex else "real"
        raise ParameterError(f"parameter '{spec.name}': expected {kind} numbers, got the dtype {array.dtype}.")
    if array.shape[max(array.ndim - len(spec.shape), 0) :] != spec.shape:
        raise ParameterError(
            f"parameter '{spec.name}': got an array of shape {array.shape}, expected {_batched(spec)}, where ... "
            "stands for any batch dimensions, or none."
        )
    return array.astype(np.complex128 if spec.complex else np.float64, copy=False)


def _batched(spec: ParameterSpec) -> str:
    return "(" + ", ".join(["...", *map(str, spec.shape)]) + ")"
