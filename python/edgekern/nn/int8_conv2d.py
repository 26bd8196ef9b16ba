"""The int8 convolution layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern._lib import core
from edgekern.config import FLOAT, MEASURED, STATIC, Int8, Scheme
from edgekern.kernels import FORMS, Range, default_isa
from edgekern.nn import input_range
from edgekern.nn.conv_forms import Images, choose_form
from edgekern.nn.convolution import (
    NO_PADS,
    as_pairs,
    float_conv,
    is_depthwise,
    misfit,
    options_of,
    pads_of,
    weight_shape_of,
)
from edgekern.nn.forms import DENSE
from edgekern.nn.fused import Pads, same_pads
from edgekern.nn.native_layer import NativeLayer, empty_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

# Looked up once: going through torch.ops at every call would cost as much as a small layer.
_int8_conv2d = torch.ops.edgekern.int8_conv2d.default
_int8_conv2d_static = torch.ops.edgekern.int8_conv2d_static.default


class Int8Conv2d(NativeLayer):
    """``nn.Conv2d`` on 8-bit weights and activations, for inference on the CPU.

    Input: ``[batch, in_channels, height, width]`` float32, bfloat16 or float16, or one image without ``batch``; NCHW or
    channels_last, others are copied. Output: ``[batch, out_channels, ...]`` as ``nn.Conv2d`` gives it, of the input's
    dtype and memory format. Each image is rounded to 8 bits with a scale and zero point of its own, over all channels;
    what lies beyond its edges is zero, exactly. Sums are exact int32. Under autograd the call raises, since there is no
    backward.

    Arguments up to ``padding_mode`` are those of ``nn.Conv2d``, ``same_padding`` and ``pads`` those of
    :class:`FusedConv2d`; see :class:`NativeLayer` for the rest, and for how weights are held. ``from_conv2d`` makes a
    layer that is not empty. A state dict holds ``weight`` int8
    ``[out_channels, in_channels / groups, kernel height, kernel width]``, ``weight_scale`` float32
    ``[out_channels, 1, 1, 1]`` and ``bias``; where the scheme has static activations, also ``input_scale`` float32
    ``[1]`` and ``input_zero_point`` int8 ``[1]``, the value from -128 to 127 that stands for 0.

    Attributes:
        input_range: with static activations, the scale and the zero point, from 0 to 255, that all inputs are rounded
            by. An empty layer has to be given them before :meth:`take_`. Inputs may then be uint8 that are rounded so.
        output_range: where all that reads the output is layers with this input range, the range that it is rounded by:
            it is uint8 then, in channels_last. :func:`edgekern.link_` sets it.
        images: the size and memory order of the images that forms of pruned weights are measured with, one at a time;
            a guess where None. To be set before :meth:`take_`.

    Raises:
        TypeError: a scheme for another kind of layer.
        ValueError: options that no convolution can have; a form that convolutions cannot be packed in; an unknown
            activation or another dtype.
    """

    format: ClassVar[str] = Int8.format
    scheme_class: ClassVar[type[Int8]] = Int8
    float_name: ClassVar[str] = "nn.Conv2d"
    exact: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "input_scale")
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice", "input_range", "output_range", "_ranges")
    FORMS: ClassVar[tuple[str, ...]] = tuple(FORMS)
    """What weights can be packed as; those of depthwise layers only as the first."""

    scheme: Int8
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    same_padding: bool
    pads: Pads | None
    output_range: Range | None
    images: Images | None
    _ranges: tuple[float, int, float, int, int] | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        activation: str = "none",
        *,
        same_padding: bool = False,
        pads: Pads | None = None,
        dtype: torch.dtype = torch.float32,
        bias_dtype: torch.dtype | None = None,
        scheme: Scheme | None = None,
    ) -> None:
        options = as_pairs(
            {
                "in_channels": in_channels,
                "out_channels": out_channels,
                "kernel_size": kernel_size,
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
                "groups": groups,
                "padding_mode": padding_mode,
                "same_padding": same_padding,
                "pads": pads,
            }
        )
        reason = misfit(options)
        if not reason and isinstance(scheme, Int8):
            reason = self.obstacle_in_form(scheme, options)
        if reason:
            raise ValueError(f"{type(self).__name__}: {reason}")
        super().__init__(bias, activation, dtype, bias_dtype, scheme)
        vars(self).update(options)
        self.images = None
        self._pads = pads_of(options)
        self._before_pads = (self.out_channels, *self.kernel_size, *self.stride)
        self._after_pads = (*self.dilation, self._activation_code)

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, in_channels, ...]`` to ``[batch, out_channels, ...]``, or both without ``batch``."""
        if input.dim() == 3:
            return self._convolve(input.unsqueeze(0), self.packed).squeeze(0)
        return self._convolve(input, self.packed)

    def _convolve(self, images: Tensor, packed: Tensor) -> Tensor:
        pads = self._pads
        if self.same_padding:
            pads = self._pads_for(images.shape[-2], images.shape[-1])
        elif self.padding_mode != "zeros":
            images, pads = nn.functional.pad(images, pads, self.padding_mode), NO_PADS
        left, right, top, bottom = pads
        rest = (*self._before_pads, top, bottom, left, right, *self._after_pads)
        if self._ranges is None:
            return _int8_conv2d(images, packed, *rest)
        return _int8_conv2d_static(images, packed, *rest, *self._ranges)

    def _pads_for(self, height: int, width: int) -> Pads:
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        return (*same_pads(width, kw, sw, dw), *same_pads(height, kh, sh, dh))

    def set_output_range(self, output_range: Range | None) -> None:
        """Has the output rounded by a range, or left in floats."""
        self.output_range = output_range
        none: Range = (0.0, 0)
        given, wanted = self.input_range or none, output_range or none
        known = self.input_range is not None or output_range is not None
        self._ranges = (*given, *wanted, ops.FLOATS[str(self.dtype).removeprefix("torch.")]) if known else None

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
    def weight_shape(self) -> tuple[int, ...]:
        """``[out_channels, in_channels / groups, kernel height, kernel width]``."""
        return weight_shape_of(vars(self))

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

    @classmethod
    def like(cls, conv: nn.Conv2d, scheme: Scheme | None = None) -> Self:
        """An empty layer with the options, dtypes and activation of ``conv``."""
        dtype, bias_dtype = conv.weight.dtype, None if conv.bias is None else conv.bias.dtype
        return cls(**options_of(conv), bias=conv.bias is not None, dtype=dtype, bias_dtype=bias_dtype, scheme=scheme)

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, scheme: Scheme | None = None) -> Self:
        """The native counterpart of one dense layer, which stays as it is."""
        layer = cls.like(conv, scheme)
        layer.take_(conv.weight, conv.bias)
        return layer

    def dense(self) -> nn.Conv2d:
        """A dense ``nn.Conv2d`` with the same weights, in the original dtype; a ``FusedConv2d`` where it does more."""
        conv = float_conv(options_of(self), self.bias_dtype is not None)
        self._fill(conv)
        return conv

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

    def _empty(self) -> None:
        super()._empty()
        self.input_range = self.output_range = self._ranges = None

    def extra_repr(self) -> str:
        """Options as ``nn.Conv2d`` shows them, those that are not the usual ones."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {
            "padding": (0, 0),
            "dilation": (1, 1),
            "groups": 1,
            "padding_mode": "zeros",
            "same_padding": False,
            "pads": None,
            "activation": "none",
        }
        shown = [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        shown += [] if self.bias_dtype is not None else ["bias=False"]
        return ", ".join([text, *shown])
