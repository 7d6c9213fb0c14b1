"""Solvers by name, and what one of your own is made of: a ``Solver``, or an ``ElementwiseSolver`` for those that take
one problem at a time, made known by ``cvxlayers.register_solver``."""

from __future__ import annotations

from cvxlayers.program.solution import Solution, Status
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome

__all__ = ["Element", "ElementwiseSolver", "Outcome", "Settings", "Solution", "Solver", "Status"]
