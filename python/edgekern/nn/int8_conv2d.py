"""The int8 convolution layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgekern import ops
from edgekern._lib import core
from edgekern.config import FLOAT, MEASURED, STATIC, Int8
from edgekern.kernels import FORMS, Range, default_isa
from edgekern.nn import input_range
from edgekern.nn.conv_forms import choose_form
from edgekern.nn.convolution import is_depthwise, options_of
from edgekern.nn.forms import DENSE
from edgekern.nn.native_conv import NativeConv2d
from edgekern.nn.native_layer import empty_bytes


class Int8Conv2d(NativeConv2d):
    """``nn.Conv2d`` on 8-bit weights; see :class:`NativeConv2d` for arguments and use.

    A state dict holds ``weight`` int8 ``[out_channels, in_channels / groups, kernel height, kernel width]``,
    ``weight_scale`` float32 ``[out_channels, 1, 1, 1]`` and ``bias``; where the scheme has static activations, also
    ``input_scale`` float32 ``[1]`` and ``input_zero_point`` int8 ``[1]``, the value from -128 to 127 that stands for 0.

    Attributes:
        input_range: with static activations, the scale and the zero point, from 0 to 255, that all inputs are rounded
            by. An empty layer has to be given them before :meth:`take_`. Inputs may then be uint8 that are rounded so.
    """

    format: ClassVar[str] = Int8.format
    scheme_class: ClassVar[type[Int8]] = Int8
    exact: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "input_scale")
    _run = staticmethod(torch.ops.edgekern.int8_conv2d.default)
    _run_static = staticmethod(torch.ops.edgekern.int8_conv2d_static.default)
    FORMS: ClassVar[tuple[str, ...]] = tuple(FORMS)
    """What weights can be packed as; those of depthwise layers only as the first."""

    scheme: Int8

    @property
    def activations(self) -> str:
        """How its inputs are rounded: as the scheme says."""
        return self.scheme.activations

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that runs it."""
        sparse = self.choice.form.startswith(("blocks", "csr"))
        name = "depthwise" if is_depthwise(vars(self)) else "spmm" if sparse else "gemm"
        return (f"{self.format}_{name}_{default_isa()}",)

    @property
    def dense_packed_size(self) -> int:
        """Bytes of the packed buffer when all weights are kept."""
        channels = (self.out_channels, self.in_channels, self.groups)
        return core.int8_conv2d_dense_packed_size(*channels, *self.kernel_size)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """One byte each."""
        return in_features * out_features

    @classmethod
    def obstacle_in_form(cls, scheme: Int8, options: Mapping[str, Any]) -> str:
        """Why a convolution with these options cannot be packed as ``scheme`` says; empty when it can."""
        if scheme.activations == FLOAT:
            return "activations='float' is for linear layers; weight-only convolutions are not there yet"
        if scheme.form not in (MEASURED, DENSE) and is_depthwise(options):
            return f"the form {scheme.form!r} is not for depthwise convolutions, which have a kernel of their own"
        return ""

    # ------------------------------------------------------------------------------------- from and to floats

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Memory for the form asked for, or for all of the weights, which no form chosen by measuring exceeds."""
        if bias is not None and not bias.isfinite().all():
            return empty_bytes(0), "its bias holds NaN or infinity"
        if self.scheme.form in (MEASURED, DENSE):
            return empty_bytes(self.dense_packed_size), ""
        return empty_bytes(ops.int8_conv2d_packed_size(self._round(weight)[0], self.groups, self.scheme.form)), ""

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Quantises finite dense weights of ``weight_shape`` and packs them, into what ``reserve`` gave.

        Raises:
            ValueError: a bias that is not finite, or static activations without ``input_range``.
        """
        q, scale = self._round(weight)
        self._pack_into(q, scale, bias, self.input_range, packed)

    def _round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        q, scale = ops.int8_quantize(weight.detach().flatten(1))
        return q.view(self.weight_shape), scale

    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        shape = self.weight_shape
        own = input_range.LIKE if self.activations == STATIC else {}
        return {"weight": (shape, torch.int8), "weight_scale": ((shape[0], 1, 1, 1), torch.float32), **own}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        q, scale, bias = ops.int8_conv2d_unpack(self.packed)
        tensors = {"weight": q, "weight_scale": scale.view(-1, 1, 1, 1)}
        if self.input_range is not None:
            tensors |= input_range.to_tensors(self.input_range)
        return tensors, bias

    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        return tensors["weight"].float().mul_(tensors["weight_scale"]).to(self.dtype)

    def _pack(self, tensors: dict[str, Tensor]) -> None:
        if not tensors["weight_scale"].isfinite().all():
            raise ValueError("NaN or infinite scale")
        given = input_range.from_tensors(tensors) if self.activations == STATIC else None
        self._pack_into(tensors["weight"].contiguous(), tensors["weight_scale"], tensors.get("bias"), given)

    def _pack_into(
        self, q: Tensor, scale: Tensor, bias: Tensor | None, given: Range | None, packed: Tensor | None = None
    ) -> None:
        if (given is None) == (self.activations == STATIC):
            raise ValueError(f"with {self.scheme!r} input_range must {'' if given is None else 'not '}be given")
        self.input_range = given
        self.set_output_range(None)
        choice = choose_form(q, options_of(self), self.scheme.form, self.images, given is not None, self._convolve)
        if choice.form not in (DENSE, self.scheme.form):
            packed = None  # a smaller form was chosen
        floats = None if bias is None else bias.detach().float()
        options: dict[str, Any] = {"groups": self.groups, "form": choice.form, "out": packed}
        self.packed, self.choice = ops.int8_conv2d_pack(q, scale.flatten(), floats, **options), choice
