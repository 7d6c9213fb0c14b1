"""The command that shows what each framework's layer adds to the NumPy layer's call, forward and backward.

python -m benchmarks.adapters [--ways torch jax ...] [--engines CLARABEL IPM] [--repeats N] [--quick] [--json FILE]

Each way runs in a process of its own, which loads its framework alone (Keras has one backend a process). Its answer is
verified against the closed form first. Then three are called in turn, on numbers that are already arrays of their own
kind: the NumPy layer, the framework's, and a function of the framework that goes to NumPy and back in the same way but
does nothing there (``adapter_floors``). So the overhead parts into what the framework takes and what the adapter takes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import adapter_calls, adapter_floors, families, machine, render, verify
from cvxlayers.layer.layer import Layer

__all__ = ["Overhead", "main", "measure"]

LIMIT = 0.10
"""The share of the NumPy layer's call that may be added to it."""

CAPTION = f"""Milliseconds, and shares of the NumPy layer's call, forward and backward: medians over the turns.
framework: a function that goes to NumPy and back in the same way and does nothing there
overhead: layer less NumPy, the whole of what is added; forward: the same, of the forward pass alone
own: overhead less framework, what the adapter itself adds
what is above {100 * LIMIT:.0f} % of the NumPy layer's call is red"""

WIDTH = 110
"""The table's width where the output is no terminal, or a narrow one."""


@dataclass(frozen=True)
class Overhead:
    """One line of the table: medians over the turns, of each call in seconds and of what is derived from a turn.

    Attributes
    ----------
    core, floor, adapter : float
        Seconds of the NumPy layer, of the framework's function that does nothing, and of the framework's layer.
    overhead, own : float
        ``adapter - core`` and ``adapter - core - floor``, as shares of ``core``.
    forward : float
        ``overhead`` of the forward pass alone (where both passes are one compiled function, of both).
    fault : str
        Why there are no numbers.
    """

    way: str
    engine: str
    core: float = float("nan")
    floor: float = float("nan")
    adapter: float = float("nan")
    overhead: float = float("nan")
    own: float = float("nan")
    forward: float = float("nan")
    fault: str = ""


def measure(way: str, engine: str, repeats: int, quick: bool = False) -> Overhead:
    """Verify one way's answer, and time it in turn with the NumPy layer and the framework alone, in this process."""
    family = families.make("simplex", quick)
    right = verify.make_reference(family)
    core = Layer.from_problem(family.problem, family.parameters, family.variables, engine)
    call = adapter_calls.make(way, core.compiled, engine, family.data, right.weights)
    answer = call.answer()
    verdict = verify.judge(right, *answer)
    if verdict.wrong:
        return Overhead(way, engine, fault=verdict.wrong)
    ready = [[np.array(part) for part in parts] for parts in answer]
    nothing = adapter_calls.calling(way, adapter_floors.make(way, *ready), family.data, right.weights)

    def plain() -> tuple[float, float]:
        start = perf_counter()
        record = core.solve(family.data)
        assert record.outputs  # every layer hands them out; made on demand
        middle = perf_counter()
        record.vjp(right.weights)
        return middle - start, perf_counter() - middle

    turns = np.array(_in_turn([plain, nothing.timed, call.timed], repeats))
    seconds = turns.sum(axis=2)
    added = seconds[:, 2] - seconds[:, 0]
    shares = np.stack([added, added - seconds[:, 1]]) / seconds[:, 0]
    forward = np.median(turns[:, 2, 0] / turns[:, 0, 0]) - 1
    return Overhead(way, engine, *np.median(seconds, axis=0), *np.median(shares, axis=1), forward)


def _in_turn(calls: Sequence[Callable[[], tuple[float, float]]], repeats: int) -> list[list[tuple[float, float]]]:
    """So many turns of all, in every order equally often, after a few that are not counted.

    The garbage collector rests during each. Who comes first after its work pays for cold caches; so no call may come
    before another more often than after it.
    """
    for _ in range(3):
        for call in calls:
            call()
    turns = []
    orders = list(itertools.permutations(range(len(calls))))
    for number in range(repeats):
        gc.collect()
        gc.disable()
        found = {which: calls[which]() for which in orders[number % len(orders)]}
        gc.enable()
        turns.append([found[which] for which in range(len(calls))])
    return turns


def _elsewhere(way: str, engine: str, options: argparse.Namespace) -> Overhead:
    """The same in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.adapters", "--here", way, engine, "--repeats", str(options.repeats)]
    settings = adapter_calls.environment(way, options.threads)
    done = subprocess.run(
        [*call, "--threads", str(options.threads), *(["--quick"] if options.quick else [])],
        env={**os.environ, **settings}, capture_output=True, text=True, check=False,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Overhead(way, engine, fault=f"failed: {lines[-1] if lines else 'without a message'}")
    return Overhead(**json.loads(done.stdout.strip().splitlines()[-1]))


def table(rows: Sequence[Overhead], facts: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the machine and one table."""
    console = console or Console()
    console = console if console.width >= WIDTH else Console(file=console.file, width=WIDTH)
    console.print(render.header(facts), highlight=False, markup=False)
    grid = Table()
    for title in ("engine", "way", "NumPy", "framework", "layer", "overhead", "", "forward", "own", ""):
        grid.add_column(title, justify="left" if title in ("engine", "way") else "right", no_wrap=True)
    for row in rows:
        if row.fault:
            grid.add_row(row.engine, row.way, row.fault)
            continue
        times = [f"{1e3 * seconds:.2f}" for seconds in (row.core, row.floor, row.adapter)]
        overhead, own = (
            [f"{1e3 * share * row.core:.2f}", f"[red]{100 * share:.1f} %" if share > LIMIT else f"{100 * share:.1f} %"]
            for share in (row.overhead, row.own)
        )
        grid.add_row(row.engine, row.way, *times, *overhead, f"{100 * row.forward:.1f} %", *own)
    console.print(grid)
    console.print(CAPTION, highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> list[Overhead]:
    """Run the command with these arguments (default: those of the process)."""
    options = _parser().parse_args(arguments)
    if options.here:
        with threadpool_limits(options.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = measure(*options.here, options.repeats, options.quick)
        print(json.dumps(asdict(found)))
        return [found]
    facts = machine.facts(options.threads)
    rows = []
    for engine in options.engines:
        for way in options.ways:
            render.progress(f"{engine} {way}")
            rows.append(_elsewhere(way, engine, options))
    facts["load at the end"] = machine.load()
    if options.json:
        Path(options.json).write_text(render.as_json(rows, facts), encoding="utf-8")
    table(rows, facts)
    return rows


def _parser() -> argparse.ArgumentParser:
    ways = [way for way in adapter_calls.WAYS if all(map(importlib.util.find_spec, adapter_calls.WAYS[way]))]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, metavar="NAME",
                        help=f"which (default: all installed): {', '.join(ways)}")  # fmt: skip
    parser.add_argument("--engines", nargs="+", default=["CLARABEL", "IPM"], metavar="NAME", help="our engines")
    parser.add_argument("--repeats", type=int, default=102, help="how many turns (default: 102)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="(default: all cores)")
    parser.add_argument("--quick", action="store_true", help="the small size: to see that all works")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--here", nargs=2, metavar=("WAY", "ENGINE"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
