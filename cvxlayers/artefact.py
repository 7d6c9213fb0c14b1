"""A compiled problem on disk: arrays and JSON in one zip file, read without pickle and without CVXPY."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.affine import AffineMap
from cvxlayers.compiled import CompiledProblem, Feature, OutputSpec, ParameterSpec
from cvxlayers.cones.product import Cones
from cvxlayers.errors import ArtefactError
from cvxlayers.program import Pattern, Structure

__all__ = ["FORMAT", "load", "save"]

FORMAT = 1
"""The version of the format; raised whenever a reader of the old one would misread the new."""

_MAGIC = "cvxlayers compiled problem"
_MAPS = ("P", "q", "A", "b", "offset")


def save(compiled: CompiledProblem, path: str | os.PathLike[str]) -> None:
    """Write a compiled problem to a file; an existing one is replaced only when the new one is complete.

    Parameters
    ----------
    path : path
        By convention it ends in ``.cvxl``.

    Examples
    --------
    >>> import cvxpy as cp, cvxlayers, tempfile, os
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]))
    >>> path = os.path.join(tempfile.mkdtemp(), "layer.cvxl")
    >>> save(compiled, path)
    >>> cvxlayers.Layer(load(path))([[1.0, -1.0]])[0].round(6).tolist()
    [[1.0, 0.0]]
    """
    arrays = _arrays(compiled)
    header = {"magic": _MAGIC, "format": FORMAT, "digest": _digest(arrays), **_description(compiled)}
    arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    target = Path(path)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def load(path: str | os.PathLike[str]) -> CompiledProblem:
    """Read a compiled problem back.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtefactError
        The file is damaged, is not a compiled problem, or has another version of the format.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, KeyError) as exc:
        raise ArtefactError(
            f"path: '{path}' is damaged or is no file of cvxlayers ({exc}); write it again with save."
        ) from exc
    header = _header(arrays, path)
    if _digest(arrays) != header["digest"]:
        raise ArtefactError(
            f"path: the arrays in '{path}' do not match their digest, so it is damaged; write it again."
        )
    try:
        return _compiled(header, arrays)
    except (KeyError, TypeError, ValueError) as exc:
        raise ArtefactError(
            f"path: '{path}' lacks a part of a compiled problem ({exc}); write it again with save."
        ) from exc


def _header(arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        header = json.loads(arrays.pop("header").tobytes())
        magic, version = header["magic"], header["format"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise ArtefactError(f"path: '{path}' is an archive of arrays, but no compiled problem of cvxlayers.") from exc
    if magic != _MAGIC:
        raise ArtefactError(f"path: '{path}' is an archive of arrays, but no compiled problem of cvxlayers.")
    if version != FORMAT:
        raise ArtefactError(
            f"path: '{path}' has version {version} of the format, and this release reads version {FORMAT}; compile the "
            "problem again with this release, or read the file with the release that wrote it."
        )
    return header


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _description(compiled: CompiledProblem) -> dict[str, Any]:
    structure = compiled.structure
    return {
        "n": structure.n,
        "cones": asdict(structure.cones),
        "varying": sorted(structure.varying),
        "parameters": [{**asdict(spec), "attributes": sorted(spec.attributes)} for spec in compiled.parameters],
        "outputs": [asdict(spec) for spec in compiled.outputs],
        "features": [asdict(feature) for feature in compiled.features],
        "maximize": compiled.maximize,
        "gp": compiled.gp,
    }


def _arrays(compiled: CompiledProblem) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in ("P", "A"):
        pattern: Pattern = getattr(compiled.structure, name)
        arrays[f"pattern_{name}_indptr"], arrays[f"pattern_{name}_indices"] = pattern.indptr, pattern.indices
    sparse = {name: getattr(compiled, name).linear for name in _MAPS}
    sparse |= {"primal": compiled.primal, "dual": compiled.dual}
    for name, matrix in sparse.items():
        arrays[f"{name}_data"], arrays[f"{name}_indices"] = matrix.data, matrix.indices
        arrays[f"{name}_indptr"] = matrix.indptr
    for name in _MAPS:
        arrays[f"{name}_constant"] = getattr(compiled, name).constant
    return arrays


def _compiled(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> CompiledProblem:
    parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["cones"].items()}
    cones = Cones(**parts)
    n, m = header["n"], cones.m
    structure = Structure(
        Pattern((n, n), arrays["pattern_P_indptr"], arrays["pattern_P_indices"]),
        Pattern((m, n), arrays["pattern_A_indptr"], arrays["pattern_A_indices"]),
        cones,
        frozenset(header["varying"]),
    )
    features = tuple(Feature(**feature) for feature in header["features"])
    k = features[-1].stop if features else 0
    maps = {name: AffineMap(_csr(arrays, name, k), arrays[f"{name}_constant"]) for name in _MAPS}
    return CompiledProblem(
        structure,
        tuple(_parameter(spec) for spec in header["parameters"]),
        tuple(OutputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in header["outputs"]),
        features,
        **maps,
        primal=_csr(arrays, "primal", n),
        dual=_csr(arrays, "dual", m),
        maximize=header["maximize"],
        gp=header["gp"],
    )


def _parameter(spec: Mapping[str, Any]) -> ParameterSpec:
    bounds = spec["bounds"] and tuple(tuple(side) for side in spec["bounds"])
    sparsity = None if spec["sparsity"] is None else tuple(spec["sparsity"])
    attributes = frozenset(spec["attributes"])
    return ParameterSpec(spec["name"], tuple(spec["shape"]), attributes, spec["complex"], bounds, sparsity)


def _csr(arrays: Mapping[str, np.ndarray], name: str, columns: int) -> sp.csr_array:
    indptr = arrays[f"{name}_indptr"]
    parts = (arrays[f"{name}_data"], arrays[f"{name}_indices"], indptr)
    return sp.csr_array(parts, shape=(indptr.size - 1, columns))
