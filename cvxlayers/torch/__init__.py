"""Convex optimization layers for PyTorch.

>>> import cvxpy as cp, torch
>>> from cvxlayers.torch import CvxpyLayer
>>> x, c = cp.Variable(2), cp.Parameter(2)
>>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), parameters=[c], variables=[x])
>>> values = torch.tensor([1.0, -1.0], requires_grad=True)
>>> (solution,) = layer(values)
>>> solution.sum().backward()
>>> values.grad.round(decimals=6).abs()
tensor([1., 0.])
"""

from __future__ import annotations

from cvxlayers.torch.layer import CvxpyLayer
from cvxlayers.torch.qp import QPFunction, QPLayer, QPSolution, solve_qp

__all__ = ["CvxpyLayer", "QPFunction", "QPLayer", "QPSolution", "solve_qp"]
