"""What the interior-point iteration asks of the cones, one file for each kind."""

from __future__ import annotations

__all__ = ["KINDS"]

KINDS = frozenset({"zero", "nonneg", "second_order", "psd", "exponential", "power"})
"""The kinds of cone for which there are kernels here."""
