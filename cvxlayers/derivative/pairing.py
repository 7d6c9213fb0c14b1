"""How the values P, q, A, b enter the optimality conditions: what their tangents do to them, and the adjoint of that.

    R1 = Px + q + A'y,    R2 = Ax + s - b

at a point (x, y). Their change with the values is -(f, g) below; the pairing of (f, g) with multipliers (rx, rv) gives
the cotangents of the values.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.program.linear import broadcast_column
from cvxlayers.program.structure import Array, Pattern, Structure, Values, is_shared

__all__ = ["cotangents", "right_hand_side"]

# Numbers of an array that stays in a core's cache beside two others.
_CACHED = 2**15


def right_hand_side(structure: Structure, dvalues: Values, x: Array, y: Array) -> tuple[Array, Array]:
    """f = -(dP x + dq + dA'y), (n, B), and g = -(dA x - db), (m, B)."""
    f, g = -dvalues.q, np.array(dvalues.b)
    if not _vanishes(dvalues.P):
        f -= structure.P_times(dvalues.P, x)
    if not _vanishes(dvalues.A):
        f -= structure.A.transpose_times(dvalues.A, y)
        g -= structure.A.times(dvalues.A, x)
    return f, g


def cotangents(
    structure: Structure, rx: Array, rv: Array, x: Array, y: Array, dP: Array | None = None, dA: Array | None = None
) -> Values:
    """The cotangents of the values for the multipliers rx (n, B) and rv (m, B); zeros for what does not vary.

        dq = -rx,    db = rv,    dA = -(y rx' + rv x'),    dP = -(rx x' + x rx') / 2

    on the patterns of A and P, where an entry of P's upper triangle stands for both of its places. Those of P and A may
    be handed in where they are known already.
    """
    varying, batch = structure.varying, x.shape[1]
    P, A = structure.P, structure.A
    if dP is None:
        dP = _zeros(P.nnz, batch)
        if "P" in varying and P.nnz:
            dP = _negative_sums(P, rx, x, x, rx)
            dP[P.rows == P.columns] *= 0.5
    if dA is None:
        dA = _negative_sums(A, y, rx, rv, x) if "A" in varying and A.nnz else _zeros(A.nnz, batch)
    dq = -rx if "q" in varying else _zeros(structure.n, batch)
    db = rv if "b" in varying else _zeros(structure.m, batch)
    return Values(dP, dq, dA, db)


def _negative_sums(pattern: Pattern, u: Array, v: Array, w: Array, z: Array) -> Array:
    """-(u v' + w z') at the places of a pattern, (nnz, B); a part at a time that stays in the cache."""
    batch = u.shape[1]
    found = np.empty((pattern.nnz, batch))
    step = max(_CACHED // max(batch, 1), 1)
    for start in range(0, pattern.nnz, step):
        part = slice(start, start + step)
        rows, columns, out = pattern.rows[part], pattern.columns[part], found[part]
        np.multiply(u[rows], v[columns], out=out)
        out += w[rows] * z[columns]
        np.negative(out, out=out)
    return found


def _zeros(size: int, batch: int) -> Array:
    return broadcast_column(np.zeros(size), batch)


def _vanishes(part: Array) -> bool:
    """Whether a tangent is zero, without reading more than one column of one that is constant over the batch."""
    return not part.size or not (part[:, :1] if is_shared(part) else part).any()
