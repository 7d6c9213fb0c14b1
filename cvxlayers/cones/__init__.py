"""The cones of the standard form: where their rows lie, projections, derivatives of projections and distances."""

from __future__ import annotations

from cvxlayers.cones.blocks import BlockDerivative
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.kinds import CONES, KINDS
from cvxlayers.cones.orders import from_scs_order, row_order, to_scs_order
from cvxlayers.cones.product import Block, Cones, svec_length
from cvxlayers.cones.projection import (
    DualDerivative,
    distance,
    dual_derivative,
    dual_distance,
    dual_second_derivative,
    project,
    project_dual,
)
from cvxlayers.cones.svec import pack, svec_order, unpack

__all__ = [
    "CONES",
    "KINDS",
    "Block",
    "BlockDerivative",
    "Cones",
    "DualDerivative",
    "Group",
    "Kind",
    "distance",
    "dual_derivative",
    "dual_distance",
    "dual_second_derivative",
    "from_scs_order",
    "groups",
    "pack",
    "project",
    "project_dual",
    "row_order",
    "svec_order",
    "svec_length",
    "to_scs_order",
    "unpack",
]
