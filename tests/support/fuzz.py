"""Mutated files of compiled problems, loaded and solved in a process that may die: none does anything but raise.

``python -m tests.support.fuzz --count 5000`` prints how many ended in which way, and fails where one ended badly. A
mutation is known by its seed and its number, so ``--first 123 --count 1`` repeats one.

Of a mutation, ``cvxlayers.load`` may raise ArtefactError and nothing else ("refused"); or the problem is the old one
("same"); or the file describes another problem soundly ("other"), which every engine then solves and differentiates,
or refuses by an error of cvxlayers. Everything else is bad: a dead process, one that takes too long or too much memory,
another exception, engines that call different values optimal.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import cvxlayers
from cvxlayers.cones import projection
from cvxlayers.errors import ArtefactError, CvxlayersError
from cvxlayers.kernels import jit
from cvxlayers.program import artefact, description, parts
from tests.contracts.table import case
from tests.support import mutations
from tests.support.mutations import KINDS

__all__ = ["Outcomes", "run"]

ROWS = (
    "attributes", "quad_form", "all_cones", "hermitian", "dgp_box", "exp_duals", "soc_duals", "mpc", "sdp_order_3",
    "power", "qp_with_duals",
)  # fmt: skip
"""Those of the contract table that are mutated in turn."""

GOOD = ("refused", "same", "other")
SECONDS, START = 60.0, 1200.0
"""How long a mutation may take, and what comes before the first: kernels may have to be compiled."""

MEMORY = 12 * 2**30
LARGE = 10**5
BATCH = 2


@dataclass
class Outcomes:
    """How many mutations ended in which way, and each of those that ended badly in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def run(
    count: int, seed: int = 0, first: int = 0, rows: tuple[str, ...] = ROWS, kinds: tuple[str, ...] = KINDS
) -> Outcomes:
    """Load and solve so many mutations in child processes; a new one goes on where the last one died."""
    found, at = Outcomes(), first
    while at < first + count:
        for number, kind, outcome, words in _child(seed, at, first + count, rows, kinds):
            at = number + 1
            found.counts[kind, outcome] += 1
            if outcome not in GOOD:
                found.bad.append(f"{number} ({words}): {outcome}")
    return found


def _child(
    seed: int, at: int, stop: int, rows: tuple[str, ...], kinds: tuple[str, ...]
) -> Iterator[tuple[int, str, str, str]]:
    """What a child process says of the mutations from ``at`` on; the last may be that it died, or took too long."""
    job = json.dumps({"seed": seed, "first": at, "stop": stop, "rows": rows, "kinds": kinds})
    command = [sys.executable, "-m", "tests.support.fuzz", "--child", job]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        lines: queue.Queue[str] = queue.Queue()
        assert child.stdout is not None
        threading.Thread(target=lambda out=child.stdout: [*map(lines.put, out), lines.put("")], daemon=True).start()
        current, patience = (at, "none", ""), START
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                child.kill()
                yield *current[:2], "took too long", current[2]
                return
            if not line:
                break
            number, kind, outcome, words = json.loads(line)
            current, patience = (number, kind, words), SECONDS
            if outcome:
                yield number, kind, outcome, words
                current = (number + 1, "none", "")
        if current[0] < stop:
            yield *current[:2], f"died ({child.wait()})", current[2]


