"""The convex quadratic programs of Maros and Meszaros (1999) through a layer, beside Clarabel alone.

    python -m benchmarks.maros_meszaros FOLDER                  # all .mat files of a folder
    python -m benchmarks.maros_meszaros FOLDER --only QSC YAO   # those with one of these words in their name
    python -m benchmarks.maros_meszaros FOLDER --way qp         # through QPLayer instead of a CVXPY problem

A file holds minimize 1/2 x'Px + q'x + r subject to l <= Ax <= u; the last n rows of A are the bounds of x, and 1e20
stands for none. The layer is what a user would write: P and A are constants, q and the sides are parameters; rows with
l = u are equalities, and one-sided rows keep their 1e20. For each program:

* the status, the engine, the objective beside that of Clarabel's own run at the tightest tolerance it meets (or the
  published one, where it meets none), and by how much a row is violated, relative to the terms of that row;
* forward and backward time (of a random linear function of x), and the time of Clarabel alone at its defaults;
* the gradient along a random direction of q, and of q and all sides, beside one-sided differences of Clarabel's
  tight solutions, where the four of two step sizes and two directions agree: elsewhere the map has no derivative, or
  none that differences can tell. What ``info.derivative`` says stands beside it.

A line fails if the answer is not optimal, its objective is more than 1e-6 off, a row is violated by more than 1e-6, the
gradient is more than 1e-4 off without a flag, or the backward pass takes longer than the forward pass plus 5 ms; so
does the end if the backward passes take more than a fifth of the forward passes in all. The exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.io
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from benchmarks import machine, render
from benchmarks.contenders import Runner
from benchmarks.program import INFINITY, Array, Direction, Program, Slope, clarabel_seconds, slope, solve, typical
from benchmarks.timing import Call, call, turn
from cvxlayers.errors import CvxlayersError
from cvxlayers.layer.report import Info
from cvxlayers.torch import CvxpyLayer, QPLayer

__all__ = ["Row", "main", "measure", "read"]

OBJECTIVE, VIOLATION, GRADIENT = 1e-6, 1e-6, 1e-4
"""What an answer must meet."""

LATER, SHARE = 5e-3, 0.2
"""The backward pass: so many seconds longer than the forward pass in any line, and such a share of it in all."""

PUBLISHED: Mapping[str, float] = MappingProxyType({"YAO": 1.97704256e2})
"""The objectives in Maros and Meszaros (1999), where Clarabel meets no tolerance."""

BUDGET = 20.0
"""Seconds for the turns of one program; it has three in any case."""


@dataclass(frozen=True)
class Gradient:
    """The layer's derivative along one direction beside the differences, relative; NaN where these do not agree."""

    error: float = np.nan
    agreement: float = np.nan


@dataclass(frozen=True)
class Row:
    """What came out for one program; times in seconds."""

    name: str
    size: str
    status: str = "failed"
    engine: str = ""
    objective: float = np.nan
    reference: float = np.nan
    violation: float = np.nan
    forward: float = np.nan
    backward: float = np.nan
    clarabel: float = np.nan
    gradients: tuple[Gradient, ...] = ()
    flags: str = ""
    flagged: bool = False
    fault: str = ""

    @property
    def apart(self) -> float:
        """The objective's distance from the reference, relative to the larger of both."""
        size = max(abs(self.objective), abs(self.reference), np.finfo(float).tiny)
        return abs(self.objective - self.reference) / size

    @property
    def faults(self) -> tuple[str, ...]:
        """What fails in this line."""
        if self.fault:
            return (self.fault,)
        wrong = [one.error for one in self.gradients if one.error > GRADIENT]
        found = {
            f"status {self.status}": self.status != "optimal",
            f"objective {self.apart:.1e} off": not self.apart <= OBJECTIVE,
            f"a row violated by {self.violation:.1e}": not self.violation <= VIOLATION,
            f"gradient {max(wrong, default=0.0):.1e} off without a flag": bool(wrong) and not self.flagged,
            f"backward {1e3 * self.backward:.1f} ms after {1e3 * self.forward:.1f} ms forward":
                not self.backward <= self.forward + LATER,
        }  # fmt: skip
        return tuple(text for text, bad in found.items() if bad)


@dataclass
class Ours:
    """A layer for one program: the leaves in the order of the parameters, and x out."""

    forward: Callable[..., Any]
    leaves: list[torch.Tensor]
    directions: Callable[[Direction], list[Array]]
    info: Callable[[], Info | None]


def read(path: Path) -> Program:
    """One file of the set."""
    data = scipy.io.loadmat(path)
    P, A = (sp.csc_array(data[name].astype(np.float64)) for name in "PA")
    q, low, high = (np.asarray(data[name], dtype=np.float64).ravel() for name in "qlu")
    return Program(path.stem, P, q, float(data["r"].ravel()[0]), A, low, high)


