"""From inputs to verified solutions, without derivatives: the node's own solve or the default solver, judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import solve_error
from cvxlayers.layer.report import Seconds
from cvxlayers.nodes.declarative import lagrangian
from cvxlayers.nodes.declarative.curvature import minima
from cvxlayers.nodes.declarative.node import DeclarativeNode
from cvxlayers.nodes.declarative.optimality import OptimalityPoint, multipliers
from cvxlayers.nodes.declarative.polish import examine, polish
from cvxlayers.nodes.declarative.problem import Formulation, formulate
from cvxlayers.nodes.declarative.report import ADVICE, NodeInfo, judge, report
from cvxlayers.nodes.declarative.rules import fold, unfold
from cvxlayers.nodes.declarative.system import BUDGET, OptimalitySystem, SystemSettings
from cvxlayers.nodes.rules.call_result import advice_on
from cvxlayers.program.solution import Status

__all__ = ["SearchCall", "Search"]


@dataclass
class SearchCall:
    """One call of a layer: what it was asked, and what is known after the search."""

    node: DeclarativeNode
    settings: SystemSettings
    on_failure: str
    system: OptimalitySystem | None = None
    info: NodeInfo | None = None
    complete: bool = True
    none: bool = False


class Search(torch.autograd.Function):
    """Solutions z, their active sets, and which are verified: ``Search.apply(call, *xs)``; it has no derivative."""

    generate_vmap_rule = False

    @staticmethod
    def forward(call: SearchCall, *xs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return search(call, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: SearchCall, *xs: Tensor) -> tuple[Any, tuple[int, ...]]:
        folded = [fold(x, dim, info.batch_size) for x, dim in zip(xs, in_dims[1:], strict=True)]
        found = Search.apply(call, *folded)
        return tuple(unfold(t, info.batch_size) for t in found), (0, 0, 0)


def search(call: SearchCall, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Solve and judge; fills in the call's system and report.

    Raises
    ------
    ParameterError
        An input is not finite (with ``on_failure="raise"``), or the node's functions return the wrong shapes.
    SolveError
        With ``on_failure="raise"``, when some element has no verified solution.
    """
    seconds = Seconds()
    finite = torch.stack([_finite(x) for x in xs]).all(0)
    if call.on_failure == "raise" and not bool(finite.all()):
        raise _not_finite(xs)
    some = xs if bool(finite.all()) else [x[finite] for x in xs]
    with seconds.measure("solving"):
        start, own = _given(call.node, some)
        form = formulate(call.node, some, start, call.settings.matrix_free)
        point, steps, stuck = _in_chunks(call.settings, form, some, start, own)
    with seconds.measure("verification"):
        status = judge(point, form.n, call.settings.tolerance, stuck)
        good = status == int(Status.OPTIMAL)
        status[good & ~minima(form, some, point, call.settings.tolerance)] = int(Status.FAILED)
        objective = form.objective(some, point.z[:, : form.n])
    if some is not xs:
        point, status, objective, steps = _spread(finite, point, status, objective, steps)
    call.system = OptimalitySystem(form, call.settings, point.margin.double().cpu().numpy())
    engine = "SOLVE" if own else "NEWTON"
    call.info = report(call.system, point, status, objective, steps, engine, seconds)
    ok = status == int(Status.OPTIMAL)
    call.complete, call.none = bool(ok.all()), not bool(ok.any())
    if call.on_failure == "raise" and not call.complete:
        numbers = status.cpu().numpy()
        bad = np.flatnonzero(numbers != Status.OPTIMAL)
        raise solve_error(numbers, bad, advice_on(numbers, bad, ADVICE))
    return point.z, point.active, ok


def _given(node: DeclarativeNode, xs: Sequence[Tensor]) -> tuple[Tensor, bool]:
    """What the node's own solve returns, or else where the default solver is to start."""
    with torch.enable_grad():
        y = node.solve(*xs)
    if y is not None:
        return _solution_of(node, y, xs, "solve"), True
    return _solution_of(node, node.initial(*xs), xs, "initial"), False


