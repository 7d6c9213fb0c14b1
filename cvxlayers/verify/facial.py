"""Facial reduction: what a direction along which nothing changes says of the dual, and a dual point of the primal.

Let d be a flat recession direction: Pd = 0, q'd = 0, -Ad in K. Every dual feasible y then has y'(-Ad) = 0: it lies in
the face F = K* n (-Ad)^perp, and the dual is that of the problem with F* = closure(K + R (-Ad)) in place of K
(Borwein and Wolkowicz 1981). And where y is optimal, every optimal s lies in the face K n y^perp.

A cone here is cut out of R^m by pieces: linear maps of s, each to lie in a cone of one kind. Faces and their duals are
again of this form, with the cones smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cvxlayers.cones import svec
from cvxlayers.cones.product import Cones
from cvxlayers.program.structure import Array, Pattern, Structure, Values

__all__ = ["CLEAR", "Piece", "assemble", "depth", "enlarged", "exposed", "pieces_of", "recession"]

CLEAR = 1e-6
"""What is larger than this part of the largest entry is not zero."""

KINDS = ("zero", "nonneg", "second_order", "psd", "exponential", "power")


@dataclass(frozen=True, eq=False)
class Piece:
    """The s with ``map @ s`` in a cone of this kind, map (rows, m); ``data`` is that of ``Block``."""

    kind: str
    data: float
    map: Array

    @property
    def curved(self) -> bool:
        return self.kind not in ("zero", "nonneg")


def pieces_of(cones: Cones) -> list[Piece]:
    """K itself, a piece for each block."""
    unit = np.eye(cones.m)
    return [Piece(block.kind, block.data, unit[block.rows]) for block in cones.blocks]


def assemble(
    P: sp.csc_array, q: Array, A: Array, b: Array, pieces: Sequence[Piece], equalities: Array, right: Array
) -> tuple[Structure, Values, sp.csr_array]:
    """The problem with s = b - Ax in all the pieces and, as its first rows, some equalities more.

    The map (rows, m) of s, zero in those first rows, gives the slack of the others, and its transpose takes y back.
    """
    ordered = sorted((piece for piece in pieces if piece.map.size), key=lambda piece: KINDS.index(piece.kind))
    count = {kind: [piece for piece in ordered if piece.kind == kind] for kind in KINDS}
    cones = Cones(
        len(equalities) + sum(len(piece.map) for piece in count["zero"]),
        sum(len(piece.map) for piece in count["nonneg"]),
        tuple(len(piece.map) for piece in count["second_order"]), tuple(int(piece.data) for piece in count["psd"]),
        len(count["exponential"]), tuple(piece.data for piece in count["power"]),
    )  # fmt: skip
    W = sp.csr_array(np.concatenate([np.zeros((len(equalities), b.size)), *(piece.map for piece in ordered)]))
    rest = W[len(equalities) :]
    (of_P, p), (of_A, a) = _pattern(P), _pattern(sp.vstack([sp.csr_array(equalities), rest @ sp.csr_array(A)]))
    values = Values(p, q[:, None], a, np.concatenate([right, rest @ b])[:, None])
    return Structure(of_P, of_A, cones), values, W


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within the piece's cone, and weights (m,) whose product with them is their size.

    Of an exponential cone, and of a power cone one of whose rows does not move, only the directions in its flat face.
    """
    u, last = piece.map[:1], piece.map[-1:]
    if piece.kind == "zero":
        return [piece], np.zeros(A.shape[0])
    if piece.kind == "exponential":
        flat = np.concatenate([-u, last])
        return [Piece("zero", 1, piece.map[1:2]), Piece("nonneg", 2, flat)], flat.sum(axis=0)
    if piece.kind == "power":
        moving, sides = (piece.map @ A).any(axis=1).all(), piece.map[:2]
        flat_pieces = [Piece("zero", 1, last), Piece("nonneg", 2, sides)]
        return ([piece] if moving else flat_pieces), sides.sum(axis=0)
    if piece.kind == "second_order":
        return [piece], piece.map[0]
    if piece.kind == "psd":
        return [piece], svec.pack(np.eye(int(piece.data))) @ piece.map
    return [piece], piece.map.sum(axis=0)


def enlarged(piece: Piece, direction: Array) -> list[Piece]:
    """closure(K + R z) of the piece's cone K, z in K: the map of a direction (m,) of which the largest entry is one."""
    z = piece.map @ direction
    if piece.kind == "zero" or np.abs(z).max(initial=0.0) <= CLEAR:
        return [piece]
    return _ENLARGED[piece.kind](piece, z)


def exposed(piece: Piece, direction: Array, y: Array) -> list[Piece]:
    """K n y^perp of the piece's cone K, for y (m,) in the face of K* that the direction exposes.

    y is in scaled units; what of it is not clearly nonzero counts as zero, which leaves more of K.
    """
    z = piece.map @ direction
    own = piece.map @ y
    if not piece.curved or np.abs(z).max(initial=0.0) <= CLEAR or np.abs(own).max(initial=0.0) <= CLEAR:
        return [piece]
    return _EXPOSED[piece.kind](piece, z, own)


