"""Penalties phi(z; alpha) of robust pooling, written in s = z^2.

| name | phi | convex |
|---|---|---|
| quadratic | z^2 / 2 | yes |
| pseudo-huber | alpha^2 ((1 + z^2 / alpha^2)^(1/2) - 1) | yes |
| huber | z^2 / 2 for z <= alpha, then alpha (z - alpha / 2) | yes |
| welsch | 1 - exp(-z^2 / (2 alpha^2)) | no |
| truncated-quadratic | min(z^2, alpha^2) / 2 | no |

A sum of penalties is stationary where sum_i psi_i (y - x_i) = 0, psi = phi'(z) / z; Welsch's psi is multiplied by
alpha^2, which changes no solution and keeps it near one. (Barron 2019 for the family; Gould, Hartley, Campbell 2019
for the pooling.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cvxlayers.errors import OptionError

__all__ = ["PENALTIES", "Penalty", "Terms", "find_penalty"]


class Terms(NamedTuple):
    """At s: psi, its derivative with respect to s times two, and its derivative with respect to alpha."""

    psi: Tensor
    slope: Tensor
    in_alpha: Tensor


@dataclass(frozen=True)
class Penalty:
    """A penalty: ``value(s, alpha)`` is phi, ``terms(s, alpha)`` what its derivatives are made of."""

    name: str
    convex: bool
    value: Callable[[Tensor, Tensor], Tensor]
    terms: Callable[[Tensor, Tensor], Terms]


def _quadratic(s: Tensor, alpha: Tensor) -> Terms:
    return Terms(torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s))


def _pseudo_huber(s: Tensor, alpha: Tensor) -> Terms:
    psi = (1 + s / alpha**2).rsqrt()
    cubed = psi * psi * psi
    return Terms(psi, -cubed / alpha**2, s * cubed / alpha**3)


def _pseudo_huber_value(s: Tensor, alpha: Tensor) -> Tensor:
    return s / (1 + (1 + s / alpha**2).sqrt())  # without the cancellation of the definition


def _huber(s: Tensor, alpha: Tensor) -> Terms:
    far = s > alpha**2
    inverse = torch.where(far, s, 1.0).rsqrt()
    psi = torch.where(far, alpha * inverse, 1.0)
    return Terms(psi, torch.where(far, -psi * inverse * inverse, 0.0), torch.where(far, inverse, 0.0))


def _huber_value(s: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(s > alpha**2, alpha * (s.sqrt() - alpha / 2), s / 2)


def _welsch(s: Tensor, alpha: Tensor) -> Terms:
    psi = torch.exp(-s / (2 * alpha**2))
    return Terms(psi, -psi / alpha**2, s * psi / alpha**3)


def _welsch_value(s: Tensor, alpha: Tensor) -> Tensor:
    return -torch.expm1(-s / (2 * alpha**2))


def _truncated(s: Tensor, alpha: Tensor) -> Terms:
    psi = (s <= alpha**2).to(s.dtype) + torch.zeros_like(s)
    return Terms(psi, torch.zeros_like(s), torch.zeros_like(s))


PENALTIES = {
    found.name: found
    for found in (
        Penalty("quadratic", True, lambda s, alpha: s / 2, _quadratic),
        Penalty("pseudo-huber", True, _pseudo_huber_value, _pseudo_huber),
        Penalty("huber", True, _huber_value, _huber),
        Penalty("welsch", False, _welsch_value, _welsch),
        Penalty("truncated-quadratic", False, lambda s, alpha: torch.minimum(s, alpha**2) / 2, _truncated),
    )
}
"""The penalties by their names."""


def find_penalty(name: str) -> Penalty:
    """The penalty of that name.

    Raises
    ------
    OptionError
        There is none.
    """
    if name not in PENALTIES:
        raise OptionError(f"penalty: got {name!r}, expected one of {', '.join(map(repr, PENALTIES))}.")
    return PENALTIES[name]
