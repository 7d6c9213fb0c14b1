"""``cvxlayers compile``: a problem file in, a compiled problem on disk out."""

from __future__ import annotations

from pathlib import Path

from cvxlayers.cli.load import MisuseError, known_solver, one_problem, parse_target
from cvxlayers.cli.npz import refuse_unwritable
from cvxlayers.layer.layer import Layer
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["compile_to"]


def compile_to(file: str, out: Path, solver: str | None, gp: bool) -> CompiledProblem:
    """Load, compile and write; the arguments are those of the command."""
    named = one_problem(parse_target(file), "compile")
    refuse_unwritable(out)
    compiled = Layer.from_problem(named.problem, solver=known_solver(solver), gp=gp).compiled
    try:
        compiled.save(out)
    except OSError as exc:
        raise MisuseError(f"--out {out}: it cannot be written: {exc.strerror or exc}.") from exc
    return compiled
