"""Rows of packed int8 and int4 matrices as floats: what an embedding does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgekern._lib import core
from edgekern.kernels.int4 import Int4Packed
from edgekern.kernels.int8 import Int8Packed
from edgekern.kernels.packed import FloatArray, code_of, data_of, describe

FLOATS: dict[str, int] = {"float32": 0, "float16": 1, "bfloat16": 2}
"""What rows may be read as, by name, to the code the native side uses."""

Indices = npt.NDArray[np.int64] | npt.NDArray[np.int32]


def int8_embedding(
    indices: Indices, packed: Int8Packed, dtype: str = "float32", *, isa: str | None = None
) -> FloatArray:
    """Rows of an int8 matrix as floats: ``scale[indices] * q[indices]``, rounded once to ``dtype``.

    Args:
        indices: [...] int64 or int32, from 0 to N - 1.
        packed: weights [N, K] from :func:`int8_pack`, in the dense form. A bias has no part in it.
        dtype: a key of :data:`FLOATS`.

    Returns:
        [..., K]; bfloat16 as uint16 bits.

    Raises:
        IndexError: an index that is negative, or N or more.
        ValueError: another form than the dense one.
    """
    return _rows(core.int8_embedding, indices, data_of(packed, Int8Packed), dtype, isa)


def int4_embedding(
    indices: Indices, packed: Int4Packed, dtype: str = "float32", *, isa: str | None = None
) -> FloatArray:
    """Rows of an int4 matrix as floats: ``scale * (w - zero)``; see :func:`int8_embedding`."""
    return _rows(core.int4_embedding, indices, data_of(packed, Int4Packed), dtype, isa)


def _rows(
    read: Callable[..., np.ndarray], indices: Indices, data: npt.NDArray[np.uint8], dtype: str, isa: str | None
) -> FloatArray:
    if not isinstance(indices, np.ndarray):
        raise TypeError(f"indices must be a NumPy array of int64 or int32, got {describe(indices)}")
    rows = read(indices.reshape(math.prod(indices.shape)), data, code_of("dtype", dtype, FLOATS), isa)
    return rows.reshape(*indices.shape, rows.shape[1])
