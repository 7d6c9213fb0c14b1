"""The command that shows what a layer on the engine DIFFCP adds to diffcp, which is called on matrices that are ready.

python -m benchmarks.around_diffcp [--families small simplex ...] [--repeats N] [--quick] [--json FILE]

``diffcp alone`` is one call of ``diffcp.solve_and_derivative_batch`` and one of the adjoint that it returns, with the
layer's solver and tolerances, on the standard form that the layer itself compiles, in the fastest of diffcp's ways that
is right. The layer's call holds everything: PyTorch, packing, solving, verification, recovery and the derivative; it is
timed without polishing, and as it is by default. All are called in turn, after all have been verified, on the elements
that diffcp solves so well that the layer keeps its answer.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import diffcp
import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import machine, render, verify
from benchmarks.contenders import Runner, failures
from benchmarks.families import TIMED, Array, Family, make
from benchmarks.timing import call, tensors, turn
from benchmarks.verify import Reference
from cvxlayers.layer import packing
from cvxlayers.program.structure import Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.diffcp import Diffcp
from cvxlayers.solvers.scsform import ScsForm
from cvxlayers.torch import CvxpyLayer

__all__ = ["LIMIT", "Around", "Bare", "main", "measure"]

LIMIT = 0.10
"""The share of the call that everything around diffcp may take."""

FAMILIES = tuple(name for name in TIMED if name not in ("sparse_qp", "mpc", "tv"))
"""Those that diffcp's dense way and its iterations solve in less than a minute."""

SOLVERS = ("CLARABEL", "SCS")
"""The solvers behind diffcp, of which the first takes part with which diffcp alone is right: with Clarabel and a PSD
cone of order 4 or more it is not."""

MODES = ("dense", "lsmr", "lsqr")


@dataclass(frozen=True)
class Around:
    """One line of the table.

    Medians in seconds; what the layer's calls take beyond diffcp alone, as shares of theirs (medians over the turns);
    and how many elements are left out, because the answer by diffcp fails verification.
    """

    family: str
    size: str
    way: str
    alone: float
    layer: float
    polished: float
    overhead: float
    polished_overhead: float
    left_out: int


