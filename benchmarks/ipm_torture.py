"""The layer on many hard random problems: which it solves, which it refuses, and whether it is ever wrong.

    python -m benchmarks.ipm_torture                                # 20,000 problems; some minutes
    python -m benchmarks.ipm_torture --trials 5 --cones psd --families "redundant psd"
    python -m benchmarks.ipm_torture --engine CLARABEL --alone      # each problem by itself

Each trial is a batch of problems with one structure whose answer is known by construction (see ``benchmarks.hard``):
feasible, full of ties, with weakly active constraints, with redundant rows, repeated cones or redundant semidefinite
constraints, infeasible or unbounded; in turn in units of one, of 1e-3 to 1e3 and of 1e-6 to 1e6 for each row, variable
and the objective. Wrong is an answer called optimal whose objective, feasibility, or, where it is unique, x is not the
known one, a certificate for a problem with a solution, and a solution or the other certificate of one without.

The gradient of a random linear function of x is held to differences along a random direction in which the redundant
rows stay redundant: one-sided ones at three step sizes, extrapolated twice. Where those of both sides, and the two
extrapolations, agree, the function has a derivative; a gradient that is more than 1e-4 off counts, and counts as
unflagged where ``info.derivative`` says nothing. The command fails if anything is wrong or unflagged.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.hard import FAMILIES, Hard
from cvxlayers.cones.projection import distance
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Values
from tests.ipm.problems import random_cones
from tests.support.scaling import Posed, Units, as_parameters, factors, random_units

__all__ = ["Count", "main"]

BATCH = 16

CONES: dict[str, tuple[tuple[str, ...], ...]] = {
    "second-order": ((), ("second_order",)),
    "psd": (("psd",),),
    "exponential": (("exponential",),),
    "power": (("power",),),
    "all": (("second_order", "psd", "exponential", "power"),),
}
"""The kinds of curved cones, from trial to trial in turn."""

NEEDED = {"redundant psd": frozenset({"psd"})}
"""The kinds without which there is nothing of a family."""

DECADES = (0, 3, 6)
"""Of the units, each way, from trial to trial in turn."""

OBJECTIVE, FEASIBLE = 1e-6, 1e-6
"""How far an answer may be off, relative to the largest numbers of the problem in units of one."""

GRADIENT = 1e-4
"""How far a gradient may be off, relative to the size of its terms."""

STEP, AGREED, BENT = 1e-4, 2e-5, 1e-2
"""Of the differences: their largest step, by how much those of both sides may differ (the two extrapolations of a side
by twice that), and by how much the first two of a side."""


@dataclass
class Count:
    """What came out."""

    statuses: Array = field(default_factory=lambda: np.zeros(len(Status), dtype=int))
    wrong: int = 0
    compared: int = 0
    off: int = 0
    unflagged: int = 0
    flagged: int = 0
    told: list[str] = field(default_factory=list)

    def plus(self, other: Count) -> Count:
        """Both together."""
        parts = (getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        return Count(*parts)

    def __str__(self) -> str:
        numbers = "".join(f"{count:12}" for count in self.statuses)
        return numbers + "".join(f"{n:10}" for n in (self.wrong, self.compared, self.flagged, self.off, self.unflagged))


HEADER = "".join(f"{status!s:>12}" for status in Status) + "".join(
    f"{title:>10}" for title in ("wrong", "gradients", "flagged", "off", "unflagged")
)


@dataclass(frozen=True)
class Trial:
    """A batch of hard problems in some units, and the layer that solves it."""

    problem: Hard
    units: Units
    posed: Posed
    layer: Layer
    alone: bool

    def solve(self, step: float) -> list[Record]:
        """The records of the whole batch, or of each element, a step along its direction."""
        scale = factors(self.problem.structure, self.units)
        values = Values(*(p * f for p, f in zip(self.problem.moved(step), scale, strict=True)))
        theta = self.posed.theta(values)
        parts = [theta[j : j + 1] for j in range(len(theta))] if self.alone else [theta]
        return [self.layer.solve([part]) for part in parts]

    def x(self, records: list[Record]) -> Array:
        """In units of one; NaN where it is not optimal."""
        x = np.concatenate([record.solution.x for record in records], axis=1) * self.units.d
        return np.where(statuses(records) == Status.OPTIMAL, x, np.nan)


def statuses(records: list[Record]) -> Array:
    return np.concatenate([record.solution.status for record in records])


def wrong(trial: Trial, records: list[Record]) -> list[str]:
    """For each element what is wrong with it, or nothing."""
    problem, found, x = trial.problem, statuses(records), trial.x(records)
    faults = []
    for j, status in enumerate(found):
        text = ""
        if status == Status.OPTIMAL and problem.objective is not None:
            text = _misses(problem, x[:, j], j)
        elif status in (Status.OPTIMAL, Status.INFEASIBLE, Status.UNBOUNDED) and status != problem.status:
            text = f"called {Status(status)!s}"
        faults.append(text)
    return faults


def _misses(problem: Hard, x: Array, j: int) -> str:
    """How an optimal point misses the known one."""
    assert problem.objective is not None and problem.x is not None
    values, structure, column = problem.values.select(np.array([j])), problem.structure, x[:, None]
    Px, Ax = structure.P_times(values.P, column)[:, 0], structure.A.times(values.A, column)[:, 0]
    q, b, size = values.q[:, 0], values.b[:, 0], 1 + float(np.abs(x).max(initial=0.0))
    terms = 1 + np.abs(x * Px).sum() + np.abs(q * x).sum()
    cost = abs(0.5 * x @ Px + q @ x - problem.objective[j]) / terms
    outside = float(distance(structure.cones, (b - Ax)[:, None])[0]) / (size + float(np.abs(b).max(initial=0.0)))
    apart = float(np.abs(x - problem.x[:, j]).max()) / size if np.isfinite(problem.x[:, j]).all() else 0.0
    errors = {"objective": (cost, OBJECTIVE), "feasibility": (outside, FEASIBLE), "x": (apart, problem.sharpness)}
    return ", ".join(f"{name} {error:.0e} off" for name, (error, limit) in errors.items() if not error <= limit)


def gradients(trial: Trial, records: list[Record], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """For each element whether differences agree, by how much the gradient is off, and whether it is flagged."""
    w = rng.normal(size=(trial.problem.structure.n, BATCH))
    at = trial.x(records)
    ours, flagged = _slope(trial, records, w)
    sides, changes, bent = [], [], np.zeros(BATCH)
    for sign in (1, -1):
        steps = [sign * STEP / part for part in (1, 2, 4)]
        far, near, nearest = (np.einsum("ib,ib->b", w, trial.x(trial.solve(t)) - at) / t for t in steps)
        coarse, fine = 2 * near - far, 2 * nearest - near  # exact but for the square of the step, and for its cube:
        sides.append((4 * fine - coarse) / 3)
        changes.append(np.abs(sides[-1] - fine))
        bent += np.abs(far - near)
    right = (sides[0] + sides[1]) / 2
    size = np.maximum(np.abs(right), _natural(w, at))
    apart = np.maximum(np.abs(sides[0] - sides[1]), np.maximum(*changes) / 2)
    agree = (apart <= AGREED * size) & (bent <= BENT * size)
    return agree, np.abs(ours - right) / size, flagged


def _natural(w: Array, x: Array) -> Array:
    """The size of a derivative that is nothing but rounding: that of w'x, for a direction of about the data's size."""
    return np.maximum(np.abs(w * x).sum(axis=0), 1.0)


def _slope(trial: Trial, records: list[Record], w: Array) -> tuple[Array, Array]:
    """Our derivative of w'x along the tangent, and what is flagged, (B,)."""
    tangent, scale = trial.problem.tangent, factors(trial.problem.structure, trial.units)
    assert tangent is not None
    start, parts, flags = 0, [], []
    for record in records:
        stop = start + record.solution.batch
        weights = (w * trial.units.d)[:, start:stop].T
        (theta,) = record.vjp([weights, None])
        parts.append(np.atleast_2d(theta))
        flags.append(_flags(record))
        start = stop
    found = trial.posed.values(np.concatenate(parts))
    terms = [(g * f * t).sum(axis=0) for g, f, t in zip(found, scale, tangent, strict=True)]
    return np.sum(terms, axis=0), np.concatenate(flags)


