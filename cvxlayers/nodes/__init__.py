"""Declarative nodes for PyTorch: problems whose solution feeds a network, differentiated without unrolling."""

from __future__ import annotations

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
