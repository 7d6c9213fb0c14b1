"""The exact derivative against finite differences, closed forms and its own adjoint, on regular problems."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.factor.choice import WAYS
from cvxlayers.derivative.factor.factors import Limits
from cvxlayers.program.structure import Structure, Values
from tests.derivative.problems import (
    PARTS,
    Problem,
    at,
    cotangents,
    difference,
    inner,
    noise,
    one,
    pattern,
    random_problem,
    relative,
)

# Name: the number of variables, the cones, whether the objective is quadratic. The linear ones have as many degrees of
# freedom as active rows and curved cones leave.
CASES: dict[str, tuple[int, Cones, bool]] = {
    "equalities": (7, Cones(zero=3), True),
    "inequalities": (9, Cones(zero=2, nonneg=8), True),
    "second_order": (12, Cones(zero=1, nonneg=3, second_order=(4, 3, 1, 4, 8)), True),
    "semidefinite": (14, Cones(zero=1, nonneg=2, psd=(3, 2)), True),
    "exponential": (9, Cones(zero=1, nonneg=2, exponential=2), True),
    "power": (9, Cones(nonneg=2, power=(0.3, 0.6)), True),
    "power_nd": (11, Cones(nonneg=2, power_nd=((0.3, 0.7), (0.2, 0.2, 0.6))), True),
    "all": (24, Cones(zero=2, nonneg=4, second_order=(3, 5), psd=(3,), exponential=1, power=(0.4,)), True),
    "unconstrained": (5, Cones(), True),
    "single_variable": (1, Cones(), True),
    "single_row": (1, Cones(nonneg=1), True),
}


def derivative(structure: Structure, path: str, threads: int = 1, limits: Limits | None = None) -> ExactDerivative:
    return ExactDerivative(structure, threads, prefer=path, limits=limits)


def made(name: str, batch: int = 3, seed: int = 1, **options: object) -> Problem:
    n, cones, quadratic = CASES[name]
    return random_problem(np.random.default_rng(seed), n, cones, batch, quadratic=quadratic, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_jvp_is_the_finite_difference(name: str, path: str, rng: np.random.Generator) -> None:
    problem = made(name)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    for parts in (*PARTS, "PqAb") if path == "condensed" else ("PqAb",):
        tangent = noise(rng, problem, parts)
        for found, expected in zip(linearization.jvp(tangent), difference(problem, tangent), strict=True):
            assert relative(found, expected) < 1e-8
    assert not linearization.report.fallback.any()
    assert linearization.report.residual.max() < 1e-13


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_vjp_is_the_adjoint_of_jvp(name: str, path: str, rng: np.random.Generator) -> None:
    problem = made(name)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    gx, gy, gs = cotangents(problem, rng)
    found = linearization.vjp(gx, gy, gs)
    for parts in (*PARTS, "PqAb"):
        tangent = noise(rng, problem, parts)
        dx, dy, ds = linearization.jvp(tangent)
        left = (gx * dx).sum(axis=0) + (gy * dy).sum(axis=0) + (gs * ds).sum(axis=0)
        assert relative(inner(found, tangent), left) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_paths_agree(name: str, rng: np.random.Generator) -> None:
    problem = made(name)
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    answers = []
    for path in WAYS:
        linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
        answers.append([*_parts(linearization.vjp(*cotangent)), *linearization.jvp(tangent)])
    for other in answers[1:]:
        for left, right in zip(other, answers[0], strict=True):
            assert relative(left, right) < 1e-9


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_is_its_elements(path: str, shared: bool, threads: int, rng: np.random.Generator) -> None:
    problem = made("all", batch=7, shared=shared)
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    exact = derivative(problem.structure, path, threads, Limits(thread=1.0))
    linearization = exact.linearize(problem.values, problem.solution)
    backward, forward = linearization.vjp(*cotangent), linearization.jvp(tangent)
    for i in range(7):
        index = np.array([i])
        alone = one(problem, i)
        single = exact.linearize(alone.values, alone.solution)
        for found, expected in zip(
            _parts(single.vjp(*(g[:, index] for g in cotangent))), _parts(backward), strict=True
        ):
            assert relative(found, expected[:, index]) < 1e-10
        for found, expected in zip(single.jvp(tangent.select(index)), forward, strict=True):
            assert relative(found, expected[:, index]) < 1e-10


@pytest.mark.parametrize("path", WAYS)
def test_without_a_quadratic_objective(path: str, rng: np.random.Generator) -> None:
    # A linear program at a vertex: as many active rows as variables.
    n, cones = 4, Cones(zero=1, nonneg=6)
    problem = random_problem(rng, n, cones, batch=3, density=1.0, quadratic=False)
    v = rng.uniform(0.5, 2.0, (7, 3)) * np.array([1, 1, -1, 1, -1, 1, -1.0])[:, None]
    problem = at(problem.structure, problem.values.P, problem.values.A, problem.solution.x, v)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    tangent = noise(rng, problem)
    for found, expected in zip(linearization.jvp(tangent), difference(problem, tangent), strict=True):
        assert relative(found, expected) < 1e-8
    gx, gy, gs = cotangents(problem, rng)
    dx, dy, ds = linearization.jvp(tangent)
    left = (gx * dx).sum(axis=0) + (gy * dy).sum(axis=0) + (gs * ds).sum(axis=0)
    assert relative(inner(linearization.vjp(gx, gy, gs), tangent), left) < 1e-10


def test_projection_on_the_simplex_in_closed_form(rng: np.random.Generator) -> None:
    # x = Proj_simplex(z): with the support I of x, dx = (dz - mean of dz over I) on I, and 0 elsewhere.
    n, batch = 6, 4
    mask = np.concatenate([np.ones((1, n), bool), np.eye(n, dtype=bool)])
    structure = Structure(pattern(np.eye(n, dtype=bool)), pattern(mask), Cones(zero=1, nonneg=n), frozenset("q"))
    A = np.concatenate([np.ones((1, n)), -np.eye(n)])[structure.A.rows, structure.A.columns]
    z = rng.standard_normal((n, batch))
    x, tau = _project_simplex(z)
    v = np.concatenate([tau[None], np.where(x > 0, -x, tau - z)])
    P = np.broadcast_to(np.ones((n, 1)), (n, batch))
    problem = at(structure, P, np.broadcast_to(A[:, None], (A.size, batch)), x, v)
    np.testing.assert_allclose(problem.values.q, -z, atol=1e-14)
    g = rng.standard_normal((n, batch))
    support = x > 0
    expected = np.where(support, g - (g * support).sum(axis=0) / support.sum(axis=0), 0.0)
    dvalues = ExactDerivative(structure).linearize(problem.values, problem.solution).vjp(g, np.zeros((n + 1, batch)))
    assert relative(dvalues.q, -expected) < 1e-14
    for part in (dvalues.P, dvalues.A, dvalues.b):
        assert not part.any()
        assert part.strides[1] == 0


def _project_simplex(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The projection and the multiplier tau of the sum (Held, Wolfe, Crowder 1974)."""
    ordered = -np.sort(-z, axis=0)
    sums = (np.cumsum(ordered, axis=0) - 1) / np.arange(1, z.shape[0] + 1)[:, None]
    count = (ordered > sums).sum(axis=0)
    tau = sums[count - 1, np.arange(z.shape[1])]
    return np.maximum(z - tau, 0.0), tau


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("name", ["all", "unconstrained", "equalities"])
def test_an_empty_batch(name: str, path: str) -> None:
    problem = made(name, batch=0)
    linearization = derivative(problem.structure, path, threads=2).linearize(problem.values, problem.solution)
    solution, values = problem.solution, problem.values
    for part, like in zip(_parts(linearization.vjp(solution.x, solution.y)), _parts(values), strict=True):
        assert part.shape == like.shape
    assert [part.shape[1] for part in linearization.jvp(values)] == [0, 0, 0]
    assert linearization.report.residual.shape == linearization.report.fallback.shape == (0,)


