"""The IPM solver beside Clarabel on the timed families: solving and verification alone, both with the same threads.

Run it as ``python -m benchmarks.ipm_families``; with ``--batches 1 2 8`` for so many elements of each family, and of
larger and smaller ones. Each line has the milliseconds of a batch (the best of several rounds, in which the two take
turns), the ratio, iterations, the worst verified residual and the difference of the answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

import cvxlayers
from benchmarks import families
from benchmarks.families import TIMED, Family
from cvxlayers.layer import packing
from cvxlayers.program.structure import Structure, Values
from cvxlayers.solvers import registry
from cvxlayers.solvers.base import Settings
from cvxlayers.verify import verification

__all__ = ["main"]

SECONDS = 3.0
"""How long each family is timed."""

FURTHER: Mapping[str, Callable[[], Family]] = MappingProxyType({
    "dense_qp_300": partial(families.dense_qp, 300, 300, 8),
    "dense_lp_2000": partial(families.dense_lp, 2000, 100, 8),
    "sparse_qp_2000": partial(families.sparse_qp, 2000, 1000, 0.003, 8),
    "tv_2000": partial(families.total_variation, 2000, 8), "socp_2": partial(families.socp, 2, 2, 8),
    "socp_60": partial(families.socp, 60, 3, 8), "sdp_3": partial(families.sdp, 3, 2, 8),
    "sdp_20": partial(families.sdp, 20, 20, 8), "sdp_40": partial(families.sdp, 40, 20, 4),
    "logistic_2": partial(families.logistic, 2, 4, 8),
})  # fmt: skip
"""Families of other sizes."""


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
    parser.add_argument("--batches", type=int, nargs="+", help="how many elements (default: all)")
    parser.add_argument("families", nargs="*", help=f"of {', '.join([*TIMED, *FURTHER])}")
    arguments = parser.parse_args()
    print(
        f"{'family':16}{'batch':>6}{'IPM ms':>9}{'Clarabel':>10}{'ratio':>7}{'its':>6}{'worst':>9}{'apart':>9}  optimal"
    )
    known = {**TIMED, **FURTHER} if arguments.batches else TIMED
    for name in arguments.families or known:
        structure, whole = core({**TIMED, **FURTHER}[name]())
        settings = Settings(threads=arguments.threads)
        begin = time.perf_counter()
        ipm = registry.solver_class("IPM")(structure, settings)
        made = time.perf_counter() - begin
        clarabel = registry.solver_class("CLARABEL")(structure, settings)
        for batch in sorted({min(size, whole.batch) for size in arguments.batches or [whole.batch]}):
            values = whole.select(np.arange(batch))
            times, (a, c) = timed([partial(solver.solve, values) for solver in (ipm, clarabel)], arguments.seconds)
            a, c = (verification.verify(structure, clarabel.measure, values, found, 1e-6) for found in (a, c))
            apart = np.abs(a.x - c.x).max()
            print(
                f"{name:16}{batch:6}{times[0] * 1e3:9.2f}{times[1] * 1e3:10.2f}{times[1] / times[0]:7.2f}"
                f"{a.iterations.mean():6.1f}{a.residuals.worst.max():9.0e}{apart:9.0e}  {a.ok.sum()}/{a.batch}, "
                f"made in {made:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
