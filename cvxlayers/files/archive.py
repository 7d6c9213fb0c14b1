"""Arrays in a zip file, as ``numpy.savez`` lays them out, read without believing what the file says of itself.

Nothing is unpickled, and nothing is allocated that the size of the file does not warrant.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO, BinaryIO

import numpy as np

from cvxlayers.errors import ArtefactError

__all__ = ["BROKEN", "read", "write"]

BROKEN = (
    OSError, ValueError, EOFError, LookupError, RuntimeError, ArithmeticError, MemoryError, AttributeError, TypeError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""What the standard library and NumPy raise when they read a broken archive."""

MEMBERS = 256
"""So many arrays at most."""

ROOM, RATIO = 2**26, 256
"""Together they have as many bytes as the first says, or so many times as many as the file, which is far more than
what arrays with indices among them are compressed to."""

DEFLATED = 1032
"""No compressed byte stands for more than so many (Deutsch 1996, RFC 1951: 258 in two bits)."""

_PREAMBLE = b"\x93NUMPY\x01\x00"
_DESCRIBED = re.compile(
    rb"\{'descr': '(<f8|<i4|<i8|\|u1)', 'fortran_order': False, 'shape': \((0|[1-9][0-9]{0,11}),\), \} *\n"
)


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], level: int = 6) -> None:
    """Write arrays, which are not pickled; the file need not be one in which a place can be sought.

    ``numpy.savez`` takes names as keyword arguments, one of which it keeps for itself ("file").
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """The arrays of a file of so many bytes: with one dimension, of float64, int32, int64 or bytes.

    Raises
    ------
    ArtefactError
        It is no such archive, or it is damaged, or does not hold what it says.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write(file, {"a": np.arange(3.0)})
    >>> read(file, file.tell())
    {'a': array([0., 1., 2.])}
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _refuse_strange(entries, size)
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except ArtefactError:
        raise
    except BROKEN as exc:
        raise ArtefactError(f"it is no sound archive ({type(exc).__name__}: {exc})") from exc


def _refuse_strange(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Raise for an archive that ``write`` has not made, from its table of contents."""
    names = [entry.filename for entry in entries]
    if len(names) > MEMBERS or len(set(names)) < len(names):
        raise ArtefactError(f"it has {len(names)} members, expected {MEMBERS} at most, each of another name")
    for entry in entries:
        if not entry.filename.endswith(".npy"):
            raise ArtefactError(f"its member {entry.filename!r} is no array")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArtefactError(f"its member {entry.filename!r} is encrypted, or compressed in a way that is not ours")
        if entry.file_size > DEFLATED * (entry.compress_size + 1) or entry.compress_size > size:
            raise ArtefactError(f"its member {entry.filename!r} says that it is larger than it can be")
    total, most = sum(entry.file_size for entry in entries), max(ROOM, RATIO * size)
    if total > most:
        raise ArtefactError(
            f"it says that it expands to {total:,} bytes, and from {size:,} not more than {most:,} come"
        )


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array; its description is that of ``numpy.lib.format``, version 1.0."""
    with archive.open(entry) as stream:
        start = stream.read(len(_PREAMBLE) + 2)
        described = stream.read(int.from_bytes(start[-2:], "little"))
        found = _DESCRIBED.fullmatch(described)
        if len(start) < len(_PREAMBLE) + 2 or start[:-2] != _PREAMBLE or found is None:
            raise ArtefactError(
                f"its member {entry.filename!r} is no plain array of one dimension, as they are written"
            )
        dtype, count = np.dtype(found[1].decode()), int(found[2])
        if len(start) + len(described) + count * dtype.itemsize != entry.file_size:
            raise ArtefactError(f"its member {entry.filename!r} has another size than it says")
        array = np.empty(count, dtype)
        _fill(array.view(np.uint8), stream)
        if stream.read(1):  # at the end of the member its checksum is looked at
            raise ArtefactError(f"its member {entry.filename!r} goes on after its end")
        return array


def _fill(room: np.ndarray, stream: IO[bytes]) -> None:
    done = 0
    while done < room.size:
        came = stream.read(min(room.size - done, 1 << 20))
        if not came:
            raise ArtefactError("an array in it ends too early")
        room[done : done + len(came)] = np.frombuffer(came, np.uint8)
        done += len(came)
