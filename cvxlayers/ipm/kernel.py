"""How kernels are compiled: once for fixed types, without the interpreter's lock, and kept on disk."""

from __future__ import annotations

import functools
import logging
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.extending import overload

__all__ = ["FINGERPRINT", "compiled", "kernel", "kernel_where", "part"]

# Not the full fastmath: that would delete every test for NaN and infinity.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}

FINGERPRINT = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""Changes with the source of any kernel. Numba's cache looks at the file of the outermost kernel alone; one that has
this number among its closure's variables is compiled anew when any of the kernels that it calls changes."""

LONG = 3.0
"""Seconds after which a compilation is spoken of."""

_log = logging.getLogger("cvxlayers")
_NOTICE = (
    "Compiling the kernels of the batched solver, which takes half a minute, once on this machine "
    "(`cvxlayers doctor --warm` does it ahead of time) ..."
)

_INNER: Any = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

kernel: Any = numba.njit(**_INNER)
"""A kernel that other kernels call."""

part: Any = numba.njit(**_INNER, inline="always")
"""A kernel that becomes a part of the one other kernel that calls it: that spares compiling what both call twice."""


def kernel_where(field: str, otherwise: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A kernel that other kernels call, compiled only for structures whose record has this field.

    For the others, ``otherwise``, with the same arguments, is compiled in its stead: what they do not need costs them
    neither time to compile nor time to run.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def seam(*arguments: Any) -> Any:
            raise NotImplementedError("Only kernels call this.")

        def choose(*arguments: Any) -> Callable[..., Any]:
            record = next(kind for kind in arguments if isinstance(kind, types.Record))
            return function if field in record.fields else otherwise

        overload(seam, jit_options=_INNER, strict=False)(choose)
        return seam

    return decorate


def compiled(signature: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel that Python calls, for these types, or load it from Numba's cache.

    Where no folder for the cache can be written to, that costs a warning and the compilation. Compiling takes long
    enough for a line on the log.
    """
    notice = threading.Timer(LONG, _log.warning, [_NOTICE])
    notice.daemon = True
    notice.start()
    try:
        return _compiled(signature, function)
    finally:
        notice.cancel()


def _compiled(signature: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit([signature], cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError) as error:
        warnings.warn(
            f"The compiled kernels cannot be kept on disk ({error}), so each process compiles them anew. Let the "
            "environment variable NUMBA_CACHE_DIR name a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )
        return numba.njit([signature], **_OPTIONS)(function)