def _work(job: dict[str, Any]) -> None:
    """In the child: say what is begun, and what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # solvers print there what they think of a problem
    sound = [_sound(name) for name in job["rows"]]
    for content, sample in sound:
        for engine in _engines(0):
            _solved(artefact.loads(content), engine, sample)
    path = Path(tempfile.mkdtemp(), "mutated.cvxl")
    for number in range(job["first"], job["stop"]):
        rng = np.random.default_rng([job["seed"], number])
        kind = job["kinds"][rng.integers(len(job["kinds"]))]
        content, sample = sound[number % len(sound)]
        mutated, words = mutations.mutate(content, kind, rng)
        words = f"{job['rows'][number % len(sound)]}, {kind}: {words}"
        _say(channel, number, kind, "", words)
        path.write_bytes(mutated)
        try:
            outcome = _outcome(path, content, sample, number)
        except Exception as error:  # noqa: BLE001  which one is the question
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        _say(channel, number, kind, outcome, words)


def _say(channel: TextIO, *what: Any) -> None:
    channel.write(json.dumps(what) + "\n")
    channel.flush()


def _sound(name: str) -> tuple[bytes, list[np.ndarray]]:
    """The file of a row of the table, and parameter values, of which one has a batch."""
    row = case(name)
    built = row.build()
    compiled = cvxlayers.compile(built.problem, built.parameters, built.variables, gp=row.gp)
    sample = [np.asarray(value) for value in row.sample(np.random.default_rng(0))]
    return artefact.dumps(compiled), [np.stack(BATCH * [sample[0]]), *sample[1:]]


def _outcome(path: Path, content: bytes, sample: list[np.ndarray], number: int) -> str:
    try:
        compiled = cvxlayers.load(path)
    except ArtefactError:
        return "refused"
    before = artefact.loads(content)
    old, new = parts.arrays(before), parts.arrays(compiled)
    alike = description.describe(before) == description.describe(compiled)
    if alike and all(np.array_equal(old[name], new[name]) for name in old):
        return "same"
    values = _values(compiled, sample)
    if values is None:
        return "other"
    answers = {name: _solved(compiled, name, values) for name in _engines(number)}
    return _agreement({name: answer for name, answer in answers.items() if answer is not None})


def _engines(number: int) -> list[str]:
    return ["CLARABEL", "IPM", "arrays"] + (["SCS", "ECOS", "DIFFCP"] if number % 8 == 0 else [])


def _values(compiled: cvxlayers.CompiledProblem, sample: list[np.ndarray]) -> list[np.ndarray] | None:
    """Values of the shapes that the problem now has; None where these are too large to be made."""
    rng, values = np.random.default_rng(1), []
    for i, spec in enumerate(compiled.parameters):
        if spec.size > LARGE:
            return None
        fits = i < len(sample) and sample[i].shape[sample[i].ndim - len(spec.shape) :] == spec.shape
        if fits and (spec.complex or not np.iscomplexobj(sample[i])):
            values.append(sample[i])
        else:
            values.append(rng.uniform(0.5, 1.5, spec.shape) * (1 + 1j if spec.complex else 1))
    return values


def _solved(compiled: cvxlayers.CompiledProblem, engine: str, values: list[np.ndarray]) -> np.ndarray | None:
    """The objective of each element, NaN where it is not optimal; None where the engine does not take the problem."""
    usable, solver = jit.usable, "CLARABEL" if engine == "arrays" else engine
    if engine == "arrays":
        projection._cone.cache_clear()
        jit.usable = lambda: False
    try:
        options = {"max_iters": 2000} if engine == "SCS" else {}
        layer = cvxlayers.Layer(compiled, solver=solver, solver_args=options, on_failure="nan", check_parameters=False)
        record = layer.solve(values)
        with np.errstate(all="ignore"):
            record.vjp([np.ones_like(output) for output in record.outputs])
            record.jvp([np.ones_like(value) for value in values])
        return np.where(record.info.statuses == "optimal", record.info.objective, np.nan)
    except CvxlayersError:
        return None
    finally:
        if engine == "arrays":
            jit.usable = usable
            projection._cone.cache_clear()


def _agreement(answers: dict[str, np.ndarray]) -> str:
    for name, objective in answers.items():
        for other, beside in answers.items():
            apart = np.abs(objective - beside) > 1e-3 * (1 + np.abs(objective))
            if apart.any():
                return f"optimal by {name} with {objective[apart][0]:.6g}, by {other} with {beside[apart][0]:.6g}"
    return "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=sorted(set(KINDS)), default=list(KINDS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="names of problems of the contract table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _work(json.loads(given.child))
        return
    found = run(given.count, given.seed, given.first, tuple(given.rows), tuple(given.kinds))
    for (kind, outcome), count in sorted(found.counts.items()):
        sys.stdout.write(f"{kind:8}{outcome:.100}: {count}\n")
    sys.stdout.write("\n".join(found.bad) + "\n")
    sys.exit(bool(found.bad))


if __name__ == "__main__":
    main()
