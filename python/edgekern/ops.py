"""The torch ops, and their weights. Importing this module registers them under ``torch.ops.edgekern``:

``int8_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int4_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int8_float_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int4_float_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``f32_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``f16_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int8_embedding(Tensor indices, Tensor packed, SymInt embedding_dim, int dtype) -> Tensor``
``int4_embedding(Tensor indices, Tensor packed, SymInt embedding_dim, int dtype) -> Tensor``

- ``x``: [..., K] float32, bfloat16 or float16 on CPU, any strides
- ``packed``: uint8, 1-D, from :func:`int8_pack`, :func:`int4_pack`, :func:`f32_pack` or :func:`f16_pack`
- ``out_features``: N, which fake tensors cannot read from ``packed``
- ``activation``: a code of :data:`ACTIVATIONS`
- result: [..., N] of x's dtype, contiguous

What lies between the linear layers of a decoder:

``rms_norm(Tensor x, Tensor weight, float eps) -> Tensor``
``rotary(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)``
``gated_mlp(Tensor x, Tensor gate, Tensor up, Tensor down, SymInt out_features, int activation, int format,
int down_format) -> Tensor``

- ``weight``: [K] of x's dtype
- ``q``, ``k``: [B, heads, T, D] of one dtype, any strides; ``cos``, ``sin``: [B or 1, T, D] of that dtype
- ``gate``, ``up``: packed as ``format`` says, a code of :data:`LINEARS`; ``down``: as ``down_format`` does; the three
  are layers without an activation, and ``activation`` is that of what gate gives

``int8_linear_2``, ``int8_linear_3``, ``int4_linear_2`` and ``int4_linear_3`` are two or three layers that read the same
x, which is quantised once, in one parallel region: ``(Tensor x, Tensor packed_0, Tensor packed_1, SymInt
out_features_0, SymInt out_features_1, int activation) -> (Tensor, Tensor)``, and likewise for three. Each result is
that of the layer alone, bit for bit.

Those of an embedding read rows of what ``int8_pack`` or ``int4_pack`` made in the dense form:

- ``indices``: [...] int64 or int32 on CPU, any strides, from 0 to N - 1; IndexError for others
- ``embedding_dim``: K
- ``dtype``: a code of :data:`FLOATS`
- result: [..., K] of that dtype, contiguous

That of a convolution, whose weights :func:`int8_conv2d_pack` packs:

``int8_conv2d(Tensor x, Tensor packed, SymInt out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w,
SymInt top, SymInt bottom, SymInt left, SymInt right, int dilation_h, int dilation_w, int activation) -> Tensor``

- ``x``: [B, C, H, W] float32, bfloat16 or float16 on CPU; contiguous and channels_last tensors are not copied
- ``top``, ``bottom``, ``left``, ``right``: zeros around each image
- result: [B, out_channels, H', W'] of x's dtype and memory format

``int8_conv2d_static`` takes five more: ``float x_scale, int x_zero_point, float y_scale, int y_zero_point, int dtype``.
``x_scale`` and ``x_zero_point`` are the range of x, which is then not looked for; x may be uint8 with that range. With
``y_scale`` > 0 the result is uint8 with the range of y, in channels_last; else it is of x's dtype, or where x is uint8
of ``dtype``, a code of :data:`FLOATS`. A scale of 0 leaves x's range to be found.

``int4_conv2d`` and ``int4_conv2d_static`` do the same with what :func:`int4_conv2d_pack` packs, and ``f32_conv2d`` what
``int8_conv2d`` does, without rounding x, with what :func:`f32_conv2d_pack` packs.

Several convolutions, and sums and poolings between them, are one op under torch >= 2.10; :func:`edgekern.freeze` writes
its programs:

``int8_conv2d_program(Tensor x, Tensor[] packed, Tensor program, SymInt out_channels, int[] windows, int dtype, bool
channels_last) -> Tensor``

- ``x``: as above, uint8 too
- ``program``: int64 [steps, 23], rows of :data:`PROGRAM_COLUMNS`; images are numbered from x, 0, and scales stand as
  the bits of float32
- ``windows``: eleven numbers, from kernel_h on, of each step between x and the result that changes the size of images
- ``dtype``: that of the result, a code of :data:`FLOATS`, 3 for uint8, -1 for x's
- ``channels_last``: whether the result is so in any case. This, the two before it and ``out_channels`` are what fake
  tensors cannot read from the other arguments
- result: as the same layers give it one by one, bit for bit

Inference only: raises ``ValueError`` when x requires grad and grad mode is on. The kernels are native and registered
through torch's stable C ABI, so one build of edgekern serves every torch from 2.9 on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgekern._lib import core
from edgekern.kernels import ACTIVATIONS, FLOATS, INT4_CLIPS, Range, form_code, int4_form_code
from edgekern.kernels.packed import code_of

__all__ = [
    "ACTIVATIONS",
    "FLOATS",
    "LINEARS",
    "PROGRAM_COLUMNS",
    "f16_pack",
    "f16_packed_size",
    "f16_unpack",
    "f32_conv2d_pack",
    "f32_conv2d_packed_size",
    "f32_conv2d_unpack",
    "f32_pack",
    "f32_packed_size",
    "f32_unpack",
    "int4_conv2d_pack",
    "int4_conv2d_packed_size",
    "int4_conv2d_unpack",
    "int4_integers",
    "int4_pack",
    "int4_packed_size",
    "int4_pair",
    "int4_quantize",
    "int4_unpack",
    "int4_unpair",
    "int4_values",
    "int8_conv2d_pack",
    "int8_conv2d_packed_size",
    "int8_conv2d_unpack",
    "int8_pack",
    "int8_packed_size",
    "int8_quantize",
    "int8_quantize_rows",
    "int8_unpack",
]


def _torch_symbols() -> dict[str, int]:
    """Addresses of torch's C functions, by name."""
    libraries = ctypes.CDLL(torch._C.__file__)  # finds the functions of every library torch._C depends on
    addresses: dict[str, int] = {}
    for name, required in core.torch_symbols().items():
        function = getattr(libraries, name, None)
        if function is not None:
            addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
        elif required:
            raise ImportError(
                f"edgekern needs torch >= 2.9: torch {torch.__version__} lacks the C function {name}; "
                "upgrade with `pip install 'torch>=2.9'`"
            )
    return addresses


