"""Pruned weights that stay floats."""

from __future__ import annotations

import torch

from edgekern._lib import core
from edgekern.ops.arrays import array_of, dtype_name, empty_bytes, optional_array, optional_tensor


def f32_packed_size(weight: torch.Tensor, channels: int = 1) -> int:
    """Bytes that :func:`f32_pack` makes of ``weight`` in blocks of ``channels`` output features."""
    return core.f32_packed_size(array_of("weight", weight), channels, dtype_name(weight))


def f32_pack(
    weight: torch.Tensor, bias: torch.Tensor | None = None, channels: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Packs ``weight`` [N, K] of float32, bfloat16 or float16 and ``bias`` float32 [N] or None: uint8, 1-D.

    ``out`` may bring the :func:`f32_packed_size` bytes for it. See :func:`edgekern.kernels.f32_pack`.
    """
    packed = empty_bytes(f32_packed_size(weight, channels)) if out is None else out
    core.f32_pack(
        array_of("weight", weight), optional_array("bias", bias), packed.numpy(), channels, dtype_name(weight)
    )
    return packed


def f32_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The inverse of :func:`f32_pack`: ``weight`` float32 [N, K] and ``bias``."""
    weight, bias = core.f32_unpack(array_of("packed", packed))
    return torch.from_numpy(weight), optional_tensor(bias)


def f32_conv2d_packed_size(weight: torch.Tensor, channels: int = 1, groups: int = 1) -> int:
    """Bytes that :func:`f32_conv2d_pack` makes of ``weight`` in blocks of ``channels`` output channels."""
    rows, sizes = _windows(weight, groups)
    return core.f32_conv2d_packed_size(array_of("weight", rows), channels, *sizes, dtype_name(weight))


def f32_conv2d_pack(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    channels: int = 1,
    groups: int = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's ``weight`` [O, I / groups, KH, KW], and ``bias`` float32 [O] or None, for ``f32_conv2d``.

    The weight may be float32, bfloat16 or float16; the result is uint8, 1-D.
    ``out`` may bring the :func:`f32_conv2d_packed_size` bytes for it.

    Raises:
        ValueError: a depthwise convolution, other ``channels`` than 1, 2, 4 and 8, or NaN or infinity.
    """
    rows, sizes = _windows(weight, groups)
    packed = empty_bytes(f32_conv2d_packed_size(weight, channels, groups)) if out is None else out
    arrays = array_of("weight", rows), optional_array("bias", bias), packed.numpy()
    core.f32_conv2d_pack(*arrays, channels, *sizes, dtype_name(weight))
    return packed


def f32_conv2d_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The inverse of :func:`f32_conv2d_pack`: ``weight`` float32 [O, I / groups, KH, KW] and ``bias``."""
    weight, bias = core.f32_conv2d_unpack(array_of("packed", packed))
    return torch.from_numpy(weight), optional_tensor(bias)


def _windows(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """Filters as rows of what a window meets, its channels innermost; input channels, groups, and the kernel's size."""
    if weight.dim() != 4:
        raise ValueError(f"weight must be filters [O, I / groups, KH, KW], got shape {list(weight.shape)}")
    out, channels, height, width = weight.shape
    rows = weight.detach().permute(0, 2, 3, 1).reshape(out, height * width * channels)
    return rows, (channels * groups, groups, height, width)


def f16_packed_size(weight: torch.Tensor, channels: int = 1) -> int:
    """Bytes that :func:`f16_pack` makes of ``weight`` in blocks of ``channels`` output features."""
    return core.f16_packed_size(array_of("weight", weight), channels, dtype_name(weight))


def f16_pack(
    weight: torch.Tensor, bias: torch.Tensor | None = None, channels: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    """As :func:`f32_pack`, with weights rounded to float16. See :func:`edgekern.kernels.f16_pack`."""
    packed = empty_bytes(f16_packed_size(weight, channels)) if out is None else out
    core.f16_pack(
        array_of("weight", weight), optional_array("bias", bias), packed.numpy(), channels, dtype_name(weight)
    )
    return packed


def f16_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights as :func:`f16_pack` rounded them, float32 [N, K], and ``bias``."""
    weight, bias = core.f16_unpack(array_of("packed", packed))
    return torch.from_numpy(weight), optional_tensor(bias)