def _flags(record: Record) -> Array:
    """Whether the report warns: of a fallback, of a part that no solution serves, or of a kink."""
    flagged, report = np.ones(record.solution.batch, dtype=bool), record.info.derivative
    if report is not None:
        unserved = np.asarray(getattr(report, "unserved", 0.0))
        flagged[np.flatnonzero(record.solution.ok)] = report.fallback | (unserved > KINK) | (report.margin < KINK)
    return flagged


KINK = 1e-6
"""Nearer to a kink, or with a larger part unserved, the report warns."""


def judge(name: str, cones: str, options: argparse.Namespace) -> Count:
    """One family over one set of cones."""
    count = Count()
    for number in range(options.trials):
        rng = np.random.default_rng([options.seed, number, *name.encode(), *cones.encode()])
        trial = draw(rng, name, CONES[cones], number, options)
        records = trial.solve(0.0)
        faults = wrong(trial, records)
        count.statuses += np.bincount(statuses(records), minlength=len(Status))
        count.wrong += sum(map(bool, faults))
        where = f"{cones}, {name}, trial {number} ({DECADES[number % len(DECADES)]} decades), element"
        count.told += [f"{where} {j}: {fault}" for j, fault in enumerate(faults) if fault]
        if trial.problem.tangent is None:
            continue
        agree, error, flagged = gradients(trial, records, rng)
        off = agree & ~(error <= GRADIENT)
        count.compared += int(agree.sum())
        count.flagged += int((agree & flagged).sum())
        count.off += int(off.sum())
        count.unflagged += int((off & ~flagged).sum())
        count.told += [f"{where} {j}: gradient {error[j]:.0e} off" for j in np.flatnonzero(off & ~flagged)]
    return count


