"""The QP layer beside qpth and ProxSuite: each answer and gradient verified first, then forward plus backward, in turn.

    python -m benchmarks.qp_layers                    # all sizes
    python -m benchmarks.qp_layers --only qpth        # those with this word in their name
    python -m benchmarks.qp_layers --quick            # small batches, to see that all works

The right answer comes from Clarabel, without any part of this package: its point tells which rows are active, the
linear system of these gives the solution to rounding, and the same matrix gives the gradient (Amos and Kolter 2017,
equation 7). A contender that is wrong is listed and not timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import clarabel
import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks import machine, render
from benchmarks.contenders import Runner, failures
from benchmarks.timing import Call, Timing, call, interleave
from cvxlayers.torch import QPLayer

__all__ = ["CASES", "Case", "Row", "bench", "main", "reference"]

OURS = "cvxlayers"

SOLUTION, GRADIENT = 1e-6, 1e-4
"""What ours must meet, relative to the largest entry."""

LOOSE = 1e3
"""A peer may be so many times less accurate, and is still timed."""

Array = np.ndarray
Arguments = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A batch of programs.

    Attributes
    ----------
    name, size : str
    batch : int
    data : mapping of str to array
        Of Q, p, G, h, A, b those that are there, with or without a batch dimension.
    leaves : tuple of str
        Those that get a gradient.
    """

    name: str
    size: str
    batch: int
    data: Mapping[str, Array]
    leaves: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One contender on one case: its errors, and its times or its fault."""

    case: str
    size: str
    contender: str
    solution: float = np.nan
    gradient: float = np.nan
    timing: Timing | None = None
    ratio: float | None = None
    fault: str = ""


def random_case(n: int, batch: int, name: str = "qpth", seed: int = 0) -> Case:
    """As in qpth's own benchmark: Q = LL' + 0.001 I, as many inequalities as variables, no equalities."""
    rng = np.random.default_rng(seed)
    L, G = rng.random((batch, n, n)), rng.normal(size=(batch, n, n))
    z, p = rng.normal(size=(batch, n)), rng.normal(size=(batch, n))
    h = (G @ z[..., None])[..., 0] + rng.random((batch, n))
    data = {"Q": L @ L.swapaxes(1, 2) + 1e-3 * np.eye(n), "p": p, "G": G, "h": h}
    return Case(f"{name} {n}", f"{n} variables, {n} inequalities, batch {batch}", batch, data, ("Q", "p", "G", "h"))


def sudoku_case(batch: int, seed: int = 0) -> Case:
    """The layer of OptNet's 4x4 Sudoku at the start of learning: A is random and shared, p is the board."""
    rng = np.random.default_rng(seed)
    n, rows = 64, 40
    A = rng.random((rows, n))
    p = -(rng.random((batch, n)) < 0.15).astype(float) + 0.01 * rng.normal(size=(batch, n))
    data = {"Q": 0.1 * np.eye(n), "p": p, "G": -np.eye(n), "h": np.zeros(n), "A": A, "b": A @ np.ones(n)}
    return Case("Sudoku", f"{n} variables, {rows} equalities, z >= 0, batch {batch}", batch, data, ("p", "A", "b"))


CASES: Mapping[str, Callable[[bool], Case]] = {
    "qpth 10": lambda quick: random_case(10, 4 if quick else 128),
    "qpth 50": lambda quick: random_case(50, 2 if quick else 128),
    "qpth 100": lambda quick: random_case(100, 2 if quick else 128),
    "dense 64": lambda quick: random_case(64, 2 if quick else 32, "dense"),
    "Sudoku": lambda quick: sudoku_case(3 if quick else 128),
}


def reference(case: Case, weights: Array) -> tuple[Array, dict[str, Array]]:
    """The solutions (B, n), and the gradients of the sum of weights (B, n) times them.

    Raises
    ------
    RuntimeError
        Some element's active rows do not give an optimal point.
    """
    parts = []
    for i in range(case.batch):
        element = {name: part[i] if part.ndim > 1 + (name in "QGA") else part for name, part in case.data.items()}
        parts.append(_element(element, weights[i]))
    gradients = {}
    for name in case.leaves:
        stacked = np.stack([gradient[name] for _, gradient in parts])
        gradients[name] = stacked if case.data[name].ndim == stacked.ndim else stacked.sum(axis=0)
    return np.stack([x for x, _ in parts]), gradients


