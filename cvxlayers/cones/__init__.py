"""The cones of the standard form: where their rows lie, projections, derivatives of projections and distances."""

from __future__ import annotations

from cvxlayers.cones.blocks import BlockDerivative
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.product import Block, Cones, svec_length
from cvxlayers.cones.projection import (
    DualDerivative,
    distance,
    dual_derivative,
    dual_distance,
    dual_second_derivative,
    margin,
    project,
    project_dual,
)
from cvxlayers.cones.svec import from_scs_order, pack, svec_order, to_scs_order, unpack

__all__ = [
    "Block",
    "BlockDerivative",
    "Cones",
    "DualDerivative",
    "Group",
    "distance",
    "dual_derivative",
    "dual_distance",
    "dual_second_derivative",
    "from_scs_order",
    "groups",
    "margin",
    "pack",
    "project",
    "project_dual",
    "svec_order",
    "svec_length",
    "to_scs_order",
    "unpack",
]
