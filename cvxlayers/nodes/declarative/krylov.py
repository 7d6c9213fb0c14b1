"""Systems K u = v by conjugate gradients on products alone, for batches whose elements stop one by one.

With constraints, K = [[H, A'], [A, D]] is indefinite while H is positive definite where A u = 0. The projected method
(Gould, Hribar, Nocedal 2001) takes a particular solution of the constraint rows, and conjugate gradients inside the
null space of A; each projection is a least-squares problem with A A', again by conjugate gradients. Where that does not
converge (K is singular, or H is not positive definite there), conjugate gradients on K K u = K v give the
pseudo-inverse (Hestenes and Stiefel 1952), more slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients", "solve_products"]

Operator = Callable[[Tensor], Tensor]


def conjugate_gradients(
    times: Operator, v: Tensor, tolerance: float, steps: int, project: Operator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve M u = v for vectors (..., N) with M positive definite on the range of ``project``.

    Returns
    -------
    u, the relative residuals (...), and which elements met a direction of negative curvature (...), where u is what was
    reached before (the direction itself where it was the first).
    """
    u, r = torch.zeros_like(v), v
    s = r if project is None else project(r)
    d, rho = s, (r * s).sum(-1)
    start = rho
    concave = torch.zeros_like(rho, dtype=torch.bool)
    going = rho > 0
    for _ in range(steps):
        if not bool(going.any()):
            break
        Md = times(d)
        curved = (d * Md).sum(-1)
        bent = going & (curved <= 1e-14 * (d * d).sum(-1).sqrt() * (Md * Md).sum(-1).sqrt())
        untouched = bent & (u == 0).all(-1)
        u = torch.where(untouched[..., None], d, u)
        concave, going = concave | bent, going & ~bent
        alpha = torch.where(going, rho / torch.where(going, curved, 1.0), 0.0)[..., None]
        u, r = u + alpha * d, r - alpha * Md
        s = r if project is None else project(r)
        now = (r * s).sum(-1)
        beta = torch.where(going, now / torch.where(going, rho, 1.0), 0.0)[..., None]
        d, rho = torch.where(going[..., None], s + beta * d, d), torch.where(going, now, rho)
        going = going & (rho > tolerance**2 * start)
    left = (rho.clamp(min=0) / torch.where(start > 0, start, 1.0)).sqrt()
    return u, left, concave


def solve_products(times: Operator, v: Tensor, n: int, tolerance: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve K u = v for vectors (R, B, N), K given by its products; n is the size of H.

    Returns
    -------
    u, which elements took the pseudo-inverse (B,), and the relative residuals (B,).
    """
    u = _projected(times, v, n, tolerance, steps) if v.shape[-1] > n else _plain(times, v, tolerance, steps)
    residual = _relative(v - times(u), v)
    singular = ~(residual <= 1e2 * tolerance)
    if bool(singular.any()):
        square, _, _ = conjugate_gradients(lambda d: times(times(d)), times(v), tolerance, steps)
        # What is left of v is orthogonal to the range of K where the normal equations are solved.
        rest = _relative(times(v - times(square)), times(v))
        u = torch.where(singular[..., None], square, u)
        residual = torch.where(singular, rest, residual)
    return u, singular.any(0), residual.amax(0)


def _plain(times: Operator, v: Tensor, tolerance: float, steps: int) -> Tensor:
    return conjugate_gradients(times, v, tolerance, steps)[0]


def _projected(times: Operator, v: Tensor, n: int, tolerance: float, steps: int) -> Tensor:
    """The null-space method: u = u0 + (a step inside the null space), and the multipliers last."""

    def upper(u: Tensor) -> Tensor:
        """K (u, 0)."""
        return times(torch.nn.functional.pad(u, (0, v.shape[-1] - n)))

    def lower(w: Tensor) -> Tensor:
        """K (0, w), without what the inactive rows give back."""
        return times(torch.nn.functional.pad(w, (n, 0)))

    def gram(w: Tensor) -> Tensor:
        """(A A' + D) w: D is one on inactive rows, whose rows of A are zero."""
        product = lower(w)
        return upper(product[..., :n])[..., n:] + product[..., n:]

    def multipliers(right: Tensor) -> Tensor:
        return conjugate_gradients(gram, right, 1e-2 * tolerance, steps)[0]

    def project(r: Tensor) -> Tensor:
        once = r - lower(multipliers(upper(r)[..., n:]))[..., :n]
        return once - lower(multipliers(upper(once)[..., n:]))[..., :n]

    first = multipliers(v[..., n:])
    u = lower(first)[..., :n]
    right = v[..., :n] - upper(u)[..., :n]
    inside, _, _ = conjugate_gradients(lambda d: upper(d)[..., :n], right, tolerance, steps, project)
    rest = right - upper(inside)[..., :n]
    w = multipliers(upper(rest)[..., n:]) + (lower(first)[..., n:])
    return torch.cat([u + inside, w], -1)


def _relative(part: Tensor, whole: Tensor) -> Tensor:
    size = whole.norm(dim=-1)
    return part.norm(dim=-1) / torch.where(size > 0, size, 1.0)