def _element(data: Mapping[str, Array], weight: Array) -> tuple[Array, dict[str, Array]]:
    Q, p, n = data["Q"], data["p"], data["p"].size
    G, h = data.get("G", np.zeros((0, n))), data.get("h", np.zeros(0))
    A, b = data.get("A", np.zeros((0, n))), data.get("b", np.zeros(0))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))]
    rows, right = sp.csc_matrix(np.concatenate([A, G])), np.concatenate([b, h])
    found = clarabel.DefaultSolver(sp.triu(sp.csc_matrix(Q), format="csc"), p, rows, right, cones, settings).solve()
    active = np.flatnonzero(np.array(found.z)[len(b) :] > np.array(found.s)[len(b) :])
    C = np.concatenate([A, G[active]])
    K = np.block([[Q, C.T], [C, np.zeros((len(C), len(C)))]])
    x, y = np.split(np.linalg.solve(K, np.concatenate([-p, b, h[active]])), [n])
    lam = np.zeros(len(h))
    lam[active] = y[len(b) :]
    if not (lam.min(initial=0) > -1e-9 and (h - G @ x).min(initial=0) > -1e-9):
        raise RuntimeError("the rows that Clarabel makes active do not give an optimal point")
    dx, dy = np.split(-np.linalg.solve(K, np.concatenate([weight, np.zeros(len(C))])), [n])
    dl = np.zeros(len(h))
    dl[active] = dy[len(b) :]
    nu, dn = y[: len(b)], dy[: len(b)]
    return x, {
        "Q": (np.outer(dx, x) + np.outer(x, dx)) / 2, "p": dx, "G": np.outer(lam, dx) + np.outer(dl, x), "h": -dl,
        "A": np.outer(nu, dx) + np.outer(dn, x), "b": -dn,
    }  # fmt: skip


def contenders(case: Case) -> dict[str, list[Runner]]:
    """Who takes part, each with one way to be used or several, of which the fastest right one counts."""
    found = {OURS: [_runner(case, QPLayer())]}
    if case.name == "Sudoku":
        found[f"{OURS}, sparse Q and G"] = [_runner(case, QPLayer(patterns={"Q": np.eye(64), "G": np.eye(64)}))]
    if importlib.util.find_spec("qpth"):
        found["qpth"] = [_runner(case, _qpth, expand=True)]
    if importlib.util.find_spec("proxsuite"):
        ways = [_proxsuite(eps, parallel) for eps in (1e-4, 1e-9) for parallel in (True, False)]
        found["proxsuite"] = [_runner(case, way, expand=True) for way in ways]
    return found


def _runner(case: Case, solve: Callable[..., Tensor], expand: bool = False) -> Runner:
    """With ``expand``, what is shared is repeated first: so its gradient is the sum in the peers, too."""
    fixed = {name: torch.tensor(part) for name, part in case.data.items()}

    def forward(*leaves: Tensor) -> tuple[Tensor]:
        given = {**fixed, **dict(zip(case.leaves, leaves, strict=True))}
        if expand:
            given = {
                name: part if part.ndim > 1 + (name in "QGA") else part.expand(case.batch, *part.shape)
                for name, part in given.items()
            }
        return (solve(**given),)

    return Runner(forward)


def _qpth(**given: Tensor) -> Tensor:
    from qpth.qp import QPFunction

    none = given["p"].new_empty(0)
    return QPFunction(verbose=-1)(*(given.get(name, none) for name in ("Q", "p", "G", "h", "A", "b")))


def _proxsuite(eps_backward: float, parallel: bool) -> Callable[..., Tensor]:
    def solve(**given: Tensor) -> Tensor:
        from proxsuite.torch.qplayer import QPFunction

        none = given["p"].new_empty(0)
        low = given["h"].new_full(given["h"].shape, -1e20)
        function = QPFunction(eps_backward=eps_backward, omp_parallel=parallel)
        return function(
            given["Q"], given["p"], given.get("A", none), given.get("b", none), given["G"], low, given["h"]
        )[0]

    return solve


