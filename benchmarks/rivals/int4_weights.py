"""int4 weights by groups, as the rivals' own quantisers round them when they are given no data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rivals.linear_layer import FloatArray

GROUP = 128  # edgekern.Int4's default, and that of the rivals' quantisers


class Int4Weights(NamedTuple):
    """weight = scale * (levels - zero), group by group."""

    levels: NDArray[np.uint8]  # [N, groups, group], 0 to 15
    scale: FloatArray  # [N, groups, 1]
    zero: NDArray[np.uint8]  # [N, groups, 1], 0 to 15


def quantize_int4(weight: FloatArray, group: int) -> Int4Weights:
    """Round weight [N, K] to 16 levels that span each group of K, 0 among them. The last group is filled with zeros."""
    n, k = weight.shape
    groups = -(-k // group)
    values = np.pad(weight, ((0, 0), (0, groups * group - k))).reshape(n, groups, group)
    low = np.minimum(values.min(axis=2, keepdims=True), 0)
    high = np.maximum(values.max(axis=2, keepdims=True), 0)
    scale = (high - low) / np.float32(15)
    scale[scale == 0] = 1
    zero = np.rint(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero, 0, 15)
    return Int4Weights(levels.astype(np.uint8), scale, zero.astype(np.uint8))


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., C] of 0 to 15 as [..., ceil(C / 2)] bytes, the first of two in the low half."""
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return values[..., 0::2] | values[..., 1::2] << 4
