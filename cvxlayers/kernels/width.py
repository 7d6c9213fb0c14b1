"""How many problems the kernels work on at a time, and what that saves."""

from __future__ import annotations

__all__ = ["ALONE", "W"]

W = 8
"""8 doubles are one cache line."""

ALONE = 0.4
"""What one problem by itself takes of the time of W: from 0.2, where W do not fit into the cache, to 0.6."""
