"""Tensors as the arrays that the native module packs, and back."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["array_of", "dtype_name", "empty_bytes", "optional_array", "optional_tensor"]


def array_of(name: str, tensor: torch.Tensor) -> np.ndarray:
    """A CPU tensor's memory as an array; bfloat16 as uint16 bits."""
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        got = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a dense CPU tensor, got {got}; move it with {name}.cpu()")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def optional_array(name: str, tensor: torch.Tensor | None) -> np.ndarray | None:
    """The same of a tensor that may be missing."""
    return None if tensor is None else array_of(name, tensor)


def optional_tensor(array: np.ndarray | None) -> torch.Tensor | None:
    """A tensor in the memory of an array that may be missing."""
    return None if array is None else torch.from_numpy(array)


def dtype_name(tensor: torch.Tensor) -> str | None:
    """What tells the native module that an array of :func:`array_of` is bfloat16."""
    return "bfloat16" if tensor.dtype == torch.bfloat16 else None


def empty_bytes(size: int) -> torch.Tensor:
    """Memory for a packed matrix: torch aligns it to 64 bytes. On the CPU, also where another device is the default."""
    return torch.empty(size, dtype=torch.uint8, device="cpu")
