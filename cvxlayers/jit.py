"""Numba, as all kernels of the package use it: compiled once for fixed types, without the interpreter's lock, and kept
on disk."""

from __future__ import annotations

import logging
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["compiled", "fingerprint"]

LONG = 3.0
"""Seconds after which a compilation is spoken of."""

_log = logging.getLogger("cvxlayers")
_NOTICE = (
    "Compiling kernels, which takes up to half a minute each, once on this machine "
    "(`cvxlayers doctor --warm` does it ahead of time) ..."
)


def fingerprint(folder: Path) -> int:
    """A number that changes with the source of any module in a folder.

    Numba's cache looks at the file of the outermost kernel alone; one that has this number among its closure's
    variables is compiled anew when any of the kernels that it calls changes.
    """
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))


def compiled(signature: Any, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Compile a kernel that Python calls, for these types and with these options, or load it from Numba's cache.

    Where no folder for the cache can be written to, that costs a warning and the compilation. Compiling takes long
    enough for a line on the log.
    """
    notice = threading.Timer(LONG, _log.warning, [_NOTICE])
    notice.daemon = True
    notice.start()
    try:
        return _compiled(signature, function, options)
    finally:
        notice.cancel()


def _compiled(signature: Any, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    try:
        return numba.njit([signature], cache=True, **options)(function)
    except (RuntimeError, OSError) as error:
        warnings.warn(
            f"The compiled kernels cannot be kept on disk ({error}), so each process compiles them anew. Let the "
            "environment variable NUMBA_CACHE_DIR name a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )
        return numba.njit([signature], **options)(function)
