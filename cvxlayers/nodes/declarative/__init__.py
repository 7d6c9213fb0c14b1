"""The general declarative node: its contract, the search for solutions and their judgement, the implicit derivative."""

from __future__ import annotations

from cvxlayers.nodes.declarative.layer import DeclarativeLayer
from cvxlayers.nodes.declarative.node import DeclarativeNode
from cvxlayers.nodes.declarative.report import NodeInfo

__all__ = ["DeclarativeLayer", "DeclarativeNode", "NodeInfo"]
