"""Whether answers depend on anyone's units: problems of every family in random units, mapped back and compared.

    python -m benchmarks.equivariance                              # 1e-6 to 1e6 each, the default engine
    python -m benchmarks.equivariance --decades 3 --batch 64       # how many are refused: at most 1 in 1,000
    python -m benchmarks.equivariance --common                     # one unit for all, 1e-12 to 1e12
    python -m benchmarks.equivariance --engines IPM SCS --families lp psd_projection --worst 3

Each line is a family of the contract table, or random problems over one set of cones, in as many units as the batch
has elements: random powers of ten on every row (the rows of a curved cone share theirs), variable and on the
objective. Algebra says what becomes of x, the dual variables, the objective and the gradients. A number is wrong if it
is more than 1e-6 off, relative to the largest of its kind in the problem's own units, and the status is ``optimal``.
Refused is what has another status. The command fails if any number is wrong, or, with up to three decades, if more than
one problem in 1,000 is refused.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import machine, render
from cvxlayers.layer import packing
from cvxlayers.program.structure import Array
from cvxlayers.solvers import registry
from tests.contracts.table import CASES, case
from tests.support import layers
from tests.support.equivariance import Found, Reference, compare, reference
from tests.support.regular import regular
from tests.support.scaling import Units, as_parameters, common_units, random_units

__all__ = ["Tally", "main"]

TOLERANCE = 1e-6

REFUSED = 1e-3
"""The share that may be refused within ``MILD`` decades each way."""

MILD, COMMON = 3, 12

RANDOM = {
    "random polyhedral": frozenset({"zero", "nonneg"}),
    "random second-order": frozenset({"zero", "nonneg", "second_order"}),
    "random psd": frozenset({"zero", "nonneg", "psd"}),
    "random exponential": frozenset({"zero", "nonneg", "exponential"}),
    "random power": frozenset({"zero", "nonneg", "power"}),
    "random, all cones": frozenset({"zero", "nonneg", "second_order", "psd", "exponential", "power"}),
}
"""Families of random problems, by the cones that there may be."""

PROBLEMS = 12
"""So many problems of each of these."""


@dataclass
class Tally:
    """What came out for one family on one engine."""

    problems: int = 0
    refused: int = 0
    wrong: int = 0
    silent: int = 0
    outputs: float = 0.0
    objective: float = 0.0
    gradient: float = 0.0
    flagged: int = 0

    def add(self, found: Found) -> None:
        """Count one batch."""
        bad = found.worst > TOLERANCE
        self.problems += bad.size
        self.refused += int((~found.optimal).sum())
        self.wrong += int(bad.sum())
        self.silent += int((bad & ~found.flagged).sum())
        self.flagged += int((found.flagged & found.optimal).sum())
        for name in ("outputs", "objective", "gradient"):
            setattr(self, name, max(getattr(self, name), float(np.max(getattr(found, name)[found.optimal], initial=0))))

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            *(a + b for a, b in zip(self._counts, other._counts, strict=True)),
            *(max(a, b) for a, b in zip(self._errors, other._errors, strict=True)), self.flagged + other.flagged,
        )  # fmt: skip

    @property
    def _counts(self) -> tuple[int, int, int, int]:
        return self.problems, self.refused, self.wrong, self.silent

    @property
    def _errors(self) -> tuple[float, float, float]:
        return self.outputs, self.objective, self.gradient

    def __str__(self) -> str:
        counts = "".join(f"{count:9}" for count in (*self._counts, self.flagged))
        return counts + "".join(f"{error:10.0e}" for error in self._errors)


HEADER = "".join(f"{title:>9}" for title in ("problems", "refused", "wrong", "silently", "flagged")) + "".join(
    f"{title:>10}" for title in ("outputs", "objective", "gradient")
)


def references(name: str, engine: str | None, seed: int) -> Iterator[Reference]:
    """The problems of one family, in the form that the engine takes."""
    if name not in RANDOM:
        compiled = layers.compiled(case(name), engine or "CLARABEL")
        yield reference(compiled, packing.pack(compiled, case(name).point(seed)).theta[:, 0], seed)
        return
    solver = registry.solver_class(engine or "CLARABEL")
    for number in range(PROBLEMS):
        rng = np.random.default_rng([seed, number, len(name)])
        posed = regular(rng, RANDOM[name] & solver.kinds, solver.quadratic and number % 2 == 0)
        problem = as_parameters(posed.structure)
        yield reference(problem.compiled, problem.theta(posed.values)[0], number)


def takes(name: str, engine: str | None) -> bool:
    """Whether the engine takes the family."""
    if name in RANDOM:
        return RANDOM[name] <= registry.solver_class(engine or "CLARABEL").kinds
    return engine is None or engine in layers.engines(case(name))


def units_of(right: Reference, options: argparse.Namespace, rng: np.random.Generator) -> Units:
    """As many units as the batch has elements."""
    structure = right.compiled.structure
    if options.common:
        exponents: Array = np.linspace(-COMMON, COMMON, options.batch).round()
        return common_units(structure, exponents, bool(structure.quadratic))
    return random_units(rng, structure, options.batch, options.decades)


def tell(right: Reference, units: Units, found: Found, count: int) -> None:
    """Print the units of the worst elements: what a failure is reproduced with."""
    order = np.lexsort([-found.worst, found.optimal & (found.worst <= TOLERANCE)])[:count]
    for j in order:
        if found.optimal[j] and found.worst[j] <= TOLERANCE:
            continue
        errors = f"outputs {found.outputs[j]:.0e}, objective {found.objective[j]:.0e}, gradient {found.gradient[j]:.0e}"
        exponents = [np.log10(part).round().astype(int).tolist() for part in (units.d[:, j], units.r[:, j])]
        print(f"    element {j}: {found.statuses[j]} by {found.engines[j]}, {errors}, "
              f"{'flagged' if found.flagged[j] else 'not flagged'}; n {right.compiled.structure.n}, "
              f"{right.compiled.structure.cones}; decades of variables {exponents[0]}, rows {exponents[1]}, objective "
              f"{round(float(np.log10(units.c[j])))}")  # fmt: skip


def run(name: str, engine: str | None, options: argparse.Namespace) -> Tally:
    """One family on one engine."""
    tally = Tally()
    for seed in range(options.seeds):
        for number, right in enumerate(references(name, engine, seed)):
            units = units_of(right, options, np.random.default_rng([seed, number, options.decades]))
            found = compare(right, engine, units)
            tally.add(found)
            if options.worst:
                tell(right, units, found, options.worst)
    return tally


def main(arguments: Sequence[str] | None = None) -> tuple[Tally, bool]:
    """Run the command; the sum comes back, and whether all is well."""
    names = [*(row.name for row in CASES), *RANDOM]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equivariance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--engines", nargs="+", default=["default"], help="our engines, or 'default' (the default)")
    parser.add_argument("--families", nargs="+", default=names, metavar="NAME", choices=names)
    parser.add_argument("--decades", type=int, default=6, help="of each unit, each way (default: 6)")
    parser.add_argument("--common", action="store_true", help=f"one unit for all, {COMMON} decades each way")
    parser.add_argument("--batch", type=int, default=16, help="how many units each problem comes in (default: 16)")
    parser.add_argument("--seeds", type=int, default=1, help="samples of each family (default: 1)")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="print the units of the N worst of each batch"
    )
    options = parser.parse_args(arguments)
    print(render.header(machine.facts(1)), f"{'family':20}{'engine':10}{HEADER}", sep="\n\n")
    total = Tally()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # engines that stop early say so; here the statuses do
        for name in options.families:
            for engine in (None if one == "default" else one for one in options.engines):
                if takes(name, engine):
                    found = run(name, engine, options)
                    print(f"{name:20}{engine or 'default':10}{found}", flush=True)
                    total = total.plus(found)
    print(f"{'all':30}{total}")
    mild = not options.common and options.decades <= MILD
    return total, not total.wrong and not (mild and total.refused > REFUSED * total.problems)


if __name__ == "__main__":
    sys.exit(not main()[1])