core.set_num_threads(torch.get_num_threads())  # the built-in pool serves under torch 2.9, which cannot lend its own
core.register_torch_ops(_torch_symbols())

_library = torch.library.Library("edgekern", "FRAGMENT")


def _check_fake(op: str, x: torch.Tensor, *packed: torch.Tensor) -> None:
    devices = [x.device, *(tensor.device for tensor in packed)]
    if any(device.type != "cpu" for device in devices):
        raise ValueError(
            f"edgekern.{op}: x and packed must be on the CPU, got {' and '.join(map(str, devices))}; "
            "move the model with model.cpu() and the input with x.cpu(), or call edgekern.dense_(model) to run "
            "elsewhere"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(
            f"edgekern.{op} has no backward, and x requires grad: wrap the call in torch.inference_mode() or "
            "torch.no_grad() for inference, or call edgekern.dense_(model) to train"
        )


def _fake_linear(op: str, count: int) -> Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]:
    """What a linear op of ``count`` layers does with fake tensors: its checks, and empty results."""

    def linear(x: torch.Tensor, *rest: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        packed, out_features = rest[:count], rest[count:-1]
        if x.dim() == 0:
            raise ValueError(f"edgekern.{op}: x must have at least one dimension, got a scalar")
        _check_fake(op, x, *packed)
        results = tuple(x.new_empty((*x.shape[:-1], n)) for n in out_features)
        return results[0] if count == 1 else results

    return linear


def _fake_embedding(op: str) -> Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]:
    """The same of an embedding op."""

    def embedding(indices: torch.Tensor, packed: torch.Tensor, embedding_dim: int, dtype: int) -> torch.Tensor:
        if indices.device.type != "cpu" or packed.device.type != "cpu":
            raise ValueError(
                f"edgekern.{op}: indices and packed must be on the CPU, got {indices.device} and {packed.device}; "
                "move the model with model.cpu() and the indices with .cpu(), or call edgekern.dense_(model) to run "
                "elsewhere"
            )
        if indices.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"edgekern.{op}: indices must be int64 or int32, got {indices.dtype}; convert them with .long()"
            )
        name = next(name for name, code in FLOATS.items() if code == dtype)
        return indices.new_empty((*indices.shape, embedding_dim), dtype=getattr(torch, name))

    return embedding


