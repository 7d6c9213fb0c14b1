"""Quadratic programs whose solution is known, and the derivative by the KKT matrix of the active rows.

An optimal point is chosen first, then a program that it solves: x, multipliers and slacks give p, h and b. For
cotangents of x, lambda and nu, the adjoint system of Amos and Kolter (2017, equation 7) on the active rows,

    [[Q, G_a', A'], [G_a, 0, 0], [A, 0, 0]] (dx, dlambda, dnu) = -(gx, glambda, gnu),

gives the gradients dQ = (dx x' + x dx') / 2, dp = dx, dG = lambda dx' + dlambda x', dh = -dlambda, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Known", "known_qp"]


@dataclass(frozen=True)
class Known:
    """A batch of programs, (B, ...) each, and their solutions; an argument that is absent is not in ``data``."""

    data: Mapping[str, np.ndarray]
    x: np.ndarray
    inequality: np.ndarray
    equality: np.ndarray

    def gradients(self, gx: np.ndarray, gl: np.ndarray | None = None, gn: np.ndarray | None = None) -> dict:
        """The gradients of all arguments for cotangents (B, ...) of x, lambda and nu."""
        parts = [
            self._gradients(i, gx[i], None if gl is None else gl[i], None if gn is None else gn[i])
            for i in range(len(self.x))
        ]
        return {name: np.stack([part[name] for part in parts]) for name in self.data}

    def _gradients(self, i: int, gx: np.ndarray, gl: np.ndarray | None, gn: np.ndarray | None) -> dict:
        x, lam, nu, n = self.x[i], self.inequality[i], self.equality[i], self.x.shape[1]
        Q, G, A = (self.data[name][i] if name in self.data else np.zeros((0, n)) for name in "QGA")
        Q = Q if Q.size else np.zeros((n, n))
        active = np.flatnonzero(lam > 0)
        rows = np.concatenate([G[active], A])
        K = np.block([[(Q + Q.T) / 2, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
        right = np.concatenate(
            [gx, np.zeros(active.size) if gl is None else gl[active], np.zeros(len(A)) if gn is None else gn]
        )
        dx, da, dn = np.split(-np.linalg.solve(K, right), [n, n + active.size])
        dl = np.zeros(len(G))
        dl[active] = da
        return {
            "Q": (np.outer(dx, x) + np.outer(x, dx)) / 2, "p": dx,
            "G": np.outer(lam, dx) + np.outer(dl, x), "h": -dl,
            "A": np.outer(nu, dx) + np.outer(dn, x), "b": -dn,
        }  # fmt: skip


def known_qp(
    rng: np.random.Generator, batch: int, n: int, inequalities: int = 0, equalities: int = 0, active: int = 0,
    quadratic: bool = True,
) -> Known:  # fmt: skip
    """A batch with ``active`` inequalities that hold with equality.

    Without a quadratic part, n = active + equalities makes x a vertex.
    """
    x, nu = rng.normal(size=(batch, n)), rng.normal(size=(batch, equalities))
    G, A = rng.normal(size=(batch, inequalities, n)), rng.normal(size=(batch, equalities, n))
    S = rng.normal(size=(batch, n, n))
    Q = S @ S.swapaxes(1, 2) / n + 0.5 * np.eye(n) if quadratic else np.zeros((batch, n, n))
    tight = np.arange(inequalities) < active
    lam = np.where(tight, rng.uniform(0.5, 2, (batch, inequalities)), 0)
    slack = np.where(tight, 0, rng.uniform(0.5, 2, (batch, inequalities)))
    p = -(Q @ x[..., None] + G.swapaxes(1, 2) @ lam[..., None] + A.swapaxes(1, 2) @ nu[..., None])[..., 0]
    data = {"Q": Q} if quadratic else {}
    data["p"] = p
    if inequalities:
        data |= {"G": G, "h": (G @ x[..., None])[..., 0] + slack}
    if equalities:
        data |= {"A": A, "b": (A @ x[..., None])[..., 0]}
    return Known(data, x, lam, nu)