def bench(case: Case, repeats: int, seed: int = 0, budget: float = 60.0) -> list[Row]:
    """Verify ours, judge the others, and time all that are right in turn.

    Raises
    ------
    RuntimeError
        Our own answer or gradient is wrong: there is nothing to compare with.
    """
    weights = np.random.default_rng(seed + 1).normal(size=(case.batch, case.data["p"].shape[-1]))
    x, gradients = reference(case, weights)
    leaves = [torch.tensor(case.data[name], requires_grad=True) for name in case.leaves]
    cotangents = [torch.tensor(weights)]
    rows: dict[str, Row] = {}
    ready: dict[str, Runner] = {}
    for name, ways in contenders(case).items():
        rows[name], runner = _best(case, name, ways, lambda made: _errors(made, x, gradients, case), leaves, cotangents)
        if runner:
            ready[name] = runner
        elif name == OURS:
            raise RuntimeError(f"{case.name}: {rows[name].fault}")
    timings = interleave(ready, leaves, cotangents, repeats, budget)
    base = timings[OURS].total
    return [
        Row(row.case, row.size, name, row.solution, row.gradient, timings.get(name),
            timings[name].total / base if name in timings else None, row.fault)
        for name, row in rows.items()
    ]  # fmt: skip


def _errors(made: Call, x: Array, gradients: Mapping[str, Array], case: Case) -> tuple[float, float]:
    solution = np.abs(made.outputs[0] - x).max() / max(1.0, np.abs(x).max())
    right = [gradients[name] for name in case.leaves]
    gradient = max(np.abs(a - b).max() / max(1e-3, np.abs(b).max()) for a, b in zip(made.gradients, right, strict=True))
    return float(solution), float(gradient)


def _best(
    case: Case, name: str, ways: Sequence[Runner], judge: Callable[[Call], tuple[float, float]],
    leaves: list[Tensor], cotangents: list[Tensor],
) -> tuple[Row, Runner | None]:  # fmt: skip
    """The fastest right way to use a contender; the last fault where none is right."""
    factor = 1.0 if name.startswith(OURS) else LOOSE
    found, fastest = Row(case.name, case.size, name), np.inf
    best = None
    for runner in ways:
        try:
            made = call(runner, leaves, cotangents)
            errors = judge(made)
        except failures() as error:
            if best is None:
                text = str(error).strip().splitlines() or ["without a message"]
                found = Row(case.name, case.size, name, fault=f"failed: {type(error).__name__}: {text[0][:120]}")
            continue
        right = errors[0] <= SOLUTION * factor and errors[1] <= GRADIENT * factor
        if right and len(ways) > 1:
            made = call(runner, leaves, cotangents)
        if right and made.total < fastest:
            found, best, fastest = Row(case.name, case.size, name, *errors), runner, made.total
        elif not right and best is None:
            fault = f"wrong: solution off by {errors[0]:.1e}, gradient by {errors[1]:.1e}"
            found = Row(case.name, case.size, name, *errors, fault=fault)
    return found, best


def table(rows: Sequence[Row], facts: Mapping[str, object], console: Console | None = None) -> None:
    """Print the machine and one table of all rows."""
    console = console or Console(width=140)
    console.print(render.header(facts), highlight=False, markup=False)
    grid = Table(caption="errors are relative; ratio: forward plus backward relative to cvxlayers")
    grid.add_column("case, contender", no_wrap=True)
    for title in ("sol. err.", "grad. err.", "fwd ms", "bwd ms", "ratio"):
        grid.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        if not number or rows[number - 1].case != row.case:
            grid.add_section()
            grid.add_row(f"[bold]{row.case}[/bold]: {row.size}")
        errors = [f"{row.solution:.0e}", f"{row.gradient:.0e}"]
        if row.timing is None:
            grid.add_row(f"  {row.contender}", *errors, row.fault.split(":")[0].upper())
            continue
        times = [f"{row.timing.forward * 1e3:.2f}", f"{row.timing.backward * 1e3:.2f}"]
        grid.add_row(f"  {row.contender}", *errors, *times, f"{row.ratio:.2f}")
    console.print(grid)
    for row in rows:
        if row.fault:
            console.print(f"{row.case}, {row.contender}: {row.fault}", highlight=False, markup=False, style="red")


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command with these arguments (default: those of the process)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qp_layers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="WORD", default="", help="only cases with this word in their name")
    parser.add_argument("--repeats", type=int, default=9, help="how many turns each has (default: 9)")
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="threads for everyone (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="small batches: to see that all works")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = machine.facts(options.threads)
    rows: list[Row] = []
    with threadpool_limits(options.threads):
        for name, make in CASES.items():
            if options.only.lower() in name.lower():
                render.progress(name)
                rows += bench(make(options.quick), options.repeats)
    facts["load at the end"] = machine.load()
    if options.json:
        told = {"machine": facts, "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(told, indent=1), encoding="utf-8")
    table(rows, facts)
    return rows


if __name__ == "__main__":
    main()
