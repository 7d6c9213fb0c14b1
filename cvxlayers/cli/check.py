"""What ``cvxlayers check`` finds out about one problem, as plain data; nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np

from cvxlayers.cli.gradcheck import GradientReport
from cvxlayers.cli.load import NamedProblem, unique_names
from cvxlayers.cli.memory import Memory, estimate
from cvxlayers.compiler import compile
from cvxlayers.compiler.dpp import dpp_offence
from cvxlayers.compiler.leaves import parameters_of
from cvxlayers.compiler.rules import Offence, curvature_offence
from cvxlayers.cones import Cones
from cvxlayers.errors import CompileError, EngineError, NotConvexError, NotDPPError
from cvxlayers.layer.layer import Layer
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Structure
from cvxlayers.solvers import registry
from cvxlayers.solvers.base import Solver
from cvxlayers.solvers.forms import maker
from cvxlayers.solvers.options import preferred

__all__ = ["EngineChoice", "Fault", "Form", "Leaf", "Report", "check"]


@dataclass(frozen=True)
class Leaf:
    """A parameter or variable: its name on the command line and in npz files, and what it is."""

    name: str
    shape: tuple[int, ...]
    attributes: tuple[str, ...]
    entries: int


@dataclass(frozen=True)
class Fault:
    """Why the problem cannot become a layer; the last four are empty where no subexpression is to blame.

    ``summary`` is the message without what the last four say.
    """

    kind: str
    message: str
    summary: str
    expression: str = ""
    where: str = ""
    rule: str = ""
    rewrite: str = ""


@dataclass(frozen=True)
class Count:
    """Entries of one part of the standard form, and how many of them depend on parameters."""

    entries: int
    parametrized: int


@dataclass(frozen=True)
class Form:
    """The standard form: sizes, cones, and the entries of P (upper triangle), q, A and b."""

    n: int
    m: int
    cones: Cones
    P: Count
    q: Count
    A: Count
    b: Count


@dataclass(frozen=True)
class EngineChoice:
    """The solver that will run, why, and how the others stand: (name, whether it could run, remark)."""

    name: str
    reason: str
    others: tuple[tuple[str, bool, str], ...]


@dataclass(frozen=True)
class Report:
    """Everything about one problem; ``form``, ``engine`` and ``memory`` are None where it cannot become a layer."""

    name: str
    sense: str
    gp: bool
    dcp: bool
    dgp: bool
    dqcp: bool
    dpp: bool
    parameters: tuple[Leaf, ...]
    variables: tuple[Leaf, ...]
    fault: Fault | None = None
    form: Form | None = None
    engine: EngineChoice | None = None
    memory: Memory | None = None
    gradients: GradientReport | None = None

    @property
    def valid(self) -> bool:
        """Whether the problem can become a layer and, where its gradients were checked, they are right."""
        return self.fault is None and (self.gradients is None or self.gradients.passed)


def check(named: NamedProblem, gp: bool, solver: str | None) -> tuple[Report, Layer | None]:
    """Examine a problem, and make its layer if it can become one.

    ``solver`` is the name of an installed one; that it cannot take the problem is a fault in the report.
    """
    problem = named.problem
    chosen = None if solver is None else registry.solver_class(solver)
    quadratic = chosen is None or chosen.quadratic
    first = Report(
        name=named.name,
        sense="maximize" if isinstance(problem.objective, cp.Maximize) else "minimize",
        gp=gp,
        dcp=bool(problem.is_dcp()),
        dgp=bool(problem.is_dgp()),
        dqcp=bool(problem.is_dqcp()),
        dpp=_is_dpp(problem, gp, quadratic),
        parameters=_leaves(parameters_of(problem)),
        variables=_leaves(problem.variables()),
    )
    try:
        layer = Layer.from_problem(problem, solver=solver, gp=gp)
    except (CompileError, EngineError) as exc:
        return replace(first, fault=_fault(exc, problem, gp, quadratic)), None
    compiled = layer.compiled
    engine = _engine(problem, gp, compiled, chosen)
    return replace(first, form=_form(compiled), engine=engine, memory=estimate(compiled)), layer


def _is_dpp(problem: cp.Problem, gp: bool, quadratic: bool) -> bool:
    return bool(problem.is_dgp() if gp else problem.is_dcp()) and dpp_offence(problem, gp, quadratic) is None


def _leaves(leaves: Sequence[cp.Parameter | cp.Variable]) -> tuple[Leaf, ...]:
    names = unique_names([leaf.name() for leaf in leaves])
    return tuple(
        Leaf(name, tuple(leaf.shape), _attributes(leaf), int(leaf.size))
        for name, leaf in zip(names, leaves, strict=True)
    )


def _attributes(leaf: cp.Parameter | cp.Variable) -> tuple[str, ...]:
    """The attributes that are set. CVXPY holds False or None for the others; bounds and sparsity are arrays."""
    return tuple(sorted(name for name, value in leaf.attributes.items() if value is not None and value is not False))


def _fault(exc: CompileError | EngineError, problem: cp.Problem, gp: bool, quadratic: bool) -> Fault:
    kind, message = type(exc).__name__, str(exc)
    if isinstance(exc, NotConvexError):
        offence: Offence | None = curvature_offence(problem, gp)
    else:
        offence = dpp_offence(problem, gp, quadratic) if isinstance(exc, NotDPPError) else None
    if offence is None:
        return Fault(kind, _in_options(message), _in_options(message))
    summary = " ".join(message.replace(offence.text(), "").split())
    texts = (message, summary, offence.expression, offence.where, offence.rule, offence.rewrite)
    return Fault(kind, *(_in_options(text) for text in texts))


def _in_options(text: str) -> str:
    """A message of the compiler, in the words of the command line."""
    return text.replace("gp=True", "--gp")


def _form(compiled: CompiledProblem) -> Form:
    structure = compiled.structure
    return Form(
        structure.n, structure.m, structure.cones,
        _count(compiled.P), _count(compiled.q, dense=True), _count(compiled.A), _count(compiled.b, dense=True),
    )  # fmt: skip


def _count(part: AffineMap, dense: bool = False) -> Count:
    """Entries of a part: all of a pattern, but of a dense vector only those that can differ from zero."""
    varies = np.diff(part.linear.indptr) > 0
    entries = (varies | (part.constant != 0)).sum() if dense else part.rows
    return Count(int(entries), int(varies.sum()))


def _engine(problem: cp.Problem, gp: bool, compiled: CompiledProblem, chosen: type[Solver] | None) -> EngineChoice:
    structure = compiled.structure
    runs = chosen or preferred(structure, {})
    what = f"the cones {', '.join(sorted(structure.cones.kinds()))}" if structure.m else "no constraints"
    what += " and a quadratic objective" if structure.quadratic else " and a linear objective"
    if chosen is not None:
        reason = "asked for with --solver; it takes"
    elif runs.name == "IPM":
        reason = "the package's own solver, for which its factors are not too large; it takes"
    else:
        reason = "the first installed solver that takes"
    linear = _linear_form(problem, gp) if structure.quadratic else structure
    others = tuple(
        (other.name, *_standing(other, structure, linear)) for other in registry.SOLVERS.values() if other is not runs
    )
    return EngineChoice(runs.name, f"{reason} {what}", others)


def _linear_form(problem: cp.Problem, gp: bool) -> Structure | None:
    """The structure for solvers without P; None where the problem needs P (a parameter as the matrix of quad_form)."""
    if all(solver.quadratic for solver in registry.SOLVERS.values()):
        return None
    try:
        return compile(problem, gp=gp, quadratic=False).structure
    except CompileError:
        return None


def _standing(solver: type[Solver], structure: Structure, linear: Structure | None) -> tuple[bool, str]:
    """Whether a solver could run in place of the chosen one, and a remark."""
    wanted = structure if solver.quadratic else linear
    if wanted is None or maker(solver, wanted) is None:
        return False, solver.refusal(wanted or structure)
    if not solver.installed():
        return False, solver.hindrance() or f"not installed: pip install {solver.pip}"
    if not solver.quadratic and structure.quadratic:
        return True, "takes it with the quadratic objective turned into second-order cones"
    return True, "takes it"
