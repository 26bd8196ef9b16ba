"""Several convolutions, and sums and poolings between them, in one op. :func:`edgekern.freeze` writes its programs:

``int8_conv2d_program(Tensor x, Tensor[] packed, Tensor program, SymInt out_channels, int[] windows, int dtype, bool
channels_last) -> Tensor``

- ``x``: as :mod:`~edgekern.ops.conv2d` takes it, uint8 too
- ``program``: int64 [steps, 23], rows of :data:`PROGRAM_COLUMNS`; images are numbered from x, 0, and scales stand as
  the bits of float32
- ``windows``: eleven numbers, from kernel_h on, of each step between x and the result that changes the size of images
- ``dtype``: that of the result, a code of :data:`~edgekern.ops.FLOATS`, 3 for uint8, -1 for x's
- ``channels_last``: whether the result is so in any case. This, the two before it and ``out_channels`` are what fake
  tensors cannot read from the other arguments
- result: as the same layers give it one by one, bit for bit
"""

from __future__ import annotations

import torch

from edgekern.ops.registration import DTYPES, check_fake_images, is_channels_last, register

__all__ = ["PROGRAM_COLUMNS", "has_programs"]

PROGRAM_COLUMNS = (
    "kind",
    "x",
    "other",
    "packed",
    "activation",
    "x_scale",
    "x_zero_point",
    "other_scale",
    "other_zero_point",
    "y_scale",
    "y_zero_point",
    "dtype",
    "kernel_h",
    "kernel_w",
    "stride_h",
    "stride_w",
    "dilation_h",
    "dilation_w",
    "top",
    "bottom",
    "left",
    "right",
    "same_padding",
)
"""What each number of a step stands for. Kinds are 0 for a convolution, 1 for a sum and 2 for max pooling."""


def _fake_program(
    x: torch.Tensor,
    packed: list[torch.Tensor],
    program: torch.Tensor,
    out_channels: int,
    windows: list[int],
    dtype: int,
    channels_last: bool,
) -> torch.Tensor:
    check_fake_images("int8_conv2d_program", x, program, *packed)
    sizes = [x.shape[2], x.shape[3]]
    for i in range(0, len(windows), 11):
        kernel, stride, dilation = windows[i : i + 2], windows[i + 2 : i + 4], windows[i + 4 : i + 6]
        zeros, same = (windows[i + 6] + windows[i + 7], windows[i + 8] + windows[i + 9]), windows[i + 10]
        for d in (0, 1):
            room = sizes[d] + zeros[d] - dilation[d] * (kernel[d] - 1) - 1
            sizes[d] = -(-sizes[d] // stride[d]) if same else room // stride[d] + 1
    return torch.empty(
        (x.shape[0], out_channels, *sizes),
        dtype=x.dtype if dtype < 0 else (DTYPES | {3: torch.uint8})[dtype],
        device=x.device,
        memory_format=torch.channels_last if channels_last or is_channels_last(x) else torch.contiguous_format,
    )


has_programs = hasattr(torch.ops.edgekern, "int8_conv2d_program")
"""Whether there is the op: torch >= 2.10 only."""

if has_programs:
    register("int8_conv2d_program", _fake_program)