def test_only_what_varies_is_computed(rng: np.random.Generator) -> None:
    for varying in ("", "q", "PA", "b"):
        problem = made("inequalities", varying=varying)
        full = made("inequalities")
        cotangent = cotangents(problem, rng)
        found = ExactDerivative(problem.structure).linearize(problem.values, problem.solution).vjp(*cotangent)
        expected = ExactDerivative(full.structure).linearize(full.values, full.solution).vjp(*cotangent)
        for part in PARTS:
            if part in varying:
                assert relative(getattr(found, part), getattr(expected, part)) < 1e-13
            else:
                assert not getattr(found, part).any()
                assert getattr(found, part).shape == getattr(expected, part).shape


def test_the_factorization_is_made_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made("all")
    exact = derivative(problem.structure, "condensed")
    calls = []
    factorize = exact.choice.candidates[0].factorize
    monkeypatch.setattr(
        exact.choice.candidates[0], "factorize", lambda system: (calls.append(system.batch), factorize(system))[1]
    )
    linearization = exact.linearize(problem.values, problem.solution)
    assert not calls
    linearization.vjp(*cotangents(problem, rng))
    first = list(calls)
    assert first
    linearization.vjp(*cotangents(problem, rng))
    linearization.jvp(noise(rng, problem))
    assert calls == first


