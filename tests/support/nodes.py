"""Sample nodes with known solutions: each is a DeclarativeNode with a ``closed_form``, which autograd differentiates.

Most are the examples of Gould, Hartley, Campbell 2019, "Deep Declarative Networks", sections 4 and 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvxlayers.nodes import DeclarativeNode

__all__ = [
    "Ball", "BallBySolve", "BoundedQuadratic", "Circle", "CosineDistance", "Mean", "Polynomial", "RadiusCircle",
    "RobustAverage", "Simplex", "Softmin", "Sphere", "TwoBalls", "TwoBallsBySolve",
]  # fmt: skip


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows."""
    return (a * b).sum(-1)


def length(a: Tensor) -> Tensor:
    """Norms of rows, (B, 1)."""
    return dot(a, a).sqrt()[:, None]


class Polynomial(DeclarativeNode):
    """x y^4 + 2 x^2 y^3 - 12 y^2: three stationary points, one of them y = 0; the lowest is negative."""

    shape = ()

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y**4 + 2 * x**2 * y**3 - 12 * y**2

    def solve(self, x: Tensor) -> Tensor:
        return self.closed_form(x)

    def closed_form(self, x: Tensor) -> Tensor:
        return (-3 * x**2 - (9 * x**4 + 96 * x).sqrt()) / (4 * x)


class Circle(DeclarativeNode):
    """A linear objective on the unit circle: y = -x / |x|."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return dot(x, y)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - 1

    def initial(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def closed_form(self, x: Tensor) -> Tensor:
        return -x / length(x)


class RadiusCircle(DeclarativeNode):
    """A fixed linear objective y1 + y2 on the circle of radius x: y = -x (1, 1) / sqrt(2); f does not depend on x."""

    shape = (2,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - x**2

    def closed_form(self, x: Tensor) -> Tensor:
        return -x.expand(-1, 2) / 2**0.5


class Sphere(DeclarativeNode):
    """The closest point of the sphere of radius r: y = r x / |x|."""

    def objective(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return 0.5 * dot(y - x, y - x)

    def equality_constraints(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - r[:, None] ** 2

    def initial(self, x: Tensor, r: Tensor) -> Tensor:
        return x

    def closed_form(self, x: Tensor, r: Tensor) -> Tensor:
        return r[:, None] * x / length(x)


class Ball(DeclarativeNode):
    """The closest point of the ball of radius r: x itself inside."""

    def objective(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return 0.5 * dot(y - x, y - x)

    def inequality_constraints(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - r[:, None] ** 2

    def initial(self, x: Tensor, r: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def closed_form(self, x: Tensor, r: Tensor) -> Tensor:
        return torch.where(length(x) > r[:, None], r[:, None] * x / length(x), x)


class BallBySolve(Ball):
    """The same with a solver of its own, which works in single precision: the active set has to be found."""

    def solve(self, x: Tensor, r: Tensor) -> Tensor:
        return self.closed_form(x.float(), r.float())


class TwoBalls(DeclarativeNode):
    """The closest point of the unit sphere with y1 <= x2 / 2 and a second, idle inequality; equality and inequality."""

    shape = (3,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * dot(y - x, y - x)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - 1

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0] - 0.5 * x[:, 1], y[:, 2] - 5], -1)

    def initial(self, x: Tensor) -> Tensor:
        return x

    def closed_form(self, x: Tensor) -> Tensor:
        free = x / length(x)
        first = 0.5 * x[:, 1:2]
        rest = (1 - first**2).sqrt() * x[:, 1:] / length(x[:, 1:])
        return torch.where(free[:, :1] > first, torch.cat([first, rest], -1), free)


class TwoBallsBySolve(TwoBalls):
    """The same with a solver of its own, in closed form."""

    def solve(self, x: Tensor) -> Tensor:
        return self.closed_form(x)


class CosineDistance(DeclarativeNode):
    """The direction of the greatest cosine with x, as a vector of length one: y = x / |x|."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return 1 - dot(x, y) / (length(x) * length(y))[:, 0]

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return dot(y, y)[:, None] - 1

    def initial(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def closed_form(self, x: Tensor) -> Tensor:
        return x / length(x)


class Mean(DeclarativeNode):
    """The weighted squared error: y = sum w_i x_i / sum w_i."""

    shape = ()

    def objective(self, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return (w * (y[:, None] - x) ** 2).sum(-1)

    def closed_form(self, x: Tensor, w: Tensor) -> Tensor:
        return dot(w, x) / w.sum(-1)


class RobustAverage(DeclarativeNode):
    """A pseudo-Huber average: no closed form, but sum phi'(y - x_i) = 0."""

    shape = ()

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((1 + (y[:, None] - x) ** 2).sqrt() - 1).sum(-1)

    def initial(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class Softmin(DeclarativeNode):
    """Cost plus entropy on the simplex: y = softmax(-x). The equality is linear."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y + y * y.log()).sum(-1)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True) - 1

    def initial(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 1 / x.shape[1])

    def closed_form(self, x: Tensor) -> Tensor:
        return torch.softmax(-x, -1)


class Simplex(DeclarativeNode):
    """The closest point of the probability simplex: equality and inequalities."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * dot(y - x, y - x)

    def equality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True) - 1

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return -y

    def initial(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def closed_form(self, x: Tensor) -> Tensor:
        ordered = x.sort(-1, descending=True).values
        numbers = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        thresholds = (ordered.cumsum(-1) - 1) / numbers
        support = (ordered > thresholds).sum(-1, keepdim=True)
        return (x - thresholds.gather(-1, support - 1)).clamp(min=0)


class BoundedQuadratic(DeclarativeNode):
    """1/2 |y - x|^2 with 0 <= y <= 1: entries of y at a bound do not move, the others move with x."""

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * dot(y - x, y - x)

    def inequality_constraints(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([-y, y - 1], -1)

    def initial(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)

    def closed_form(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


def inputs(node: Any, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Seeded inputs of three elements, away from kinks, with every active set among them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    points = {
        "Polynomial": [x[:, 0].abs() + 0.5],
        "RadiusCircle": [x[:, :1].abs() + 0.5],
        "Sphere": [x[:, :3], x[:, 3].abs() + 0.5],
        "Ball": [x[:, :3] * torch.tensor([[0.1], [2.0], [3.0]]), torch.tensor([1.0, 0.8, 1.5])],
        "TwoBalls": [torch.tensor([[2.0, 0.5, -1.0], [-1.0, 0.6, 0.7], [0.8, 0.9, 1.5]])],
        "Mean": [x, torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.1],
    }
    chosen = next((points[kind.__name__] for kind in type(node).__mro__ if kind.__name__ in points), [x])
    return [t.to(dtype) for t in chosen]
