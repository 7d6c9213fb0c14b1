"""The standard form, what is compiled for it, its solutions, and both on disk."""

from __future__ import annotations

from cvxlayers.program import artefact  # which attaches ``CompiledProblem.save``

__all__ = ["artefact"]
