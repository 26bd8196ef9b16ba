"""What makes a convolution the one it is, beside its weights: its options as ``nn.Conv2d`` has them, and what they mean.

Options are arguments of ``nn.Conv2d`` by name, of :class:`FusedConv2d` and of :class:`Int8Conv2d`; sizes are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from edgekern._lib import core
from edgekern.nn.fused import FusedConv2d

Edges: TypeAlias = tuple[int, int, int, int]
"""Rows and columns beyond the image: top, bottom, left, right."""

NO_EDGES: Edges = (0, 0, 0, 0)
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_PAIRS = ("kernel_size", "stride", "dilation")
_OPTIONS = ("in_channels", "out_channels", *_PAIRS, "padding", "groups", "padding_mode")


def options_of(conv: nn.Module) -> dict[str, Any]:
    """The options of an ``nn.Conv2d`` or of a native layer, but for whether there is a bias."""
    options = {name: getattr(conv, name) for name in _OPTIONS}
    plain = isinstance(conv, nn.Conv2d) and not isinstance(conv, FusedConv2d)
    extra = {"activation": "none", "same_padding": False} if plain else vars(conv)
    return as_pairs({**options, "activation": extra["activation"], "same_padding": extra["same_padding"]})


def as_pairs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with each size that is given as one number as two: PyTorch takes both, also in its layers."""
    return {**options, **{name: _pair(options[name]) for name in (*_PAIRS, "padding")}}


def weight_shape_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """``[out_channels, in_channels / groups, kernel height, kernel width]``."""
    return (options["out_channels"], options["in_channels"] // options["groups"], *options["kernel_size"])


def misfit(options: Mapping[str, Any]) -> str:
    """Why no native layer can have these options; empty when one can. Their names are those of the arguments."""
    channels = {name: options[name] for name in ("in_channels", "out_channels", "groups")}
    for name, count in channels.items():
        if type(count) is not int or count < 1:
            return f"{name} must be a whole number from 1, got {count!r}"
    for name, count in channels.items():
        if count % channels["groups"]:
            return f"{name}={count} does not divide into groups={channels['groups']}"
    for name in _PAIRS:
        if not _is_pair(options[name], 1):
            return f"{name} must be one or two whole numbers from 1, got {options[name]!r}"
    padding, mode = options["padding"], options["padding_mode"]
    if padding not in ("same", "valid") and not _is_pair(padding, 0):
        return f"padding must be 'same', 'valid', or one or two whole numbers from 0, got {padding!r}"
    if padding == "same" and options["stride"] != (1, 1):
        return f"padding='same' has no meaning with stride={options['stride']}"
    if mode not in PADDING_MODES:
        return f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {mode!r}"
    if options["same_padding"] and mode != "zeros":
        return f"same_padding pads with zeros, not as padding_mode={mode!r}"
    return _beyond_limits(weight_shape_of(options))


def edges_of(options: Mapping[str, Any]) -> Edges:
    """How far a convolution pads; with ``same_padding`` that takes the image's size instead, see ``same_edges``."""
    padding = options["padding"]
    if padding == "valid":
        return NO_EDGES
    if padding == "same":
        rows, columns = (d * (k - 1) for d, k in zip(options["dilation"], options["kernel_size"], strict=True))
        return (*_halves(rows), *_halves(columns))
    rows, columns = padding
    return (rows, rows, columns, columns)


def same_edges(size: Sequence[int], options: Mapping[str, Any]) -> Edges:
    """How far ``same_padding`` pads images of ``size`` (height, width): for ceil(size / stride) steps of the kernel."""
    totals = [
        max((-(-length // stride) - 1) * stride + dilation * (kernel - 1) + 1 - length, 0)
        for length, kernel, stride, dilation in zip(
            size, options["kernel_size"], options["stride"], options["dilation"], strict=True
        )
    ]
    return (*_halves(totals[0]), *_halves(totals[1]))


def _pair(size: object) -> object:
    if isinstance(size, int):
        return (size, size)
    return tuple(size) if isinstance(size, list | tuple) else size  # a string, or what misfit complains about


def _halves(total: int) -> tuple[int, int]:
    """What comes before, and after; the odd one after, as PyTorch and TensorFlow have it."""
    return total // 2, total - total // 2


def _is_pair(value: object, least: int) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(size) is int and size >= least for size in value)


def _beyond_limits(shape: tuple[int, ...]) -> str:
    out_channels, channels, height, width = shape
    try:
        core.int8_dense_packed_size(out_channels, channels * height * width)
    except (TypeError, ValueError):  # TypeError: no 64-bit integers
        return f"its weight of shape {list(shape)} is too large to be packed"
    return ""
