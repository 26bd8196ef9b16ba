"""The native kernels over NumPy arrays. Works without torch.

Names: ``lhs`` are activations ``[M, K]``, ``rhs`` are weights ``[N, K]``, both row-major. bfloat16, which NumPy lacks,
travels as its bits: a ``uint16`` array with ``dtype="bfloat16"``.

Every function raises ``TypeError`` for a wrong dtype and ``ValueError`` for a wrong shape or value, and names the
argument. ``isa`` picks a kernel by name (see :func:`isas`); ``None`` is the best this CPU runs, or what the environment
variable ``EDGEKERN_ISA`` names.
"""

from __future__ import annotations

import math
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

from edgekern._lib import core, get_num_threads, set_num_threads

__all__ = [
    "ACTIVATIONS",
    "F32_CHANNELS",
    "FORMS",
    "INT4_FORMS",
    "F32Packed",
    "Int4Packed",
    "Int8Packed",
    "cpu",
    "default_isa",
    "f32_linear",
    "f32_pack",
    "form_code",
    "get_num_threads",
    "int4_form_code",
    "int4_linear",
    "int4_pack",
    "int4_quantize",
    "int8_linear",
    "int8_matmul",
    "int8_pack",
    "int8_quantize",
    "int8_quantize_lhs",
    "isas",
    "set_num_threads",
]

ACTIVATIONS: dict[str, int] = {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}
"""Activation name to the code the native side uses."""

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

INT4_FORMS: dict[str, int] = {"dense": 0, "bitmap": 16, "bitmap_2": 17}
"""How an int4 matrix is packed, by name.

``"dense"`` keeps all weights, ``"bitmap"`` those that are not zero and a bit for each place, ``"bitmap_2"`` pairs of
which one is not zero and a bit for each pair, which is expanded faster. Every form holds any matrix and gives the same
bits.
"""

F32_CHANNELS = (1, 2, 4, 8)
"""Output features that a block of :func:`f32_pack` may span."""

_ALIGNMENT = 64  # bytes: one packed line

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
BFloat16 = Literal["bfloat16"]


class Isa(TypedDict):
    """One kernel family: its name, whether this CPU runs it, and the CPU features it lacks if not."""

    name: str
    supported: bool
    missing: list[str]


class Cpu(TypedDict):
    """The CPU's brand string and the features that kernels are chosen by."""

    name: str
    features: list[str]


def isas() -> list[Isa]:
    """Every ISA compiled into this build, best first."""
    return core.isas()


def default_isa() -> str:
    """The ISA that runs when none is asked for."""
    return core.default_isa()


def cpu() -> Cpu:
    """The CPU this process runs on."""
    return core.cpu()


