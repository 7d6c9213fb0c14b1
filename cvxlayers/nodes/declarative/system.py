"""The linear systems K(x, z) u = v of one call, at real (not transformed) tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvxlayers.derivative.base import DerivativeReport
from cvxlayers.errors import DerivativeError
from cvxlayers.nodes.declarative import kkt
from cvxlayers.nodes.declarative.local import look
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["SystemSettings", "OptimalitySystem"]

# Entries of the matrices that are held at once.
BUDGET = 2**25
# Relative residuals of conjugate gradients above this are an error.
LOOSE = 1e-8


@dataclass(frozen=True)
class SystemSettings:
    """What the user chose for a layer; see ``DeclarativeLayer``."""

    tolerance: float = 1e-6
    regularization: float = 0.0
    polish: bool = True
    max_iterations: int = 200
    chunk: int | None = None
    matrix_free: bool | None = None


@dataclass
class OptimalitySystem:
    """Solves with K, in chunks of the batch, and remembers how well that went.

    Attributes
    ----------
    singular : bool
        Whether any element of any solve was singular, so that derivatives of the pseudo-inverse are needed.
    report : DerivativeReport or None
        None before the first solve.
    """

    form: Formulation
    settings: SystemSettings
    margin: np.ndarray
    singular: bool = False
    report: DerivativeReport | None = None

    @property
    def pseudo(self) -> bool:
        """Whether derivatives of solves need the terms of the pseudo-inverse; without matrices nobody can tell."""
        return self.singular or self.form.matrix_free

    def times(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """(K + regularization) v for vectors (R, B, N)."""
        product = self.form.times(xs, z, active, vectors)
        shift, n = self.settings.regularization, self.form.n
        return product + shift * torch.nn.functional.pad(vectors[..., :n], (0, self.form.N - n)) if shift else product

    def solve(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """u with K u = v for vectors (R, B, N).

        Raises
        ------
        DerivativeError
            In matrix-free mode, when conjugate gradients do not converge.
        """
        size = self.settings.chunk or (len(z) if self.form.matrix_free else BUDGET // self.form.N**2)
        size = max(1, size)
        if len(z) <= size:
            u, singular, residual = self._solve(xs, z, active, vectors)
        else:
            starts = range(0, len(z), size)
            cut = [
                self._solve(
                    [x[i : i + size] for x in xs], z[i : i + size], active[i : i + size], vectors[:, i : i + size]
                )
                for i in starts
            ]
            u = torch.cat([piece[0] for piece in cut], 1)
            singular, residual = (torch.cat([piece[k] for piece in cut]) for k in (1, 2))
        self._note(singular, residual)
        return u

    def _solve(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        form, shift = self.form, self.settings.regularization
        if form.matrix_free:
            u, singular, residual = kkt.by_products(form, xs, z, active, vectors, shift)
            if bool((residual > LOOSE).any()):
                raise DerivativeError(
                    f"conjugate gradients reached a relative residual of {float(residual.max()):.1e} only, so that the "
                    "derivative would be wrong: pass matrix_free=False, or a regularization for nearly flat minima."
                )
            return u, singular, residual
        K = look(form, xs, z, active).matrix(active)
        if shift:
            K.diagonal(dim1=1, dim2=2)[:, : form.n] += shift
        return kkt.by_factors(K, vectors, form.n)

    def _note(self, singular: Tensor, residual: Tensor) -> None:
        if bool(singular.any()):
            self.singular = True
        if len(singular) == len(self.margin) and not torch._C._functorch.is_legacy_batchedtensor(residual):
            fresh = residual.detach().double().cpu().numpy()
            earlier = np.zeros_like(fresh) if self.report is None else self.report.residual
            worst = np.maximum(fresh, earlier)
            self.report = DerivativeReport(worst, np.zeros_like(fresh), self.margin, singular.cpu().numpy())
