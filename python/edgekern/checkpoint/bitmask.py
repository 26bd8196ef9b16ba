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
    kept = matrix != 0
    rows, columns = matrix.shape
    values = int(kept.sum())
    size = values * weight.element_size() + rows * (math.ceil(columns / 8) + 8)
    if size > _WORTHWHILE * weight.nbytes:
        return None
    ends = kept.sum(1, keepdim=True).cumsum(0)
    return {
        "shape": torch.tensor(weight.shape, device="cpu"),
        "bitmask": torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little")),
        "compressed": matrix[kept],
        "row_offsets": torch.cat([torch.zeros(1, 1, dtype=torch.int64, device="cpu"), ends[:-1]]),
    }


def join(parts: Mapping[str, Tensor], name: str) -> Tensor:
    """The inverse of :func:`split`.

    Raises:
        CheckpointCorruptError: the parts do not belong together.
    """
    sizes = tuple(map(int, parts["shape"].flatten()))
    rows, columns = (sizes[0], math.prod(sizes[1:])) if len(sizes) >= 2 and min(sizes) >= 0 else (0, 0)
    bitmask, values = parts["bitmask"], parts["compressed"]
    if len(sizes) < 2 or bitmask.dtype != torch.uint8 or tuple(bitmask.shape) != (rows, math.ceil(columns / 8)):
        raise CheckpointCorruptError(
            f"{name!r}: its mask of {bitmask.dtype} {list(bitmask.shape)} does not fit its shape {list(sizes)}"
        )
    kept = torch.from_numpy(np.unpackbits(bitmask.numpy(), axis=1, count=columns, bitorder="little").view(bool))
    count = int(kept.sum())
    if values.ndim != 1 or len(values) != count:
        raise CheckpointCorruptError(f"{name!r}: its mask keeps {count} weights, but {list(values.shape)} are stored")
    matrix = torch.zeros(rows, columns, dtype=values.dtype, device="cpu")
    matrix[kept] = values
    return matrix.reshape(sizes)


def split_all(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors as they are stored, and the names of the weights among them that were split."""
    stored: dict[str, Tensor] = {}
    names = []
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        free = owner and leaf == WEIGHT and not any(f"{owner}.{part}" in tensors for part in PARTS)
        parts = split(tensor) if free else None
        if parts is None:
            stored[name] = tensor
        else:
            stored.update({f"{owner}.{part}": value for part, value in parts.items()})
            names.append(name)
    return stored, tuple(names)


def join_all(stored: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """The inverse of :func:`split_all`, for those of ``names`` whose parts are in ``stored``."""
    tensors = dict(stored)
    for name in names:
        owner = name.rpartition(".")[0]
        if f"{owner}.bitmask" in tensors:
            tensors[name] = join({part: tensors.pop(f"{owner}.{part}") for part in PARTS}, name)
    return tensors
