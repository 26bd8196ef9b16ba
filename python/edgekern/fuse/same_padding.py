"""Convolutions that pad in a forward of their own: what they pad, found out by trying."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekern.calibration.observe import inference
from edgekern.nn.fused import Pads, same_pads

SAME = "same"
Padding = Pads | str
"""Zeros that are the same for inputs of any size, or :data:`SAME`."""

_SCALES = (1.0, 1e3, 1e-3)  # a forward that cuts values off, or rounds them, does not go unnoticed


def padding_of(conv: nn.Conv2d) -> Padding | None:
    """The padding with which plain convolution gives the very bits of ``conv``, on images of many sizes.

    Tried are the module's own padding, the zeros that TensorFlow's "SAME" would add for a fixed size, as
    EfficientNets of PyTorch have them, and those that it adds for the size of each image. Sizes are odd and even, and
    leave every remainder that the stride can leave. None when nothing fits every time, or the module's code fails.
    """
    trials = list(_trials(conv))
    try:
        with inference(conv):
            wanted = [conv.forward(x) for x in trials]
    except Exception:
        return None  # whatever else it is, it does not take images as a convolution does
    return next((each for each in _candidates(conv) if _fits(conv, each, trials, wanted)), None)


def _fits(conv: nn.Conv2d, padding: Padding, trials: list[Tensor], wanted: list[Tensor]) -> bool:
    with torch.no_grad():
        return all(
            isinstance(y, Tensor) and torch.equal(_padded(conv, padding, x), y)
            for x, y in zip(trials, wanted, strict=True)
        )


def _padded(conv: nn.Conv2d, padding: Padding, x: Tensor) -> Tensor:
    if isinstance(padding, str):
        padding = _same(conv, x.shape[-2], x.shape[-1])
    return F.conv2d(F.pad(x, padding), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _same(conv: nn.Conv2d, height: int, width: int) -> Pads:
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    return (*same_pads(width, kw, sw, dw), *same_pads(height, kh, sh, dh))


def _candidates(conv: nn.Conv2d) -> Iterator[Padding]:
    """Fixed zeros first: they are what a kernel can know beforehand."""
    if conv.padding_mode != "zeros":
        return
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    yield (left, right, top, bottom)
    yield (0, 0, 0, 0)
    (first_height, first_width), (sh, sw) = _smallest(conv), conv.stride
    for height in range(first_height, first_height + sh):
        for width in range(first_width, first_width + sw):
            yield _same(conv, height, width)
    yield SAME


def _trials(conv: nn.Conv2d) -> Iterator[Tensor]:
    """Images of which height and width leave every pair of remainders by the stride, small ones and larger ones."""
    generator = torch.Generator().manual_seed(0)
    (height, width), (sh, sw) = _smallest(conv), conv.stride
    sizes = product((height, height + 5 * sh), range(max(2, sh)), (width, width + 5 * sw), range(max(2, sw)))
    for (first_height, i, first_width, j), scale in zip(sizes, cycle(_SCALES), strict=False):
        x = torch.randn(2, conv.in_channels, first_height + i, first_width + j, generator=generator)
        yield (x * scale).to(conv.weight.dtype)


def _smallest(conv: nn.Conv2d) -> tuple[int, int]:
    """A size of which every kind of padding leaves several results."""
    height, width = (
        dilation * (kernel - 1) + 1 + 2 * stride
        for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    )
    return height, width
