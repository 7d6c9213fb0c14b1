"""The rule of mapped axes under PyTorch's older vmap.

``torch.autograd.grad(is_grads_batched=True)``, ``torch.autograd.functional.jacobian(vectorize=True)`` and the checks of
batched gradients in ``gradcheck`` still use it. It has no registration of rules from Python, so this one unwraps the
tensors itself, calls the rule for ``torch.vmap``, and wraps the results.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree

from cvxlayers.errors import DerivativeError

__all__ = ["under_old_vmap"]


def under_old_vmap(rule: Callable[..., tuple[list[torch.Tensor], list[int]]]) -> Callable[..., list[torch.Tensor]]:
    """The kernel for the dispatch key Batched that does what ``rule`` does for ``torch.vmap``."""

    def kernel(*arguments: Any) -> list[torch.Tensor]:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        if level != 1:
            raise DerivativeError(
                "PyTorch's older vmap (is_grads_batched, vectorize) was nested around a CvxpyLayer; use torch.func, "
                "whose transforms nest."
            )
        leaves, tree = _pytree.tree_flatten(arguments)
        # A tensor that is not mapped gets an axis of size one here.
        opened = [torch._remove_batch_dim(leaf, level, 1, 0) if _is_tensor(leaf) else leaf for leaf in leaves]
        size = max(leaf.shape[0] for leaf in opened if _is_tensor(leaf))
        axes = [0 if _is_tensor(leaf) and leaf.shape[0] == size else None for leaf in opened]
        plain = [
            leaf[0] if _is_tensor(leaf) and axis is None else leaf for leaf, axis in zip(opened, axes, strict=True)
        ]
        results, where = rule(
            SimpleNamespace(batch_size=size), _pytree.tree_unflatten(axes, tree), *_pytree.tree_unflatten(plain, tree)
        )
        return [torch._add_batch_dim(result, axis, level) for result, axis in zip(results, where, strict=True)]

    return kernel


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
