"""Convolution and linear layers with their activation inside, as ``fuse_`` makes them: float layers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""What each activation computes, by its name. "none", which has no row, is the layer without one."""

Pads = tuple[int, int, int, int]
"""Zeros at the left, the right, the top and the bottom of an image, in the order of ``torch.nn.functional.pad``."""


class FusedConv2d(nn.Conv2d):
    """``nn.Conv2d`` followed by an activation, with padding that may differ between the two sides of an image.

    The parameters are those of ``nn.Conv2d``, by the same names.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            for ``nn.Conv2d``.
        activation: a name in :data:`ACTIVATION_FUNCTIONS`, or "none".
        same_padding: pads as TensorFlow's "SAME" does, by the size of each input: to ceil(size / stride) outputs, with
            the odd zero at the right and at the bottom. It stands in for ``padding``, which has to be 0.
        pads: zeros at the left, the right, the top and the bottom, for inputs of any size. They stand in for
            ``padding``, which has to be 0. None when that says it.

    Raises:
        ValueError: an unknown activation; more than one kind of padding; ``same_padding`` or ``pads`` with another
            padding mode than "zeros".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        same_padding: bool = False,
        pads: Pads | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.activation = _checked_activation(activation)
        self.same_padding = same_padding
        self.pads = pads
        if (same_padding or pads) and (self.padding != (0, 0) or padding_mode != "zeros" or (same_padding and pads)):
            raise ValueError(
                "FusedConv2d: expected one of padding, same_padding and pads, the last two with padding_mode='zeros'; "
                f"got padding={padding!r}, same_padding={same_padding}, pads={pads} and padding_mode={padding_mode!r}"
            )

    @classmethod
    def of(
        cls, conv: nn.Conv2d, activation: str = "none", *, same_padding: bool = False, pads: Pads | None = None
    ) -> FusedConv2d:
        """``conv`` followed by ``activation``: a layer of the very same parameters.

        With ``same_padding`` or ``pads``, these count and the padding of ``conv`` does not; pads that are the same on
        both sides become ``padding``. Of a ``FusedConv2d`` without an activation, its own are kept.

        Raises:
            ValueError: an unknown activation, or a ``conv`` that has one already.
        """
        if isinstance(conv, FusedConv2d):
            _check_free(conv, activation)
            same_padding, pads = same_padding or conv.same_padding, pads or conv.pads
        padding: Any = conv.padding if pads is None and not same_padding else 0
        if pads is not None and (even := _even(pads)) is not None:
            padding, pads = even, None
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            padding,
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            "meta",
            activation=activation,
            same_padding=same_padding,
            pads=pads,
        )
        return _with_parameters_of(conv, new)

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` to ``[batch, out_channels, ...]``; the batch may be missing."""
        if self.same_padding or self.pads is not None:
            input = F.pad(input, self.pads_for(input.shape[-2], input.shape[-1]))
        y = self._conv_forward(input, self.weight, self.bias)
        return y if self.activation == "none" else ACTIVATION_FUNCTIONS[self.activation](y)

    def pads_for(self, height: int, width: int) -> Pads:
        """The zeros around an image of this size, whichever of the three kinds of padding says so."""
        if self.same_padding:
            (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
            return (*same_pads(width, kw, sw, dw), *same_pads(height, kh, sh, dh))
        if self.pads is not None:
            return self.pads
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return (left, right, top, bottom)

    def plain(self) -> nn.Conv2d:
        """The convolution alone, without the activation: ``nn.Conv2d`` of the very same parameters.

        Raises:
            ValueError: its padding differs between two sides, which ``nn.Conv2d`` cannot do.
        """
        padding: Any = self.padding if self.pads is None else _even(self.pads)
        if padding is None or self.same_padding:
            kind = "same_padding" if self.same_padding else f"pads={self.pads}"
            raise ValueError(f"FusedConv2d: nn.Conv2d cannot pad as {kind} does")
        new = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            padding,
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            self.bias is not None,
            self.padding_mode,
            "meta",
        )
        return _with_parameters_of(self, new)

    def extra_repr(self) -> str:
        """As of ``nn.Conv2d``, with what it does besides."""
        parts = [super().extra_repr()]
        parts += ["same_padding=True"] if self.same_padding else []
        parts += [f"pads={self.pads}"] if self.pads is not None else []
        parts += [f"activation={self.activation!r}"] if self.activation != "none" else []
        return ", ".join(parts)


class FusedLinear(nn.Linear):
    """``nn.Linear`` followed by an activation. The parameters are those of ``nn.Linear``, by the same names.

    Args:
        in_features, out_features, bias, device, dtype: as for ``nn.Linear``.
        activation: a name in :data:`ACTIVATION_FUNCTIONS`, or "none".

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = _checked_activation(activation)

    @classmethod
    def of(cls, linear: nn.Linear, activation: str = "none") -> FusedLinear:
        """``linear`` followed by ``activation``: a layer of the very same parameters.

        Raises:
            ValueError: an unknown activation, or a ``linear`` that has one already.
        """
        if isinstance(linear, FusedLinear):
            _check_free(linear, activation)
        has_bias = linear.bias is not None
        new = cls(linear.in_features, linear.out_features, has_bias, "meta", activation=activation)
        return _with_parameters_of(linear, new)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        y = F.linear(input, self.weight, self.bias)
        return y if self.activation == "none" else ACTIVATION_FUNCTIONS[self.activation](y)

    def plain(self) -> nn.Linear:
        """The layer without the activation: ``nn.Linear`` of the very same parameters."""
        has_bias = self.bias is not None
        return _with_parameters_of(self, nn.Linear(self.in_features, self.out_features, has_bias, "meta"))

    def extra_repr(self) -> str:
        """As of ``nn.Linear``, with the activation."""
        text = super().extra_repr()
        return text if self.activation == "none" else f"{text}, activation={self.activation!r}"


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after ``size`` pixels with which a convolution gives ceil(size / stride) results.

    That is the rule of TensorFlow's "SAME" padding: an odd zero goes to the end.
    """
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _even(pads: Pads) -> tuple[int, int] | None:
    """The padding of ``nn.Conv2d`` that adds as many zeros; None where the two sides of an image differ."""
    left, right, top, bottom = pads
    return (top, left) if left == right and top == bottom else None


def _checked_activation(activation: str) -> str:
    if activation != "none" and activation not in ACTIVATION_FUNCTIONS:
        raise ValueError(f"activation: expected one of none, {', '.join(ACTIVATION_FUNCTIONS)}; got {activation!r}")
    return activation


def _check_free(layer: FusedConv2d | FusedLinear, activation: str) -> None:
    if layer.activation != "none":
        raise ValueError(
            f"activation: the layer has {layer.activation!r} already, expected one without to add {activation!r} to; "
            "plain() is the layer without"
        )


def _with_parameters_of(source: nn.Module, layer: Any) -> Any:
    layer.weight, layer.bias = source.weight, source.bias
    return layer.train(source.training)
