"""The convolution layer of pruned weights that stay floats."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import Float32
from edgekern.nn.conv_forms import guess_images, measured_on, random_image
from edgekern.nn.convolution import is_depthwise, options_of
from edgekern.nn.float_layer import FloatForms, FloatLayer
from edgekern.nn.forms import Call
from edgekern.nn.native_conv import NativeConv2d


class F32Conv2d(FloatLayer, NativeConv2d):
    """``nn.Conv2d`` on weights packed as float32 without their zeros, whatever ``dtype``; so are products and sums.

    See :class:`FloatLayer` for how weights are held, and :class:`NativeConv2d` for arguments and use. Forms are
    measured with :attr:`images`. A depthwise layer has no form without zeros.
    """

    format: ClassVar[str] = Float32.format
    scheme_class: ClassVar[type[Float32]] = Float32
    _chosen_here: ClassVar[tuple[str, ...]] = (*NativeConv2d._chosen_here, "_plain")
    _run = staticmethod(torch.ops.edgekern.f32_conv2d.default)

    scheme: Float32

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, in_channels, ...]`` to ``[batch, out_channels, ...]``, or both without ``batch``."""
        if self._plain is not None:
            return self._run_plain(input, *self._plain)
        return super().forward(input)

    @classmethod
    def obstacle_in_form(cls, scheme: Float32, options: Mapping[str, Any]) -> str:
        """Why a convolution with these options cannot be packed as ``scheme`` says; empty when it can."""
        if is_depthwise(options):
            return "a depthwise convolution has too few weights a channel for their zeros to be worth leaving out"
        return ""

    def _forms(self, weight: Tensor) -> FloatForms:
        return _ConvForms(self, weight)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pads = self._pads_for(x.shape[-2], x.shape[-1]) if self.same_padding else self._pads
        left, right, top, bottom = pads
        zeros: tuple[int, int] = (top, left)
        if self.padding_mode != "zeros" or left != right or top != bottom:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, zeros = nn.functional.pad(x, pads, mode), (0, 0)
        return nn.functional.conv2d(x, weight, bias, self.stride, zeros, self.dilation, self.groups)

    def _packed_size(self, weight: Tensor, channels: int) -> int:
        return ops.f32_conv2d_packed_size(weight, channels, self.groups)

    def _pack_blocks(self, weight: Tensor, bias: Tensor | None, channels: int, out: Tensor | None) -> Tensor:
        return ops.f32_conv2d_pack(weight, bias, channels, self.groups, out)

    def _unpack_blocks(self) -> tuple[Tensor, Tensor | None]:
        return ops.f32_conv2d_unpack(self.packed)


class _ConvForms(FloatForms):
    """Those of ``weight`` [O, I / groups, KH, KW], for one image of a size."""

    layer: F32Conv2d

    def __init__(self, layer: F32Conv2d, weight: Tensor) -> None:
        super().__init__(layer, weight)
        options = options_of(layer)
        self._images = layer.images or guess_images(options)
        self.where = measured_on(self._images, guessed=layer.images is None)
        shape, said = tuple(weight.shape), tuple(sorted(map(str, options.items())))
        self.kind = ("f32 convolution", shape, weight.dtype, self._images, said)

    @property
    def rows(self) -> int:
        return self._images.height * self._images.width

    def inputs(self, rows: int) -> Tensor:
        return random_image(self._images, self.layer.in_channels, self.weight.dtype)

    def call_dense(self, weight: Tensor) -> Call:
        return partial(self.layer._run_plain, weight=weight, bias=None)

    def call_packed(self, packed: Tensor) -> Call:
        return partial(self.layer._convolve, packed=packed)
