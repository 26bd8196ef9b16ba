"""Pruned int4 weights on disk: as ``bitmask.py`` has it, but for ``compressed``, which holds two values a byte.

A weight is zero where its value is the zero point of its group. ``shape`` and ``bitmask`` are those of the weights, not
of the bytes that hold two; of an odd number of values, the last byte's high half is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgekern import ops
from edgekern.checkpoint.bitmask import fill, mask_of, split_by
from edgekern.checkpoint.errors import CheckpointCorruptError


def split(weight: Tensor, zero: Tensor | None, k: int, group_size: int) -> dict[str, Tensor] | None:
    """The parts of a canonical int4 weight [N, ceil(K / 2)]; None when they would take about as many bytes."""
    values = ops.int4_unpair(weight, k)
    parts = split_by(values != _zeros(values.shape, zero, group_size), values, values.shape, 4)
    return parts and {**parts, "compressed": ops.int4_pair(parts["compressed"][None])[0]}


def join(parts: Mapping[str, Tensor], zero: Tensor | None, group_size: int, name: str) -> Tensor:
    """The inverse of :func:`split`.

    Raises:
        CheckpointCorruptError: the parts do not belong together.
    """
    _, kept = mask_of(parts, name)
    pairs = parts["compressed"]
    if pairs.ndim != 1 or pairs.dtype != torch.uint8 or len(pairs) != -(-int(kept.sum()) // 2):
        raise CheckpointCorruptError(
            f"{name!r}: its mask keeps {int(kept.sum())} weights, but {pairs.dtype} {list(pairs.shape)} are stored"
        )
    if zero is not None and tuple(zero.shape) != (len(kept), -(-kept.shape[1] // group_size)):
        raise CheckpointCorruptError(
            f"{name!r}: zero points of shape {list(zero.shape)} do not fit {list(kept.shape)} weights "
            f"by groups of {group_size}"
        )
    values = ops.int4_unpair(pairs[None], int(kept.sum()))[0]
    return ops.int4_pair(fill(_zeros(kept.shape, zero, group_size), kept, values, name))


def _zeros(shape: torch.Size, zero: Tensor | None, group_size: int) -> Tensor:
    """What stands for zero in each place: uint8 [N, K]."""
    if zero is None:
        return torch.full(shape, 8, dtype=torch.uint8, device="cpu")
    return zero.repeat_interleave(group_size, 1)[:, : shape[1]].contiguous()
