"""``cvxlayers doctor``: what is installed, and whether each solver gives right solutions and gradients here."""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import cvxpy as cp
import numpy as np

from cvxlayers._version import __version__
from cvxlayers.cli.finite_difference import directional_derivative
from cvxlayers.errors import CvxlayersError, EngineError
from cvxlayers.layer.layer import Layer
from cvxlayers.solvers import registry
from cvxlayers.solvers.base import Solver

__all__ = [
    "Diagnosis",
    "Package",
    "SelfTest",
    "SolverFound",
    "Warmth",
    "diagnose",
    "packages",
    "self_tests",
    "solvers",
    "warm_up",
]

SOLUTION_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3

# What each package is for, and how it is installed.
PACKAGES = (
    ("cvxpy", "pip install cvxpy"),
    ("numpy", "pip install numpy"),
    ("scipy", "pip install scipy"),
    ("clarabel", "pip install clarabel"),
    ("scs", "pip install scs"),
    ("ecos", "pip install 'cvxlayers[ecos]'"),
    ("diffcp", "pip install diffcp"),
    ("torch", "pip install 'cvxlayers[torch]'"),
    ("tensorflow", "pip install 'cvxlayers[tensorflow]'"),
    ("keras", "pip install 'cvxlayers[tensorflow]'"),
    ("jax", "pip install 'cvxlayers[jax]'"),
    ("matplotlib", "pip install 'cvxlayers[plot]'"),
    ("numba", "pip install 'cvxlayers[fast]'"),
)


@dataclass(frozen=True)
class Package:
    """A package: its installed version, or None with the pip line that brings it."""

    name: str
    version: str | None
    pip: str


@dataclass(frozen=True)
class SolverFound:
    """A solver of the registry: whether it is installed and runs, what it takes, and what keeps it from running."""

    name: str
    installed: bool
    kinds: tuple[str, ...]
    quadratic: bool
    pip: str
    hindrance: str = ""


@dataclass(frozen=True)
class SelfTest:
    """One solver on one small problem: relative errors, or why there are none."""

    solver: str
    kind: str
    solution_error: float | None
    gradient_error: float | None
    remark: str = ""
    skipped: bool = False

    @property
    def passed(self) -> bool:
        if self.solution_error is None or self.gradient_error is None:
            return False
        return self.solution_error <= SOLUTION_TOLERANCE and self.gradient_error <= GRADIENT_TOLERANCE


@dataclass(frozen=True)
class Diagnosis:
    """The whole answer."""

    packages: tuple[Package, ...]
    solvers: tuple[SolverFound, ...]
    tests: tuple[SelfTest, ...]

    @property
    def healthy(self) -> bool:
        """Whether a solver is installed at all, and every installed one passes."""
        counted = [test for test in self.tests if not test.skipped]
        return bool(counted) and all(test.passed for test in counted)


Kernel = tuple[str, str, tuple[Any, ...] | None]
"""A module, and a kernel there; or a function, and the arguments with which it makes one or some."""

PROCESSES = 4
"""So many at most compile side by side: each takes some hundred megabytes."""


@dataclass(frozen=True)
class Warmth:
    """How many seconds it took to have the kernels at hand, and whether they had to be compiled."""

    seconds: float
    compiled: bool


def warm_up() -> Warmth:
    """Compile the kernels of IPM, and of the nodes where PyTorch is installed, or load them where that has been done.

    Raises
    ------
    EngineError
        Numba is not installed, or of no use.
    """
    ipm = registry.SOLVERS["IPM"]
    if not ipm.installed():
        todo = ipm.hindrance() or "Numba is not installed: install it with `pip install 'cvxlayers[fast]'`."
        raise EngineError(f"--warm compiles the kernels of the solver IPM, which need Numba. {todo}")
    start = perf_counter()
    there = _loaded_side_by_side(_kernels())
    return Warmth(perf_counter() - start, not all(there))


def _kernels() -> list[Kernel]:
    """All kernels, those that take longest to compile first."""
    cones, ipm = "cvxlayers.cones.kernels.entry", "cvxlayers.ipm.entry"
    found: list[Kernel] = []
    for optional in (True, False):
        found += [(ipm, name, (optional, single))
                  for name, single in product(("solve_groups", "differentiate_groups"), (False, True))]  # fmt: skip
    found += [(cones, "compiled_cone", (kind,)) for kind in ("exponential", "power")]
    if find_spec("torch") is not None:  # without it there are no nodes
        found.append(("cvxlayers.nodes.linear.eigen_kernel", "decompose", None))
    found += [(ipm, "scale_groups", (optional, single)) for optional, single in product((True, False), (False, True))]
    return [*found, *((ipm, "measure_groups", (single,)) for single in (False, True))]


def _loaded(kernel: Kernel) -> bool:
    """Make a kernel, and tell whether it was there already."""
    module, name, arguments = kernel
    made = getattr(import_module(module), name)
    if arguments is not None:
        made = made(*arguments)
    return all(part.stats.cache_hits for part in getattr(made, "kernels", (made,)))


def _loaded_side_by_side(kernels: Sequence[Kernel]) -> list[bool]:
    """The same for some kernels, in several processes, or in this one where such processes cannot be had."""
    workers = min(os.cpu_count() or 1, PROCESSES)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_hush) as pool:
            return list(pool.map(_loaded, kernels))
    except (OSError, BrokenProcessPool):
        return [_loaded(kernel) for kernel in kernels]


