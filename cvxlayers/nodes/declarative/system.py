"""The linear systems K(x, z) u = v of one call, at real (not transformed) tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import solve_symmetric
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["Settings", "System"]


@dataclass(frozen=True)
class Settings:
    """What the user chose for a layer; see ``DeclarativeLayer``."""

    tolerance: float = 1e-6
    regularization: float = 0.0
    polish: bool = True
    max_iterations: int = 200
    chunk: int | None = None


@dataclass
class System:
    """Solves with K, in chunks of the batch, and remembers whether any element was singular."""

    form: Formulation
    settings: Settings
    singular: bool = field(default=False)

    def times(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """(K + regularization) v for vectors (R, B, N)."""
        product = self.form.times(xs, z, active, vectors)
        if self.settings.regularization:
            n = self.form.n
            product = product + self.settings.regularization * torch.nn.functional.pad(
                vectors[..., :n], (0, self.form.N - n)
            )
        return product

    def solve(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """u with K u = v for vectors (R, B, N)."""
        size = self.settings.chunk or max(1, _BUDGET // max(1, self.form.N**2))
        if z.shape[0] <= size:
            return self._solve(xs, z, active, vectors)
        pieces = [
            self._solve([x[i : i + size] for x in xs], z[i : i + size], active[i : i + size], vectors[:, i : i + size])
            for i in range(0, z.shape[0], size)
        ]
        return torch.cat(pieces, 1)

    def _solve(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        K = self.form.matrix(xs, z, active)
        if self.settings.regularization:
            K.diagonal(dim1=1, dim2=2)[:, : self.form.n] += self.settings.regularization
        u, singular = solve_symmetric(K, vectors.permute(1, 2, 0), self.form.n)
        if bool(singular.any()):
            self.singular = True
        return u.permute(2, 0, 1)


# Entries of the matrices that are held at once.
_BUDGET = 2**25
