"""How many problems the kernels work on at a time."""

from __future__ import annotations

__all__ = ["W"]

W = 8
"""8 doubles are one cache line."""
