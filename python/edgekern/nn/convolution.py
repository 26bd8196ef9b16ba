"""What makes a convolution the one it is, beside its weights: its options as ``nn.Conv2d`` has them, and their meaning.

Options are arguments of :class:`FusedConv2d` and of :class:`Int8Conv2d` by name; sizes among them are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgekern._lib import core
from edgekern.nn.fused import FusedConv2d, Pads, same_pads

NO_PADS: Pads = (0, 0, 0, 0)
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_SIZES = ("kernel_size", "stride", "dilation")
_PLAIN = ("in_channels", "out_channels", *_SIZES, "padding", "groups", "padding_mode")
_BEYOND_PLAIN: dict[str, Any] = {"activation": "none", "same_padding": False, "pads": None}
"""Options that ``nn.Conv2d`` lacks, and what says that it does without."""


def options_of(conv: nn.Module) -> dict[str, Any]:
    """The options of an ``nn.Conv2d``, a ``FusedConv2d`` or a native layer, but for whether there is a bias."""
    plain = {name: getattr(conv, name) for name in _PLAIN}
    if isinstance(conv, nn.Conv2d) and not isinstance(conv, FusedConv2d):
        return as_pairs({**plain, **_BEYOND_PLAIN})
    return as_pairs({**plain, **{name: getattr(conv, name) for name in _BEYOND_PLAIN}})


def float_conv(options: Mapping[str, Any], bias: bool) -> nn.Conv2d:
    """A convolution with these options on the meta device: ``nn.Conv2d``, or ``FusedConv2d`` where that cannot be."""
    if any(options[name] != without for name, without in _BEYOND_PLAIN.items()):
        return FusedConv2d(**options, bias=bias, device="meta")
    return nn.Conv2d(**{name: options[name] for name in _PLAIN}, bias=bias, device="meta")


def as_pairs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with each size that is given as one number as two: PyTorch takes both, also in its layers."""
    return {**options, **{name: _pair(options[name]) for name in (*_SIZES, "padding")}}


def weight_shape_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """``[out_channels, in_channels / groups, kernel height, kernel width]``."""
    return (options["out_channels"], options["in_channels"] // options["groups"], *options["kernel_size"])


def is_depthwise(options: Mapping[str, Any]) -> bool:
    """Whether each channel of the input has one of the output to itself: such layers have a kernel of their own."""
    return 1 < options["groups"] == options["in_channels"] == options["out_channels"]


def pads_of(options: Mapping[str, Any]) -> Pads:
    """How far a convolution pads; one with ``same_padding`` does that by the size of each image instead."""
    padding = options["padding"]
    if options["pads"] is not None:
        left, right, top, bottom = options["pads"]
    elif padding == "valid":
        return NO_PADS
    elif padding == "same":  # the same rule, which without strides takes any size
        (kh, kw), (dh, dw) = options["kernel_size"], options["dilation"]
        return (*same_pads(1, kw, 1, dw), *same_pads(1, kh, 1, dh))
    else:
        top, left = bottom, right = padding
    return (left, right, top, bottom)


def misfit(options: Mapping[str, Any]) -> str:
    """Why no native layer can have these options; empty when one can. Their names are those of the arguments."""
    channels = {name: options[name] for name in ("in_channels", "out_channels", "groups")}
    for name, count in channels.items():
        if type(count) is not int or count < 1:
            return f"{name} must be a whole number from 1, got {count!r}"
    for name, count in channels.items():
        if count % channels["groups"]:
            return f"{name}={count} does not divide into groups={channels['groups']}"
    for name in _SIZES:
        if not _are_sizes(options[name], 2, 1):
            return f"{name} must be one or two whole numbers from 1, got {options[name]!r}"
    return _misfit_in_padding(options) or _beyond_limits(options)


def _misfit_in_padding(options: Mapping[str, Any]) -> str:
    padding, mode, pads, by_size = (options[name] for name in ("padding", "padding_mode", "pads", "same_padding"))
    if padding not in ("same", "valid") and not _are_sizes(padding, 2, 0):
        return f"padding must be 'same', 'valid', or one or two whole numbers from 0, got {padding!r}"
    if padding == "same" and options["stride"] != (1, 1):
        return f"padding='same' has no meaning with stride={options['stride']}"
    if mode not in PADDING_MODES:
        return f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {mode!r}"
    if pads is not None and not _are_sizes(pads, 4, 0):
        return f"pads must be None or four whole numbers from 0, got {pads!r}"
    if (by_size or pads is not None) and (padding != (0, 0) or mode != "zeros" or (by_size and pads is not None)):
        said = f"padding={padding!r}, same_padding={by_size}, pads={pads} and padding_mode={mode!r}"
        return f"expected one of padding, same_padding and pads, the last two with padding_mode='zeros'; got {said}"
    return ""


def _pair(size: object) -> object:
    if isinstance(size, int):
        return (size, size)
    return tuple(size) if isinstance(size, list | tuple) else size  # a string, or what misfit complains about


def _are_sizes(value: object, count: int, least: int) -> bool:
    if not isinstance(value, tuple) or len(value) != count:
        return False
    return all(type(size) is int and size >= least for size in value)


def _beyond_limits(options: Mapping[str, Any]) -> str:
    channels = (options[name] for name in ("out_channels", "in_channels", "groups"))
    try:
        core.int8_conv2d_dense_packed_size(*channels, *options["kernel_size"])
    except (TypeError, ValueError):  # TypeError: no 64-bit integers
        return f"its weight of shape {list(weight_shape_of(options))} is too large to be packed"
    return ""
