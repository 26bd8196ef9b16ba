"""What convolutions on native kernels have in common, whatever their weights are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import Scheme
from edgekern.kernels import Range
from edgekern.nn.conv_forms import Images
from edgekern.nn.convolution import (
    NO_PADS,
    as_pairs,
    float_conv,
    misfit,
    options_of,
    pads_of,
    weight_shape_of,
)
from edgekern.nn.fused import Pads, same_pads
from edgekern.nn.native_layer import NativeLayer

if TYPE_CHECKING:
    from typing_extensions import Self


class NativeConv2d(NativeLayer):
    """``nn.Conv2d`` on native kernels, for inference on the CPU.

    Input: ``[batch, in_channels, height, width]`` float32, bfloat16 or float16, or one image without ``batch``; NCHW or
    channels_last, others are copied. Output: ``[batch, out_channels, ...]`` as ``nn.Conv2d`` gives it, of the input's
    dtype and memory format. Where activations are of 8 bits, each image is rounded with a scale and zero point of its
    own, over all channels; what lies beyond its edges is zero, exactly, and sums are exact int32. Under autograd the
    call raises, since there is no backward.

    Arguments up to ``padding_mode`` are those of ``nn.Conv2d``, ``same_padding`` and ``pads`` those of
    :class:`FusedConv2d`; see :class:`NativeLayer` for the rest, and for how weights are held. ``from_conv2d`` makes a
    layer that is not empty.

    Attributes:
        images: the size and memory order of the images that forms of pruned weights are measured with, one at a time;
            a guess where None. To be set before :meth:`take_`.
        output_range: where all that reads the output is layers with this input range, the range that it is rounded by:
            it is uint8 then, in channels_last. :func:`edgekern.link_` sets it.

    Raises:
        TypeError: a scheme for another kind of layer.
        ValueError: options that no convolution can have; a form that convolutions cannot be packed in; an unknown
            activation or another dtype.
    """

    float_name: ClassVar[str] = "nn.Conv2d"
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice", "input_range", "output_range", "_ranges")
    _run: ClassVar[Callable[..., Tensor]]
    """The operator. Looked up once: going through torch.ops at every call would cost as much as a small layer."""
    _run_static: ClassVar[Callable[..., Tensor]]
    """The one that takes ranges."""

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
    images: Images | None
    output_range: Range | None
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
        if not reason and isinstance(scheme or (scheme := self.scheme_class()), self.scheme_class):
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
            return self._run(images, packed, *rest)
        return self._run_static(images, packed, *rest, *self._ranges)

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
    def weight_shape(self) -> tuple[int, ...]:
        """``[out_channels, in_channels / groups, kernel height, kernel width]``."""
        return weight_shape_of(vars(self))

    @classmethod
    @abstractmethod
    def obstacle_in_form(cls, scheme: Any, options: Mapping[str, Any]) -> str:
        """Why a convolution with these options cannot be packed as ``scheme`` says; empty when it can."""

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
