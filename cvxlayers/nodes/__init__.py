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

from cvxlayers.nodes.attention.attention import (
    DeclarativeAttention,
    RobustMean,
    declarative_attention,
    robust_mean,
    sinkhorn_weights,
)
from cvxlayers.nodes.attention.entmax import entmax, softmax, sparsemax
from cvxlayers.nodes.declarative import DeclarativeLayer, DeclarativeNode, NodeInfo
from cvxlayers.nodes.linear.block_tridiagonal import BlockTridiagonalSolve, block_tridiagonal_solve
from cvxlayers.nodes.linear.eigendecomposition import Eigendecomposition, eigendecomposition
from cvxlayers.nodes.linear.least_squares import LeastSquares, least_squares
from cvxlayers.nodes.linear.tridiagonal import TridiagonalSolve, tridiagonal_solve
from cvxlayers.nodes.pose.perspective import PerspectiveNPoint, perspective_n_point
from cvxlayers.nodes.projections.projection import (
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
from cvxlayers.nodes.robust.robust_pooling import RobustPool, robust_pool
from cvxlayers.nodes.robust.robust_vector_pooling import RobustVectorPool, robust_vector_pool
from cvxlayers.nodes.signal.analytic_centre import AnalyticCentre, analytic_centre
from cvxlayers.nodes.signal.total_variation import TotalVariation, total_variation
from cvxlayers.nodes.transport.transport import OptimalTransport, optimal_transport

__all__ = [
    "AnalyticCentre",
    "BlockTridiagonalSolve",
    "DeclarativeAttention",
    "DeclarativeLayer",
    "DeclarativeNode",
    "Eigendecomposition",
    "LeastSquares",
    "NodeInfo",
    "OptimalTransport",
    "PerspectiveNPoint",
    "Projection",
    "RobustMean",
    "RobustPool",
    "RobustVectorPool",
    "TotalVariation",
    "TridiagonalSolve",
    "analytic_centre",
    "block_tridiagonal_solve",
    "declarative_attention",
    "eigendecomposition",
    "entmax",
    "least_squares",
    "optimal_transport",
    "perspective_n_point",
    "project_l1_ball",
    "project_l1_sphere",
    "project_l2_ball",
    "project_l2_sphere",
    "project_linf_ball",
    "project_linf_sphere",
    "project_simplex",
    "project_simplex_kl",
    "robust_mean",
    "robust_pool",
    "robust_vector_pool",
    "sinkhorn_weights",
    "softmax",
    "sparsemax",
    "total_variation",
    "tridiagonal_solve",
]
