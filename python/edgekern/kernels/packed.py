"""What the formats have in common: packed bytes, names of codes, and the call of a whole layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

ACTIVATIONS: dict[str, int] = {
    "none": 0,
    "relu": 1,
    "gelu": 2,
    "gelu_tanh": 3,
    "silu": 4,
    "relu6": 5,
    "hardswish": 6,
}
"""Activation name to the code the native side uses."""

_ALIGNMENT = 64  # bytes: one packed line

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
BFloat16 = Literal["bfloat16"]


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """An uninitialised 1-D uint8 array that starts at a multiple of 64 bytes."""
    raw = np.empty(size + _ALIGNMENT - 1, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


class Packed:
    """A weight matrix and its bias in kernel order. The layout is private to a version and a build."""

    __slots__ = ("data", "has_bias", "k", "n")

    maker: ClassVar[str]
    """The function that packs it."""

    data: npt.NDArray[np.uint8]
    n: int
    k: int
    has_bias: bool

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        if isinstance(data, np.ndarray) and data.ndim == 1 and data.ctypes.data % _ALIGNMENT != 0:
            aligned = aligned_bytes(data.size)
            aligned[:] = data
            data = aligned
        self.data = data

    @property
    def nbytes(self) -> int:
        """Bytes of memory the packed matrix takes."""
        return self.data.nbytes

    def __reduce__(self) -> tuple[type[Packed], tuple[npt.NDArray[np.uint8]]]:
        return type(self), (self.data,)  # pickle and copy through __init__, which restores the alignment

    def _sizes(self) -> str:
        return f"n={self.n}, k={self.k}, has_bias={self.has_bias}, nbytes={self.nbytes}"


def code_of(argument: str, name: str, codes: Mapping[str, int]) -> int:
    """The native code of a name; ValueError with the names there are for another one."""
    if name not in codes:
        raise ValueError(f"{argument} must be one of {', '.join(codes)}; got {name!r}")
    return codes[name]


def name_of(code: int, codes: Mapping[str, int]) -> str:
    """The name of a native code."""
    return next(name for name, known in codes.items() if known == code)


def data_of(packed: object, kind: type[Packed]) -> npt.NDArray[np.uint8]:
    """The bytes of a packed matrix; TypeError when it is not of this kind."""
    if not isinstance(packed, kind):
        raise TypeError(f"packed must be an {kind.__name__} from {kind.maker}, got {describe(packed)}")
    return packed.data


def run_linear(
    op: Callable[..., np.ndarray],
    x: FloatArray,
    data: npt.NDArray[np.uint8],
    activation: str,
    isa: str | None,
    dtype: BFloat16 | None,
) -> FloatArray:
    """A native linear layer over x [..., K], its leading dimensions folded; copied only when they do not fold."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        raise TypeError(f"x must be a NumPy array of shape [..., K], got {describe(x)}")
    matrix = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = op(matrix, data, code_of("activation", activation, ACTIVATIONS), isa, dtype)
    return y.reshape(*x.shape[:-1], y.shape[1])


def describe(value: object) -> str:
    """What ``value`` is, for a message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return type(value).__name__
