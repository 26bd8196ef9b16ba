"""int8: 8-bit weights with one scale a row, 8-bit activations (W8A8)."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from edgekern._lib import core
from edgekern.kernels.packed import (
    BFloat16,
    FloatArray,
    Packed,
    aligned_bytes,
    code_of,
    data_of,
    describe,
    name_of,
    run_linear,
)

FORMS: dict[str, int] = {
    "dense": 0,
    "blocks_1": 1,
    "blocks_2": 2,
    "blocks_4": 4,
    "blocks_8": 8,
    "csr": 32,
    "bitmap": 16,
    "bitmap_4": 17,
}
"""How an int8 matrix is packed, by name, to the code the native side uses.

Every form holds any matrix and gives the same results. ``"dense"`` keeps all weights. ``"blocks_R"`` keeps, and
multiplies, only blocks of R output channels x 2 or 4 input features (by ISA) that hold a weight which is not zero.
``"csr"`` keeps, and multiplies, only the weights that are not zero, each with its input feature.
``"bitmap"`` keeps the weights that are not zero and a bit for each place, ``"bitmap_4"`` does so by 4 neighbouring
input features; both are expanded on the way, so they save memory, and time where reading it takes the time.
"""

Range: TypeAlias = tuple[float, int]
"""A range of activations, ``x ~ scale * (q - zero_point)``: scale, from 2^-100 to 2^100, and zero point, 0 to 255."""


class Int8Packed(Packed):
    """An int8 weight matrix in kernel order, with its scales and bias.

    The layout is private to a version and a build; keep the canonical ``(q, scale, bias)`` of :meth:`unpack` on disk.

    Attributes:
        data: the packed bytes, uint8, 1-D, 64-byte aligned. Shared, not copied, when ``data`` came aligned.
        n: output features (rows).
        k: input features (columns).
        has_bias: whether a bias is packed.
        form: a key of :data:`FORMS`.
        input_range: scale and zero point that all activations are rounded by; None where each row has its own.
    """

    __slots__ = ("form", "input_range")

    maker: ClassVar[str] = "int8_pack"

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, form, self.input_range = core.int8_describe(self.data)
        self.form = name_of(form, FORMS)

    def unpack(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The exact inverse of :func:`int8_pack`.

        Returns:
            ``q`` int8 [N, K], ``scale`` float32 [N] and ``bias`` float32 [N], or None when there is none.
        """
        return core.int8_unpack(self.data)

    def __repr__(self) -> str:
        return f"Int8Packed({self._sizes()}, form={self.form!r})"


def int8_quantize(
    weight: FloatArray, dtype: BFloat16 | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantises weights to int8, symmetric, one scale per row.

    ``scale[n] = max|weight[n]| / 127`` (1 for a zero row) and ``q = round_half_even(weight / scale)``.

    Args:
        weight: [N, K] float32 or float16, or bfloat16 bits. Finite.

    Returns:
        ``q`` int8 [N, K] and ``scale`` float32 [N].
    """
    return core.int8_quantize_rhs(weight, dtype)


def form_code(form: str) -> int:
    """The code of a form's name."""
    return code_of("form", form, FORMS)


def int8_pack(
    q: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    form: str = "dense",
    input_range: Range | None = None,
    isa: str | None = None,
) -> Int8Packed:
    """Packs int8 weights into the order that an ISA's kernels read; other ISAs may refuse them.

    Args:
        q: [N, K] int8; every value is allowed, -128 too.
        scale: [N] float32, finite.
        bias: [N] float32, or None.
        form: a key of :data:`FORMS`.
        input_range: scale and zero point to round all activations by, whatever they hold; what lies beyond saturates.
            None: each row's own.
    """
    if not isinstance(q, np.ndarray) or q.ndim != 2:
        raise TypeError(f"q must be an int8 NumPy array of shape [N, K], got {describe(q)}")
    code = form_code(form)
    data = aligned_bytes(core.int8_packed_size(q, code, isa))
    core.int8_pack(q, scale, bias, data, code, isa)
    core.int8_set_range(data, input_range)
    return Int8Packed(data)


def int8_linear(
    x: FloatArray,
    packed: Int8Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer: ``act(x @ weight.T + bias)`` with x quantised at run time, by rows or ``packed``'s range.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits. A row with NaN or Inf gives a row of NaN.
        packed: weights [N, K] and bias from :func:`int8_pack`, for the same ISA.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.
    """
    return run_linear(core.int8_linear, x, data_of(packed, Int8Packed), activation, isa, dtype)


def int8_quantize_lhs(
    x: FloatArray, *, input_range: Range | None = None, isa: str | None = None, dtype: BFloat16 | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The activation half of :func:`int8_linear`: x to uint8, asymmetric, one scale and zero point per row.

    ``x[m] ~ scale[m] * (q[m] - zero_point[m])`` over the row's range widened to include 0, so that 0 is exact. A zero
    row has scale 1 and a row with NaN or Inf has scale NaN; both have zero point 0 and q 0.

    Args:
        x: [M, K] float32 or float16, or bfloat16 bits.
        input_range: scale and zero point for all rows that are finite, in place of each row's own.

    Returns:
        ``q`` uint8 [M, K], ``scale`` float32 [M], ``zero_point`` int32 [M] in 0..255.
    """
    return core.int8_quantize_lhs(x, isa, dtype, input_range)


def int8_matmul(
    q: npt.NDArray[np.uint8], zero_point: npt.NDArray[np.int32], packed: Int8Packed, *, isa: str | None = None
) -> npt.NDArray[np.int32]:
    """The integer half of :func:`int8_linear`: ``acc[m, n] = sum_k (q[m, k] - zero_point[m]) * w[n, k]``, exactly.

    Args:
        q: [M, K] uint8, K at most 65536.
        zero_point: [M] int32 in 0..255.

    Returns:
        int32 [M, N], the same on every ISA.
    """
    return core.int8_matmul(q, zero_point, data_of(packed, Int8Packed), isa)