@pytest.mark.parametrize("path", WAYS)
def test_copies_and_pickles(path: str, rng: np.random.Generator) -> None:
    problem, cotangent = made("all"), None
    cotangent = cotangents(problem, rng)
    linearization = derivative(problem.structure, path, threads=2).linearize(problem.values, problem.solution)
    expected = linearization.vjp(*cotangent)
    for twin in (copy.deepcopy(linearization), pickle.loads(pickle.dumps(linearization))):
        for found, part in zip(_parts(twin.vjp(*cotangent)), _parts(expected), strict=True):
            assert relative(found, part) < 1e-13
        assert twin.report.residual.shape == (3,)


@pytest.mark.parametrize("path", WAYS)
def test_two_threads_may_apply_it_at_once(path: str, rng: np.random.Generator) -> None:
    problem = made("all", batch=16)
    cotangent = cotangents(problem, rng)
    exact = derivative(problem.structure, path, threads=2, limits=Limits(thread=1.0))
    linearization = exact.linearize(problem.values, problem.solution)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: linearization.vjp(*cotangent), range(8)))
    expected = derivative(problem.structure, path).linearize(problem.values, problem.solution).vjp(*cotangent)
    for answer in answers:
        for found, part in zip(_parts(answer), _parts(expected), strict=True):
            assert relative(found, part) < 1e-11


def test_values_are_never_written_to(rng: np.random.Generator) -> None:
    problem = made("all")
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    inputs = [*_parts(problem.values), *_parts(tangent), *cotangent, problem.solution.x, problem.solution.y]
    before = [part.copy() for part in inputs]
    for path in WAYS:
        linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
        linearization.vjp(*cotangent)
        linearization.jvp(tangent)
    for part, copied in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(part, copied)


def test_the_report_tells_the_margin() -> None:
    problem = made("inequalities", batch=2)
    v = problem.solution.y - problem.solution.s
    v[5, 1] = 1e-9
    problem = at(problem.structure, problem.values.P, problem.values.A, problem.solution.x, v)
    margin = ExactDerivative(problem.structure).linearize(problem.values, problem.solution).report.margin
    assert margin[0] > 1e-3
    assert margin[1] < 1e-8


def test_large_batches_are_worked_in_parts(rng: np.random.Generator) -> None:
    problem = made("second_order", batch=50)
    cotangent = cotangents(problem, rng)
    exact = derivative(problem.structure, "condensed")
    whole = exact.linearize(problem.values, problem.solution)
    expected, four = whole.vjp(*cotangent), 4 * exact.choice.candidates[0].bytes_per_element
    assert whole.kept == 1
    several = derivative(problem.structure, "condensed", limits=Limits(part=four))
    kept = several.linearize(problem.values, problem.solution)
    for found, part in zip(_parts(kept.vjp(*cotangent)), _parts(expected), strict=True):
        assert relative(found, part) < 1e-11
    assert kept.kept == 13  # of 50 elements, four each at most
    forgetful = derivative(problem.structure, "condensed", limits=Limits(part=four, kept=0))
    parted = forgetful.linearize(problem.values, problem.solution)
    for _ in range(2):
        for found, part in zip(_parts(parted.vjp(*cotangent)), _parts(expected), strict=True):
            assert relative(found, part) < 1e-11
    assert parted.kept == 0


def _parts(values: Values) -> list[np.ndarray]:
    return [getattr(values, k) for k in PARTS]
