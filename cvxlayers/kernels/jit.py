"""Numba, as all kernels of the package use it: whether it can be had, and kernels compiled once for fixed types,
without the interpreter's lock, and kept on disk."""

from __future__ import annotations

import logging
import threading
import warnings
import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["compiled", "fingerprint", "fingerprinted", "hindrance", "usable"]

LONG = 3.0
"""Seconds after which a compilation is spoken of."""

_log = logging.getLogger("cvxlayers")
_NOTICE = (
    "Compiling kernels, which takes up to half a minute each, once on this machine "
    "(`cvxlayers doctor --warm` does it ahead of time) ..."
)

_USED = (
    "numba", "numba.core.cgutils", "numba.core.extending", "numba.core.imputils", "numba.core.typing.templates",
    "numba.np.arrayobj",
)  # fmt: skip
"""What the kernels import of Numba."""

ABSENT = "Numba is not installed."

_PACKAGE = Path(__file__).parents[1]
"""The folder of ``cvxlayers``."""


def usable() -> bool:
    """Whether compiled kernels can be had here.

    This is the one place that decides it. Where Numba is installed but of no use, it says so, once in each process.

    Examples
    --------
    >>> usable() == (hindrance() is None)
    True
    """
    return hindrance() is None


@lru_cache(maxsize=1)
def hindrance() -> str | None:
    """Why there are no compiled kernels, as a sentence; None where there are.

    Finding the package is not enough: one that is too old for the NumPy beside it raises when it is imported, as does
    one whose libraries are missing. Asking imports Numba, which takes two tenths of a second.
    """
    if not _found():
        return ABSENT
    try:
        numba, *_ = [import_module(name) for name in _USED]
        off = bool(numba.config.DISABLE_JIT)
        assert callable(numba.njit)
        assert numba.types is not None
    except Exception as error:  # noqa: BLE001  a broken installation may raise anything
        why = f"Numba is installed but cannot be imported ({type(error).__name__}: {error})."
        todo = "Install one that fits the other packages: pip install --force-reinstall 'cvxlayers[fast]'."
    else:
        if not off:
            return None
        why = "Numba's compiler is turned off by the environment variable NUMBA_DISABLE_JIT."
        todo = "Unset it to have the compiled kernels."
    warnings.warn(
        f"{why} The solver IPM is not available, and the other solvers and slower derivatives serve. {todo}",
        RuntimeWarning,
        stacklevel=3,
    )
    return f"{why} {todo}"


def _found() -> bool:
    try:
        return find_spec("numba") is not None
    except ValueError:  # something of that name is loaded that nobody found
        return True


def fingerprint(*places: str) -> int:
    """A number that changes with the name and the source of any module in some places.

    Numba's cache looks at the file of the outermost kernel alone; one that has this number among its closure's
    variables is compiled anew when any of the kernels that it calls changes, or comes to lie elsewhere.

    Parameters
    ----------
    places : str
        Files, and folders with all that is in them, as paths inside this package: "cones/kernels", "cones/power.py".

    Examples
    --------
    >>> fingerprint("cones/kernels") == fingerprint("cones/kernels", "cones/power.py")
    False
    """
    text = (part for file in fingerprinted(*places)
            for part in (file.relative_to(_PACKAGE).as_posix().encode(), file.read_bytes()))  # fmt: skip
    return zlib.crc32(b"\0".join(text))


def fingerprinted(*places: str) -> list[Path]:
    """The modules in these places, in the order in which ``fingerprint`` reads them."""
    found = [_PACKAGE / place for place in places]
    return sorted({file for place in found for file in (place.rglob("*.py") if place.is_dir() else [place])})


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
    import numba  # here, so that whoever asks whether it can be imported need not import it

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
