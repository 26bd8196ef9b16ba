"""The int4 convolution layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgekern import ops
from edgekern._lib import core
from edgekern.config import FLOAT, MEASURED, STATIC, Int4
from edgekern.kernels import Range, default_isa
from edgekern.nn import input_range
from edgekern.nn.convolution import is_depthwise
from edgekern.nn.forms import DENSE, LEAST_ZEROS, Choice
from edgekern.nn.native_conv import NativeConv2d
from edgekern.nn.native_layer import empty_bytes


class Int4Conv2d(NativeConv2d):
    """``nn.Conv2d`` on 4-bit weights; see :class:`NativeConv2d` for arguments and use.

    The weights are those of a matrix ``[out_channels, K]``, K being the kernel height times the kernel width times the
    input channels of a group, in that order: what one window meets. A state dict holds ``weight`` uint8
    ``[out_channels, ceil(K / 2)]``, ``weight_scale`` float16 ``[out_channels, groups of K]``, ``weight_zero`` uint8 of
    that shape where the scheme is not symmetric, and ``bias``, as :class:`Int4Linear` has them; where the scheme has
    static activations, also ``input_scale`` and ``input_zero_point`` as :class:`Int8Conv2d` has them.

    Attributes:
        input_range: with static activations, the scale and the zero point, from 0 to 255, that all inputs are rounded
            by. An empty layer has to be given them before :meth:`take_`. Inputs may then be uint8 that are rounded so.
    """

    format: ClassVar[str] = Int4.format
    scheme_class: ClassVar[type[Int4]] = Int4
    exact: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "weight_zero", "input_scale")
    _run = staticmethod(torch.ops.edgekern.int4_conv2d.default)
    _run_static = staticmethod(torch.ops.edgekern.int4_conv2d_static.default)

    scheme: Int4

    @property
    def columns(self) -> int:
        """K: the weights of an output channel."""
        return math.prod(self.weight_shape[1:])

    @property
    def activations(self) -> str:
        """How its inputs are rounded: as the scheme says."""
        return self.scheme.activations

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that runs it."""
        return (f"{self.format}_gemm_{default_isa()}",)

    @property
    def dense_packed_size(self) -> int:
        """Bytes of the packed buffer when all weights are kept."""
        scheme, channels = self.scheme, (self.out_channels, self.in_channels, self.groups)
        size: int = core.int4_conv2d_dense_packed_size(
            *channels, *self.kernel_size, scheme.group_size, scheme.symmetric
        )
        return size

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Half a byte each."""
        return (in_features + 1) // 2 * out_features

    @classmethod
    def obstacle_in_form(cls, scheme: Int4, options: Mapping[str, Any]) -> str:
        """Why a convolution with these options cannot be packed as ``scheme`` says; empty when it can."""
        if scheme.activations == FLOAT:
            return "activations='float' is for linear layers; weight-only convolutions are not there yet"
        if is_depthwise(options):
            return "a depthwise convolution has too few weights for 4 bits to gain anything; Int8() has a kernel for it"
        return ""

    # ------------------------------------------------------------------------------------- from and to floats

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Memory for the form asked for; measured forms are the dense one.

        Raises:
            ValueError: weights that need a larger scale than float16 has.
        """
        if bias is not None and not bias.isfinite().all():
            return empty_bytes(0), "its bias holds NaN or infinity"
        try:
            parts = self._quantize(weight)
        except ValueError:
            raise ValueError(
                "its weights are beyond what int4's float16 scales hold; leave it alone (None), or give it Int8()"
            ) from None
        return empty_bytes(ops.int4_conv2d_packed_size(*parts, **self._options)), ""

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Quantises finite dense weights of ``weight_shape`` and packs them, into what ``reserve`` gave.

        Raises:
            ValueError: weights that need a larger scale than float16 has, a bias that is not finite, or static
                activations without ``input_range``.
        """
        self._pack_into(self._quantize(weight), bias, self.input_range, packed)

    def _quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        scheme, rows = self.scheme, weight.detach().permute(0, 2, 3, 1).flatten(1)
        return ops.int4_quantize(rows, scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)

    @property
    def _form(self) -> str:
        return DENSE if self.scheme.form == MEASURED else self.scheme.form

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "groups": self.groups,
            "kernel_size": self.kernel_size,
            "group_size": self.scheme.group_size,
            "form": self._form,
        }

    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        n, k = self.out_channels, self.columns
        groups = -(-k // self.scheme.group_size)
        like: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight": ((n, -(-k // 2)), torch.uint8),
            "weight_scale": ((n, groups), torch.float16),
        }
        own = {} if self.scheme.symmetric else {"weight_zero": ((n, groups), torch.uint8)}
        return {**like, **own, **(input_range.LIKE if self.activations == STATIC else {})}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        w, scale, zero, bias = ops.int4_conv2d_unpack(self.packed)
        tensors = {"weight": w, "weight_scale": scale} | ({} if zero is None else {"weight_zero": zero})
        if self.input_range is not None:
            tensors |= input_range.to_tensors(self.input_range)
        return tensors, bias

    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        out, channels, height, width = self.weight_shape
        rows = ops.int4_values(*self._parts(tensors), k=self.columns, group_size=self.scheme.group_size)
        return rows.view(out, height, width, channels).permute(0, 3, 1, 2).contiguous().to(self.dtype)

    def _pack(self, tensors: dict[str, Tensor]) -> None:
        if not tensors["weight_scale"].isfinite().all():
            raise ValueError("NaN or infinite scale")
        given = input_range.from_tensors(tensors) if self.activations == STATIC else None
        self._pack_into(self._parts(tensors), tensors.get("bias"), given)

    @staticmethod
    def _parts(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        return tensors["weight"], tensors["weight_scale"], tensors.get("weight_zero")

    def _pack_into(
        self,
        parts: tuple[Tensor, Tensor, Tensor | None],
        bias: Tensor | None,
        given: Range | None,
        packed: Tensor | None = None,
    ) -> None:
        if (given is None) == (self.activations == STATIC):
            raise ValueError(f"with {self.scheme!r} input_range must {'' if given is None else 'not '}be given")
        self.input_range = given
        self.set_output_range(None)
        w, _, zero = parts
        floats = None if bias is None else bias.detach().float()
        self.packed = ops.int4_conv2d_pack(*parts, floats, **self._options, out=packed)
        kept = int(ops.int4_integers(w, zero, k=self.columns, group_size=self.scheme.group_size).count_nonzero())
        zeros = 1 - kept / (len(w) * self.columns)
        dense = self._form == DENSE and zeros >= LEAST_ZEROS
        note = "zeros are multiplied: a form without them is taken where it is named, form='bitmap'" if dense else ""
        self.choice = Choice(self._form, zeros=zeros, note=note)