def _in_chunks(
    settings: SystemSettings, form: Formulation, xs: Sequence[Tensor], y: Tensor, own: bool
) -> tuple[OptimalityPoint, Tensor, Tensor]:
    """Points with multipliers, the steps of the default solver, and where it found the constraints incompatible."""
    size = settings.chunk or max(1, len(y) if form.matrix_free else BUDGET // max(1, form.N) ** 2)
    pieces = [
        _solved(settings, form, [x[i : i + size] for x in xs], y[i : i + size], own)
        for i in range(0, max(1, len(y)), size)
    ]
    if len(pieces) == 1:
        return pieces[0]
    points, *others = zip(*pieces, strict=True)
    joined = {name: torch.cat([getattr(point, name) for point in points]) for name in vars(points[0])}
    steps, stuck = (torch.cat(parts) for parts in others)
    return OptimalityPoint(**joined), steps, stuck


def _solved(
    settings: SystemSettings, form: Formulation, xs: Sequence[Tensor], y: Tensor, own: bool
) -> tuple[OptimalityPoint, Tensor, Tensor]:
    flat = y.reshape(len(y), form.n).to(_work(xs, y))
    enough = torch.finfo(flat.dtype).eps ** 0.8
    if not own:
        return lagrangian.solve(form, xs, flat.clone(), settings.tolerance, settings.max_iterations, enough)
    z, active = multipliers(form, xs, flat, torch.finfo(y.dtype).eps ** 0.5)
    point = polish(form, xs, z, active, enough) if settings.polish else examine(form, xs, z, active)
    nothing = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    return point, nothing, nothing.bool()


def _work(xs: Sequence[Tensor], y: Tensor) -> torch.dtype:
    """The dtype of the work: that of the floating inputs."""
    return next((x.dtype for x in xs if x.is_floating_point()), y.dtype)


def _solution_of(node: DeclarativeNode, y: Any, xs: Sequence[Tensor], what: str) -> Tensor:
    name, batch = f"{type(node).__name__}.{what}", xs[0].shape[0]
    if not isinstance(y, Tensor):
        raise ParameterError(f"{name} returned {type(y).__name__}, expected a tensor (B, *shape) with B = {batch}.")
    shape = tuple(y.shape[1:]) if node.shape is None else tuple(node.shape)
    if tuple(y.shape) != (batch, *shape):
        raise ParameterError(
            f"{name} returned a tensor of shape {tuple(y.shape)}, expected {(batch, *shape)}: one solution for each "
            "element of the batch."
        )
    return y.detach()


def _spread(finite: Tensor, point: OptimalityPoint, *others: Tensor) -> tuple[Any, ...]:
    """The results of the finite elements in the whole batch; the others are failed, without a point."""
    batch = len(finite)

    def placed(part: Tensor, filling: float) -> Tensor:
        whole = torch.full((batch, *part.shape[1:]), filling, dtype=part.dtype, device=part.device)
        whole[finite] = part
        return whole

    fillings = {"z": torch.nan, "active": 0.0}
    parts = {name: placed(value, fillings.get(name, torch.inf)) for name, value in vars(point).items()}
    status, objective, steps = others
    return (
        OptimalityPoint(**parts), placed(status, int(Status.FAILED)), placed(objective, torch.nan), placed(steps, 0),
    )  # fmt: skip


def _finite(x: Tensor) -> Tensor:
    """Which elements of an input have finite entries only, (B,)."""
    return x.isfinite().reshape(len(x), x.shape[1:].numel()).all(-1)


def _not_finite(xs: Sequence[Tensor]) -> ParameterError:
    place, x = next((i, x) for i, x in enumerate(xs) if not bool(x.isfinite().all()))
    element = int((~_finite(x)).nonzero()[0, 0])
    return ParameterError(
        f"input {place}: batch element {element} has a NaN or infinite entry; clean the inputs, or pass "
        'on_failure="nan" or "zero_grad" to let the other elements go on.'
    )
