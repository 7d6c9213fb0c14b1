"""Who is timed: this package's engines, and the peers that are installed, each as a PyTorch layer.

A contender has one or several settings. Several mean: whichever is fastest among those that answer correctly.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import torch

from benchmarks.families import Family
from cvxlayers.errors import CvxlayersError
from cvxlayers.layer.report import Seconds
from cvxlayers.torch import CvxpyLayer

__all__ = ["OURS", "Contender", "Runner", "Setting", "contenders", "failures", "versions"]

OURS = "cvxlayers"
"""The contender that the others are compared with."""

Forward = Callable[..., Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Runner:
    """A layer that was made for one family: tensors in, tensors out; for our own, also where its last call went."""

    forward: Forward
    parts: Callable[[], Seconds] | None = None


@dataclass(frozen=True)
class Setting:
    """One way to use a contender."""

    label: str
    make: Callable[[Family], Runner]


@dataclass(frozen=True)
class Contender:
    """A name, its settings, and which families it can take."""

    name: str
    settings: tuple[Setting, ...]
    takes: Callable[[Family], bool] = lambda family: True


def contenders(threads: int, engines: Sequence[str] = ("DIFFCP",)) -> list[Contender]:
    """All contenders that are installed, ours first; ``engines`` are those of ours that run beside the default one."""
    found = [Contender(OURS, (_ours(None, threads),))]
    found += [Contender(f"{OURS} {engine}", (_ours(engine, threads),)) for engine in engines]
    if importlib.util.find_spec("cvxpylayers"):
        jobs = {"n_jobs_forward": threads, "n_jobs_backward": threads}  # its default is one for each core
        found.append(Contender("cvxpylayers", (_cvxpylayers("defaults", jobs),)))
        found.append(Contender("cvxpylayers, tuned", tuple(_tuned(threads))))
    if importlib.util.find_spec("moreau"):
        if importlib.util.find_spec("cvxpylayers"):
            found.append(Contender("cvxpylayers MOREAU", (_cvxpylayers("defaults", {}, "MOREAU"),)))
        found.append(Contender("moreau", (_moreau("auto"), _moreau("ipm")), _without_psd))
    if importlib.util.find_spec("qpth"):
        found.append(Contender("qpth", (Setting("defaults", _qpth),), _has_matrices))
    if importlib.util.find_spec("proxsuite"):
        ways = [_proxsuite(eps, parallel) for eps in (1e-4, 1e-9) for parallel in (True, False)]
        found.append(Contender("proxsuite", tuple(ways), _has_matrices))
    return found


def failures() -> tuple[type[Exception], ...]:
    """What contenders raise where they cannot solve a family or differentiate it."""
    known: list[type[Exception]] = [CvxlayersError, cp.error.SolverError, ArithmeticError, RuntimeError, ValueError,
                                    TypeError, AttributeError, ImportError, AssertionError]  # fmt: skip
    if importlib.util.find_spec("diffcp"):
        from diffcp.cone_program import SolverError

        known.append(SolverError)
    return tuple(known)


def versions() -> dict[str, str]:
    """The installed versions of everything that takes part."""
    names = ["cvxlayers", "cvxpylayers", "cvxpy", "diffcp", "clarabel", "scs", "ecos", "moreau", "qpth", "proxsuite",
             "numba", "numpy", "scipy", "torch"]  # fmt: skip
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _ours(engine: str | None, threads: int) -> Setting:
    def make(family: Family) -> Runner:
        layer = CvxpyLayer(
            family.problem, family.parameters, family.variables, engine, family.gp,
            solver_args={"n_jobs_forward": threads, "n_jobs_backward": threads},
        )  # fmt: skip

        def parts() -> Seconds:
            assert layer.info is not None
            return layer.info.seconds

        return Runner(layer, parts)

    return Setting("defaults", make)


def _cvxpylayers(label: str, options: dict[str, Any], solver: str | None = None) -> Setting:
    def make(family: Family) -> Runner:
        from cvxpylayers.torch import CvxpyLayer as Peer

        layer = Peer(family.problem, list(family.parameters), list(family.variables), solver, family.gp)
        return Runner(lambda *tensors: layer(*tensors, solver_args=dict(options)))

    return Setting(label, make)


def _tuned(threads: int) -> list[Setting]:
    """The settings of cvxpylayers among which the fastest correct one is sought.

    The interior-point solvers at their own accuracy, SCS at its own (cvxpylayers' default) and at 1e-8;
    each way to solve diffcp's linear system; one thread (diffcp's threads wait for each other in Python's code) and
    all.
    """
    methods: list[tuple[str, dict[str, Any]]] = [
        ("Clarabel", {"solve_method": "Clarabel"}),
        ("ECOS", {"solve_method": "ECOS"}),
        ("SCS", {"solve_method": "SCS"}),
        ("SCS 1e-8", {"solve_method": "SCS", "eps": 1e-8, "max_iters": 20_000}),
    ]
    found = []
    for method, options in methods:
        for mode in ("lsqr", "lsmr", "dense"):
            for jobs in sorted({1, threads}):
                threading = {"n_jobs_forward": jobs, "n_jobs_backward": jobs}
                found.append(_cvxpylayers(f"{method}, {mode}, {jobs} threads", {**options, "mode": mode, **threading}))
    return found


def _has_matrices(family: Family) -> bool:
    return family.qp is not None


def _qpth(family: Family) -> Runner:
    from qpth.qp import QPFunction

    assert family.qp is not None
    matrices = family.qp

    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor]:
        none = tensors[0].new_empty(0)
        Q, p, G, h, A, b = (none if part is None else part for part in matrices(*tensors))
        return (QPFunction(verbose=-1)(Q, p, G, h, A, b),)

    return Runner(forward)


def _proxsuite(eps_backward: float, parallel: bool) -> Setting:
    def make(family: Family) -> Runner:
        from proxsuite.torch.qplayer import QPFunction

        assert family.qp is not None
        matrices = family.qp

        def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor]:
            Q, p, G, h, A, b = matrices(*tensors)
            none = p.new_empty(0)
            low = h.new_full(h.shape, -1e20)
            function = QPFunction(eps_backward=eps_backward, omp_parallel=parallel)
            return (function(Q, p, none if A is None else A, none if b is None else b, G, low, h)[0],)

        return Runner(forward)

    return Setting(f"eps_backward {eps_backward:.0e}{', parallel' if parallel else ''}", make)


def _without_psd(family: Family) -> bool:
    return family.name != "SDP"


def _moreau(method: str) -> Setting:
    def make(family: Family) -> Runner:
        from benchmarks.moreau_layer import MoreauLayer

        return Runner(MoreauLayer(family, method))

    return Setting(method, make)
