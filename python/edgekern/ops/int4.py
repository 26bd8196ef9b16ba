"""int4 weights, quantised by groups."""

from __future__ import annotations

from typing import Any

import torch

from edgekern._lib import core
from edgekern.kernels import INT4_CLIPS, int4_form_code
from edgekern.kernels.packed import code_of
from edgekern.ops.arrays import array_of, dtype_name, empty_bytes, optional_array, optional_tensor


def int4_quantize(
    weight: torch.Tensor, group_size: int = 128, *, symmetric: bool = True, clip: str = "none"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Quantises weights [N, K] to int4 by groups: ``w`` uint8 [N, ceil(K / 2)], ``scale`` float16 [N, groups] and
    ``zero`` uint8 [N, groups], or None when symmetric.

    See :func:`edgekern.kernels.int4_quantize`.
    """
    code = code_of("clip", clip, INT4_CLIPS)
    w, scale, zero = core.int4_quantize_rhs(array_of("weight", weight), group_size, symmetric, code, dtype_name(weight))
    return torch.from_numpy(w), torch.from_numpy(scale), optional_tensor(zero)


def int4_unpair(w: torch.Tensor, k: int) -> torch.Tensor:
    """Values of 4 bits, two a byte and the lower column in the low half, [N, ceil(K / 2)], as uint8 [N, K]."""
    return torch.stack((w & 15, w >> 4), -1).flatten(1)[:, :k]


def int4_pair(q: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`int4_unpair`; the half byte beyond an odd K is 0."""
    even = torch.nn.functional.pad(q, (0, q.shape[1] % 2))
    return even[:, ::2] | even[:, 1::2] << 4


def int4_integers(w: torch.Tensor, zero: torch.Tensor | None = None, *, k: int, group_size: int = 128) -> torch.Tensor:
    """Canonical int4 weights without their zero points, ``w - zero``: int8 [N, K]."""
    q = int4_unpair(w, k).view(torch.int8)
    return q - (8 if zero is None else zero.view(torch.int8).repeat_interleave(group_size, 1)[:, :k])


def int4_values(
    w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None, *, k: int, group_size: int = 128
) -> torch.Tensor:
    """What canonical int4 weights stand for, ``scale * (w - zero)``: float32 [N, K]."""
    values = int4_integers(w, zero, k=k, group_size=group_size).float()
    return values.mul_(scale.float().repeat_interleave(group_size, 1)[:, :k])


def int4_packed_size(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    k: int,
    group_size: int = 128,
    form: str = "dense",
) -> int:
    """Bytes that :func:`int4_pack` makes of the same arguments."""
    zero_array = optional_array("zero", zero)
    return core.int4_packed_size(
        array_of("w", w), array_of("scale", scale), zero_array, k, group_size, int4_form_code(form)
    )


def int4_pack(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    k: int,
    group_size: int = 128,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs canonical int4 weights, as :func:`int4_quantize` makes them, and ``bias`` float32 [N] or None: uint8, 1-D.

    ``out`` may bring the :func:`int4_packed_size` bytes for it. See :func:`edgekern.kernels.int4_pack`.
    """
    if out is None:
        out = empty_bytes(int4_packed_size(w, scale, zero, k=k, group_size=group_size, form=form))
    arrays = optional_array("zero", zero), optional_array("bias", bias)
    core.int4_pack(
        array_of("w", w), array_of("scale", scale), *arrays, k, group_size, out.numpy(), int4_form_code(form)
    )
    return out


def int4_unpack(
    packed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The exact inverse of :func:`int4_pack`: ``w``, ``scale``, ``zero`` and ``bias``."""
    w, scale, zero, bias = core.int4_unpack(array_of("packed", packed))
    return torch.from_numpy(w), torch.from_numpy(scale), optional_tensor(zero), optional_tensor(bias)


def int4_conv2d_packed_size(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    in_channels: int,
    kernel_size: tuple[int, int],
    groups: int = 1,
    group_size: int = 128,
    form: str = "dense",
) -> int:
    """Bytes that :func:`int4_conv2d_pack` makes of the same arguments."""
    zero_array = optional_array("zero", zero)
    sizes = (in_channels, groups, *kernel_size, group_size)
    code = int4_form_code(form)
    return core.int4_conv2d_packed_size(array_of("w", w), array_of("scale", scale), zero_array, *sizes, code)


def int4_conv2d_pack(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    in_channels: int,
    kernel_size: tuple[int, int],
    groups: int = 1,
    group_size: int = 128,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's canonical int4 weights, and ``bias`` float32 [O] or None, for ``int4_conv2d``: uint8, 1-D.

    They are those of a matrix [O, KH * KW * I / groups], as :func:`int4_quantize` makes them, in that order of columns.
    ``out`` may bring the :func:`int4_conv2d_packed_size` bytes for it.

    Raises:
        ValueError: a depthwise layer, which has as many groups as channels in and out.
    """
    options: dict[str, Any] = {"in_channels": in_channels, "kernel_size": kernel_size, "groups": groups}
    if out is None:
        out = empty_bytes(int4_conv2d_packed_size(w, scale, zero, **options, group_size=group_size, form=form))
    arrays = optional_array("zero", zero), optional_array("bias", bias)
    sizes = (in_channels, groups, *kernel_size, group_size)
    core.int4_conv2d_pack(
        array_of("w", w), array_of("scale", scale), *arrays, *sizes, out.numpy(), int4_form_code(form)
    )
    return out


def int4_conv2d_unpack(
    packed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The exact inverse of :func:`int4_conv2d_pack`: ``w``, ``scale``, ``zero`` and ``bias``."""
    w, scale, zero, bias = core.int4_conv2d_unpack(array_of("packed", packed))
    return torch.from_numpy(w), torch.from_numpy(scale), optional_tensor(zero), optional_tensor(bias)
