"""cvxlayers: a disciplined convex optimization layer compiler.

>>> import cvxpy as cp, cvxlayers
>>> x, c = cp.Variable(2), cp.Parameter(2)
>>> compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]))
>>> layer = cvxlayers.Layer(compiled)
>>> (x_star,) = layer([[1.0, -1.0], [-2.0, 3.0]])
>>> x_star.round(6).tolist()
[[1.0, 0.0], [0.0, 3.0]]

The layers for the frameworks are in ``cvxlayers.torch`` and its siblings; importing this module loads none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cvxlayers._version import __version__
from cvxlayers.errors import (
    ArtefactError,
    CompileError,
    CvxlayersError,
    DerivativeError,
    EngineError,
    MixedIntegerError,
    NotConvexError,
    NotDPPError,
    OptionError,
    ParameterError,
    SolveError,
    UnknownLeafError,
)

if TYPE_CHECKING:
    from cvxlayers.compiler import compile
    from cvxlayers.layer.layer import Layer
    from cvxlayers.layer.qp import QP
    from cvxlayers.program import artefact
    from cvxlayers.program.artefact import load
    from cvxlayers.program.compiled import CompiledProblem
    from cvxlayers.solvers.registry import register_solver, unregister_solver

__all__ = [
    "ArtefactError",
    "CompileError",
    "CompiledProblem",
    "CvxlayersError",
    "DerivativeError",
    "EngineError",
    "Layer",
    "MixedIntegerError",
    "NotConvexError",
    "NotDPPError",
    "OptionError",
    "ParameterError",
    "QP",
    "SolveError",
    "UnknownLeafError",
    "__version__",
    "artefact",
    "compile",
    "load",
    "register_solver",
    "unregister_solver",
]


_LAZY = {
    "artefact": "cvxlayers.program.artefact",
    "CompiledProblem": "cvxlayers.program.compiled",
    "compile": "cvxlayers.compiler",
    "Layer": "cvxlayers.layer.layer",
    "QP": "cvxlayers.layer.qp",
    "load": "cvxlayers.program.artefact",
    "register_solver": "cvxlayers.solvers.registry",
    "unregister_solver": "cvxlayers.solvers.registry",
}


def __getattr__(name: str) -> Any:
    """Load the compiler (and with it CVXPY) or the layer (and with it the solvers) when it is first asked for."""
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name])
        return module if module.__name__.endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module 'cvxlayers' has no attribute {name!r}")
