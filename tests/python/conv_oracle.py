"""What int8 and int4 convolutions compute, once more, in plain PyTorch on doubles, which hold every sum exactly.

Also the convolutions that the tests draw, and their inputs.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgekern import Int4, Int8, ops
from edgekern.nn import NATIVE_CONVS
from edgekern.nn.fused import FusedConv2d

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
# Of the largest that a result is added up from: float32 sums of a few terms, and the polynomials of the activations;
# then what rounding to the dtype adds.
_TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def rounded_images(x, given=None):
    """Each image [C, H, W] as integers around its zero point, double, and its scale: the rule for a row of K values."""
    q, scale, zero = ops.int8_quantize_rows(x.flatten(1), given)
    return (q.double() - zero.double()[:, None]).view(x.shape), scale.double()[:, None, None, None]


def edges(conv, size):
    """How far it pads: left, right, top, bottom, as F.pad takes them."""
    if getattr(conv, "same_padding", False):
        total = [
            max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(size, conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ]
        return (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    return getattr(conv, "pads", None) or tuple(conv._reversed_padding_repeated_twice)


def int4_weights(conv, scheme):
    """The weights of ``conv`` as ``scheme`` rounds them, float32: a matrix of windows, its channels innermost."""
    out, channels, height, width = conv.weight.shape
    rows = conv.weight.detach().permute(0, 2, 3, 1).reshape(out, -1)
    parts = ops.int4_quantize(rows, scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)
    values = ops.int4_values(*parts, k=rows.shape[1], group_size=scheme.group_size)
    return values.view(out, height, width, channels).permute(0, 3, 1, 2)


def convolve(x, conv, activation="none", scheme=None, given=None):
    """What the native layer of ``conv`` makes of x [B, C, H, W]: doubles, and how far off its floats may be.

    ``given`` is the range that all images are rounded by, where that is static.
    """
    images, scale = rounded_images(x, given)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    images = F.pad(images, edges(conv, x.shape[-2:]), mode)
    options = (None, conv.stride, 0, conv.dilation, conv.groups)
    if isinstance(scheme, Int4):
        weight = int4_weights(conv, scheme).double()
        y = scale * F.conv2d(images, weight, *options)
        # Sums of groups are added in float32, with what the zero points of images owe among them: 255 steps at most.
        groups = -(-weight[0].numel() // scheme.group_size)
        size = (groups + 3) / 4 * scale * 255 * weight.abs().sum((1, 2, 3))[:, None, None].expand(y.shape[1:])
    else:
        q, weight_scale = ops.int8_quantize(conv.weight.detach().flatten(1).contiguous())
        sums = F.conv2d(images, q.view(conv.weight.shape).double(), *options)
        y = scale * weight_scale.double()[:, None, None] * sums
        size = y.abs()
    if conv.bias is not None:
        bias = conv.bias.detach().double()[:, None, None]
        y, size = y + bias, size + bias.abs()
    y = ACTIVATIONS[activation](y)
    return y, _TOLERANCE[torch.float32] * size + 1e-30, _TOLERANCE[x.dtype] * y.abs()


def assert_as_computed(found, x, conv, activation="none", scheme=None, given=None):
    """``found`` is what the oracle says, to a few units in the last place of x's dtype."""
    expected, error, rounding = convolve(x, conv, activation, scheme, given)
    assert found.shape == expected.shape
    assert found.dtype == x.dtype
    tiny = 6e-8 if x.dtype == torch.float16 else 0  # half of its smallest number
    off = (found.double() - expected).abs()
    bound = 2 * (error + rounding) + tiny
    assert (off <= bound).all(), f"off by {float((off / bound).nan_to_num(0).max()):.3g} of what is allowed"


def make_conv(options, seed=0):
    """A convolution with weights of every size, and a bias."""
    torch.manual_seed(seed)
    conv = (FusedConv2d if {"activation", "same_padding", "pads"} & options.keys() else nn.Conv2d)(**options)
    with torch.no_grad():
        conv.weight.mul_(torch.rand((*conv.weight.shape[:1], 1, 1, 1)) + 0.1)
    return conv.requires_grad_(False)


def native(conv, scheme=None):
    return NATIVE_CONVS[(scheme or Int8()).format].from_conv2d(conv, scheme)


def is_depthwise(options):
    return 1 < options["groups"] == options["in_channels"] == options["out_channels"]


def scheme_of(form, options):
    """Int8 in a form that such a convolution has."""
    return Int8(form="dense" if is_depthwise(options) else form)


def make_images(shape, dtype=torch.float32, seed=0, layout="contiguous"):
    """Images [B, C, H, W] in one of the layouts that a convolution meets; each with a range of its own."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    room = (batch, channels, height, 2 * width) if layout == "strided" else shape
    x = torch.randn(room, generator=generator) * (1 + torch.arange(batch)[:, None, None, None])
    x = (x + torch.randn(batch, 1, 1, 1, generator=generator)).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return x[..., ::2] if layout == "strided" else x


LAYOUTS = ("contiguous", "channels_last", "strided")
# Channels of one group: around the sizes of tiles.
_CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65])
_SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16, 17])


@st.composite
def convolutions(draw):
    """Options of a convolution, and the shape of images that it can take."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 1, 2, 3, 11])] * 2))
    stride = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    kind = draw(st.sampled_from(["one group", "one group", "groups", "depthwise", "multiplier"]))
    if kind == "one group":
        groups, ins, outs = 1, draw(_CHANNELS), draw(_CHANNELS)
    elif kind == "groups":
        groups, ins, outs = draw(st.integers(2, 4)), draw(st.integers(1, 17)), draw(st.integers(1, 17))
    else:
        groups, ins, outs = draw(_CHANNELS), 1, 1 if kind == "depthwise" else draw(st.integers(2, 3))
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [draw(_SIZES), draw(_SIZES)]
    extra = {}
    if mode == "zeros" and draw(st.integers(0, 3)) == 0:
        padding, pads = 0, draw(st.tuples(*[st.integers(0, 6)] * 4))
        size = [max(n, r - p - q) for n, r, p, q in zip(size, reach, pads[2::-2], pads[3::-2], strict=True)]
        extra = {"pads": pads}
    elif stride == (1, 1) and draw(st.booleans()):
        padding, size = "same", size if mode == "zeros" else [max(n, r) for n, r in zip(size, reach, strict=True)]
    elif draw(st.booleans()):
        padding, size = "valid", [max(n, r) for n, r in zip(size, reach, strict=True)]
    else:
        # Reflection cannot go beyond the image, nor can what is repeated.
        most = [min(n - 1, 6) if mode in ("reflect", "circular") else 6 for n in size]
        padding = tuple(draw(st.integers(0, each)) for each in most)
        size = [max(n, r - 2 * p) for n, r, p in zip(size, reach, padding, strict=True)]
    options = {
        "in_channels": groups * ins,
        "out_channels": groups * outs,
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": mode,
        "bias": draw(st.booleans()),
        **extra,
    }
    return options, (draw(st.integers(0, 3)), groups * ins, *size)
