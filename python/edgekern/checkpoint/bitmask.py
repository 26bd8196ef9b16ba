"""Pruned weights on disk: one bit for every weight, and the values of those that are not zero.

The layout and the names are those of compressed-tensors' format ``sparse-bitmask``. A module's ``weight`` becomes

- ``shape``: int64, its sizes; below it is read as a matrix [rows, columns], the first size being the rows
- ``bitmask``: uint8 [rows, ceil(columns / 8)], bit ``c % 8`` of byte ``c / 8`` is set where column ``c`` is not zero
- ``compressed``: the weight's dtype, 1-D, the values that are not zero, row by row
- ``row_offsets``: int64 [rows, 1], where each row's values start
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgekern.checkpoint.errors import CheckpointCorruptError

WEIGHT = "weight"
PARTS = ("shape", "bitmask", "compressed", "row_offsets")
_WORTHWHILE = 0.9  # share of the dense bytes below which the split is written


def split(weight: Tensor) -> dict[str, Tensor] | None:
    """The parts of a weight of two dimensions or more; None when they would take about as many bytes as it does."""
    if weight.ndim < 2 or not weight.numel():
        return None
    matrix = weight.reshape(len(weight), -1)
    return split_by(matrix != 0, matrix, weight.shape, 8 * weight.element_size())


def split_by(kept: Tensor, matrix: Tensor, shape: torch.Size, bits: int) -> dict[str, Tensor] | None:
    """The parts of a matrix of which ``kept`` says what is not zero; None when they are not worthwhile.

    ``bits`` is what a value takes on disk, and ``shape`` that of the weight that the matrix stands for.
    """
    rows, columns = matrix.shape
    values = int(kept.sum())
    size = values * bits / 8 + rows * (math.ceil(columns / 8) + 8)
    if size > _WORTHWHILE * matrix.numel() * bits / 8:
        return None
    ends = kept.sum(1, keepdim=True).cumsum(0)
    return {
        "shape": torch.tensor(shape, device="cpu"),
        "bitmask": torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little")),
        "compressed": matrix[kept],
        "row_offsets": torch.cat([torch.zeros(1, 1, dtype=torch.int64, device="cpu"), ends[:-1]]),
    }


def join(parts: Mapping[str, Tensor], name: str) -> Tensor:
    """The inverse of :func:`split`.

    Raises:
        CheckpointCorruptError: the parts do not belong together.
    """
    sizes, kept = mask_of(parts, name)
    matrix = torch.zeros(kept.shape, dtype=parts["compressed"].dtype, device="cpu")
    return fill(matrix, kept, parts["compressed"], name).reshape(sizes)


def mask_of(parts: Mapping[str, Tensor], name: str) -> tuple[tuple[int, ...], Tensor]:
    """The weight's shape, and which values are kept: bool [rows, columns]."""
    sizes = tuple(map(int, parts["shape"].flatten()))
    rows, columns = (sizes[0], math.prod(sizes[1:])) if len(sizes) >= 2 and min(sizes) >= 0 else (0, 0)
    bitmask = parts["bitmask"]
    if len(sizes) < 2 or bitmask.dtype != torch.uint8 or tuple(bitmask.shape) != (rows, math.ceil(columns / 8)):
        raise CheckpointCorruptError(
            f"{name!r}: its mask of {bitmask.dtype} {list(bitmask.shape)} does not fit its shape {list(sizes)}"
        )
    kept = np.unpackbits(bitmask.numpy(), axis=1, count=columns, bitorder="little")
    return sizes, torch.from_numpy(kept.view(bool))


def fill(matrix: Tensor, kept: Tensor, values: Tensor, name: str) -> Tensor:
    """``matrix`` with the values where ``kept`` says so."""
    count = int(kept.sum())
    if values.ndim != 1 or len(values) != count:
        raise CheckpointCorruptError(f"{name!r}: its mask keeps {count} weights, but {list(values.shape)} are stored")
    matrix[kept] = values
    return matrix
