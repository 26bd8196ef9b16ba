"""f32: weights that stay floats, without their zeros."""

from __future__ import annotations

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
"""Output features that a block of :func:`f32_pack` may span."""


class F32Packed(Packed):
    """A float32 weight matrix of which only blocks that hold a weight are kept, with its bias.

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

    maker: ClassVar[str] = "f32_pack"

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, self.channels, self.blocks = core.f32_describe(self.data)

    def unpack(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The inverse of :func:`f32_pack`, exact but for -0, which comes back as 0.

        Returns:
            ``weight`` float32 [N, K] and ``bias`` float32 [N], or None when there is none.
        """
        return core.f32_unpack(self.data)

    def __repr__(self) -> str:
        return f"F32Packed({self._sizes()}, channels={self.channels}, blocks={self.blocks})"


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