def _hush() -> None:
    logging.getLogger("cvxlayers").setLevel(logging.ERROR)


def diagnose(advance: Callable[[], None] = lambda: None) -> Diagnosis:
    """Look and test; ``advance`` is called after each self-test."""
    tests = []
    for test in self_tests():
        tests.append(test)
        advance()
    return Diagnosis(packages(), solvers(), tuple(tests))


def packages() -> tuple[Package, ...]:
    """What is installed, from the packages' metadata: none of them is imported for it."""
    own = (Package("python", platform.python_version(), ""), Package("cvxlayers", __version__, ""))
    return own + tuple(Package(name, _version(name), pip) for name, pip in PACKAGES)


def solvers() -> tuple[SolverFound, ...]:
    """Every solver of the registry."""
    return tuple(
        SolverFound(s.name, s.installed(), tuple(sorted(s.kinds)), s.quadratic, f"pip install {s.pip}", s.hindrance())
        for s in map(registry.SOLVERS.__getitem__, registry.names())
    )


def self_tests() -> Iterator[SelfTest]:
    """Each installed solver on a small problem for each kind of cone that it takes."""
    for solver in map(registry.SOLVERS.__getitem__, registry.names()):
        if solver.installed():
            for kind in PROBLEMS:
                if kind in solver.kinds:
                    yield _self_test(solver, kind)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class _Case:
    """A problem whose first variable depends smoothly on its one parameter, a vector, near ``value``."""

    problem: cp.Problem
    parameter: cp.Parameter
    variable: cp.Variable
    value: np.ndarray


def _projection(constraints: Callable[[cp.Variable], list[cp.Constraint]], value: np.ndarray, **of: bool) -> _Case:
    """Project a parameter onto a set."""
    x, c = cp.Variable(value.shape, name="x", **of), cp.Parameter(value.shape, name="c")
    return _Case(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), constraints(x)), c, x, value)


def _entropy(value: np.ndarray) -> _Case:
    """Entropy over the simplex, whose solution is softmax(-c)."""
    x, c = cp.Variable(value.shape, name="x"), cp.Parameter(value.shape, name="c")
    return _Case(cp.Problem(cp.Minimize(c @ x - cp.sum(cp.entr(x))), [cp.sum(x) == 1]), c, x, value)


_C = np.array([0.9, -0.4, 0.7])
_U = np.array([0.9, 0.4, 0.7, -1.1])
_S = np.array([[1.0, 0.8, -0.3], [0.8, -0.5, 0.6], [-0.3, 0.6, 0.2]])
PROBLEMS: dict[str, Callable[[], _Case]] = {
    "zero": lambda: _projection(lambda x: [cp.sum(x) == 1], _C),
    "nonneg": lambda: _projection(lambda x: [x >= 0, cp.sum(x) <= 1], _C),
    "second_order": lambda: _projection(lambda x: [cp.norm(x, 2) <= 1], _C),
    "psd": lambda: _projection(lambda x: [x >> 0], _S, symmetric=True),
    "exponential": lambda: _entropy(_C),
    "power": lambda: _projection(lambda x: [cp.PowCone3D(x[0], x[1], x[2], 0.3)], _C),
    "power_nd": lambda: _projection(lambda x: [cp.PowConeND(x[:3], x[3], np.array([0.2, 0.3, 0.5]))], _U),
}


@dataclass(frozen=True)
class _Reference:
    """The solution by ``problem.solve`` and its derivative along a direction, by finite differences of it."""

    solution: np.ndarray
    direction: np.ndarray
    derivative: np.ndarray


@cache
def _reference(kind: str) -> _Reference:
    case = PROBLEMS[kind]()
    direction = np.cos(np.arange(case.value.size)).reshape(case.value.shape)

    def solve(t: np.ndarray) -> np.ndarray:
        return np.stack([_solved(case, case.value + step * direction) for step in t])

    estimate = directional_derivative(solve, 1.0)
    return _Reference(_solved(case, case.value), direction, estimate.value)


def _solved(case: _Case, value: np.ndarray) -> np.ndarray:
    case.parameter.value = value
    with warnings.catch_warnings():  # at n-dimensional power cones Clarabel comes near 1e-9, and says so
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        case.problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return np.ravel(case.variable.value)


def _self_test(solver: type[Solver], kind: str) -> SelfTest:
    case, reference = PROBLEMS[kind](), _reference(kind)
    try:
        layer = Layer.from_problem(case.problem, [case.parameter], [case.variable], solver=solver.name)
    except EngineError as exc:  # the small problem needs another kind of cone besides
        return SelfTest(solver.name, kind, None, None, str(exc), skipped=True)
    try:
        record = layer.solve([case.value])
        forward = np.ravel(record.jvp([reference.direction])[0])
        w = np.sin(1.0 + np.arange(case.value.size))
        backward = np.sum(record.vjp([w.reshape(case.value.shape)])[0] * reference.direction)
    except (CvxlayersError, ImportError, OSError) as exc:  # the last two: an installation that is broken
        return SelfTest(solver.name, kind, None, None, str(exc))
    size = 1.0 + np.abs(reference.derivative).max()
    errors = (
        np.abs(forward - reference.derivative).max(),
        abs(backward - w @ reference.derivative) / np.linalg.norm(w),
    )
    solution_error = np.abs(np.ravel(record.outputs[0]) - reference.solution).max() / (1.0 + np.abs(_C).max())
    return SelfTest(solver.name, kind, float(solution_error), float(np.max(errors) / size))
