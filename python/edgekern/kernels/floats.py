"""f32 and f16: weights that stay floats, without their zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgekern._lib import core
from edgekern.kernels.packed import (
    BFloat16,
    FloatArray,
    Packed,
    aligned_bytes,
    data_of,
    run_linear,
)

F32_CHANNELS = (1, 2, 4, 8)
"""Output features that a block of :func:`f32_pack` or :func:`f16_pack` may span."""


class FloatPacked(Packed):
    """A float weight matrix of which only blocks that hold a weight are kept, with its bias.

    Attributes:
        data: the packed bytes, uint8, 1-D, 64-byte aligned. Shared, not copied, when ``data`` came aligned. Every ISA
            reads the same; the layout is private to a version.
        n: output features (rows).
        k: input features (columns).
        has_bias: whether a bias is packed.
        channels: output features of a block.
        blocks: how many are kept.
    """

    __slots__ = ("blocks", "channels")

    _describe: ClassVar[Callable[[npt.NDArray[np.uint8]], tuple[int, int, bool, int, int]]]

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, self.channels, self.blocks = type(self)._describe(self.data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sizes()}, channels={self.channels}, blocks={self.blocks})"


class F32Packed(FloatPacked):
    """Weights as float32; see :class:`FloatPacked`."""

    __slots__ = ()

    maker: ClassVar[str] = "f32_pack"
    _describe = core.f32_describe

    def unpack(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The inverse of :func:`f32_pack`, exact but for -0, which comes back as 0.

        Returns:
            ``weight`` float32 [N, K] and ``bias`` float32 [N], or None when there is none.
        """
        return core.f32_unpack(self.data)


class F16Packed(FloatPacked):
    """Weights as float16 times a power of two for each output feature; see :class:`FloatPacked`."""

    __slots__ = ()

    maker: ClassVar[str] = "f16_pack"
    _describe = core.f16_describe

    def unpack(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The weights as :func:`f16_pack` rounded them, which it packs again without rounding.

        Returns:
            ``weight`` float32 [N, K] and ``bias`` float32 [N], or None when there is none.
        """
        return core.f16_unpack(self.data)


def f32_pack(
    weight: FloatArray,
    bias: npt.NDArray[np.float32] | None = None,
    *,
    channels: int = 1,
    dtype: BFloat16 | None = None,
) -> F32Packed:
    """Packs weights that are mostly zeros, as float32: blocks of ``channels`` output features at one input feature.

    Args:
        weight: [N, K] float32 or float16, or bfloat16 bits. Finite.
        bias: [N] float32, finite, or None.
        channels: 1, 2, 4 or 8. A block is kept, zeros included, when any of its weights is not zero: 1 keeps the
            fewest weights; more are faster where the zeros themselves come in blocks of that height.
    """
    data = aligned_bytes(core.f32_packed_size(weight, channels, dtype))
    core.f32_pack(weight, bias, data, channels, dtype)
    return F32Packed(data)


def f32_linear(
    x: FloatArray,
    packed: F32Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer in float32: ``act(x @ weight.T + bias)`` over the kept blocks alone.

    Zeros outside kept blocks are not multiplied, so NaN or Inf in x reaches only the outputs that a kept block ties it
    to. The order of the sum depends on the ISA and on the number of rows, its bits not on the number of threads.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits.
        packed: weights [N, K] and bias from :func:`f32_pack`.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.
    """
    return run_linear(core.f32_linear, x, data_of(packed, F32Packed), activation, isa, dtype)


def f16_pack(
    weight: FloatArray,
    bias: npt.NDArray[np.float32] | None = None,
    *,
    channels: int = 1,
    dtype: BFloat16 | None = None,
) -> F16Packed:
    """The same as float16: half the bytes, and each weight rounded to float16 times a power of two of its feature.

    A weight changes by at most 2^-11 of itself, or 2^-25 of the largest of its output feature where that is more.
    Arguments are those of :func:`f32_pack`.
    """
    data = aligned_bytes(core.f16_packed_size(weight, channels, dtype))
    core.f16_pack(weight, bias, data, channels, dtype)
    return F16Packed(data)


def f16_linear(
    x: FloatArray,
    packed: F16Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer of float16 weights: ``act(x @ weight.T + bias)`` over the kept blocks alone.

    Where :func:`f16_halves` is true x is rounded to float16 as well, times a power of two of its row, sums of up to 64
    products are float16, and a row that holds NaN or Inf gives a row of NaN. Elsewhere everything is as in
    :func:`f32_linear`. ``edgekern.h`` has the bounds of the error.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits.
        packed: weights [N, K] and bias from :func:`f16_pack`.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.
    """
    return run_linear(core.f16_linear, x, data_of(packed, F16Packed), activation, isa, dtype)


def f16_halves(isa: str | None = None) -> bool:
    """Whether an ISA multiplies float16 numbers, as ARM's from ARMv8.2 on do, or makes float32 of the weights."""
    return core.f16_halves(isa)
