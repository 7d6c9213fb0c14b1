"""Solvers from outside: registered, found everywhere, refused with a reason, and kept from doing harm."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import EngineError, OptionError, SolveError
from cvxlayers.layer.layer import Layer
from cvxlayers.program.solution import Residuals
from cvxlayers.program.structure import Values
from cvxlayers.solvers import Element, ElementwiseSolver, Outcome, Settings, Solution, Solver, Status, registry
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.options import tolerance
from tests.support.tolerance import assert_close


class Mine(ElementwiseSolver):
    """Clarabel under another name."""

    name = "MINE"
    package = pip = "clarabel"
    kinds = frozenset({"zero", "nonneg", "second_order"})
    quadratic = True
    options = {"extra": "nothing"}
    types = {"extra": float}
    aliases = {"eps": (), "max_iters": ()}

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        return dict(settings.options)

    def solve_element(self, element: Element, start: Any) -> Outcome:
        return Clarabel(self.structure, Settings()).solve_element(element, start)


class Batched(Mine):
    """The same for whole batches; what goes wrong is in ``spoil``."""

    name = "BATCHED"

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        return self.spoil(super().solve(values, warm), values)

    def spoil(self, solution: Solution, values: Values) -> Any:
        return solution


@pytest.fixture
def registered() -> Iterator[Any]:
    before = set(registry.SOLVERS)
    yield cvxlayers.register_solver
    for name in set(registry.SOLVERS) - before:
        cvxlayers.unregister_solver(name)


def problem() -> tuple[cp.Problem, cp.Parameter, cp.Variable]:
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    return cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]), c, x


def layer(name: str | None, **options: Any) -> Layer:
    made, c, x = problem()
    return Layer.from_problem(made, [c], [x], solver=name, **options)


POINTS = np.array([[0.5, 0.2, 0.6], [2.0, 0.1, -1.0], [0.4, 0.3, 0.3]])
EXPECTED = np.array([[0.4, 0.1, 0.5], [1.0, 0.0, 0.0], [0.4, 0.3, 0.3]])


def spoiled(spoil: Any) -> type[Solver]:
    return type("Spoiled", (Batched,), {"name": "SPOILED", "spoil": spoil})


def test_it_is_found_and_its_answers_are_verified_and_differentiated(registered: Any) -> None:
    assert registered(Mine) is Mine
    record = layer("mine").solve([POINTS])
    assert record.info.engines.tolist() == ["MINE"] * 3
    assert_close(record.outputs[0], EXPECTED, 1e-8, "x")
    ours = layer("CLARABEL").solve([POINTS])
    w = np.random.default_rng(0).normal(size=(3, 3))
    assert_close(record.vjp([w])[0], ours.vjp([w])[0], 1e-8, "gradient")
    assert "MINE" in registry.names()


def test_as_a_method_of_a_call_and_by_its_option(registered: Any) -> None:
    registered(Mine)
    assert layer(None).solve([POINTS], {"solve_method": "MINE"}).info.engines.tolist() == ["MINE"] * 3
    assert layer(None).solve([POINTS], {"extra": 1.0}).info.engines.tolist() == ["MINE"] * 3
    with pytest.raises(OptionError, match="extra"):
        layer("MINE").solve([POINTS], {"extra": "much"})


def test_it_is_no_default(registered: Any) -> None:
    registered(Mine)
    assert layer(None).solve([POINTS]).info.engines[0] != "MINE"


def test_in_quadratic_programs_and_torch(registered: Any) -> None:
    torch = pytest.importorskip("torch")
    from cvxlayers.torch import CvxpyLayer

    registered(Mine)
    qp = cvxlayers.QP(solver="MINE")
    (x, *_) = qp(np.eye(2), np.array([-1.0, 0.5]), A=np.ones((1, 2)), b=np.ones(1))
    assert_close(x, np.array([1.25, -0.25]), 1e-8, "x")
    made, c, y = problem()
    (found,) = CvxpyLayer(made, [c], [y], solver="MINE")(torch.tensor(POINTS))
    assert_close(found.numpy(), EXPECTED, 1e-8, "x")


def test_a_linear_one_gets_the_epigraph(registered: Any) -> None:
    registered(type("Linear", (Mine,), {"name": "LINEAR", "quadratic": False, "unconstrained": False}))
    made = layer("LINEAR")
    assert not made.compiled.structure.quadratic
    assert_close(made(POINTS)[0], EXPECTED, 1e-6, "x")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_of_its_layers(registered: Any, duplicate: Any) -> None:
    registered(Mine)
    made = layer("MINE")
    made(POINTS)
    assert_close(duplicate(made)(POINTS)[0], EXPECTED, 1e-8, "x")


def test_without_registration_its_layers_say_what_to_do(registered: Any) -> None:
    registered(Mine)
    stored = pickle.dumps(layer("MINE"))
    cvxlayers.unregister_solver("MINE")
    with pytest.raises(EngineError, match=r"no solver 'MINE'.*register_solver"):
        pickle.loads(stored)(POINTS)
    with pytest.raises(EngineError, match=r"no solver 'MINE'.*register_solver"):
        layer("MINE")


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (3, "must be a subclass of cvxlayers.solvers.Solver, not 3"),
        (type("Other", (), {}), "must be a subclass"),
        (type("Half", (Solver,), {"name": "HALF"}), "lacks package, pip, kinds, quadratic, options, aliases, solve"),
        (type("Lower", (Mine,), {"name": "mine"}), "its name is 'mine'"),
        (type("Long", (Mine,), {"name": "M" * 17}), "up to 16 capital letters"),
        (type("Strange", (Mine,), {"kinds": frozenset({"sphere"})}), "its kinds are .*sphere.*expected a frozenset"),
        (type("NoTexts", (Mine,), {"package": None}), "its package and pip are None and 'clarabel', expected texts"),
        (type("Number", (Mine,), {"options": 5}), "an attribute is of another type"),
        (type("NoFlag", (Mine,), {"quadratic": 1}), "quadratic is 1, expected True or False"),
        (type("NoAlias", (Mine,), {"aliases": {}}), "its aliases are"),
        (type("NoOption", (Mine,), {"types": {"depth": int}}), "name depth, which its options do not have"),
        (type("Wrapping", (Mine,), {"wraps": ("SCS",)}), "wraps other solvers"),
        (type("Taken", (Mine,), {"name": "SCS"}), "There is a solver SCS of cvxlayers"),
    ],
)
def test_what_is_refused(registered: Any, solver: Any, message: str) -> None:
    before = registry.names()
    with pytest.raises(EngineError, match=message):
        registered(solver)
    assert registry.names() == before


def test_an_object_in_place_of_the_class(registered: Any) -> None:
    made = layer("CLARABEL").compiled.structure
    with pytest.raises(EngineError, match="pass the class, and not an object of it"):
        registered(Mine(made, Settings()))


def test_a_name_that_is_registered_already(registered: Any) -> None:
    registered(Mine)
    registered(Mine)  # once more does no harm
    with pytest.raises(EngineError, match="There is a solver MINE registered already"):
        registered(type("Other", (Mine,), {}))
    for name in ("SCS", "NONE"):
        with pytest.raises(EngineError, match="not the name of a registered solver; those that are: MINE"):
            cvxlayers.unregister_solver(name)


def test_from_many_threads(registered: Any) -> None:
    many = [type(f"Many{i}", (Mine,), {"name": f"MANY{i}"}) for i in range(20)]
    threads = [threading.Thread(target=registered, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
        list(registry.SOLVERS.values())
    for thread in threads:
        thread.join()
    assert {one.name for one in many} <= set(registry.SOLVERS)


def _lying(self: Any, solution: Solution, values: Values) -> Any:
    good, (x, y, s) = Residuals(np.zeros((5, solution.batch)), 0.0), (solution.x + 0.1, solution.y, solution.s)
    return Solution(x, y, s, solution.status, solution.iterations, solution.engine, good)


def _upside_down(self: Any, solution: Solution, values: Values) -> Any:
    return Solution(solution.x, -solution.y, solution.s, solution.status, solution.iterations, solution.engine)


def _nan(self: Any, solution: Solution, values: Values) -> Any:
    return Solution(solution.x * np.nan, solution.y, solution.s, solution.status, solution.iterations, solution.engine)


def _unsolvable(self: Any, solution: Solution, values: Values) -> Any:
    status = np.full(solution.batch, Status.INFEASIBLE, dtype=np.int8)
    return Solution(solution.x, solution.y, solution.s, status, solution.iterations, solution.engine)


def _writing(self: Any, solution: Solution, values: Values) -> Any:
    for part in (values.P, values.q, values.A, values.b):
        part[:] = 7.0
    return solution


@pytest.mark.parametrize("spoil", [_lying, _upside_down, _nan, _unsolvable, _writing])
def test_no_wrong_answer_passes(registered: Any, spoil: Any) -> None:
    registered(spoiled(spoil))
    made = layer("SPOILED")
    for _ in range(2):  # nothing of the first call is left
        record = made.solve([POINTS])
        assert record.info.statuses.tolist() == ["optimal"] * 3
        assert_close(record.outputs[0], EXPECTED, 1e-8, "x")


def test_its_options_loosen_nothing(registered: Any) -> None:
    """What it calls its accuracy may be a number of digits, or an option of another solver."""
    aliases = {"eps": ("digits", "max_iter"), "max_iters": ()}
    options, types = {"digits": "how many", "max_iter": "of something"}, {"digits": float, "max_iter": int}
    registered(type("Digits", (spoiled(_lying),), {"aliases": aliases, "options": options, "types": types}))
    record = layer("SPOILED").solve([POINTS], {"digits": 8.0})
    assert_close(record.outputs[0], EXPECTED, 1e-8, "x")
    assert tolerance(Settings(options={"digits": 8.0, "max_iter": 50})) == 1e-6


def test_an_exception_is_the_elements_own(registered: Any) -> None:
    def spoil(self: Any, solution: Solution, values: Values) -> Any:
        if any((np.abs(part) == 2.0).any() for part in (values.q, values.b)):
            raise ZeroDivisionError("no pivot.")
        return solution

    registered(spoiled(spoil))
    made, c, x = problem()
    only = Layer.from_problem(made, [c], [x], solver="SPOILED", on_failure="nan")
    with pytest.warns(RuntimeWarning, match=r"SPOILED raised ZeroDivisionError: no pivot\. The element has failed"):
        record = only.solve([POINTS])
    assert record.info.engines.tolist()[::2] == ["SPOILED", "SPOILED"] and record.info.engines[1] != "SPOILED"
    assert_close(record.outputs[0], EXPECTED, 1e-8, "x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda self, solution, values: solution.x, "returned ndarray; `solve` is to return a Solution"),
        (
            lambda self, s, values: Solution(s.x.T, s.y, s.s, s.status, s.iterations, s.engine),
            r"`x` of shape \(2, .\); it is to be \(., 2\)",
        ),
        (lambda self, s, values: Solution(s.x, s.y[1:], s.s, s.status, s.iterations, s.engine), "`y` of shape"),
        (
            lambda self, s, values: Solution("x", s.y, s.s, s.status, s.iterations, s.engine),
            "`x` that holds no",
        ),
        (lambda self, s, values: Solution(s.x, s.y, s.s, s.status + 9, s.iterations, s.engine), "statuses .*`Status`"),
    ],
)
def test_another_form_is_an_error(registered: Any, spoil: Any, message: str) -> None:
    registered(spoiled(spoil))
    with pytest.raises(EngineError, match=f"SPOILED returned .*{message}|{message}"):
        layer("SPOILED")(POINTS[:2])


def test_where_nobody_else_solves_it_the_layer_fails(registered: Any) -> None:
    registered(spoiled(_nan))
    x, c = cp.Variable(1), cp.Parameter(1)
    made = Layer.from_problem(cp.Problem(cp.Minimize(x[0]), [x >= c, x <= 1]), [c], [x], solver="SPOILED")
    with pytest.raises(SolveError, match="infeasible"):
        made(np.array([2.0]))


class _Found:
    """What is installed, as far as the tests say."""

    def __init__(self, *entries: EntryPoint) -> None:
        self.entries = entries

    def __call__(self, group: str) -> tuple[EntryPoint, ...]:
        assert group == "cvxlayers.solvers"
        return self.entries


def test_packages_bring_solvers(registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = EntryPoint("mine", f"{__name__}:Mine", registry.GROUP)
    broken = EntryPoint("broken", "no_such_package:Solver", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", _Found(broken, here))
    monkeypatch.setattr(registry.SOLVERS, "discovered", False)
    with pytest.warns(RuntimeWarning, match="solver 'broken' of the package no_such_package:Solver is left out"):
        made = layer("MINE")
    assert_close(made(POINTS)[0], EXPECTED, 1e-8, "x")
