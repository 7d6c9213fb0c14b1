"""SCS: the splitting solver of O'Donoghue, Chu, Parikh and Boyd (2016), for every cone and for quadratic objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.errors import OptionError
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Structure
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.elementwise import Element, ElementwiseSolver, Outcome, Start, shown
from cvxlayers.solvers.scsform import ScsForm

__all__ = ["SCS"]

# Certificates that SCS calls inaccurate (-6, -7) are mere guesses at the iteration limit: they count as failures.
STATUSES = {1: Status.OPTIMAL, 2: Status.INACCURATE, -2: Status.INFEASIBLE, -1: Status.UNBOUNDED}


class SCS(ElementwiseSolver):
    """Solves each element with SCS, from its own setup: what one element was does not change another's result.

    (Updating q and b in place, which SCS allows where A and P are constant, was measured to save no time.)
    It can start from a given point.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure, Values
    >>> one = np.zeros(1, dtype=int)  # minimize x^2 / 2 - x subject to x <= b
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> solver = SCS(structure, Settings())
    >>> solution = solver.solve(Values(np.ones((1, 2)), -np.ones((1, 2)), np.ones((1, 2)), np.array([[0.5, 2.0]])))
    >>> solution.x.round(6)
    array([[0.5, 1. ]])
    """

    name = "SCS"
    package = "scs"
    pip = "scs"
    kinds = frozenset({"zero", "nonneg", "second_order", "psd", "exponential", "power"})
    quadratic = True
    unconstrained = False
    warm_starts = True
    first_order = True
    aliases = {"eps": ("eps_abs", "eps_rel"), "max_iters": ("max_iters",)}
    # QDLDL: up to twice as fast as the PARDISO that SCS would choose, and single-threaded, as the batch is spread.
    defaults = {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100_000, "linear_solver": "qdldl"}
    options = {
        "eps_abs": "absolute accuracy (1e-9)",
        "eps_rel": "relative accuracy (1e-9)",
        "eps_infeas": "accuracy of a certificate of infeasibility (1e-7)",
        "max_iters": "largest number of iterations (100000)",
        "time_limit_secs": "seconds for one problem; 0 for no limit (0)",
        "normalize": "whether the data are scaled (True)",
        "scale": "first ratio of the dual to the primal scale (0.1)",
        "adaptive_scale": "whether that ratio is adapted (True)",
        "rho_x": "scale of the proximal term in x (1e-6)",
        "alpha": "relaxation, between 0 and 2 (1.5)",
        "acceleration_lookback": "how many iterates Anderson acceleration combines; 0 for none (10)",
        "acceleration_interval": "iterations between accelerations (10)",
        "acceleration_type_1": "which type of Anderson acceleration (SCS's choice)",
        "acceleration_regularization": "regularization of Anderson acceleration (SCS's choice)",
        "acceleration_relaxation": "relaxation of Anderson acceleration (SCS's choice)",
        "linear_solver": "qdldl, auto, mkl, accelerate, cpu_dense, cpu_indirect, gpu_indirect or cudss (qdldl)",
    }
    types = {
        **dict.fromkeys(options, float),
        "max_iters": int,
        "acceleration_lookback": int,
        "acceleration_interval": int,
        "normalize": bool,
        "adaptive_scale": bool,
        "acceleration_type_1": bool,
        "linear_solver": str,
    }

    def __init__(self, structure: Structure, settings: Settings) -> None:
        super().__init__(structure, settings)
        self._form = ScsForm.of(structure)
        self._native = self.native(settings)

    @classmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        scs, native = cls.load(), {**cls.defaults, **settings.options, "verbose": settings.verbose}
        data = {"A": sp.csc_array(np.ones((1, 1))), "b": np.ones(1), "c": np.ones(1)}
        try:
            scs.SCS(data, {"l": 1}, **{**native, "verbose": False})  # a tiny problem, on which SCS judges the options
        except (ValueError, TypeError, OverflowError, ImportError) as exc:
            raise OptionError(f"SCS refuses one of the options {shown(settings)}: {exc}.") from exc
        return native

    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        form, structure = self._form, self.structure
        data = {"A": form.A.matrix(element.A[form.nonzeros]), "b": element.b[form.rows], "c": element.q}
        if structure.quadratic:
            data["P"] = structure.P.matrix(element.P)
        try:
            solver = self.load().SCS(data, form.cones, **self._native)
        except ValueError:  # the options are known to be good: these values cannot be factorized
            return Outcome(Status.FAILED)
        answer = solver.solve(warm_start=False) if start is None else solver.solve(True, *form.start(start))
        status = STATUSES.get(answer["info"]["status_val"], Status.FAILED)
        return Outcome(status, answer["info"]["iter"], form.point(answer))
