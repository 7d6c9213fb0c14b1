"""Declarative nodes for PyTorch: solutions of smooth problems as layers, however they were found.

>>> import torch
>>> from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode
>>> class Mean(DeclarativeNode):  # the point of least squared distance to the entries of x
...     shape = ()
...     def objective(self, x, y):
...         return ((y[:, None] - x) ** 2).sum(-1)
>>> x = torch.tensor([[1.0, 2.0, 6.0]], requires_grad=True)
>>> y = DeclarativeLayer(Mean())(x)
>>> y.sum().backward()
>>> y.detach(), x.grad
(tensor([3.]), tensor([[0.3333, 0.3333, 0.3333]]))
"""

from __future__ import annotations

from cvxlayers.nodes.declarative import DeclarativeLayer, DeclarativeNode, NodeInfo
from cvxlayers.nodes.projection import (
    Projection,
    project_l1_ball,
    project_l1_sphere,
    project_l2_ball,
    project_l2_sphere,
    project_linf_ball,
    project_linf_sphere,
    project_simplex,
    project_simplex_kl,
)

__all__ = [
    "DeclarativeLayer",
    "DeclarativeNode",
    "NodeInfo",
    "Projection",
    "project_l1_ball",
    "project_l1_sphere",
    "project_l2_ball",
    "project_l2_sphere",
    "project_linf_ball",
    "project_linf_sphere",
    "project_simplex",
    "project_simplex_kl",
]
