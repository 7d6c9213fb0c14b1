"""Every exception that cvxlayers raises on purpose.

    CvxlayersError
    |-- CompileError (ValueError)            the problem cannot become a layer
    |   |-- NotConvexError                   not DCP (or not log-log convex with gp=True)
    |   |-- NotDPPError                      convex, but its parameters break the DPP rules
    |   |-- MixedIntegerError                integer or boolean variables
    |   `-- UnknownLeafError                 a parameter or variable that is not in the problem, or is missing
    |-- ParameterError (ValueError)          a parameter's value has the wrong shape, type, sign or is not finite
    |-- OptionError (ValueError, TypeError)  an option that nobody knows, or a value that it cannot take
    |-- EngineError (ValueError)             no such solver, not installed, or it cannot take this problem
    |-- ArtefactError (ValueError)           a saved file that is damaged, foreign or of another version
    |-- SolveError (RuntimeError)            some elements of the batch have no verified solution
    `-- DerivativeError (RuntimeError)       the linear system of the derivative could not be solved

Exceptions of other libraries are translated into these where they enter, with `raise ... from exc`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArtefactError",
    "CompileError",
    "CvxlayersError",
    "DerivativeError",
    "EngineError",
    "MixedIntegerError",
    "NotConvexError",
    "NotDPPError",
    "OptionError",
    "ParameterError",
    "SolveError",
    "UnknownLeafError",
]


class CvxlayersError(Exception):
    """Base class of all errors that cvxlayers raises on purpose."""


class CompileError(CvxlayersError, ValueError):
    """The problem cannot be compiled into a layer."""


class NotConvexError(CompileError):
    """The problem is not DCP, or, with ``gp=True``, not log-log convex (DGP)."""


class NotDPPError(CompileError):
    """The problem is convex for each parameter value, but breaks the rules of disciplined parametrized programming."""


class MixedIntegerError(CompileError):
    """The problem has integer or boolean variables, whose solutions have no useful derivative."""


class UnknownLeafError(CompileError):
    """A listed parameter or variable is not in the problem or is listed twice, or a parameter is missing."""


class ParameterError(CvxlayersError, ValueError):
    """The value handed in for a parameter has the wrong shape, dtype or sign, or is not finite."""


class OptionError(CvxlayersError, ValueError, TypeError):
    """An option is unknown, or has a value that it cannot take."""


class EngineError(CvxlayersError, ValueError):
    """A solver is unknown, not installed, or cannot take the problem's cones or its quadratic objective."""


class ArtefactError(CvxlayersError, ValueError):
    """A saved layer is damaged, is not a saved layer at all, or was written by another format version."""


class DerivativeError(CvxlayersError, RuntimeError):
    """The linear system of the derivative could not be solved to its tolerance."""


class SolveError(CvxlayersError, RuntimeError):
    """Some elements of the batch have no verified solution.

    Attributes
    ----------
    indices : tuple of int
        The failing elements, as positions in the flattened batch (0 for a call without a batch).
    statuses : tuple of str
        The status of each of them.
    """

    def __init__(self, message: str, indices: Sequence[int] = (), statuses: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.statuses = tuple(statuses)

    def __reduce__(self) -> tuple[type[SolveError], tuple[str, tuple[int, ...], tuple[str, ...]]]:
        return type(self), (str(self), self.indices, self.statuses)
