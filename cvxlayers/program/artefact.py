"""A compiled problem on disk: arrays and JSON in one zip file, read without pickle and without CVXPY.

Whatever the kernels, the solvers and the derivatives rely on is looked at when the file is read: see ``archive`` for
the file itself, ``description`` for its header and ``parts`` for its arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from cvxlayers.errors import ArtefactError
from cvxlayers.files import archive
from cvxlayers.files.output import replacing
from cvxlayers.program import description, parts
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["FORMAT", "dumps", "load", "loads", "save"]

FORMAT = 2
"""The version of the format; raised whenever a reader of the old one would misread the new. In version 1, which is read
as well, the digest does not cover the header."""

_READ = (1, 2)
_MAGIC = "cvxlayers compiled problem"
_OWN = ("magic", "format", "digest")


def save(compiled: CompiledProblem, path: str | os.PathLike[str]) -> None:
    """Write a compiled problem to a file; an existing one is replaced only when the new one is complete.

    Parameters
    ----------
    path : path
        By convention it ends in ``.cvxl``. Links are followed, and pipes written into; see ``cvxlayers.files.output``.

    Raises
    ------
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import cvxpy as cp, cvxlayers, tempfile, os
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]))
    >>> path = os.path.join(tempfile.mkdtemp(), "layer.cvxl")
    >>> save(compiled, path)
    >>> cvxlayers.Layer(load(path))([[1.0, -1.0]])[0].round(6).tolist()
    [[1.0, 0.0]]
    """
    with replacing(path) as file:
        _write(compiled, file)


CompiledProblem.save = save


def load(path: str | os.PathLike[str]) -> CompiledProblem:
    """Read a compiled problem back. The file may come from anybody: reading it runs no code of its own.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtefactError
        The file is damaged, is not a compiled problem, or has another version of the format.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtefactError("it is no ordinary file")
            return _read(file, status.st_size)
    except FileNotFoundError:
        raise
    except (ArtefactError, OSError, RecursionError, MemoryError) as exc:
        raise ArtefactError(
            f"path: '{os.fspath(path)}' cannot be read as a compiled problem, as it is damaged or none: {exc}. Write "
            "it again with save."
        ) from exc


def dumps(compiled: CompiledProblem) -> bytes:
    """What ``save`` writes.

    >>> import cvxpy as cp, cvxlayers
    >>> x = cp.Variable(name="x")
    >>> loads(dumps(cvxlayers.compile(cp.Problem(cp.Minimize(x), [x >= 0])))).outputs[0].name
    'x'
    """
    file = io.BytesIO()
    _write(compiled, file)
    return file.getvalue()


def loads(content: bytes) -> CompiledProblem:
    """The problem that ``dumps`` took; ArtefactError as for ``load``."""
    try:
        return _read(io.BytesIO(content), len(content))
    except (ArtefactError, RecursionError, MemoryError) as exc:
        raise ArtefactError(f"content: it is damaged or no compiled problem: {exc}. Save it again.") from exc


def _open(path: str, flags: int) -> int:
    """Without waiting for somebody who writes into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _write(compiled: CompiledProblem, file: BinaryIO) -> None:
    described, arrays = description.describe(compiled), parts.arrays(compiled)
    parts.assemble(description.read(described), arrays)  # what is written can be read
    header = {"magic": _MAGIC, "format": FORMAT, **described}
    header["digest"] = _digest({**arrays, "header": _encoded(header)})
    archive.write(file, {**arrays, "header": _encoded(header)})


def _read(file: BinaryIO, size: int) -> CompiledProblem:
    arrays = archive.read(file, size)
    header = _header(arrays.pop("header", None))
    digest = header.pop("digest", None)
    covered = arrays if header["format"] == 1 else {**arrays, "header": _encoded(header)}
    if _digest(covered) != digest:
        raise ArtefactError("its contents do not match their digest")
    return parts.assemble(description.read(_described(header)), arrays)


def _header(array: np.ndarray | None) -> dict[str, Any]:
    if array is None or array.dtype != np.uint8:
        raise ArtefactError("it is an archive of arrays, but no compiled problem of cvxlayers")
    header = description.parse_json(array.tobytes())
    if header.get("magic") != _MAGIC or type(header.get("format")) is not int:
        raise ArtefactError("it is an archive of arrays, but no compiled problem of cvxlayers")
    if header["format"] not in _READ:
        raise ArtefactError(
            f"it has version {header['format']} of the format, and this release reads version {FORMAT}; compile the "
            "problem again with this release, or read the file with the release that wrote it"
        )
    return header


def _described(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name not in _OWN}


def _encoded(header: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
