"""From FILE[:NAME] on the command line to CVXPY problems: the file is run, its module-level problems collected."""

from __future__ import annotations

import contextlib
import difflib
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cvxpy as cp

from cvxlayers.errors import CvxlayersError, EngineError
from cvxlayers.solvers import registry

__all__ = [
    "MisuseError",
    "NamedProblem",
    "Target",
    "known_solver",
    "load_problems",
    "one_problem",
    "parse_target",
    "unique_names",
]

MODULE = "__cvxlayers_file__"
"""What ``__name__`` is in a loaded file, so that its ``if __name__ == "__main__"`` part does not run."""


class MisuseError(CvxlayersError):
    """The command line asks for something that is not there, or that it cannot mean: exit code 2."""


@dataclass(frozen=True)
class Target:
    """FILE[:NAME], taken apart."""

    path: Path
    name: str | None = None


@dataclass(frozen=True)
class NamedProblem:
    """A problem and the module-level name under which its file has it."""

    name: str
    problem: cp.Problem


def parse_target(text: str) -> Target:
    """Take FILE[:NAME] apart; a drive letter's colon and colons inside an existing file's name are part of FILE.

    >>> parse_target("model.py:problem")
    Target(path=PosixPath('model.py'), name='problem')
    >>> parse_target("C:/model.py").name is None
    True
    """
    head, colon, name = text.rpartition(":")
    is_drive = len(head) == 1 and head.isalpha() and not name.isidentifier()
    if not colon or not head or is_drive or Path(text).is_file() or "/" in name or "\\" in name:
        return Target(Path(text))
    if not name.isidentifier():
        raise MisuseError(f"FILE[:NAME]: after the colon of '{text}' a Python name was expected, got '{name}'.")
    return Target(Path(head), name)


def load_problems(target: Target) -> list[NamedProblem]:
    """Run the file and return its module-level problems, or the one that is asked for by name.

    What the file prints goes to stderr, so that stdout belongs to the command.

    Raises
    ------
    MisuseError
        The file is missing, unreadable, or raises; it has no problem, or none of that name.
    """
    module = _run(target.path)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = list(_distinct((name, value) for name, value in public.items() if isinstance(value, cp.Problem)))
    if target.name is not None:
        return [_named(target, module, found)]
    if not found:
        raise MisuseError(
            f"The file {target.path} defines no cvxpy.Problem at module level: give it one, for example "
            "`problem = cp.Problem(objective, constraints)`, outside of functions and of `if __name__ == '__main__'`."
        )
    return found


def one_problem(target: Target, purpose: str) -> NamedProblem:
    """The only problem of the file; MisuseError where there are several, since ``purpose`` needs one."""
    found = load_problems(target)
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise MisuseError(
            f"{purpose} takes one problem, and {target.path} has several ({names}): name one, as in "
            f"{target.path}:{found[0].name}."
        )
    return found[0]


def known_solver(name: str | None) -> str | None:
    """The name, if such a solver is installed; MisuseError if not."""
    try:
        return None if name is None else registry.solver_class(name).name
    except EngineError as exc:
        raise MisuseError(f"--solver {name}: {exc}") from exc


def unique_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, with suffixes _2, _3, ... where one occurs again or is already taken.

    >>> unique_names(["a", "b", "a", "a_2"])
    ['a', 'b', 'a_3', 'a_2']
    """
    used = set(taken)
    unique: list[str] = []
    for position, name in enumerate(names):
        candidate, number = name, 2
        while candidate in used or (candidate != name and candidate in names[position:]):
            candidate, number = f"{name}_{number}", number + 1
        used.add(candidate)
        unique.append(candidate)
    return unique


def _distinct(items: Iterable[tuple[str, cp.Problem]]) -> Iterator[NamedProblem]:
    """Each problem once, under its first name."""
    seen: set[int] = set()
    for name, problem in items:
        if id(problem) not in seen:
            seen.add(id(problem))
            yield NamedProblem(name, problem)


def _named(target: Target, module: ModuleType, found: list[NamedProblem]) -> NamedProblem:
    assert target.name is not None
    value = vars(module).get(target.name)
    if isinstance(value, cp.Problem):
        return NamedProblem(target.name, value)
    names = [entry.name for entry in found]
    there = f"its problems are {', '.join(names)}" if names else "it defines no cvxpy.Problem at module level"
    if target.name in vars(module):
        kind = type(value).__name__
        raise MisuseError(f"'{target.name}' in {target.path} is a {kind}, not a cvxpy.Problem; {there}.")
    near = difflib.get_close_matches(target.name, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise MisuseError(f"The file {target.path} has no '{target.name}'; {there}.{hint}")


def _run(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as exc:
        reason = "there is no such file" if isinstance(exc, FileNotFoundError) else f"it cannot be read: {exc.strerror}"
        raise MisuseError(f"FILE {path}: {reason}. Expected a Python file that defines a cvxpy.Problem.") from exc
    path = path.resolve()
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.path.insert(0, str(path.parent))  # for good, as `python FILE` does: the file's code may import later on
    sys.modules[MODULE] = module  # where dataclasses and pickle look the file's own classes up
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as exc:  # the user's code may raise anything
        raise MisuseError(_raised(path, exc)) from exc
    return module


def _raised(path: Path, exc: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
    line = exc.lineno if isinstance(exc, SyntaxError) and exc.filename == str(path) else lines[-1] if lines else None
    place = f" in line {line}" if line else ""
    what = f"{type(exc).__name__}: {exc.msg if isinstance(exc, SyntaxError) else exc}".rstrip(": ")
    return f"Running {path} failed{place} with {what}. (--debug shows the traceback.)"
