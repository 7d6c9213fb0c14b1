"""Negative curvature in a polyhedral cone: d'Sd < 0 with A d = 0 and W d <= 0.

On the unit vectors of the cone the least d'Sd is taken inside of some face, {d : A d = 0, W_F d = 0}, as a local
minimum on the unit vectors of its span. A quadratic form has no other local minima there than eigenvectors of its
lowest eigenvalue. If that is a multiple one, its eigenvectors lead to a smaller face without a change of d'Sd, or are
all in the cone. So it is enough to look at one lowest eigenvector of each face's span, and at its negative. (For the
positive orthant, whose faces are principal submatrices, this is the criterion of Gaddum 1958 for copositive matrices.)
"""

from __future__ import annotations

from itertools import combinations, islice

import torch
from torch import Tensor

__all__ = ["lowest_direction"]

FACES = 4096
"""At most so many faces are looked at: all of twelve inequalities."""

INSIDE = 1e-9
"""How far a unit vector may be outside of a half-space."""


def lowest_direction(S: Tensor, A: Tensor, W: Tensor) -> tuple[bool, Tensor]:
    """Whether no d in the cone has d'Sd < 0, and a d that has, zero where there is none.

    S is symmetric (n, n), A (p, n), W (w, n). What cannot be known within ``FACES`` faces is answered with no.
    """
    nothing = torch.zeros_like(S[0])
    Z = _null_space(A)
    T, W = Z.T @ S @ Z, _unit_rows(W @ Z)
    count = len(W)
    sets = (F for size in range(count + 1) for F in combinations(range(count), size))
    for F in islice(sets, FACES):
        inner = _null_space(W[list(F)])
        if not inner.shape[1]:
            continue
        values, vectors = torch.linalg.eigh(inner.T @ T @ inner)
        if not F and values[0] >= 0:
            return True, nothing
        d = inner @ vectors[:, 0]
        for way in (d, -d):
            if values[0] < 0 and bool((W @ way <= INSIDE).all()):
                return False, Z @ way
    return 2**count <= FACES, nothing


def _null_space(A: Tensor) -> Tensor:
    """An orthonormal basis (n, k) of {d : A d = 0}."""
    A = _unit_rows(A)
    _, sizes, Vh = torch.linalg.svd(A)
    tolerance = torch.finfo(A.dtype).eps ** 0.7
    rank = int((sizes > tolerance * sizes.amax()).sum()) if sizes.numel() else 0
    return Vh[rank:].T


def _unit_rows(A: Tensor) -> Tensor:
    lengths = A.norm(dim=1, keepdim=True)
    return A / torch.where(lengths > 0, lengths, 1.0)