def _aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """An uninitialised 1-D uint8 array that starts at a multiple of 64 bytes."""
    raw = np.empty(size + _ALIGNMENT - 1, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


class _Packed:
    """A weight matrix and its bias in kernel order. The layout is private to a version and a build."""

    __slots__ = ("data", "has_bias", "k", "n")

    data: npt.NDArray[np.uint8]
    n: int
    k: int
    has_bias: bool

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        if isinstance(data, np.ndarray) and data.ndim == 1 and data.ctypes.data % _ALIGNMENT != 0:
            aligned = _aligned_bytes(data.size)
            aligned[:] = data
            data = aligned
        self.data = data

    @property
    def nbytes(self) -> int:
        """Bytes of memory the packed matrix takes."""
        return self.data.nbytes

    def __reduce__(self) -> tuple[type[_Packed], tuple[npt.NDArray[np.uint8]]]:
        return type(self), (self.data,)  # pickle and copy through __init__, which restores the alignment

    def _sizes(self) -> str:
        return f"n={self.n}, k={self.k}, has_bias={self.has_bias}, nbytes={self.nbytes}"


class Int8Packed(_Packed):
    """An int8 weight matrix in kernel order, with its scales and bias.

    The layout is private to a version and a build; keep the canonical ``(q, scale, bias)`` of :meth:`unpack` on disk.

    Attributes:
        data: the packed bytes, uint8, 1-D, 64-byte aligned. Shared, not copied, when ``data`` came aligned.
        n: output features (rows).
        k: input features (columns).
        has_bias: whether a bias is packed.
        form: a key of :data:`FORMS`.
    """

    __slots__ = ("form",)

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, form = core.int8_describe(self.data)
        self.form = next(name for name, code in FORMS.items() if code == form)

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
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
    return FORMS[form]


def int8_pack(
    q: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    form: str = "dense",
    isa: str | None = None,
) -> Int8Packed:
    """Packs int8 weights into the order that an ISA's kernels read; other ISAs may refuse them.

    Args:
        q: [N, K] int8; every value is allowed, -128 too.
        scale: [N] float32, finite.
        bias: [N] float32, or None.
        form: a key of :data:`FORMS`.
    """
    if not isinstance(q, np.ndarray) or q.ndim != 2:
        raise TypeError(f"q must be an int8 NumPy array of shape [N, K], got {_describe(q)}")
    code = form_code(form)
    data = _aligned_bytes(core.int8_packed_size(q, code, isa))
    core.int8_pack(q, scale, bias, data, code, isa)
    return Int8Packed(data)


def int8_linear(
    x: FloatArray,
    packed: Int8Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer: ``act(x @ weight.T + bias)`` with x quantised row by row at run time.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits. A row with NaN or Inf gives a row of NaN.
        packed: weights [N, K] and bias from :func:`int8_pack`, for the same ISA.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.
    """
    y = core.int8_linear(_as_matrix("x", x), _data(packed, Int8Packed), _code(activation), isa, dtype)
    return y.reshape(*x.shape[:-1], y.shape[1])


def int8_quantize_lhs(
    x: FloatArray, *, isa: str | None = None, dtype: BFloat16 | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The activation half of :func:`int8_linear`: x to uint8, asymmetric, one scale and zero point per row.

    ``x[m] ~ scale[m] * (q[m] - zero_point[m])`` over the row's range widened to include 0, so that 0 is exact. A zero
    row has scale 1 and a row with NaN or Inf has scale NaN; both have zero point 0 and q 0.

    Args:
        x: [M, K] float32 or float16, or bfloat16 bits.

    Returns:
        ``q`` uint8 [M, K], ``scale`` float32 [M], ``zero_point`` int32 [M] in 0..255.
    """
    return core.int8_quantize_lhs(x, isa, dtype)


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
    return core.int8_matmul(q, zero_point, _data(packed, Int8Packed), isa)


class Int4Packed(_Packed):
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

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        super().__init__(data)
        self.n, self.k, self.has_bias, self.group_size, self.symmetric, form = core.int4_describe(self.data)
        self.form = next(name for name, code in INT4_FORMS.items() if code == form)

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
    if form not in INT4_FORMS:
        raise ValueError(f"form must be one of {', '.join(INT4_FORMS)}; got {form!r}")
    return INT4_FORMS[form]


def int4_quantize(
    weight: FloatArray, group_size: int = 128, *, symmetric: bool = True, dtype: BFloat16 | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.uint8] | None]:
    """Quantises weights to int4, rounding to the nearest: ``weight ~ scale * (w - zero)`` by groups along K.

    Symmetric: ``zero`` is 8 and ``scale = max(max(weight) / 7, -min(weight) / 8)`` of each group. Otherwise the group's
    range, widened to include 0, takes all 16 values, and 0.0 is exact. A zero weight stays zero either way.

    Args:
        weight: [N, K] float32 or float16, or bfloat16 bits. Finite.
        group_size: 32, 64 or 128; the last group may be shorter.

    Returns:
        ``w`` uint8 [N, ceil(K / 2)], two weights a byte, even k in the low half; ``scale`` float16 [N, groups];
        ``zero`` uint8 [N, groups], or None when symmetric.
    """
    return core.int4_quantize_rhs(weight, group_size, symmetric, dtype)


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
    data = _aligned_bytes(core.int4_packed_size(w, scale, zero, k, group_size, code, isa))
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
    y = core.int4_linear(_as_matrix("x", x), _data(packed, Int4Packed), _code(activation), isa, dtype)
    return y.reshape(*x.shape[:-1], y.shape[1])


class F32Packed(_Packed):
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
    data = _aligned_bytes(core.f32_packed_size(weight, channels, dtype))
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
    y = core.f32_linear(_as_matrix("x", x), _data(packed, F32Packed), _code(activation), isa, dtype)
    return y.reshape(*x.shape[:-1], y.shape[1])


def _as_matrix(name: str, x: object) -> np.ndarray:
    """x [..., K] as [M, K]; copied only when its leading dimensions do not fold."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        raise TypeError(f"{name} must be a NumPy array of shape [..., K], got {_describe(x)}")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _code(activation: str) -> int:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    return ACTIVATIONS[activation]


def _data(packed: object, kind: type[_Packed]) -> npt.NDArray[np.uint8]:
    if not isinstance(packed, kind):
        maker = {Int8Packed: "int8_pack", Int4Packed: "int4_pack", F32Packed: "f32_pack"}[kind]
        raise TypeError(f"packed must be an {kind.__name__} from {maker}, got {_describe(packed)}")
    return packed.data


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return type(value).__name__
