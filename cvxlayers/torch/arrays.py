"""Between tensors, of any dtype and on any device, and NumPy arrays in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["result_dtype", "to_numpy", "to_tensor"]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A NumPy array in double precision (a view where nothing needs converting)."""
    if tensor.dtype is not torch.float64 and tensor.dtype is not torch.complex128:
        tensor = tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
    return tensor.numpy(force=True)


def to_tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of this dtype; a complex array loses its imaginary part where a real one is wanted."""
    if not dtype.is_complex:
        array = array.real
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype is dtype and device.type == "cpu" else tensor.to(dtype=dtype, device=device)


def result_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The real floating dtype that the inputs promote to."""
    dtype = torch.get_default_dtype() if not tensors else tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.get_default_dtype()
    return dtype.to_real()