def depth(piece: Piece, s: Array) -> float:
    """How far s (m,) is inside a polyhedral or semidefinite piece."""
    own = piece.map @ s
    return float((np.linalg.eigvalsh(svec.unpack(own)) if piece.kind == "psd" else own).min(initial=np.inf))


def _pattern(matrix: sp.sparray) -> tuple[Pattern, Array]:
    found = sp.coo_array(matrix)
    order = np.lexsort((found.row, found.col))
    return Pattern.of(found.row[order], found.col[order], matrix.shape), found.data[order][:, None]


def _halfspace(piece: Piece, normal: Array) -> list[Piece]:
    return [Piece("nonneg", 1, (normal / np.abs(normal).max())[None] @ piece.map)] if normal.any() else []


def _enlarged_nonneg(piece: Piece, z: Array) -> list[Piece]:
    rows = piece.map[z <= CLEAR]
    return [Piece("nonneg", rows.shape[0], rows)]


def _enlarged_second_order(piece: Piece, z: Array) -> list[Piece]:
    size = float(np.linalg.norm(z[1:]))
    return _halfspace(piece, np.concatenate([[size], -z[1:]])) if z[0] - size <= CLEAR * z[0] else []


def _enlarged_psd(piece: Piece, z: Array) -> list[Piece]:
    sizes, vectors = np.linalg.eigh(svec.unpack(z))
    return _compressed(piece, vectors[:, sizes <= CLEAR * sizes.max()])


def _compressed(piece: Piece, V: Array) -> list[Piece]:
    """V'SV positive semidefinite."""
    order = V.shape[1]
    if not order:
        return []
    rows = svec.pack(np.einsum("ia,ijd,jb->abd", V, svec.unpack(np.eye(piece.map.shape[0])), V)) @ piece.map
    return [Piece("nonneg" if order == 1 else "psd", order, rows)]


def _enlarged_exponential(piece: Piece, z: Array) -> list[Piece]:
    """With z = (-a, 0, c): v >= 0, and w >= 0 unless c > 0."""
    rows = piece.map[1:2] if z[2] > CLEAR else piece.map[1:]
    return [Piece("nonneg", rows.shape[0], rows)]


def _enlarged_power(piece: Piece, z: Array) -> list[Piece]:
    alpha, (u, v, w) = piece.data, z
    if v <= CLEAR:
        return [Piece("nonneg", 1, piece.map[1:2])]
    if u <= CLEAR:
        return [Piece("nonneg", 1, piece.map[:1])]
    top = u**alpha * v ** (1 - alpha)
    if top - abs(w) > CLEAR * top:
        return []
    return _halfspace(piece, np.array([alpha * top / u, (1 - alpha) * top / v, -np.sign(w)]))


def _exposed_exponential(piece: Piece, _: Array, y: Array) -> list[Piece]:
    """With y = (0, y_v, y_w): v = 0 and u <= 0, and w = 0 where y_w > 0."""
    u, v, w = piece.map[:1], piece.map[1:2], piece.map[2:]
    return [Piece("nonneg", 1, -u), Piece("zero", 1, v), Piece("zero" if y[2] > CLEAR else "nonneg", 1, w)]


def _exposed_power(piece: Piece, z: Array, y: Array) -> list[Piece]:
    if min(z[0], z[1]) > CLEAR:
        return _ray(piece, z)
    zero, free = (1, 0) if z[0] > CLEAR else (0, 1)
    if y[zero] <= CLEAR:
        return [piece]
    return [Piece("zero", 2, piece.map[[zero, 2]]), Piece("nonneg", 1, piece.map[[free]])]


def _ray(piece: Piece, z: Array) -> list[Piece]:
    """The multiples of z."""
    unit = z / np.linalg.norm(z)
    across = np.linalg.svd(unit[None])[2][1:]
    return [Piece("zero", across.shape[0], across @ piece.map), Piece("nonneg", 1, unit[None] @ piece.map)]


def _exposed_psd(piece: Piece, _: Array, y: Array) -> list[Piece]:
    """SU = 0 for the range U of Y."""
    sizes, vectors = np.linalg.eigh(svec.unpack(y))
    inside = sizes > CLEAR
    if not inside.any():
        return [piece]
    basis = svec.unpack(np.eye(piece.map.shape[0]))
    zeros = np.einsum("ia,ijd->ajd", vectors[:, inside], basis).reshape(-1, basis.shape[2])
    return [Piece("zero", zeros.shape[0], zeros @ piece.map), *_compressed(piece, vectors[:, ~inside])]


_ENLARGED: dict[str, Callable[[Piece, Array], list[Piece]]] = {
    "nonneg": _enlarged_nonneg,
    "second_order": _enlarged_second_order,
    "psd": _enlarged_psd,
    "exponential": _enlarged_exponential,
    "power": _enlarged_power,
}
_EXPOSED: dict[str, Callable[[Piece, Array, Array], list[Piece]]] = {
    "second_order": lambda piece, z, _: _ray(piece, z),
    "psd": _exposed_psd,
    "exponential": _exposed_exponential,
    "power": _exposed_power,
}
