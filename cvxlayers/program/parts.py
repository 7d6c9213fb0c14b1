"""The arrays of a saved problem: taken apart, and put together after a look at every number that something relies on.

Kernels and solvers take indices at their word: one that is out of range would read or write elsewhere in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.errors import ArtefactError
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.description import LARGEST, Description
from cvxlayers.program.structure import Array, Pattern, Structure

__all__ = ["arrays", "assemble"]

Arrays = Mapping[str, np.ndarray]

_PATTERNS = ("P", "A")
_MAPS = ("P", "q", "A", "b", "offset")
_RECOVERY = ("primal", "dual")
_FLOATS = frozenset([*(f"{name}_data" for name in _MAPS + _RECOVERY), *(f"{name}_constant" for name in _MAPS)])
_INDICES = frozenset(
    f"{name}_{part}"
    for name in (*_MAPS, *_RECOVERY, *(f"pattern_{p}" for p in _PATTERNS))
    for part in ("indptr", "indices")
)


def arrays(compiled: CompiledProblem) -> dict[str, np.ndarray]:
    """All arrays by name, indices in 32 bits, so that what was read is written as it was."""
    found: dict[str, np.ndarray] = {}
    for name in _PATTERNS:
        pattern: Pattern = getattr(compiled.structure, name)
        found[f"pattern_{name}_indptr"], found[f"pattern_{name}_indices"] = pattern.indptr, pattern.indices
    sparse = {name: getattr(compiled, name).linear for name in _MAPS}
    sparse |= {name: getattr(compiled, name) for name in _RECOVERY}
    for name, matrix in sparse.items():
        found[f"{name}_data"], found[f"{name}_indices"] = matrix.data, matrix.indices
        found[f"{name}_indptr"] = matrix.indptr
    found |= {f"{name}_constant": getattr(compiled, name).constant for name in _MAPS}
    return {name: np.ascontiguousarray(array, "<i4" if name in _INDICES else "<f8") for name, array in found.items()}


def assemble(described: Description, given: Arrays) -> CompiledProblem:
    """The compiled problem of some arrays, if they are consistent in themselves, with each other and with the rest.

    Raises
    ------
    ArtefactError
        They are not; its text says which, and what was expected.
    """
    _refuse_names(given)
    n, m, k = described.n, described.m, described.k
    _expect("q_constant", given["q_constant"].size, n, "the number n of variables")
    _expect("b_constant", given["b_constant"].size, m, "the number of rows of the cones")
    P, A = _pattern(given, "P", (n, n)), _pattern(given, "A", (m, n))
    if (P.rows > P.columns).any():
        raise ArtefactError("its array pattern_P_indices has entries below the diagonal")
    rows = {"P": P.nnz, "q": n, "A": A.nnz, "b": m, "offset": 1}
    maps = {name: AffineMap(_csr(given, name, (rows[name], k)), _constant(given, name, rows[name])) for name in _MAPS}
    _refuse_infinite(maps, described)
    varying = {name for name in "PqAb" if maps[name].varies}
    if varying != described.varying:
        raise ArtefactError(
            f"varying is {sorted(described.varying)}, but what depends on parameters is {sorted(varying)}"
        )
    primal, dual = _csr(given, "primal", (described.rows, n)), _csr(given, "dual", (described.rows, m))
    _refuse_mixed(described, primal, dual)
    structure = Structure(P, A, described.cones, described.varying)
    return CompiledProblem(
        structure, described.parameters, described.outputs, described.features, **maps, primal=primal, dual=dual,
        maximize=described.maximize, gp=described.gp,
    )  # fmt: skip


def _refuse_names(given: Arrays) -> None:
    """Raise unless these are the arrays, each of its type."""
    if set(given) != _FLOATS | _INDICES:
        wrong = ", ".join(sorted(set(given) ^ (_FLOATS | _INDICES))[:5])
        raise ArtefactError(f"it has arrays that it should not have, or lacks some: {wrong}")
    for name, array in given.items():
        expected = (np.float64,) if name in _FLOATS else (np.int32, np.int64)
        if array.ndim != 1 or array.dtype not in expected:
            raise ArtefactError(f"its array {name} has the type {array.dtype} and {array.ndim} dimensions, expected "
                                f"{' or '.join(t.__name__ for t in expected)} and one")  # fmt: skip


def _expect(name: str, found: int, expected: int, what: str) -> None:
    if found != expected:
        raise ArtefactError(f"its array {name} has {found} entries, expected {expected}, {what}")


def _pattern(given: Arrays, name: str, shape: tuple[int, int]) -> Pattern:
    name = f"pattern_{name}"
    indptr, indices, owner = _compressed(given, name, shape[1], shape[0])
    beside = owner[1:] == owner[:-1]
    if (indices[1:] <= indices[:-1])[beside].any():
        raise ArtefactError(f"its array {name}_indices has rows that are not in ascending order, each once in a column")
    return Pattern(shape, indptr, indices)


def _csr(given: Arrays, name: str, shape: tuple[int, int]) -> sp.csr_array:
    """A matrix by rows, in each of which a column occurs once."""
    indptr, indices, owner = _compressed(given, name, *shape)
    data = given[f"{name}_data"]
    _expect(f"{name}_data", data.size, indices.size, "one for each index")
    if not np.isfinite(data).all():
        raise ArtefactError(f"its array {name}_data has NaN or infinite entries")
    places = owner * shape[1] + indices
    if (places[1:] <= places[:-1]).any():  # in an order that has no meaning
        places.sort()
    if (places[1:] == places[:-1]).any():
        raise ArtefactError(f"its array {name}_indices has a column twice in a row")
    return sp.csr_array((data, indices, indptr), shape=shape)


def _compressed(given: Arrays, name: str, lines: int, places: int) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """The two arrays of indices of a sparse matrix in 32 bits, and the line of each index."""
    indptr, indices = given[f"{name}_indptr"], given[f"{name}_indices"]
    _expect(f"{name}_indptr", indptr.size, lines + 1, "one more than it has lines")
    if indptr[0] != 0 or indptr[-1] != indices.size or indices.size > LARGEST or (indptr[1:] < indptr[:-1]).any():
        raise ArtefactError(f"its array {name}_indptr does not rise from 0 to {indices.size}, the number of indices")
    if indices.size and (indices.min() < 0 or indices.max() >= places):
        raise ArtefactError(
            f"its array {name}_indices has entries from {indices.min()} to {indices.max()}, expected 0 to {places - 1}"
        )
    owner = np.repeat(np.arange(lines, dtype=np.int64), indptr[1:] - indptr[:-1])
    return indptr.astype(np.int32), indices.astype(np.int32), owner


def _constant(given: Arrays, name: str, rows: int) -> Array:
    constant = given[f"{name}_constant"]
    _expect(f"{name}_constant", constant.size, rows, f"one for each row of {name}")
    return constant


def _refuse_infinite(maps: Mapping[str, AffineMap], described: Description) -> None:
    """Raise for constants that are no numbers; in a row of the nonnegative cone of b infinity stands for no bound."""
    zero, nonneg = described.cones.zero, described.cones.nonneg
    for name, part in maps.items():
        bad = ~np.isfinite(part.constant)
        if name == "b":
            bad[zero : zero + nonneg] &= np.isnan(part.constant[zero : zero + nonneg])
        if bad.any():
            raise ArtefactError(f"its array {name}_constant has NaN or infinite entries")


def _refuse_mixed(described: Description, primal: sp.csr_array, dual: sp.csr_array) -> None:
    """Raise where a primal variable depends on y, or a dual one on x."""
    for spec in described.outputs:
        name, other = ("dual", dual) if spec.kind == "primal" else ("primal", primal)
        if other.indptr[spec.stop] != other.indptr[spec.start]:
            raise ArtefactError(f"its array {name}_indices has entries for the {spec.kind} variable '{spec.name}'")
