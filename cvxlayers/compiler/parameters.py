"""From the caller's parameters to the columns of CVXPY's tensors: attributes, complex parts and logarithms.

Each reduction of CVXPY may replace a parameter by others: a complex one by its parts, one of a log-log convex program
by its logarithm, a symmetric, diagonal or sparse one by its free entries. All but the logarithm are linear, so the
columns of the stuffed program are  S phi  for a sparse S and the features phi: the parameters' flattened entries,
elementwise transformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp

from cvxlayers.compiler.canonicalize import Canonical
from cvxlayers.compiler.leaves import free_entries
from cvxlayers.program.compiled import Feature, ParameterSpec

__all__ = ["parameter_features", "parameter_spec"]

CHECKED_ATTRIBUTES = (
    "nonneg", "nonpos", "pos", "neg", "symmetric", "PSD", "NSD", "diag", "hermitian", "imag", "boolean", "integer",
)  # fmt: skip


def parameter_spec(parameter: cp.Parameter) -> ParameterSpec:
    """What a caller must know of one parameter."""
    attributes = frozenset(name for name in CHECKED_ATTRIBUTES if parameter.attributes.get(name))
    bounds = parameter.attributes.get("bounds")
    if bounds is not None:
        lower, upper = (np.broadcast_to(np.asarray(bound, dtype=float), parameter.shape) for bound in bounds)
        bounds = tuple(lower.ravel(order="F").tolist()), tuple(upper.ravel(order="F").tolist())
    sparsity = None
    if parameter.attributes.get("sparsity"):
        sparsity = tuple(np.ravel_multi_index(parameter.sparse_idx, parameter.shape, order="F").tolist())
    shape = tuple(parameter.shape)
    return ParameterSpec(parameter.name(), shape, attributes, bool(parameter.is_complex()), bounds, sparsity)


@dataclass(frozen=True)
class _Source:
    """A parameter of some stage of the chain, as a linear function of one transformed parameter of the caller."""

    parameter: int
    transform: str
    map: sp.csr_array


def parameter_features(
    parameters: Sequence[cp.Parameter], canonical: Canonical
) -> tuple[tuple[Feature, ...], sp.csr_array]:
    """The features of the caller's parameters, and the map S from them to the program's columns (but the constant)."""
    sources = _trace(parameters, canonical)
    program = canonical.program
    features: dict[tuple[int, str], Feature] = {}
    start = 0
    columns: list[tuple[int, _Source, Feature]] = []
    for source_id, column in sorted(program.param_id_to_col.items(), key=lambda item: item[1]):
        if source_id == -1:  # the constant column
            continue
        source = sources[source_id]
        key = (source.parameter, source.transform)
        if key not in features:
            features[key] = Feature(*key, start, start + source.map.shape[1])
            start = features[key].stop
        columns.append((column, source, features[key]))
    total = program.total_param_size
    entries = [sp.coo_array(source.map) for _, source, _ in columns]
    rows = [block.row + column for block, (column, _, _) in zip(entries, columns, strict=True)]
    cols = [block.col + feature.start for block, (_, _, feature) in zip(entries, columns, strict=True)]
    data = np.concatenate([block.data for block in entries]) if entries else np.zeros(0)
    where = (np.concatenate(rows), np.concatenate(cols)) if entries else (np.zeros(0, int), np.zeros(0, int))
    return tuple(features.values()), sp.csr_array((data, where), shape=(total, start))


def _trace(parameters: Sequence[cp.Parameter], canonical: Canonical) -> dict[int, _Source]:
    """Follow every parameter through the chain: id of a stage's parameter -> where its entries come from."""
    sources = {p.id: _Source(i, "identity", sp.eye_array(p.size, format="csr")) for i, p in enumerate(parameters)}
    for reduction in canonical.reductions:
        if isinstance(reduction, Complex2Real) and reduction.canon_methods is not None:
            for parameter, parts in reduction.canon_methods._parameters.items():
                origin = sources[parameter.id]
                for part, transform in zip(parts, ("real", "imag"), strict=True):
                    if part is not None:
                        entries = _imaginary_entries(parameter) if transform == "imag" else origin.map
                        sources[part.id] = _Source(origin.parameter, transform, entries)
        elif isinstance(reduction, Dgp2Dcp) and reduction.canon_methods is not None:
            for parameter, logarithm in reduction.canon_methods._parameters.items():
                origin = sources[parameter.id]
                sources[logarithm.id] = _Source(origin.parameter, "log", origin.map)
        elif isinstance(reduction, CvxAttr2Constr):
            for parameter, reduced in reduction._parameters.items():
                origin = sources[parameter.id]
                sources[reduced.id] = _Source(origin.parameter, origin.transform, free_entries(parameter) @ origin.map)
    return sources


def _imaginary_entries(parameter: cp.Parameter) -> sp.csr_array:
    """The imaginary part's free entries: all, or for a Hermitian parameter the strict upper triangle, row by row."""
    if not parameter.attributes["hermitian"]:
        return sp.eye_array(parameter.size, format="csr")
    n = parameter.shape[0]
    i, j = np.triu_indices(n, k=1)
    rows = np.tile(np.arange(i.size), 2)
    places = np.concatenate([i + n * j, j + n * i])
    halves = np.concatenate([np.full(i.size, 0.5), np.full(i.size, -0.5)])
    return sp.csr_array((halves, (rows, places)), shape=(i.size, n * n))
