"""Which form a convolution's weights are packed in: measured, as those of linear layers are, on images of a size."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgekern import ops
from edgekern.kernels import FORMS
from edgekern.nn.convolution import is_depthwise, pads_of
from edgekern.nn.forms import Call, Choice, choose
from edgekern.nn.memory import copies_of

GUESSED_SIZE = 14
"""Height and width of a result, where nobody says: most layers of the usual networks give it for images of 224x224."""


@dataclass(frozen=True)
class Images:
    """What a convolution is given: the size of its images, and whether they are in channels_last."""

    height: int
    width: int
    channels_last: bool = False

    @classmethod
    def of(cls, x: Tensor) -> Images:
        """Those of ``x`` [..., channels, height, width]."""
        last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return cls(x.shape[-2], x.shape[-1], last)


def guess_images(options: Mapping[str, Any]) -> Images:
    """Images of which a convolution with these options makes such of :data:`GUESSED_SIZE`."""
    left, right, top, bottom = (0, 0, 0, 0) if options["same_padding"] else pads_of(options)
    sizes = []
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        kernel, stride, dilation = (options[name][axis] for name in ("kernel_size", "stride", "dilation"))
        if options["same_padding"]:
            sizes.append(GUESSED_SIZE * stride)
            continue
        met = (GUESSED_SIZE - 1) * stride + (kernel - 1) * dilation + 1
        # Reflections reach no farther than the image.
        sizes.append(max(met - before - after, before + 1, after + 1))
    return Images(*sizes)


def random_image(images: Images, channels: int, dtype: torch.dtype) -> Tensor:
    """One image to measure with: [1, channels, height, width], the same at every call."""
    shape = (1, channels, images.height, images.width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if images.channels_last else x


def measured_on(images: Images, *, guessed: bool) -> str:
    """What was measured on, in words."""
    size = f"images of {images.height}x{images.width}"
    return f"{size}, a guess without data" if guessed else size


def choose_form(
    q: Tensor,
    options: Mapping[str, Any],
    form: str,
    images: Images | None,
    static: bool,
    convolve: Callable[..., Tensor],
) -> Choice:
    """The packing of a convolution: ``form``, or where that is "measured", the one that measures best.

    Args:
        q: its weights, int8 [O, I / groups, KH, KW].
        options: as ``as_pairs`` gives them.
        images: to measure with; a guess where None.
        static: whether the range of images is given.
        convolve: of images, and by keyword packed weights.
    """
    if is_depthwise(options):
        zeros = 1 - int(q.count_nonzero()) / q.numel()
        return Choice(zeros=zeros, note="zeros are multiplied: a depthwise layer has a kernel of its own")
    weights = _Weights(q, options, images or guess_images(options), static, convolve)
    choice = choose(weights, form, weights.pixels)
    if not choice.timings:
        return choice
    return replace(choice, where=measured_on(weights.images, guessed=images is None))


class _Weights:
    """What ``q`` can be packed as, for images of a size."""

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(
        self,
        q: Tensor,
        options: Mapping[str, Any],
        images: Images,
        static: bool,
        convolve: Callable[..., Tensor],
    ) -> None:
        self._q, self._groups, self.images, self._convolve = q, options["groups"], images, convolve
        self.zeros = 1 - int(q.count_nonzero()) / q.numel()
        self.kind: Hashable = (
            "int8 convolution",
            tuple(q.shape),
            images,
            static,
            tuple(sorted(map(str, options.items()))),
        )
        self.pixels = images.height * images.width

    def inputs(self, rows: int) -> Tensor:
        """One image: ``rows`` are its pixels."""
        return random_image(self.images, self._q.shape[1] * self._groups, self.dtype)

    def sizes(self) -> Mapping[str, float]:
        return {form: self._size(form) for form in FORMS}

    def _size(self, form: str) -> float:
        try:
            return ops.int8_conv2d_packed_size(self._q, self._groups, form)
        except ValueError:  # more weights in a channel than the form can sum
            return math.inf

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        scale = torch.ones(len(self._q), device="cpu")
        packed = ops.int8_conv2d_pack(self._q, scale, groups=self._groups, form=form)
        return [partial(self._convolve, packed=copy) for copy in copies_of(packed, copies)]
