"""Moreau's own PyTorch solver, given the standard form that this package compiles.

What stands around it (parameters -> values, solution -> variables) are PyTorch's sparse products.
"""

from __future__ import annotations

from typing import Any

import moreau.torch
import numpy as np
import torch

import cvxlayers
from benchmarks.families import Family

__all__ = ["MoreauLayer"]


class MoreauLayer:
    """Tensors in, tensors out, for one family at its batch size.

    ``method`` is Moreau's: "auto", "ipm" or "active_set".
    """

    def __init__(self, family: Family, method: str) -> None:
        compiled = cvxlayers.compile(family.problem, family.parameters, family.variables, gp=family.gp)
        structure, cones = compiled.structure, compiled.structure.cones
        self.compiled = compiled
        upper = structure.P
        rows = np.concatenate([upper.rows, upper.columns[upper.rows != upper.columns]])
        columns = np.concatenate([upper.columns, upper.rows[upper.rows != upper.columns]])
        places = np.concatenate([np.arange(upper.nnz), np.flatnonzero(upper.rows != upper.columns)])
        P_order = np.lexsort((columns, rows))
        A_order = np.lexsort((structure.A.columns, structure.A.rows))
        parts = (
            (compiled.P, places[P_order]), (compiled.A, A_order),
            (compiled.q, np.arange(structure.n)), (compiled.b, np.arange(structure.m)),
        )  # fmt: skip
        self.maps = [(_sparse(part.linear[order]), torch.from_numpy(part.constant[order])) for part, order in parts]
        self.primal = _sparse(compiled.primal)
        self.solver = moreau.torch.Solver(
            structure.n, structure.m,
            _offsets(rows, structure.n), torch.from_numpy(columns[P_order].astype(np.int64)),
            _offsets(structure.A.rows, structure.m), torch.from_numpy(structure.A.columns[A_order].astype(np.int64)),
            moreau.Cones(
                num_zero_cones=cones.zero, num_nonneg_cones=cones.nonneg,
                so_cone_dims=list(cones.second_order),
                num_exp_cones=cones.exponential,
            ),
            moreau.Settings(solver=method, device="cpu", batch_size=family.batch, enable_grad=True),
        )  # fmt: skip

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        parts = [_columns(tensors[feature.parameter]) for feature in self.compiled.features]
        theta = torch.cat(parts, dim=1).mT  # (k, B)
        P, A, q, b = ((linear @ theta + constant[:, None]).mT.contiguous() for linear, constant in self.maps)
        rows = (self.primal @ self.solver.solve(P, A, q, b).x.mT).mT
        flat = [rows[:, spec.start : spec.stop].reshape(len(rows), *spec.shape[::-1]) for spec in self.compiled.outputs]
        return [part.mT if part.ndim == 3 else part for part in flat]


def _columns(tensor: torch.Tensor) -> torch.Tensor:
    """Each element column by column, as CVXPY flattens: (B, size)."""
    return (tensor.mT if tensor.ndim == 3 else tensor).reshape(len(tensor), -1)


def _sparse(matrix: Any) -> torch.Tensor:
    coo = matrix.tocoo()
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([coo.row, coo.col])), torch.from_numpy(coo.data), coo.shape
    ).coalesce()


def _offsets(rows: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64))
