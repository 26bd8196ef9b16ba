"""int8 weights, and activations as the ops round them."""

from __future__ import annotations

import torch

from edgekern._lib import core
from edgekern.kernels import Range, form_code
from edgekern.ops.arrays import array_of, dtype_name, empty_bytes, optional_array, optional_tensor


def int8_quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises weights [N, K] of float32, bfloat16 or float16: ``q`` int8 [N, K] and ``scale`` float32 [N].

    See :func:`edgekern.kernels.int8_quantize`.
    """
    array = array_of("weight", weight)
    q, scale = core.int8_quantize_rhs(array, dtype_name(weight))
    return torch.from_numpy(q), torch.from_numpy(scale)


def int8_quantize_rows(
    x: torch.Tensor, input_range: Range | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the linear ops make of activations [M, K]: ``q`` uint8 [M, K], ``scale`` float32 and ``zero`` int32 [M].

    See :func:`edgekern.kernels.int8_quantize_lhs`.
    """
    q, scale, zero = core.int8_quantize_lhs(array_of("x", x), None, dtype_name(x), input_range)
    return torch.from_numpy(q), torch.from_numpy(scale), torch.from_numpy(zero)


def int8_packed_size(q: torch.Tensor, form: str = "dense") -> int:
    """Bytes that :func:`int8_pack` makes of ``q`` int8 [N, K] in a form.

    Raises:
        ValueError: an unknown form, or one that cannot hold this matrix.
    """
    return core.int8_packed_size(array_of("q", q), form_code(form))


def int8_pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    form: str = "dense",
    out: torch.Tensor | None = None,
    input_range: Range | None = None,
) -> torch.Tensor:
    """Packs ``q`` int8 [N, K], ``scale`` float32 [N] and ``bias`` float32 [N] or None for the op: uint8, 1-D.

    ``form`` is a key of :data:`edgekern.kernels.FORMS`. ``out`` may bring the :func:`int8_packed_size` bytes for it.
    ``input_range`` is as in :func:`edgekern.kernels.int8_pack`.
    """
    array = array_of("q", q)
    if array.ndim != 2:
        raise ValueError(f"q must have 2 dimensions, got shape {tuple(q.shape)}")
    code = form_code(form)
    packed = empty_bytes(core.int8_packed_size(array, code)) if out is None else out
    core.int8_pack(array, array_of("scale", scale), optional_array("bias", bias), packed.numpy(), code)
    core.int8_set_range(packed.numpy(), input_range)
    return packed


def int8_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The exact inverse of :func:`int8_pack`."""
    q, scale, bias = core.int8_unpack(array_of("packed", packed))
    return torch.from_numpy(q), torch.from_numpy(scale), optional_tensor(bias)


def int8_conv2d_packed_size(q: torch.Tensor, groups: int = 1, form: str = "dense") -> int:
    """Bytes that :func:`int8_conv2d_pack` makes of ``q`` int8 [O, I / groups, KH, KW] in a form.

    Raises:
        ValueError: groups that do not divide O, an unknown form, or one that cannot hold these weights.
    """
    return core.int8_conv2d_packed_size(array_of("q", q), groups, form_code(form))


def int8_conv2d_pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    groups: int = 1,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's ``q`` int8 [O, I / groups, KH, KW], ``scale`` float32 [O] and ``bias`` float32 [O] or None
    for ``int8_conv2d``: uint8, 1-D.

    ``form`` is a key of :data:`edgekern.kernels.FORMS`. With as many groups as channels in and out, a depthwise layer,
    weights are packed for a kernel of their own, and it is "dense". ``out`` may bring the
    :func:`int8_conv2d_packed_size` bytes for it.
    """
    array, code = array_of("q", q), form_code(form)
    packed = empty_bytes(core.int8_conv2d_packed_size(array, groups, code)) if out is None else out
    core.int8_conv2d_pack(array, array_of("scale", scale), optional_array("bias", bias), packed.numpy(), groups, code)
    return packed


def int8_conv2d_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The exact inverse of :func:`int8_conv2d_pack`."""
    q, scale, bias = core.int8_conv2d_unpack(array_of("packed", packed))
    return torch.from_numpy(q), torch.from_numpy(scale), optional_tensor(bias)
