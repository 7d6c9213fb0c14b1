"""Large sparse quadratic programs, one at a time: which solver takes over where the factors are too many for IPM.

Each answer is measured by the relative changes of the problem's numbers that would make it optimal (as every answer of
a layer is) before any time counts. The solvers run in turn, and the medians are printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from cvxlayers.cones import Cones
from cvxlayers.program.structure import Array, Pattern, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.registry import SOLVERS
from cvxlayers.verify.measure import measure

__all__ = ["FAMILIES", "main"]

ACCEPTED = 1e-7
"""The residual up to which an answer counts."""

Program = tuple[sp.csc_array, Array, sp.csc_array, Array, Cones]


def random_sparse(rng: np.random.Generator, n: int) -> Program:
    """A well-conditioned P and inequalities without any pattern."""
    root = sp.random_array((n, n), density=1.0 / n, rng=rng, format="csc")
    A = sp.random_array((2 * n, n), density=2.0 / n, rng=rng, format="csc")
    return sp.csc_array(root @ root.T + sp.eye_array(n)), 5 * rng.normal(size=n), A, np.ones(2 * n), Cones(nonneg=2 * n)


def control(rng: np.random.Generator, n: int) -> Program:
    """A trajectory of n / 6 steps of a system with 4 states and 2 inputs, all of them bounded."""
    steps = n // 6
    F, B = np.eye(4) + 0.1 * rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    states, inputs = 4 * steps, 2 * steps
    shift = sp.kron(sp.eye_array(steps, k=-1), F)
    dynamics = sp.hstack([sp.eye_array(states) - shift, -sp.kron(sp.eye_array(steps), B)])
    start = np.zeros(states)
    start[:4] = F @ rng.normal(size=4)
    bounds = sp.vstack([sp.eye_array(states + inputs), -sp.eye_array(states + inputs)])
    limits = np.tile(np.concatenate([np.full(states, 5.0), np.full(inputs, 0.5)]), 2)
    P = sp.diags_array(np.concatenate([np.ones(states), np.full(inputs, 0.1)]))
    A = sp.csc_array(sp.vstack([dynamics, bounds]))
    cones = Cones(zero=states, nonneg=2 * (states + inputs))
    return sp.csc_array(P), np.zeros(states + inputs), A, np.concatenate([start, limits]), cones


def factors(rng: np.random.Generator, n: int) -> Program:
    """A portfolio of n assets whose risk is told by n / 50 factors."""
    k = n // 50
    F = sp.random_array((n, k), density=0.5, rng=rng)
    P = sp.diags_array(np.concatenate([rng.uniform(0.0, np.sqrt(k), n), np.ones(k)]))
    budget = sp.csr_array(np.concatenate([np.ones(n), np.zeros(k)])[None])
    A = sp.vstack([
        sp.hstack([F.T, -sp.eye_array(k)]), budget,
        sp.hstack([-sp.eye_array(n), sp.csc_array((n, k))]),
    ])  # fmt: skip
    b = np.concatenate([np.zeros(k), [1.0], np.zeros(n)])
    q = np.concatenate([-rng.normal(size=n), np.zeros(k)])
    return sp.csc_array(P), q, sp.csc_array(A), b, Cones(zero=k + 1, nonneg=n)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Program]] = {
    "random": random_sparse,
    "control": control,
    "factors": factors,
}


def posed(program: Program) -> tuple[Structure, Values]:
    """The program as one element of a batch."""
    P, q, A, b, cones = program
    upper, entries = sp.coo_array(sp.triu(P, format="csc")), sp.coo_array(A)
    structure = Structure(
        Pattern.of(upper.row, upper.col, P.shape), Pattern.of(entries.row, entries.col, A.shape), cones
    )
    columns = [part[:, None] for part in (_ordered(upper), q, _ordered(entries), b)]
    return structure, Values(*columns)


def _ordered(matrix: sp.coo_array) -> Array:
    return np.asarray(matrix.data[np.lexsort((matrix.row, matrix.col))])


def main(arguments: Sequence[str] | None = None) -> list[tuple[str, int, str, float, float]]:
    """Run the command; the rows (family, n, solver, residual, milliseconds) come back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_qp", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[600, 1800, 5400], metavar="N")
    parser.add_argument("--solvers", nargs="+", default=["PIQP", "CLARABEL"], metavar="NAME")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'family':10}{'n':>7}{'rows':>8}  {'solver':10}{'residual':>10}{'objective':>18}{'ms':>10}")
    for family in options.families:
        for n in options.sizes:
            structure, values = posed(FAMILIES[family](np.random.default_rng(n), n))
            solvers = {name: SOLVERS[name](structure, Settings()) for name in options.solvers}
            times: dict[str, list[float]] = {name: [] for name in solvers}
            for _ in range(options.repeats):
                for name, solver in solvers.items():
                    start = time.perf_counter()
                    found = solver.solve(values)
                    times[name].append(1e3 * (time.perf_counter() - start))
                    residuals = measure(structure, values, found.x, found.y, found.s)
                    last = (float(residuals.worst[0]), float(residuals.cost[0]))
                    if len(times[name]) == options.repeats:
                        rows.append((family, n, name, last[0], float(np.median(times[name]))))
                        wrong = "" if last[0] <= ACCEPTED else "  not solved"
                        print(
                            f"{family:10}{n:7}{structure.m:8}  {name:10}{last[0]:10.1e}{last[1]:18.9e}"
                            f"{rows[-1][-1]:10.1f}{wrong}", flush=True,
                        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