class Bare:
    """diffcp alone on one family: what it is handed is made here, what it answers is turned into the family's terms by
    ``answer``; only ``__call__`` is timed."""

    def __init__(self, family: Family, layer: CvxpyLayer, weights: Sequence[Array], solver: str) -> None:
        self._compiled = compiled = layer.core.compiled
        self._form = form = ScsForm.of(compiled.structure)
        self._packed = packing.pack(compiled, family.data)
        values, batch = compiled.evaluate(self._packed.theta), (family.batch,)
        rows = np.zeros((compiled.primal.shape[0], family.batch))
        dx, dy = compiled.recover_adjoint(packing.pack_cotangents(compiled, rows, weights, batch))
        pattern = (form.A.indices, form.A.indptr)
        self._A = [sp.csc_matrix((data[form.nonzeros], *pattern), shape=form.A.shape) for data in values.A.T]
        self._b, self._c, self._dx, self._dy = (
            list(np.ascontiguousarray(part.T)) for part in (values.b[form.rows], values.q, dx, dy[form.rows])
        )
        self._ds = [np.zeros(compiled.structure.m)] * family.batch
        self._cones = [form.cones] * family.batch
        self._options = {**Diffcp.native(Settings(options={"solve_method": solver})), "solve_method": solver}

    def __call__(self, mode: str, jobs: int) -> tuple[Any, ...]:
        """x and y, and the cotangents of A, b and c, each a list over the batch."""
        x, y, _, _, adjoint = diffcp.solve_and_derivative_batch(
            self._A, self._b, self._c, self._cones, jobs, jobs, mode, **self._options
        )
        return (x, y, *adjoint(self._dx, self._dy, self._ds))

    def answer(self, mode: str, jobs: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The outputs, and the gradients in the parameters."""
        compiled, form, batch = self._compiled, self._form, self._packed.batch
        x, y, dA, db, dc = (list(part) for part in self(mode, jobs))
        outputs = packing.unpack(compiled, compiled.recover(_stacked(x), _stacked(y)[form.back]), batch)
        places = form.A.indices, np.repeat(np.arange(form.A.shape[1]), np.diff(form.A.indptr))
        entries = np.empty((form.A.indices.size, len(x)))
        entries[form.nonzeros] = _stacked([np.asarray(part.tocsr()[places]).ravel() for part in dA])
        values = Values(np.zeros((0, len(x))), _stacked(dc), entries, _stacked(db)[form.back])
        parts = compiled.by_feature(compiled.pullback(values))
        return outputs, packing.unpack_cotangents(compiled, self._packed, parts)


def _stacked(parts: Sequence[Array]) -> Array:
    return np.stack(parts, axis=1)


def measure(family: Family, repeats: int, threads: int) -> Around:
    """Verify the layer and diffcp alone, and time them in turn.

    Raises
    ------
    RuntimeError
        Where one of them has no right answer.
    """
    for solver in SOLVERS:
        plain, polished = (_layer(family, solver, threads, polish) for polish in (False, None))
        kept = _verified(family, plain)
        rest = family.select(kept)
        right = verify.make_reference(rest)
        bare = Bare(rest, plain, right.weights, solver)
        ways = sorted(_right_ways(bare, right, threads))
        if ways:
            break
    else:
        raise RuntimeError(f"{family.name}: diffcp alone is right with none of {', '.join(SOLVERS)}.")
    leaves, cotangents = tensors(rest, right.weights)
    for runner in (plain, polished):
        made = call(Runner(runner), leaves, cotangents)
        wrong = verify.judge(right, made.outputs, made.gradients).wrong
        if wrong:
            raise RuntimeError(f"{family.name}: the layer is {wrong}.")
    _, mode, jobs = ways[0]
    layers = [partial(call, Runner(layer), leaves, cotangents) for layer in (plain, polished)]
    turns = np.array([
        [turn(partial(_seconds, bare, mode, jobs), float), *(turn(one, attrgetter("total")).total for one in layers)]
        for _ in range(repeats)
    ])  # fmt: skip
    alone, layer, full = np.median(turns, axis=0)
    over, full_over = np.median(1 - turns[:, :1] / turns[:, 1:], axis=0)
    way = f"{solver}, {mode}, {jobs} thread{'s' if jobs > 1 else ''}"
    left_out = family.batch - kept.size
    return Around(family.name, family.size, way, *map(float, (alone, layer, full, over, full_over)), left_out)


def _verified(family: Family, layer: CvxpyLayer) -> np.ndarray:
    """The elements whose answer by diffcp passes the layer's verification; the others it gives to other engines."""
    layer(*(torch.as_tensor(part) for part in family.data))
    assert layer.info is not None
    return np.flatnonzero(layer.info.engines == "DIFFCP")


def _layer(family: Family, solver: str, threads: int, polish: bool | None) -> CvxpyLayer:
    arguments = {"solve_method": solver, "n_jobs_forward": threads, "n_jobs_backward": threads}
    return CvxpyLayer(family.problem, family.parameters, family.variables, "DIFFCP", family.gp,
                      solver_args=arguments, polish=polish)  # fmt: skip


def _right_ways(bare: Bare, right: Reference, threads: int) -> Iterator[tuple[float, str, int]]:
    """The ways in which diffcp alone is right, each with the seconds of its better of two calls."""
    for mode, jobs in itertools.product(MODES, sorted({1, threads})):
        try:
            verdict = verify.judge(right, *bare.answer(mode, jobs))
        except failures():
            continue
        if not verdict.wrong:
            yield min(_seconds(bare, mode, jobs) for _ in range(2)), mode, jobs


def _seconds(bare: Bare, mode: str, jobs: int) -> float:
    start = perf_counter()
    bare(mode, jobs)
    return perf_counter() - start


def table(rows: Sequence[Around], facts: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the machine and one table."""
    console = console or Console(width=140)
    console.print(render.header(facts), highlight=False, markup=False)
    grid = Table(
        caption="forward and backward; overhead: what the layer takes beyond diffcp alone, as a share of its call; "
        "left out: elements whose answer by diffcp fails verification, which the layer gives to another engine"
    )
    for title in ("family", "diffcp alone", "ms", "layer ms", "overhead", "polished ms", "overhead", "left out"):
        grid.add_column(title, justify="left" if title in ("family", "diffcp alone") else "right", no_wrap=True)
    for row in rows:
        grid.add_row(
            row.family, row.way, f"{1e3 * row.alone:.2f}", f"{1e3 * row.layer:.2f}", f"{100 * row.overhead:.0f} %",
            f"{1e3 * row.polished:.2f}", f"{100 * row.polished_overhead:.0f} %",
            str(row.left_out) if row.left_out else "",
            style="red" if row.overhead > LIMIT else "",
        )  # fmt: skip
    console.print(grid)


def main(arguments: Sequence[str] | None = None) -> list[Around]:
    """Run the command with these arguments (default: those of the process)."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts, rows = machine.facts(options.threads), []
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.families:
            render.progress(name)
            rows.append(measure(make(name, options.quick), options.repeats, options.threads))
            facts["load at the end"] = machine.load()
            if options.json:
                Path(options.json).write_text(render.as_json(rows, facts), encoding="utf-8")
    table(rows, facts)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.around_diffcp",
                                     description=(__doc__ or "").splitlines()[0])  # fmt: skip
    parser.add_argument("--families", nargs="+", choices=list(TIMED), default=list(FAMILIES), metavar="NAME",
                        help=f"which (default: {', '.join(FAMILIES)})")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=9, help="how many turns (default: 9)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="(default: all cores)")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all works")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    return parser


if __name__ == "__main__":
    main()
