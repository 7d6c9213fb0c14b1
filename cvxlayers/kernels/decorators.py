"""How kernels are compiled: once for fixed types, without the interpreter's lock, and kept on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core.extending import overload

from cvxlayers.kernels import jit

__all__ = ["compiled", "kernel", "kernel_where", "inline_kernel"]

# Not the full fastmath: that would delete every test for NaN and infinity.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}

_INNER: Any = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

kernel: Any = numba.njit(**_INNER)
"""A kernel that other kernels call."""

inline_kernel: Any = numba.njit(**_INNER, inline="always")
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
    """Compile a kernel that Python calls, for these types, or load it from Numba's cache (see ``jit``)."""
    return jit.compiled(signature, function, _OPTIONS)
