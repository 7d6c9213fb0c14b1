"""What one row group of the vision benchmark is made of."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Case", "Forward", "generator", "outputs_of"]

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A node at one size.

    Parameters
    ----------
    name, size : str
        For the table.
    inputs : tuple of float64 tensors
        All of them differentiable.
    ours : callable
        Inputs to a tensor or a tuple of tensors.
    check : callable
        Outputs to the error of the answer, relative: by optimality conditions or against an independent solution.
    baselines : mapping
        The standard techniques, by name, each with the signature of ours.
    ddn : (str, callable), optional
        A module of the package ``ddn`` and what makes a function like ours of it. Left out where it does not import.
    step : float
        Of the finite differences, relative to the sizes of the inputs; so small that none crosses a kink on the way.
    """

    name: str
    size: str
    inputs: tuple[Tensor, ...]
    ours: Forward
    check: Callable[[Sequence[Tensor]], float]
    baselines: Mapping[str, Forward] = field(default_factory=dict)
    ddn: tuple[str, Callable[[Any], Forward]] | None = None
    step: float = 3e-7

    def contenders(self) -> dict[str, Forward]:
        """The baselines, and the reference package's node where it can be imported."""
        found = dict(self.baselines)
        if self.ddn is not None:
            with suppress(ImportError, AttributeError):  # none, or another package of that name
                found["ddn"] = self.ddn[1](importlib.import_module(self.ddn[0]))
        return found


def outputs_of(forward: Forward, inputs: Sequence[Tensor], graph: bool = False) -> tuple[Tensor, ...]:
    """The outputs as a tuple."""
    with torch.set_grad_enabled(graph):
        outputs = forward(*inputs)
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def generator(seed: int = 0) -> torch.Generator:
    """Seeded random numbers."""
    return torch.Generator().manual_seed(seed)