def by_cvxpy(program: Program, **options: Any) -> Ours:
    """P and A are constants of a CVXPY problem, its parameters are q, the equalities' and both sides' values."""
    n, A, equal = program.q.size, program.A.tocsr(), program.equal
    x, q = cp.Variable(n), cp.Parameter(n)
    sides = [(A[equal], "=="), (A[~equal], "<="), (A[~equal], ">=")]
    parameters, constraints = [q], []
    for rows, relation in sides:
        if rows.shape[0]:
            side = cp.Parameter(rows.shape[0])
            left = sp.csr_array(rows) @ x
            constraints.append(left == side if relation == "==" else left <= side if relation == "<=" else left >= side)
            parameters.append(side)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(program.P)) + q @ x), constraints)
    layer = CvxpyLayer(problem, parameters, [x], **options)

    def directions(move: Direction) -> list[Array]:
        parts = [(move.low, equal), (move.high, ~equal), (move.low, ~equal)]
        return [move.q, *(part[rows] for part, rows in parts if rows.any())]

    point = directions(Direction(program.q, program.low, program.high))
    return Ours(layer, _leaves(point), directions, lambda: layer.info)


def by_qp_layer(program: Program, **options: Any) -> Ours:
    """Sparse tensors of the matrices, for ``QPLayer``: G holds A's rows for the upper sides, then for the lower."""
    equal, A = program.equal, program.A.tocsr()
    G = sp.vstack([A[~equal], -A[~equal]], format="coo")
    Q, G, E = (_sparse(matrix) for matrix in (program.P, G, A[equal]))
    layer = QPLayer(**options)

    def forward(q: torch.Tensor, h: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor]:
        inequalities = (G, h) if len(h) else (None, None)
        equalities = (E, b) if len(b) else (None, None)
        return (layer(Q, q, *inequalities, *equalities) + 0 * (h.sum() + b.sum()),)

    def directions(move: Direction) -> list[Array]:
        return [move.q, np.concatenate([move.high[~equal], -move.low[~equal]]), move.low[equal]]

    point = directions(Direction(program.q, program.low, program.high))
    return Ours(forward, _leaves(point), directions, lambda: layer.info)


WAYS: dict[str, Callable[..., Ours]] = {"cvxpy": by_cvxpy, "qp": by_qp_layer}


def _leaves(parts: Sequence[Array]) -> list[torch.Tensor]:
    return [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in parts]


def _sparse(matrix: Any) -> torch.Tensor:
    found = sp.coo_array(matrix)
    return torch.sparse_coo_tensor(np.stack([found.row, found.col]), found.data, found.shape, dtype=torch.float64)


def measure(program: Program, way: str, repeats: int, seed: int = 0, **options: Any) -> Row:
    """Everything about one program."""
    rng = np.random.default_rng(seed)
    size = f"{program.q.size} x {program.A.shape[0]}"
    right = solve(program)
    known = right.objective if np.isfinite(right.tolerance) else PUBLISHED.get(program.name, right.objective)
    try:
        ours = WAYS[way](program, **options)
        runner, weights = Runner(ours.forward), [torch.tensor(rng.normal(size=program.q.size))]
        once = partial(call, runner, ours.leaves, weights)
        made = once()
        calls = list(_turns(once, repeats))
    except CvxlayersError as error:
        return Row(program.name, size, fault=f"{type(error).__name__}: {str(error)[:150]}", reference=known)
    info, x, w = ours.info(), made.outputs[0], weights[0].numpy()
    assert info is not None
    gradients = tuple(
        _gradient(made, ours.directions(move), slope(program, right, move, w)) for move in _moves(program, rng)
    )
    flags, flagged = _flags(info)
    forward, backward = (float(np.median([getattr(one, part) for one in calls])) for part in ("forward", "backward"))
    return Row(
        program.name, size, str(info.statuses[0]), str(info.engines[0]), program.objective(x), known,
        program.violation(x), forward, backward, clarabel_seconds(program, repeats), gradients, flags, flagged,
    )  # fmt: skip


def _turns(once: Callable[[], Call], repeats: int) -> Iterator[Call]:
    start = perf_counter()
    for number in range(repeats):
        if number < 3 or perf_counter() - start < BUDGET:
            yield turn(once, lambda one: one.forward + one.backward)


def _moves(program: Program, rng: np.random.Generator) -> list[Direction]:
    """Random directions, each number in proportion to itself or to the typical one: of q alone, and of all."""
    q = rng.normal(size=program.q.size) * np.maximum(np.abs(program.q), typical(program.q))
    low, high = (
        np.where(np.abs(side) < INFINITY, rng.normal(size=side.size) * np.maximum(np.abs(side), typical(side)), 0.0)
        for side in (program.low, program.high)
    )
    high[program.equal] = low[program.equal]
    none = np.zeros(low.size)
    return [Direction(q, none, none), Direction(q, low, high)]