def draw(
    rng: np.random.Generator, name: str, kinds: tuple[tuple[str, ...], ...], number: int, options: argparse.Namespace
) -> Trial:
    """One batch."""
    n, quadratic = int(rng.integers(2, 12)), number % 4 < 2
    cones = random_cones(rng, n, *kinds[number % len(kinds)])
    while not cones.m:  # without rows nothing is infeasible, and nothing is redundant
        cones = random_cones(rng, n, *kinds[number % len(kinds)])
    problem = FAMILIES[name](rng, n, cones, BATCH, quadratic)
    posed = as_parameters(problem.structure)
    units = random_units(rng, problem.structure, BATCH, DECADES[number % len(DECADES)])
    layer = Layer(posed.compiled, options.engine, on_failure="nan", check_parameters=False)
    return Trial(problem, units, posed, layer, options.alone)


def main(arguments: Sequence[str] | None = None) -> Count:
    """Run the command; the sum comes back."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ipm_torture", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--trials", type=int, default=32, help=f"batches of {BATCH} in each family (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cones", nargs="+", choices=CONES, default=list(CONES), help="which curved cones there are")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--engine", default="IPM", help="our engine (default: IPM)")
    parser.add_argument("--alone", action="store_true", help="solve each problem by itself")
    parser.add_argument("--told", type=int, default=20, help="print so many faults (default: 20)")
    options = parser.parse_args(arguments)
    print(f"{'cones':14}{'family':16}{HEADER}")
    total = Count()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # engines that stop early say so; here the statuses do
        for cones in options.cones:
            for name in options.families:
                if not any(NEEDED.get(name, frozenset()) <= set(kinds) for kinds in CONES[cones]):
                    continue
                found = judge(name, cones, options)
                print(f"{cones:14}{name:16}{found}", flush=True)
                total = total.plus(found)
    print(f"{'all':30}{total}", *total.told[: options.told], sep="\n")
    return total


if __name__ == "__main__":
    answer = main()
    sys.exit(bool(answer.wrong or answer.unflagged))
