"""Every solver on every family that it takes, against solutions known by construction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cvxlayers.program.solution import Status
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.registry import SOLVERS
from cvxlayers.verify.measure import measure
from tests.solvers.problems import FAMILIES, Family, make
from tests.support.tolerance import assert_close

BATCH = 12
ENGINES = [(name, {}) for name in SOLVERS] + [("DIFFCP", {"solve_method": method}) for method in ("SCS", "ECOS")]


def pairs() -> Iterator[Any]:
    for chosen in FAMILIES:
        structure = make(chosen, 1).structure
        for name, options in ENGINES:
            behind = SOLVERS[options.get("solve_method", name)]
            if SOLVERS[name].takes(structure) and behind.takes(structure) and behind.installed():
                yield pytest.param(chosen, name, options, id="-".join([chosen.name, name, *options.values()]))


@pytest.mark.parametrize(("chosen", "name", "options"), list(pairs()))
def test_known_solution_is_found(chosen: Family, name: str, options: dict[str, str]) -> None:
    problem = make(chosen, BATCH)
    solution = SOLVERS[name](problem.structure, Settings(options=options)).solve(problem.values)
    found = measure(problem.structure, problem.values, solution.x, solution.y, solution.s)
    worst = max(part.max() for part in (found.primal, found.dual, found.cone))
    print(f"{chosen} on {name}: worst residual {worst:.1e}, {solution.iterations.mean():.0f} iterations")  # noqa: T201
    assert set(solution.status) <= {Status.OPTIMAL, Status.INACCURATE}
    assert np.mean(solution.status == Status.OPTIMAL) >= (0.5 if chosen.cones.psd else 0.75)
    assert worst <= 1e-7
    assert found.gap.max() <= (1e-5 if chosen.curved else 1e-7)  # of curved cones like the root of the duality gap
    assert_close(problem.objective_of(solution.x), problem.objective, 1e-7, "objective")
    assert_close(solution.x, problem.x, 1e-4 if chosen.curved else 1e-6, "x")
    assert solution.engine.tolist() == [name] * BATCH
