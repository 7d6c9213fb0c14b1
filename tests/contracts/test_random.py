"""Random problems over random cones with a known primal-dual solution, given to the engines in standard form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cvxlayers.cones import Cones, project_dual
from cvxlayers.layer.layer import Layer
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem, Feature, OutputSpec, ParameterSpec
from cvxlayers.program.structure import Pattern, Structure
from cvxlayers.solvers import registry
from tests.support.differences import inner

ENGINES = registry.names(installed=True)


@dataclass(frozen=True)
class Posed:
    """A problem whose solution is known: min 1/2 x'Px + q'x  s.t.  Ax + s = b."""

    compiled: CompiledProblem
    theta: np.ndarray
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray


ALL_KINDS = registry.solver_class("CLARABEL").kinds


def cones_of(kinds: frozenset[str]) -> st.SearchStrategy[Cones]:
    """Products of a few cones of these kinds."""
    sizes = {
        "zero": st.integers(0, 3),
        "nonneg": st.integers(0, 5),
        "second_order": st.lists(st.integers(2, 4), max_size=2).map(tuple),
        "psd": st.lists(st.integers(1, 4), max_size=2).map(tuple),
        "exponential": st.integers(0, 2),
        "power": st.lists(st.sampled_from([0.2, 0.5, 0.7]), max_size=2).map(tuple),
        "power_nd": st.lists(st.sampled_from([(0.3, 0.7), (0.2, 0.3, 0.5)]), max_size=2).map(tuple),
    }
    return st.builds(Cones, **{kind: size for kind, size in sizes.items() if kind in kinds})


def pose(cones: Cones, seed: int, quadratic: bool) -> Posed:
    """Choose x and v; then y = Proj_{K*}(v) and s = y - v are complementary (Moreau 1962), and q and b follow."""
    rng = np.random.default_rng(seed)
    m = cones.m
    n = cones.zero + int(rng.integers(1, 5))
    x, v = rng.normal(size=n), rng.normal(size=m)
    A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
    A[np.arange(cones.zero), np.arange(cones.zero)] += 2.0  # the equalities are independent
    root = rng.normal(size=(n, n))
    P = root @ root.T / n + 0.1 * np.eye(n) if quadratic else np.zeros((n, n))
    y = project_dual(cones, v[:, None])[:, 0]
    s = y - v
    return Posed(*_assembled(cones, P, -P @ x - A.T @ y, A, A @ x + s), x, y, s)


def _assembled(
    cones: Cones, P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray
) -> tuple[CompiledProblem, np.ndarray]:
    """A compiled problem with one parameter, theta, that holds all nonzeros of P, q, A and b."""
    upper = sp.coo_array(sp.triu(sp.csc_array(P)).tocsc())
    entries = sp.coo_array(sp.csc_array(A))
    structure = Structure(
        Pattern.of(upper.row, upper.col, P.shape), Pattern.of(entries.row, entries.col, A.shape), cones
    )
    parts = [upper.data, q, entries.data, b]
    theta, (m, n) = np.concatenate(parts), A.shape
    starts = np.cumsum([0, *map(len, parts)])
    maps = [AffineMap(_rows(start, len(part), theta.size), np.zeros(len(part)))
            for start, part in zip(starts, parts, strict=False)]  # fmt: skip
    outputs = (OutputSpec("x", (n,), "primal", 0, n), OutputSpec("y", (m,), "dual", n, n + m))
    compiled = CompiledProblem(
        structure, (ParameterSpec("theta", theta.shape),), outputs, (Feature(0, "identity", 0, theta.size),), *maps,
        AffineMap(sp.csr_array((1, theta.size)), np.zeros(1)),
        sp.csr_array(sp.vstack([sp.eye_array(n), sp.csr_array((m, n))])),
        sp.csr_array(sp.vstack([sp.csr_array((n, m)), sp.eye_array(m)])),
    )  # fmt: skip
    return compiled, theta


def _rows(start: int, size: int, k: int) -> sp.csr_array:
    return sp.csr_array((np.ones(size), (np.arange(size), start + np.arange(size))), shape=(size, k))


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_random_problems(engine: str, data: st.DataObject, seed: int) -> None:
    """The optimal value is the known one, residuals are small, forward and backward are adjoint."""
    solver = registry.solver_class(engine)
    cones = data.draw(cones_of(solver.kinds))
    quadratic = solver.quadratic and data.draw(st.booleans())
    posed = pose(cones, seed, quadratic)
    assume(solver.takes(posed.compiled.structure))  # some take no problem without constraints
    layer = Layer(posed.compiled, engine)
    record = layer.solve([posed.theta])
    assert record.info.residuals.worst[0] <= 1e-6
    if quadratic:  # strongly convex: the point is unique
        np.testing.assert_allclose(record.outputs[0], posed.x, atol=1e-6 * (1 + np.abs(posed.x).max()))
    values = posed.compiled.evaluate(posed.theta[:, None])
    x = posed.x[:, None]
    cost = (x * (posed.compiled.structure.P_times(values.P, x) / 2 + values.q)).sum(axis=0)
    known = posed.compiled.objective(posed.theta[:, None], cost)
    np.testing.assert_allclose(record.info.objective, known, rtol=1e-6, atol=1e-6 * (1 + np.abs(posed.theta).max()))
    rng = np.random.default_rng(seed)
    tangents = [rng.normal(size=posed.theta.shape)]
    cotangents = [rng.normal(size=o.shape) for o in record.outputs]
    forward, backward = record.jvp(tangents), record.vjp(cotangents)
    assert all(np.isfinite(a).all() for a in (*forward, *backward))
    size = np.sqrt(inner(forward, forward) * inner(cotangents, cotangents)) + np.sqrt(
        inner(backward, backward) * inner(tangents, tangents)
    )
    report = record.info.derivative
    assert report is not None
    tolerance = 1e-5 if report.fallback[0] else 1e-8  # without a derivative, least squares of any size
    assert abs(inner(forward, cotangents) - inner(tangents, backward)) <= tolerance * max(size, 1.0)


@settings(max_examples=8)
@given(cones=cones_of(ALL_KINDS), seed=st.integers(0, 10**6), batch=st.integers(2, 5))
def test_random_batches_are_their_elements(cones: Cones, seed: int, batch: int) -> None:
    """The same structure with slightly different values: every element is solved as it would be alone."""
    posed = pose(cones, seed, quadratic=True)
    rng = np.random.default_rng(seed)
    layer = Layer(posed.compiled, on_failure="nan")
    scale = 1 + 1e-3 * rng.normal(size=(batch, 1))
    upper = posed.compiled.P.rows
    thetas = np.tile(posed.theta, (batch, 1))
    thetas[:, : upper + posed.x.size] *= scale  # P and q by the same factor: x stays, y moves in proportion
    (x, _) = layer(thetas)
    alone = np.stack([layer(theta)[0] for theta in thetas])
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x, alone, atol=1e-6)
    np.testing.assert_allclose(x, np.tile(posed.x, (batch, 1)), atol=1e-6 * (1 + np.abs(posed.x).max()))
