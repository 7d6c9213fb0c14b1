"""The layers under test: one for each pair of a problem of the table and an engine that takes it, made once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import cvxlayers
from cvxlayers.cones import Cones
from cvxlayers.layer.layer import Layer
from cvxlayers.program.structure import Pattern, Structure
from cvxlayers.solvers import registry
from cvxlayers.solvers.forms import maker
from tests.contracts.case import Case
from tests.contracts.table import CASES, case
from tests.support import differences, reference
from tests.support.differences import Derivative
from tests.support.polish import polished_outputs
from tests.support.reference import Reference

__all__ = [
    "compiled",
    "derivatives",
    "directions",
    "engines",
    "expected",
    "layer",
    "pairs",
    "takes",
]


def takes(row: Case, engine: str) -> bool:
    """Whether the engine takes the problem, in the form in which it would be compiled for it."""
    solver = registry.solver_class(engine)
    if not solver.quadratic and row.only_quadratic:
        return False
    rewritten = row.quadratic and not solver.quadratic
    kinds = row.kinds | ({"nonneg", "second_order"} if rewritten else set())
    sizes = {"zero": 1, "nonneg": 1, "second_order": (3,), "psd": (3,), "exponential": 1, "power": (0.5,),
             "power_nd": ((0.2, 0.3, 0.5),)}  # fmt: skip
    cones = Cones(**{kind: sizes[kind] for kind in kinds})  # type: ignore[arg-type]
    none, one = np.zeros(0, dtype=int), np.zeros(1, dtype=int)
    here = one if row.quadratic and not rewritten else none
    structure = Structure(Pattern.of(here, here, (1, 1)), Pattern.of(none, none, (cones.m, 1)), cones)
    return maker(solver, structure) is not None


def engines(row: Case) -> list[str]:
    """The names of all installed engines that take the problem."""
    return [name for name in registry.names(installed=True) if takes(row, name)]


def pairs(*names: str) -> list[Any]:
    """A pytest parameter (row, engine) for each engine that takes a row of the table, or one of the named rows."""
    rows = [row for row in CASES if not names or row.name in names]
    return [pytest.param(row, engine, id=f"{row.name}-{engine}") for row in rows for engine in engines(row)]


@cache
def compiled_as(name: str, quadratic: bool) -> cvxlayers.CompiledProblem:
    """The problem, compiled with or without a quadratic objective."""
    row = case(name)
    built = row.build()
    return cvxlayers.compile(built.problem, built.parameters, built.variables, gp=row.gp, quadratic=quadratic)


def compiled(row: Case, engine: str = "CLARABEL") -> cvxlayers.CompiledProblem:
    """The problem, compiled in the form that the engine takes."""
    return compiled_as(row.name, registry.solver_class(engine).quadratic)


@cache
def _layer(name: str, engine: str, on_failure: str) -> Layer:
    return Layer(compiled(case(name), engine), engine, on_failure=on_failure)


def layer(row: Case, engine: str, on_failure: str = "raise") -> Layer:
    """The problem's layer on the engine."""
    return _layer(row.name, engine, on_failure)


@cache
def _expected(name: str, seed: int) -> Reference:
    row = case(name)
    built = row.build()
    return reference.solve(built.problem, built.parameters, built.variables, row.point(seed), row.gp)


def expected(row: Case, seed: int = 0) -> Reference:
    """The reference solution at the row's sample of this seed."""
    return _expected(row.name, seed)


@cache
def directions(row: Case, seed: int = 0) -> tuple[tuple[np.ndarray, ...], ...]:
    """Two dense directions, and for each parameter two that move it alone, one of them in one entry only.

    They respect the parameters' attributes, and are in proportion to the sizes of the parameters' entries.
    """
    rng = np.random.default_rng([seed, 17])
    point, built = row.point(seed), row.build()
    zero = [np.zeros_like(p) for p in point]
    moves = [_dense(rng, p) for p in point]
    found = [tuple(_dense(rng, p) for p in point), tuple(_dense(rng, p) for p in point)]
    for i, p in enumerate(point):
        for move in (moves[i], _single(rng, p)):
            found.append((*zero[:i], move, *zero[i + 1 :]))
    return tuple(
        tuple(_projected(parameter, d) for parameter, d in zip(built.parameters, direction, strict=True))
        for direction in found
    )


def _dense(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    noise = rng.uniform(-1, 1, np.shape(p))
    if np.iscomplexobj(p):
        noise = noise + 1j * rng.uniform(-1, 1, np.shape(p))
    return noise * min(1.0, float(np.abs(p).max(initial=0.0)))


def _single(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    flat = np.zeros(np.size(p), dtype=np.asarray(p).dtype)
    flat[rng.choice(np.flatnonzero(p) if np.any(p) else np.arange(flat.size))] = min(1.0, float(np.abs(p).max()))
    return flat.reshape(np.shape(p))


def _projected(parameter: Any, direction: np.ndarray) -> np.ndarray:
    attributes = parameter.attributes
    if attributes["symmetric"] or attributes["PSD"] or attributes["hermitian"]:
        return (direction + direction.conj().T) / 2
    if attributes["diag"]:
        return np.diag(np.diag(direction))
    if attributes["sparsity"]:
        kept = np.zeros_like(direction)
        kept[parameter.sparse_idx] = direction[parameter.sparse_idx]
        return kept
    return direction


@cache
def derivatives(row: Case, seed: int = 0) -> tuple[Derivative, ...]:
    """Finite differences of all outputs along ``directions``: of the closed form, or of polished solutions.

    The latter come from one batched call, and are spot-checked against CVXPY in ``test_gradients``.
    """
    point, formula = row.point(seed), row.closed_form

    def function(batch: list[np.ndarray]) -> Sequence[np.ndarray]:
        if formula is not None:
            return _each(formula, batch)
        quiet = Layer(compiled(row), on_failure="nan", check_parameters=False)
        return polished_outputs(quiet, list(point), batch)

    return tuple(differences.differentiate(function, point, directions(row, seed)))


def _each(formula: Any, batch: list[np.ndarray]) -> list[np.ndarray]:
    found = [formula(*values) for values in zip(*batch, strict=True)]
    return [np.stack(outputs) for outputs in zip(*found, strict=True)]
