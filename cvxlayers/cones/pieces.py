"""Pieces: linear maps of s, each to lie in a cone of one kind. Faces of cones, and the duals of faces, are such pieces.

Each cone's file has, for facial reduction (Borwein and Wolkowicz 1981; see ``cvxlayers.verify.facial``),

  * ``recession(piece, A)``: directions within the cone, and weights (m,) whose product with them is their size;
  * ``enlarged(piece, z)``: closure(K + R z) for z in K, where a cone has no smaller one than K itself;
  * ``exposed(piece, z, y)``: K n y^perp for y in the face of K* that z exposes, in scaled units; what of y is not
    clearly nonzero counts as zero, which leaves more of K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.cones.arrays import Array

__all__ = ["CLEAR", "Piece", "halfspace", "ray"]

CLEAR = 1e-6
"""What is larger than this part of the largest entry is not zero."""


@dataclass(frozen=True, eq=False)
class Piece:
    """The s with ``map @ s`` in a cone of this kind, map (rows, m); ``data`` is that of ``Block``."""

    kind: str
    data: Any
    map: Array


def halfspace(piece: Piece, normal: Array) -> list[Piece]:
    """normal'v >= 0 for the piece's v; nothing for a normal of zero."""
    return [Piece("nonneg", 1, (normal / np.abs(normal).max())[None] @ piece.map)] if normal.any() else []


def ray(piece: Piece, z: Array) -> list[Piece]:
    """The nonnegative multiples of z."""
    unit = z / np.linalg.norm(z)
    across = np.linalg.svd(unit[None])[2][1:]
    return [Piece("zero", across.shape[0], across @ piece.map), Piece("nonneg", 1, unit[None] @ piece.map)]