def _gradient(made: Call, direction: Sequence[Array], found: Slope) -> Gradient:
    ours = sum(float(gradient.ravel() @ part.ravel()) for gradient, part in zip(made.gradients, direction, strict=True))
    return Gradient(abs(ours - found.value) / found.size if found.exists else np.nan, found.agreement)


def _flags(info: Info) -> tuple[str, bool]:
    """What the report says of the derivative, and whether that is a warning."""
    report = info.derivative
    if report is None:
        return "no report", True
    told = {name: float(np.ravel(part)[0]) for name, part in vars(report).items() if np.size(part) == 1}
    fallback, unserved = bool(told.get("fallback")), told.get("unserved", 0.0)
    margin = told.get("margin", np.inf)
    text = f"margin {margin:.0e}" + (f", unserved {unserved:.0e}" if unserved else "") + (", fallback" * fallback)
    return text, fallback or unserved > GRADIENT or margin < MARGIN


MARGIN = 1e-7
"""Below it the report says that the point is at a kink."""


def line(row: Row) -> str:
    """One line of the table."""
    if row.fault:
        return f"{row.name:10} {row.size:>11}  {row.fault}"
    times = "".join(f"{1e3 * seconds:9.1f}" for seconds in (row.forward, row.backward, row.clarabel))
    gradients = " ".join("      -" if np.isnan(one.error) else f"{one.error:7.0e}" for one in row.gradients)
    return (
        f"{row.name:10} {row.size:>11}  {row.status:10} {row.engine:9} {row.objective:17.9e} {row.apart:7.0e} "
        f"{row.violation:7.0e} {times}  {gradients}  {row.flags}"
    )


HEADER = (
    f"{'program':10} {'n x rows':>11}  {'status':10} {'engine':9} {'objective':>17} {'apart':>7} {'viol.':>7} "
    f"{'fwd ms':>9}{'bwd ms':>9}{'Clarabel':>9}  {'grad. q':>7} {'q, b':>7}  derivative"
)


def closing(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """The summary's lines, and whether all is well."""
    solved = [row for row in rows if not row.fault]
    optimal = sum(row.status == "optimal" for row in solved)
    forward, backward = (sum(getattr(row, part) for row in solved) for part in ("forward", "backward"))
    share = backward / forward if forward else np.nan
    late = [row.name for row in solved if not row.backward <= row.forward + LATER]
    errors = [one.error for row in solved for one in row.gradients if not np.isnan(one.error)]
    silent = sum(one.error > GRADIENT and not row.flagged for row in solved for one in row.gradients)
    lines = [
        f"optimal: {optimal} of {len(rows)}",
        f"objective: worst relative error {max((row.apart for row in solved), default=np.nan):.1e}; "
        f"violation: worst {max((row.violation for row in solved), default=np.nan):.1e}",
        f"forward {forward:.3f} s, backward {backward:.3f} s: {share:.3f} of it (at most {SHARE}); Clarabel alone "
        f"{sum(row.clarabel for row in solved):.3f} s",
        f"backward longer than forward plus {1e3 * LATER:.0f} ms: {', '.join(late) or 'none'}",
        f"gradients compared: {len(errors)} of {sum(len(row.gradients) for row in solved)}, worst "
        f"{max(errors, default=np.nan):.1e}, off by more than {GRADIENT:.0e} without a flag: {silent}",
    ]
    for row in rows:
        lines += [f"FAULT {row.name}: {'; '.join(row.faults)}"] if row.faults else []
    return lines, bool(rows) and share <= SHARE and not any(row.faults for row in rows)


def main(arguments: Sequence[str] | None = None) -> tuple[list[Row], bool]:
    """Run the command; the rows come back, and whether all of them are well."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maros_meszaros", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with .mat files")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="files with one of these in their name")
    parser.add_argument("--way", choices=list(WAYS), default="cvxpy", help="which layer (default: cvxpy)")
    parser.add_argument("--solver", help="our engine (default: the layer's own choice)")
    parser.add_argument("--repeats", type=int, default=7, help="how many turns each has (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads for everyone (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    files = [file for file in sorted(options.folder.glob("*.mat")) if any(word in file.stem for word in options.only)]
    if not files:
        parser.error(f"FOLDER: {options.folder} has no .mat file that was asked for")
    torch.set_num_threads(options.threads)
    facts = machine.facts(options.threads)
    print(render.header(facts), HEADER, sep="\n\n")
    rows = []
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # engines that stop early say so; here the statuses do
        for file in files:
            given = {"solver": options.solver, "on_failure": "zero_grad"}
            rows.append(measure(read(file), options.way, options.repeats, **given))
            print(line(rows[-1]), flush=True)
    facts["load at the end"] = machine.load()
    lines, well = closing(rows)
    print("", *lines, f"load at the end: {facts['load at the end']}", sep="\n")
    if options.json:
        Path(options.json).write_text(render.as_json(rows, facts), encoding="utf-8")
    return rows, well


if __name__ == "__main__":
    sys.exit(not main()[1])
