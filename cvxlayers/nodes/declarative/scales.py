"""The sizes of the terms of each row of the optimality conditions, beside which what is left of the row counts.

An entry of the gradient of the Lagrangian is as large as its terms: the objective's gradient, each constraint's share,
H y (of a quadratic function q + H y the share of q is then there as well), and the change that comes from the inputs
when each of their numbers changes in proportion. A constraint is as large as A y, with each y_j as large as itself or
as the way that the gradient's terms would push it, and what comes from the inputs. So the tests are those of a
componentwise backward error (Oettli and Prager 1964): in each row by itself they ask whether the point is the exact
solution of numbers that are slightly different, and units of f, of a constraint, of an entry of y or of an input do
not matter. No row may claim more than the whole problem has, with 1 + |y| as the length of a step: an input that moves
a row by a jump is no size. And each may claim a little for a step of one, for what rounding leaves of cancelling terms
that nobody sees, at y about zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import probes
from cvxlayers.nodes.declarative.local import Local
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["Scales", "equilibrate", "largest", "ratio", "weigh"]

# Every row may claim so much of a step of 1 + |y_j| in each entry: rounding errors are far less, 1e-6 of it little.
LITTLE = {torch.float64: 1e-6, torch.float32: 1e-3}
SWEEPS = 5


@dataclass(frozen=True)
class Scales:
    """The sizes of rows, at points of a batch.

    Attributes
    ----------
    terms : (B, n) tensor
        The terms of each entry of the gradient of the Lagrangian.
    sizes : (B, p + q) tensor
        The same of each constraint.
    pull : (B, p + q) tensor
        A multiplier times this is its largest share in the terms of any row.
    """

    terms: Tensor
    sizes: Tensor
    pull: Tensor

    def slope(self, local: Local) -> Tensor:
        """The gradient of the Lagrangian, each entry beside its terms, (B, n)."""
        return ratio(local.lagrangian.abs(), self.terms)

    def apart(self, local: Local) -> Tensor:
        """How far each constraint is from equality, beside its terms, (B, p + q)."""
        return ratio(local.c.abs(), self.sizes)


def weigh(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, local: Local) -> Scales:
    """The sizes of the rows at z."""
    y, nu, lam = form.split(z)
    size, room = y.abs(), 1 + largest(y.abs())[:, None]
    shares = (local.lagrangian - local.gradient).abs()
    whole = largest(local.gradient.abs()) + largest(shares) + local.curvature * room[:, 0]
    if form.matrix_free:  # the sizes of single rows are not known
        return Scales(whole[:, None].expand_as(y), local.lengths * room, local.lengths / _positive(whole)[:, None])
    data = _from_inputs(form, xs, z, active, local)
    moved = torch.minimum(data[:, : form.n], whole[:, None])
    little = LITTLE[y.dtype] * (1 + size)
    stretch, across = local.H.abs(), local.A.abs()
    forces = (torch.cat([nu, active * lam], -1).abs()[:, None] @ across)[:, 0]
    terms = local.gradient.abs() + forces + _times(stretch, size + little) + moved
    stiff = stretch.diagonal(dim1=1, dim2=2)
    push = torch.where(stiff > 0, terms / _positive(stiff), torch.inf)
    reach = size + little + torch.minimum(push, room)
    sizes = _times(across, reach) + torch.minimum(data[:, form.n :], local.lengths * room)
    return Scales(terms, sizes, largest(across / _positive(terms)[:, None]))


def equilibrate(H: Tensor) -> Tensor:
    """Positive d (B, n) that bring the largest entry of every row of diag(d) H diag(d) to about one, if it is not zero.

    The diagonal first, which is all for a semidefinite H; then the rows (Ruiz 2001).
    """
    size = H.abs()
    diagonal = size.diagonal(dim1=1, dim2=2)
    d = 1 / _positive(diagonal).sqrt()
    for _ in range(SWEEPS):
        d = d / _positive(largest(size * d[:, None, :]) * d).sqrt()
    return d


def _from_inputs(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, local: Local) -> Tensor:
    """How much each row changes, per unit, when every number of the inputs changes in proportion, (B, n + p + q)."""
    y, nu, lam = form.split(z)
    step = torch.finfo(z.dtype).eps ** 0.5
    moved = [x * (1 + step * probes(x[0].numel(), x)[0].abs().reshape(x.shape[1:])) if len(x) and
             x.is_floating_point() else x for x in xs]  # fmt: skip
    rows = form.residual(moved, torch.cat([y, nu, active * lam], -1), torch.ones_like(active))
    change = (rows - torch.cat([local.lagrangian, local.c], -1)).abs() / step
    return torch.where(change.isfinite(), change, 0.0)


def _times(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v[:, :, None])[:, :, 0]


def _positive(values: Tensor) -> Tensor:
    """The values, with one in the place of zero."""
    return torch.where(values > 0, values, 1.0)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and zero where both are zero."""
    return torch.where(part == 0, 0.0, part / torch.where(part == 0, 1.0, whole))


def largest(values: Tensor) -> Tensor:
    """The largest of each row, zero for none."""
    return values.amax(-1) if values.shape[-1] else values.new_zeros(values.shape[:-1])
