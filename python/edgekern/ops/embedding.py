"""Embeddings, which read rows of what ``int8_pack`` or ``int4_pack`` made in the dense form:

``int8_embedding(Tensor indices, Tensor packed, SymInt embedding_dim, int dtype) -> Tensor``
``int4_embedding(Tensor indices, Tensor packed, SymInt embedding_dim, int dtype) -> Tensor``

- ``indices``: [...] int64 or int32 on CPU, any strides, from 0 to N - 1; IndexError for others
- ``packed``: uint8, 1-D, from :func:`~edgekern.ops.int8_pack` or :func:`~edgekern.ops.int4_pack`
- ``embedding_dim``: K, which fake tensors cannot read from ``packed``
- ``dtype``: a code of :data:`~edgekern.ops.FLOATS`
- result: [..., K] of that dtype, contiguous
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgekern.ops.registration import DTYPES, register


def _fake_embedding(op: str) -> Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]:
    """What an embedding op does with fake tensors."""

    def embedding(indices: torch.Tensor, packed: torch.Tensor, embedding_dim: int, dtype: int) -> torch.Tensor:
        if indices.device.type != "cpu" or packed.device.type != "cpu":
            raise ValueError(
                f"edgekern.{op}: indices and packed must be on the CPU, got {indices.device} and {packed.device}; "
                "move the model with model.cpu() and the indices with .cpu(), or call edgekern.dense_(model) to run "
                "elsewhere"
            )
        if indices.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"edgekern.{op}: indices must be int64 or int32, got {indices.dtype}; convert them with .long()"
            )
        return indices.new_empty((*indices.shape, embedding_dim), dtype=DTYPES[dtype])

    return embedding


for _op in ("int8_embedding", "int4_embedding"):
    register(_op, _fake_embedding(_op))
