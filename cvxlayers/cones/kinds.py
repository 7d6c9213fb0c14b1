"""The cones that there are, in the order of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType

from cvxlayers.cones import exponential, nonneg, power, power_nd, psd, second_order, zero
from cvxlayers.cones.kind import Kind

__all__ = ["CONES", "KINDS"]

CONES: Mapping[str, ModuleType] = MappingProxyType(
    {cone.KIND.name: cone for cone in (zero, nonneg, second_order, psd, exponential, power, power_nd)}
)
"""The module of each kind of cone, by its name. A new cone is a file with the functions of these, and stands here."""

KINDS: Mapping[str, Kind] = MappingProxyType({name: cone.KIND for name, cone in CONES.items()})
"""What is known of each kind of cone, by its name."""
