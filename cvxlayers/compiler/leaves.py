"""The leaves of a problem: all of its parameters, and its values kept out of the way while it is compiled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.expressions.constants.callback_param import CallbackParam
from cvxpy.reductions.cvx_attr2constr import SYMMETRIC_ATTRIBUTES

__all__ = ["free_entries", "parameters_of", "without_values"]

_compiling = threading.RLock()


def parameters_of(problem: cp.Problem) -> list[cp.Parameter]:
    """The problem's parameters, those included that some expressions hold without listing them.

    CVXPY's ``problem.parameters()`` does not look into the function of a perspective, the argument of a support
    function, or the exponents of a power cone.
    """
    found = {parameter.id: parameter for parameter in problem.parameters()}
    seen: set[int] = set()
    stack: list[Any] = [problem.objective, *problem.constraints]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, cp.Parameter):
            found.setdefault(node.id, node)
        elif isinstance(node, cp.Problem):
            stack += [node.objective, *node.constraints]
        else:
            stack += node.args
            stack += [part for part in (getattr(node, "f", None), getattr(node, "alpha", None)) if _is_expression(part)]
    return list(found.values())


def _is_expression(part: Any) -> bool:
    return isinstance(part, cp.Expression)


@contextmanager
def without_values(problem: cp.Problem) -> Iterator[None]:
    """Variables and parameters without values inside, and with the same values as before afterwards.

    CVXPY computes with the values that it finds while it canonicalizes, as starting points for its nonlinear solvers;
    what it does with them may fail, costs time, and must not decide on the compiled form. One thread at a time:
    another one would take the missing values for the ones to restore.
    """
    leaves = [*problem.variables(), *parameters_of(problem)]
    kept = [leaf for leaf in leaves if not isinstance(leaf, CallbackParam)]
    with _compiling:
        values = [leaf._value for leaf in kept]
        try:
            for leaf in kept:
                leaf._value = None
            yield
        finally:
            for leaf, value in zip(kept, values, strict=True):
                leaf._value = value


def free_entries(leaf: cp.Parameter | cp.Variable) -> sp.csr_array:
    """The map from all entries of a leaf (flattened in Fortran order) to the free ones that CVXPY keeps.

    A symmetric leaf keeps its upper triangle, row by row; each free entry is the mean of the two places that it
    stands for, so that gradients come out symmetric.
    """
    if any(leaf.attributes[name] for name in SYMMETRIC_ATTRIBUTES):
        n = leaf.shape[-1]
        i, j = np.triu_indices(n)
        rows = np.tile(np.arange(i.size), 2)
        places = np.concatenate([i + n * j, j + n * i])
        return sp.csr_array((np.full(rows.size, 0.5), (rows, places)), shape=(i.size, n * n))
    if leaf.attributes["diag"]:
        n = leaf.shape[0]
        places = np.arange(n) * (n + 1)
    else:
        places = np.ravel_multi_index(leaf.sparse_idx, leaf.shape, order="F")
    return sp.csr_array((np.ones(places.size), (np.arange(places.size), places)), shape=(places.size, leaf.size))