for _op in ("int8_embedding", "int4_embedding"):
    _library.impl(_op, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{_op}", _fake_embedding(_op))


def _fake_conv2d(op: str) -> Callable[..., torch.Tensor]:
    """What an op of a convolution does with fake tensors: its checks, and empty images."""

    def conv2d(
        x: torch.Tensor,
        packed: torch.Tensor,
        out_channels: int,
        kernel_h: int,
        kernel_w: int,
        stride_h: int,
        stride_w: int,
        top: int,
        bottom: int,
        left: int,
        right: int,
        dilation_h: int,
        dilation_w: int,
        activation: int,
    ) -> torch.Tensor:
        _check_fake(op, x, packed)
        if x.dim() != 4:
            raise ValueError(
                f"edgekern.{op}: x must be images [batch, channels, height, width], got shape {list(x.shape)}"
            )
        height = (x.shape[2] + top + bottom - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
        width = (x.shape[3] + left + right - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
        by_pixels = not x.is_contiguous() and x.stride(1) == 1
        memory_format = torch.channels_last if by_pixels else torch.contiguous_format
        return torch.empty(
            (x.shape[0], out_channels, height, width), dtype=x.dtype, device=x.device, memory_format=memory_format
        )

    return conv2d


def _fake_conv2d_static(op: str) -> Callable[..., torch.Tensor]:
    """As :func:`_fake_conv2d`, and what is u8 is in channels_last."""
    conv2d = _fake_conv2d(op)

    def conv2d_static(x: torch.Tensor, packed: torch.Tensor, *rest: Any) -> torch.Tensor:
        *layer, _, _, y_scale, _, dtype = rest
        y = conv2d(x, packed, *layer)
        name = next(name for name, code in FLOATS.items() if code == dtype)
        if y_scale > 0:
            return y.to(torch.uint8).contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.uint8:
            return y.to(getattr(torch, name)).contiguous(memory_format=torch.channels_last)
        return y

    return conv2d_static


for _op in ("int8_conv2d", "int4_conv2d", "f32_conv2d"):
    _library.impl(_op, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{_op}", _fake_conv2d(_op))
for _op in ("int8_conv2d", "int4_conv2d"):
    _library.impl(f"{_op}_static", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{_op}_static", _fake_conv2d_static(_op))

PROGRAM_COLUMNS = (
    "kind",
    "x",
    "other",
    "packed",
    "activation",
    "x_scale",
    "x_zero_point",
    "other_scale",
    "other_zero_point",
    "y_scale",
    "y_zero_point",
    "dtype",
    "kernel_h",
    "kernel_w",
    "stride_h",
    "stride_w",
    "dilation_h",
    "dilation_w",
    "top",
    "bottom",
    "left",
    "right",
    "same_padding",
)
"""What each number of a step stands for. Kinds are 0 for a convolution, 1 for a sum and 2 for max pooling."""


def _fake_program(
    x: torch.Tensor,
    packed: list[torch.Tensor],
    program: torch.Tensor,
    out_channels: int,
    windows: list[int],
    dtype: int,
    channels_last: bool,
) -> torch.Tensor:
    _check_fake("int8_conv2d_program", x, program, *packed)
    if x.dim() != 4:
        raise ValueError(
            "edgekern.int8_conv2d_program: x must be images [batch, channels, height, width], "
            f"got shape {list(x.shape)}"
        )
    sizes = [x.shape[2], x.shape[3]]
    for i in range(0, len(windows), 11):
        kernel, stride, dilation = windows[i : i + 2], windows[i + 2 : i + 4], windows[i + 4 : i + 6]
        zeros, same = (windows[i + 6] + windows[i + 7], windows[i + 8] + windows[i + 9]), windows[i + 10]
        for d in (0, 1):
            room = sizes[d] + zeros[d] - dilation[d] * (kernel[d] - 1) - 1
            sizes[d] = -(-sizes[d] // stride[d]) if same else room // stride[d] + 1
    names = {code: name for name, code in FLOATS.items()} | {3: "uint8"}
    by_pixels = channels_last or (not x.is_contiguous() and x.stride(1) == 1)
    return torch.empty(
        (x.shape[0], out_channels, *sizes),
        dtype=x.dtype if dtype < 0 else getattr(torch, names[dtype]),
        device=x.device,
        memory_format=torch.channels_last if by_pixels else torch.contiguous_format,
    )


if has_programs := hasattr(torch.ops.edgekern, "int8_conv2d_program"):
    _library.impl("int8_conv2d_program", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake("edgekern::int8_conv2d_program", _fake_program)

LINEARS = {name: code for code, name in enumerate(("int8", "int4", "int8_float", "int4_float", "f32", "f16"))}
"""Codes of formats, and of activations that stay floats, for ops that take any."""


def _fake_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    _check_fake("rms_norm", x, weight)
    return x.new_empty(x.shape)


def _fake_rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_fake("rotary", q, k, cos, sin)
    return _like_heads(q), _like_heads(k)


def _like_heads(x: torch.Tensor) -> torch.Tensor:
    """An empty tensor in memory as the op leaves it: tokens first, or heads first, as in ``x``."""
    if x.stride(2) > x.stride(1):
        return x.new_empty((x.shape[0], x.shape[2], x.shape[1], x.shape[3])).transpose(1, 2)
    return x.new_empty(x.shape)


def _fake_gated_mlp(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, out_features: int, *rest: int
) -> torch.Tensor:
    _check_fake("gated_mlp", x, gate, up, down)
    return x.new_empty((*x.shape[:-1], out_features))


_BETWEEN: dict[str, Callable[..., Any]] = {
    "rms_norm": _fake_rms_norm,
    "rotary": _fake_rotary,
    "gated_mlp": _fake_gated_mlp,
}
for _op, _empty in _BETWEEN.items():
    _library.impl(_op, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{_op}", _empty)

_ALONE = ("int8_float_linear", "int4_float_linear", "f32_linear", "f16_linear")
_OPS = {"int8_linear": (1, 2, 3), "int4_linear": (1, 2, 3), **dict.fromkeys(_ALONE, (1,))}
for _op, _count in ((op, count) for op, counts in _OPS.items() for count in counts):
    # The ops have no backward, and their kernels say so themselves. Without this line torch's fallback for ops that
    # know no autograd runs before every call: it costs half a microsecond and would let a backward pass go through with
    # a warning.
    _name = _op if _count == 1 else f"{_op}_{_count}"
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{_name}", _fake_linear(_op, _count))


def _array(name: str, tensor: torch.Tensor) -> np.ndarray:
    """A CPU tensor's memory as an array; bfloat16 as uint16 bits."""
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        got = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a dense CPU tensor, got {got}; move it with {name}.cpu()")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _optional(name: str, tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else _array(name, tensor)


def _dtype(tensor: torch.Tensor) -> str | None:
    """What tells the native side that an array of :func:`_array` is bfloat16."""
    return "bfloat16" if tensor.dtype == torch.bfloat16 else None


def _empty_bytes(size: int) -> torch.Tensor:
    """Memory for a packed matrix: torch aligns it to 64 bytes. On the CPU, also where another device is the default."""
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def int8_quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises weights [N, K] of float32, bfloat16 or float16: ``q`` int8 [N, K] and ``scale`` float32 [N].

    See :func:`edgekern.kernels.int8_quantize`.
    """
    array = _array("weight", weight)
    q, scale = core.int8_quantize_rhs(array, _dtype(weight))
    return torch.from_numpy(q), torch.from_numpy(scale)


def int8_quantize_rows(
    x: torch.Tensor, input_range: Range | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the linear ops make of activations [M, K]: ``q`` uint8 [M, K], ``scale`` float32 and ``zero`` int32 [M].

    See :func:`edgekern.kernels.int8_quantize_lhs`.
    """
    q, scale, zero = core.int8_quantize_lhs(_array("x", x), None, _dtype(x), input_range)
    return torch.from_numpy(q), torch.from_numpy(scale), torch.from_numpy(zero)


def int8_packed_size(q: torch.Tensor, form: str = "dense") -> int:
    """Bytes that :func:`int8_pack` makes of ``q`` int8 [N, K] in a form.

    Raises:
        ValueError: an unknown form, or one that cannot hold this matrix.
    """
    return core.int8_packed_size(_array("q", q), form_code(form))


def int8_pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    form: str = "dense",
    out: torch.Tensor | None = None,
    input_range: Range | None = None,
) -> torch.Tensor:
    """Packs ``q`` int8 [N, K], ``scale`` float32 [N] and ``bias`` float32 [N] or None for the op: uint8, 1-D.

    ``form`` is a key of :data:`edgekern.kernels.FORMS`. ``out`` may bring the :func:`int8_packed_size` bytes for it.
    ``input_range`` is as in :func:`edgekern.kernels.int8_pack`.
    """
    array = _array("q", q)
    if array.ndim != 2:
        raise ValueError(f"q must have 2 dimensions, got shape {tuple(q.shape)}")
    code = form_code(form)
    packed = _empty_bytes(core.int8_packed_size(array, code)) if out is None else out
    core.int8_pack(array, _array("scale", scale), None if bias is None else _array("bias", bias), packed.numpy(), code)
    core.int8_set_range(packed.numpy(), input_range)
    return packed


def int8_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The exact inverse of :func:`int8_pack`."""
    q, scale, bias = core.int8_unpack(_array("packed", packed))
    return torch.from_numpy(q), torch.from_numpy(scale), None if bias is None else torch.from_numpy(bias)


def int8_conv2d_packed_size(q: torch.Tensor, groups: int = 1, form: str = "dense") -> int:
    """Bytes that :func:`int8_conv2d_pack` makes of ``q`` int8 [O, I / groups, KH, KW] in a form.

    Raises:
        ValueError: groups that do not divide O, an unknown form, or one that cannot hold these weights.
    """
    return core.int8_conv2d_packed_size(_array("q", q), groups, form_code(form))


def int8_conv2d_pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    groups: int = 1,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's ``q`` int8 [O, I / groups, KH, KW], ``scale`` float32 [O] and ``bias`` float32 [O] or None
    for ``int8_conv2d``: uint8, 1-D.

    ``form`` is a key of :data:`edgekern.kernels.FORMS`. With as many groups as channels in and out, a depthwise layer,
    weights are packed for a kernel of their own, and it is "dense". ``out`` may bring the
    :func:`int8_conv2d_packed_size` bytes for it.
    """
    array, code = _array("q", q), form_code(form)
    packed = _empty_bytes(core.int8_conv2d_packed_size(array, groups, code)) if out is None else out
    core.int8_conv2d_pack(array, _array("scale", scale), _optional("bias", bias), packed.numpy(), groups, code)
    return packed


def int8_conv2d_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The exact inverse of :func:`int8_conv2d_pack`."""
    q, scale, bias = core.int8_conv2d_unpack(_array("packed", packed))
    return torch.from_numpy(q), torch.from_numpy(scale), None if bias is None else torch.from_numpy(bias)


def int4_quantize(
    weight: torch.Tensor, group_size: int = 128, *, symmetric: bool = True, clip: str = "none"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Quantises weights [N, K] to int4 by groups: ``w`` uint8 [N, ceil(K / 2)], ``scale`` float16 [N, groups] and
    ``zero`` uint8 [N, groups], or None when symmetric.

    See :func:`edgekern.kernels.int4_quantize`.
    """
    code = code_of("clip", clip, INT4_CLIPS)
    w, scale, zero = core.int4_quantize_rhs(_array("weight", weight), group_size, symmetric, code, _dtype(weight))
    return torch.from_numpy(w), torch.from_numpy(scale), None if zero is None else torch.from_numpy(zero)


def int4_unpair(w: torch.Tensor, k: int) -> torch.Tensor:
    """Values of 4 bits, two a byte and the lower column in the low half, [N, ceil(K / 2)], as uint8 [N, K]."""
    return torch.stack((w & 15, w >> 4), -1).flatten(1)[:, :k]


def int4_pair(q: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`int4_unpair`; the half byte beyond an odd K is 0."""
    even = torch.nn.functional.pad(q, (0, q.shape[1] % 2))
    return even[:, ::2] | even[:, 1::2] << 4


def int4_integers(w: torch.Tensor, zero: torch.Tensor | None = None, *, k: int, group_size: int = 128) -> torch.Tensor:
    """Canonical int4 weights without their zero points, ``w - zero``: int8 [N, K]."""
    q = int4_unpair(w, k).view(torch.int8)
    return q - (8 if zero is None else zero.view(torch.int8).repeat_interleave(group_size, 1)[:, :k])


def int4_values(
    w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None, *, k: int, group_size: int = 128
) -> torch.Tensor:
    """What canonical int4 weights stand for, ``scale * (w - zero)``: float32 [N, K]."""
    values = int4_integers(w, zero, k=k, group_size=group_size).float()
    return values.mul_(scale.float().repeat_interleave(group_size, 1)[:, :k])


def int4_packed_size(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    k: int,
    group_size: int = 128,
    form: str = "dense",
) -> int:
    """Bytes that :func:`int4_pack` makes of the same arguments."""
    zero_array = None if zero is None else _array("zero", zero)
    return core.int4_packed_size(
        _array("w", w), _array("scale", scale), zero_array, k, group_size, int4_form_code(form)
    )


def int4_pack(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    k: int,
    group_size: int = 128,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs canonical int4 weights, as :func:`int4_quantize` makes them, and ``bias`` float32 [N] or None: uint8, 1-D.

    ``out`` may bring the :func:`int4_packed_size` bytes for it. See :func:`edgekern.kernels.int4_pack`.
    """
    if out is None:
        out = _empty_bytes(int4_packed_size(w, scale, zero, k=k, group_size=group_size, form=form))
    arrays = [None if t is None else _array(name, t) for name, t in (("zero", zero), ("bias", bias))]
    core.int4_pack(_array("w", w), _array("scale", scale), *arrays, k, group_size, out.numpy(), int4_form_code(form))
    return out


def int4_unpack(
    packed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The exact inverse of :func:`int4_pack`: ``w``, ``scale``, ``zero`` and ``bias``."""
    w, scale, zero, bias = core.int4_unpack(_array("packed", packed))
    rest = [None if a is None else torch.from_numpy(a) for a in (zero, bias)]
    return torch.from_numpy(w), torch.from_numpy(scale), rest[0], rest[1]


def int4_conv2d_packed_size(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    in_channels: int,
    kernel_size: tuple[int, int],
    groups: int = 1,
    group_size: int = 128,
    form: str = "dense",
) -> int:
    """Bytes that :func:`int4_conv2d_pack` makes of the same arguments."""
    zero_array = None if zero is None else _array("zero", zero)
    sizes = (in_channels, groups, *kernel_size, group_size)
    code = int4_form_code(form)
    return core.int4_conv2d_packed_size(_array("w", w), _array("scale", scale), zero_array, *sizes, code)


def int4_conv2d_pack(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    in_channels: int,
    kernel_size: tuple[int, int],
    groups: int = 1,
    group_size: int = 128,
    form: str = "dense",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's canonical int4 weights, and ``bias`` float32 [O] or None, for ``int4_conv2d``: uint8, 1-D.

    They are those of a matrix [O, KH * KW * I / groups], as :func:`int4_quantize` makes them, in that order of columns.
    ``out`` may bring the :func:`int4_conv2d_packed_size` bytes for it.

    Raises:
        ValueError: a depthwise layer, which has as many groups as channels in and out.
    """
    options: dict[str, Any] = {"in_channels": in_channels, "kernel_size": kernel_size, "groups": groups}
    if out is None:
        out = _empty_bytes(int4_conv2d_packed_size(w, scale, zero, **options, group_size=group_size, form=form))
    arrays = [None if t is None else _array(name, t) for name, t in (("zero", zero), ("bias", bias))]
    sizes = (in_channels, groups, *kernel_size, group_size)
    core.int4_conv2d_pack(_array("w", w), _array("scale", scale), *arrays, *sizes, out.numpy(), int4_form_code(form))
    return out


def int4_conv2d_unpack(
    packed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The exact inverse of :func:`int4_conv2d_pack`: ``w``, ``scale``, ``zero`` and ``bias``."""
    w, scale, zero, bias = core.int4_conv2d_unpack(_array("packed", packed))
    rest = [None if a is None else torch.from_numpy(a) for a in (zero, bias)]
    return torch.from_numpy(w), torch.from_numpy(scale), rest[0], rest[1]


def f32_packed_size(weight: torch.Tensor, channels: int = 1) -> int:
    """Bytes that :func:`f32_pack` makes of ``weight`` in blocks of ``channels`` output features."""
    return core.f32_packed_size(_array("weight", weight), channels, _dtype(weight))


def f32_pack(
    weight: torch.Tensor, bias: torch.Tensor | None = None, channels: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Packs ``weight`` [N, K] of float32, bfloat16 or float16 and ``bias`` float32 [N] or None: uint8, 1-D.

    ``out`` may bring the :func:`f32_packed_size` bytes for it. See :func:`edgekern.kernels.f32_pack`.
    """
    packed = _empty_bytes(f32_packed_size(weight, channels)) if out is None else out
    core.f32_pack(_array("weight", weight), _optional("bias", bias), packed.numpy(), channels, _dtype(weight))
    return packed


def f32_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The inverse of :func:`f32_pack`: ``weight`` float32 [N, K] and ``bias``."""
    weight, bias = core.f32_unpack(_array("packed", packed))
    return torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)


def f32_conv2d_packed_size(weight: torch.Tensor, channels: int = 1, groups: int = 1) -> int:
    """Bytes that :func:`f32_conv2d_pack` makes of ``weight`` in blocks of ``channels`` output channels."""
    rows, sizes = _windows(weight, groups)
    return core.f32_conv2d_packed_size(_array("weight", rows), channels, *sizes, _dtype(weight))


def f32_conv2d_pack(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    channels: int = 1,
    groups: int = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packs a convolution's ``weight`` [O, I / groups, KH, KW], and ``bias`` float32 [O] or None, for ``f32_conv2d``.

    The weight may be float32, bfloat16 or float16; the result is uint8, 1-D.
    ``out`` may bring the :func:`f32_conv2d_packed_size` bytes for it.

    Raises:
        ValueError: a depthwise convolution, other ``channels`` than 1, 2, 4 and 8, or NaN or infinity.
    """
    rows, sizes = _windows(weight, groups)
    packed = _empty_bytes(f32_conv2d_packed_size(weight, channels, groups)) if out is None else out
    arrays = _array("weight", rows), _optional("bias", bias), packed.numpy()
    core.f32_conv2d_pack(*arrays, channels, *sizes, _dtype(weight))
    return packed


def f32_conv2d_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The inverse of :func:`f32_conv2d_pack`: ``weight`` float32 [O, I / groups, KH, KW] and ``bias``."""
    weight, bias = core.f32_conv2d_unpack(_array("packed", packed))
    return torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)


def _windows(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """Filters as rows of what a window meets, its channels innermost; input channels, groups, and the kernel's size."""
    if weight.dim() != 4:
        raise ValueError(f"weight must be filters [O, I / groups, KH, KW], got shape {list(weight.shape)}")
    out, channels, height, width = weight.shape
    rows = weight.detach().permute(0, 2, 3, 1).reshape(out, height * width * channels)
    return rows, (channels * groups, groups, height, width)


def f16_packed_size(weight: torch.Tensor, channels: int = 1) -> int:
    """Bytes that :func:`f16_pack` makes of ``weight`` in blocks of ``channels`` output features."""
    return core.f16_packed_size(_array("weight", weight), channels, _dtype(weight))


def f16_pack(
    weight: torch.Tensor, bias: torch.Tensor | None = None, channels: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    """As :func:`f32_pack`, with weights rounded to float16. See :func:`edgekern.kernels.f16_pack`."""
    packed = _empty_bytes(f16_packed_size(weight, channels)) if out is None else out
    core.f16_pack(_array("weight", weight), _optional("bias", bias), packed.numpy(), channels, _dtype(weight))
    return packed


def f16_unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights as :func:`f16_pack` rounded them, float32 [N, K], and ``bias``."""
    weight, bias = core.f16_unpack(_array("packed", packed))
    return torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)
