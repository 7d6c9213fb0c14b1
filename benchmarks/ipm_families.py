"""The IPM solver beside Clarabel on the timed families: solving and verification alone, both with the same threads.

Run it as ``python -m benchmarks.ipm_families``. Each line has the milliseconds of a batch (the best of several rounds,
in which the two take turns), the ratio, iterations, the worst verified residual and the difference of the answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import cvxlayers
from benchmarks.families import TIMED, Family, make
from cvxlayers import packing, verification
from cvxlayers.program import Structure, Values
from cvxlayers.solvers import registry
from cvxlayers.solvers.base import Settings

__all__ = ["main"]

SECONDS = 3.0
"""How long each family is timed."""


def core(family: Family) -> tuple[Structure, Values]:
    """The structure and the values of a family's batch."""
    compiled = cvxlayers.compile(family.problem, family.parameters, family.variables)
    return compiled.structure, compiled.evaluate(packing.pack(compiled, family.data).theta)


def timed(calls: list[Callable[[], Any]], seconds: float) -> tuple[list[float], list[Any]]:
    """The shortest time of each call, taking turns for so many seconds, and their results."""
    results, best = [call() for call in calls], [np.inf] * len(calls)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        rounds += 1
        for k, call in enumerate(calls):
            begin = time.perf_counter()
            results[k] = call()
            best[k] = min(best[k], time.perf_counter() - begin)
    return best, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of both solvers")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each family is timed")
    parser.add_argument("families", nargs="*", help=f"of {', '.join(TIMED)}")
    arguments = parser.parse_args()
    print(f"{'family':16}{'IPM ms':>9}{'Clarabel':>10}{'ratio':>7}{'its':>6}{'worst':>9}{'apart':>9}  optimal")
    for name in arguments.families or TIMED:
        structure, values = core(make(name))
        settings = Settings(threads=arguments.threads)
        begin = time.perf_counter()
        ipm = registry.solver_class("IPM")(structure, settings)
        made = time.perf_counter() - begin
        clarabel = registry.solver_class("CLARABEL")(structure, settings)
        times, (a, c) = timed([partial(solver.solve, values) for solver in (ipm, clarabel)], arguments.seconds)
        a, c = (verification.verify(clarabel.measure, values, found, 1e-6) for found in (a, c))
        apart = np.abs(a.x - c.x).max()
        print(
            f"{name:16}{times[0] * 1e3:9.2f}{times[1] * 1e3:10.2f}{times[1] / times[0]:7.1f}{a.iterations.mean():6.1f}"
            f"{a.residuals.worst.max():9.0e}{apart:9.0e}  {a.ok.sum()}/{a.batch}, made in {made:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
