"""The IPM solver on many hard random problems: which it solves, which it gives up on, and whether it is ever wrong.

Run it as ``python -m benchmarks.ipm_torture --trials 500``, perhaps with ``--cones psd exponential``. Each trial is a
batch of problems, degenerate, badly scaled, infeasible or unbounded; with ``--alone`` each problem is solved by itself,
for which there are other kernels. Wrong is a point called optimal whose residual
exceeds 1e-6, a certificate for a problem with a solution, or a solution of one without; the command then fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from cvxlayers.program import Structure, Values
from cvxlayers.solution import Status, measure
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.ipm import IPM
from tests.ipm.problems import feasible, infeasible, random_cones, unbounded

__all__ = ["main"]

BATCH = 16

CONES: dict[str, tuple[tuple[str, ...], ...]] = {
    "second-order": ((), ("second_order",)),
    "psd": (("psd",),),
    "exponential": (("exponential",),),
    "power": (("power",),),
    "all": (("second_order", "psd", "exponential", "power"),),
}
"""The kinds of curved cones, from trial to trial in turn."""


def scaled(decades: float) -> Callable[..., tuple[Structure, Values]]:
    """Feasible problems in units that differ by so many decades each way."""
    return lambda *arguments: feasible(*arguments, decades=decades)


FAMILIES: dict[str, tuple[Callable[..., tuple[Structure, Values]], set[Status]]] = {
    "feasible": (scaled(0.0), {Status.INFEASIBLE, Status.UNBOUNDED}),
    "1e-1..1e1": (scaled(1.0), {Status.INFEASIBLE, Status.UNBOUNDED}),
    "1e-3..1e3": (scaled(3.0), {Status.INFEASIBLE, Status.UNBOUNDED}),
    "infeasible": (infeasible, {Status.OPTIMAL}),
    "unbounded": (unbounded, {Status.OPTIMAL, Status.INFEASIBLE}),
}


def run(
    make: Callable[..., Any],
    rng: np.random.Generator,
    wrong: set[Status],
    trials: int,
    kinds: tuple[tuple[str, ...], ...],
    alone: bool = False,
) -> tuple[Any, int, float]:
    """Counts of the statuses, the number of wrong ones, and the mean number of iterations."""
    counts, errors, steps = np.zeros(len(Status), dtype=int), 0, 0.0
    for trial in range(trials):
        n = int(rng.integers(2, 20))
        cones = random_cones(rng, n, *kinds[trial % len(kinds)])
        while not cones.m:  # without rows nothing is infeasible
            cones = random_cones(rng, n, *kinds[trial % len(kinds)])
        structure, values = make(rng, n, cones, BATCH, trial % 4 < 2)
        solver = IPM(structure, Settings(threads=2))
        for part in [values.select(np.array([j])) for j in range(BATCH)] if alone else [values]:
            found = solver.solve(part)
            counts += np.bincount(found.status, minlength=len(Status))
            residual = measure(structure, part, found.x, found.y, found.s).worst
            errors += int(np.isin(found.status, list(wrong)).sum())
            errors += int((~(residual <= 1e-6) & (found.status == Status.OPTIMAL)).sum())
            steps += float(found.iterations.sum()) / BATCH / trials
    return counts, errors, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help=f"batches of {BATCH} problems in each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cones", nargs="*", choices=CONES, default=list(CONES), help="which curved cones there are")
    parser.add_argument("--alone", action="store_true", help="solve each problem by itself")
    arguments = parser.parse_args()
    print(f"{'cones':14}{'family':12}" + "".join(f"{status!s:>12}" for status in Status) + f"{'wrong':>8}{'its':>7}")
    bad = 0
    for cones in arguments.cones:
        for number, (name, (make, wrong)) in enumerate(FAMILIES.items()):
            rng = np.random.default_rng([arguments.seed, number])
            counts, errors, steps = run(make, rng, wrong, arguments.trials, CONES[cones], arguments.alone)
            bad += errors
            numbers = "".join(f"{count:12}" for count in counts)
            print(f"{cones:14}{name:12}{numbers}{errors:8}{steps:7.1f}", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
