"""Convolutions, whose weights :func:`~edgekern.ops.int8_conv2d_pack` packs:

``int8_conv2d(Tensor x, Tensor packed, SymInt out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w,
SymInt top, SymInt bottom, SymInt left, SymInt right, int dilation_h, int dilation_w, int activation) -> Tensor``

- ``x``: [B, C, H, W] float32, bfloat16 or float16 on CPU; contiguous and channels_last tensors are not copied
- ``out_channels``: which fake tensors cannot read from ``packed``
- ``top``, ``bottom``, ``left``, ``right``: zeros around each image
- ``activation``: a code of :data:`~edgekern.ops.ACTIVATIONS`
- result: [B, out_channels, H', W'] of x's dtype and memory format

``int8_conv2d_static`` takes five more: ``float x_scale, int x_zero_point, float y_scale, int y_zero_point, int dtype``.
``x_scale`` and ``x_zero_point`` are the range of x, which is then not looked for; x may be uint8 with that range. With
``y_scale`` > 0 the result is uint8 with the range of y, in channels_last; else it is of x's dtype, or where x is uint8
of ``dtype``, a code of :data:`~edgekern.ops.FLOATS`. A scale of 0 leaves x's range to be found.

``int4_conv2d`` and ``int4_conv2d_static`` do the same with what :func:`~edgekern.ops.int4_conv2d_pack` packs, and
``f32_conv2d`` what ``int8_conv2d`` does, without rounding x, with what :func:`~edgekern.ops.f32_conv2d_pack` packs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgekern.ops.registration import DTYPES, check_fake_images, is_channels_last, register


def _fake_conv2d(op: str) -> Callable[..., torch.Tensor]:
    """What an op of a convolution does with fake tensors."""

    def conv2d(
        x: torch.Tensor,
        packed: torch.Tensor,
        out_channels: int,
        kernel_h: int,
        kernel_w: int,
        stride_h: int,
        stride_w: int,
        top: int,
        bottom: int,
        left: int,
        right: int,
        dilation_h: int,
        dilation_w: int,
        activation: int,
    ) -> torch.Tensor:
        check_fake_images(op, x, packed)
        height = (x.shape[2] + top + bottom - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
        width = (x.shape[3] + left + right - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
        return torch.empty(
            (x.shape[0], out_channels, height, width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format,
        )

    return conv2d


def _fake_conv2d_static(op: str) -> Callable[..., torch.Tensor]:
    """As :func:`_fake_conv2d`, and what is u8 is in channels_last."""
    conv2d = _fake_conv2d(op)

    def conv2d_static(x: torch.Tensor, packed: torch.Tensor, *rest: Any) -> torch.Tensor:
        *layer, _, _, y_scale, _, dtype = rest
        y, floats = conv2d(x, packed, *layer), DTYPES[dtype]
        if y_scale > 0:
            return y.to(torch.uint8).contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.uint8:
            return y.to(floats).contiguous(memory_format=torch.channels_last)
        return y

    return conv2d_static


for _op in ("int8_conv2d", "int4_conv2d", "f32_conv2d"):
    register(_op, _fake_conv2d(_op))
for _op in ("int8_conv2d", "int4_conv2d"):
    register(f"{_op}_static", _fake_conv2d_static(_op))
