"""Facial reduction: what a direction along which nothing changes says of the dual, and a dual point of the primal.

Let d be a flat recession direction: Pd = 0, q'd = 0, -Ad in K. Every dual feasible y then has y'(-Ad) = 0: it lies in
the face F = K* n (-Ad)^perp, and the dual is that of the problem with F* = closure(K + R (-Ad)) in place of K
(Borwein and Wolkowicz 1981). And where y is optimal, every optimal s lies in the face K n y^perp.

A cone here is cut out of R^m by pieces: linear maps of s, each to lie in a cone of one kind. Faces and their duals are
again of this form, with the cones smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cvxlayers.cones.kinds import CONES, KINDS
from cvxlayers.cones.pieces import CLEAR, Piece
from cvxlayers.cones.product import Cones
from cvxlayers.program.structure import Array, Pattern, Structure, Values

__all__ = ["CLEAR", "Piece", "assemble", "curved", "depth", "enlarged", "exposed", "pieces_of", "recession"]


def pieces_of(cones: Cones) -> list[Piece]:
    """K itself, a piece for each block."""
    unit = np.eye(cones.m)
    return [Piece(block.kind, block.data, unit[block.rows]) for block in cones.blocks]


def curved(piece: Piece) -> bool:
    """Whether the piece's cone is not polyhedral."""
    return not KINDS[piece.kind].polyhedral


def assemble(
    P: sp.csc_array, q: Array, A: Array, b: Array, pieces: Sequence[Piece], equalities: Array, right: Array
) -> tuple[Structure, Values, sp.csr_array]:
    """The problem with s = b - Ax in all the pieces and, as its first rows, some equalities more.

    The map (rows, m) of s, zero in those first rows, gives the slack of the others, and its transpose takes y back.
    """
    order = list(KINDS)
    ordered = sorted((piece for piece in pieces if piece.map.size), key=lambda piece: order.index(piece.kind))
    flat = [(piece.kind, len(piece.map) if KINDS[piece.kind].polyhedral else piece.data) for piece in ordered]
    cones = Cones.of([("zero", len(equalities)), *flat])
    W = sp.csr_array(np.concatenate([np.zeros((len(equalities), b.size)), *(piece.map for piece in ordered)]))
    rest = W[len(equalities) :]
    (of_P, p), (of_A, a) = _pattern(P), _pattern(sp.vstack([sp.csr_array(equalities), rest @ sp.csr_array(A)]))
    values = Values(p, q[:, None], a, np.concatenate([right, rest @ b])[:, None])
    return Structure(of_P, of_A, cones), values, W


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within the piece's cone, and weights (m,) whose product with them is their size.

    Of some cones only the directions in a flat face.
    """
    found: tuple[list[Piece], Array] = CONES[piece.kind].recession(piece, A)
    return found


def enlarged(piece: Piece, direction: Array) -> list[Piece]:
    """closure(K + R z) of the piece's cone K, z in K: the map of a direction (m,) of which the largest entry is one."""
    z = piece.map @ direction
    if np.abs(z).max(initial=0.0) <= CLEAR:
        return [piece]
    found: list[Piece] = CONES[piece.kind].enlarged(piece, z)
    return found


def exposed(piece: Piece, direction: Array, y: Array) -> list[Piece]:
    """K n y^perp of the piece's cone K, for y (m,) in the face of K* that the direction exposes.

    y is in scaled units; what of it is not clearly nonzero counts as zero, which leaves more of K.
    """
    z, own = piece.map @ direction, piece.map @ y
    if np.abs(z).max(initial=0.0) <= CLEAR or np.abs(own).max(initial=0.0) <= CLEAR:
        return [piece]
    found: list[Piece] = CONES[piece.kind].exposed(piece, z, own)
    return found


def depth(piece: Piece, s: Array) -> float:
    """How far s (m,) is inside a polyhedral or semidefinite piece."""
    return float(CONES[piece.kind].depth(piece.map @ s))


def _pattern(matrix: sp.sparray) -> tuple[Pattern, Array]:
    found = sp.coo_array(matrix)
    order = np.lexsort((found.row, found.col))
    return Pattern.of(found.row[order], found.col[order], matrix.shape), found.data[order][:, None]
