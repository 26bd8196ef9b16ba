"""int4: 4-bit weights by groups along K, 8-bit activations (W4A8)."""

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
    code_of,
    data_of,
    name_of,
    run_linear,
)

INT4_FORMS: dict[str, int] = {"dense": 0, "bitmap": 16, "bitmap_2": 17}
"""How an int4 matrix is packed, by name.

``"dense"`` keeps all weights, ``"bitmap"`` those that are not zero and a bit for each place, ``"bitmap_2"`` pairs of
which one is not zero and a bit for each pair, which is expanded faster. Every form holds any matrix and gives the same
bits.
"""

INT4_GROUP_SIZES = (32, 64, 128)
"""How many neighbouring input features may share a scale."""

INT4_CLIPS: dict[str, int] = {"none": 0, "mse": 1, "hqq": 2}
"""What :func:`int4_quantize` may move in to the ends of a group, by name: nothing, what lowers the squared error, or
what lowers an error that counts large ones for less."""


class Int4Packed(Packed):
    """An int4 weight matrix in kernel order, with its scales, zero points and bias.

    Attributes:
        data: the packed bytes, uint8, 1-D, 64-byte aligned. Shared, not copied, when ``data`` came aligned.
        n: output features (rows).
        k: input features (columns).
        has_bias: whether a bias is packed.
        group_size: neighbouring input features that share a scale.
        symmetric: whether all zero points are 8.
        form: a key of :data:`INT4_FORMS`.
    """

    __slots__ = ("form", "group_size", "symmetric")

    maker: ClassVar[str] = "int4_pack"

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, self.group_size, self.symmetric, form = core.int4_describe(self.data)
        self.form = name_of(form, INT4_FORMS)

    def unpack(
        self,
    ) -> tuple[
        npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None
    ]:
        """The exact inverse of :func:`int4_pack`: ``w``, ``scale``, ``zero`` and ``bias``, None where there is none."""
        return core.int4_unpack(self.data)

    def __repr__(self) -> str:
        return (
            f"Int4Packed({self._sizes()}, group_size={self.group_size}, symmetric={self.symmetric}, form={self.form!r})"
        )


def int4_form_code(form: str) -> int:
    """The code of an int4 form's name."""
    return code_of("form", form, INT4_FORMS)


def int4_quantize(
    weight: FloatArray,
    group_size: int = 128,
    *,
    symmetric: bool = True,
    clip: str = "none",
    dtype: BFloat16 | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.uint8] | None]:
    """Quantises weights to int4, rounding to the nearest: ``weight ~ scale * (w - zero)`` by groups along K.

    Symmetric: ``zero`` is 8 and ``scale = max(max(weight) / 7, -min(weight) / 8)`` of each group. Otherwise the group's
    range, widened to include 0, takes all 16 values, and 0.0 is exact. A zero weight stays zero either way. Where all
    weights of a group are such values already, as those of a dequantised matrix are, they stay what they are.

    Args:
        weight: [N, K] float32 or float16, or bfloat16 bits. Finite.
        group_size: 32, 64 or 128; the last group may be shorter.
        clip: a key of :data:`INT4_CLIPS`. ``"mse"`` takes the part of a group's range, of 17 from the whole to half of
            it, that has the lowest squared error; what lies outside is moved in to its ends. ``"hqq"`` lowers the sum
            of ``|error|**0.75`` instead, starting from the best such range, by moving the scale, and the zero point by
            one at most (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog).

    Returns:
        ``w`` uint8 [N, ceil(K / 2)], two weights a byte, even k in the low half; ``scale`` float16 [N, groups];
        ``zero`` uint8 [N, groups], or None when symmetric.
    """
    return core.int4_quantize_rhs(weight, group_size, symmetric, code_of("clip", clip, INT4_CLIPS), dtype)


def int4_pack(
    w: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float16],
    zero: npt.NDArray[np.uint8] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    *,
    k: int,
    group_size: int = 128,
    form: str = "dense",
    isa: str | None = None,
) -> Int4Packed:
    """Packs int4 weights into the order that an ISA's kernels read; other ISAs may refuse them.

    Args:
        w: uint8 [N, ceil(K / 2)], two weights a byte, even k in the low half.
        scale: float16 [N, groups], finite.
        zero: uint8 [N, groups] from 0 to 15, or None: 8 everywhere.
        bias: [N] float32, finite, or None.
        k: input features, which ``w`` does not tell when they are odd.
        group_size: 32, 64 or 128.
        form: a key of :data:`INT4_FORMS`.
    """
    code = int4_form_code(form)
    data = aligned_bytes(core.int4_packed_size(w, scale, zero, k, group_size, code, isa))
    core.int4_pack(w, scale, zero, bias, k, group_size, data, code, isa)
    return Int4Packed(data)


def int4_linear(
    x: FloatArray,
    packed: Int4Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer: ``act(x @ weight.T + bias)`` with x quantised to uint8 row by row at run time.

    Sums over a group are exact integers; groups are added up in float32, in order.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits. A row with NaN or Inf gives a row of NaN.
        packed: weights [N, K] and bias from :func:`int4_pack`, for the same ISA.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.
    """
    return run_linear(core.int4_linear, x, data_of(packed, Int4Packed), activation, isa, dtype)
