"""The contract of a declarative node: what is minimized, subject to what; how it is solved is optional."""

from __future__ import annotations

from typing import Any

import torch

from cvxlayers.errors import OptionError

__all__ = ["DeclarativeNode"]


class DeclarativeNode:
    """A smooth problem y(x) = argmin_u f(x, u) subject to h(x, u) = 0 and g(x, u) <= 0, for a batch of inputs x.

    Subclass it and write ``objective``; the rest is optional. All functions are batched: inputs are (B, ...), ``y`` is
    (B, *shape), and element b of a result depends on element b of the inputs alone. They must hold for any B (the
    library works on chunks, on the elements that are not finished yet, and on batches of batches) and be written in
    differentiable PyTorch operations, since the library differentiates them (``objective`` up to twice for a gradient,
    once more for each higher derivative). Tensors that are not among the inputs are constants: one that requires a
    gradient is refused, for its gradient would be lost.

    The last argument is always called ``y``: write ``objective(self, x, y)``, or ``objective(self, *xs, y)``.

    Attributes
    ----------
    shape : tuple of int, optional
        The shape of one solution. Needed where neither ``initial`` nor ``solve`` is written.
    dims : tuple of int, optional
        The number of dimensions of each input without its batch. With it, an input may have any batch dimensions in
        front, or none (then it is shared), and they broadcast together. Without it the first dimension of each input
        is its batch; batch 1, or no dimension at all, means shared.

    Examples
    --------
    >>> import torch
    >>> from cvxlayers.nodes import DeclarativeLayer
    >>> class ClosestOnCircle(DeclarativeNode):  # the point of the circle of radius r that is closest to x
    ...     shape = (2,)
    ...     def objective(self, x, r, y):
    ...         return ((y - x) ** 2).sum(-1)
    ...     def equality_constraints(self, x, r, y):
    ...         return (y ** 2).sum(-1, keepdim=True) - r[:, None] ** 2
    ...     def initial(self, x, r):
    ...         return torch.ones_like(x)
    >>> layer = DeclarativeLayer(ClosestOnCircle())
    >>> layer(torch.tensor([[3.0, 4.0]]), torch.tensor(1.0))
    tensor([[0.6000, 0.8000]])
    """

    shape: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None

    def objective(self, *xs: Any, **keywords: Any) -> torch.Tensor:
        """f(x, y) of each element: (B,). The only function that has to be written."""
        raise NotImplementedError(f"{type(self).__name__} has no objective: write objective(self, *xs, y) -> (B,).")

    def equality_constraints(self, *xs: Any, **keywords: Any) -> torch.Tensor | None:
        """h(x, y), which the solution makes zero: (B, p). None: no equality constraints."""
        return None

    def inequality_constraints(self, *xs: Any, **keywords: Any) -> torch.Tensor | None:
        """g(x, y), which is at most zero at the solution: (B, q). None: no inequality constraints."""
        return None

    def initial(self, *xs: torch.Tensor) -> torch.Tensor:
        """The point from which the library's solver starts: (B, *shape). Zeros where it is not written.

        The objective must be finite and differentiable there. Of several minima the solver goes to one near it.
        """
        if self.shape is None:
            raise OptionError(
                f"{type(self).__name__}: the shape of its solution is unknown; set the attribute shape = (n, ...), or "
                "write initial(self, *xs) or solve(self, *xs), which return tensors of shape (B, n, ...)."
            )
        return xs[0].new_zeros((xs[0].shape[0], *self.shape))

    def solve(self, *xs: torch.Tensor) -> torch.Tensor | None:
        """A solution of each element: (B, *shape). None, as here: the library's own solver finds one.

        Called with detached inputs; automatic differentiation may be used inside. What it returns is verified, and
        sharpened where it is close (``polish=True``).
        """
        return None
