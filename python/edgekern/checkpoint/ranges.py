"""Reading single tensors of a safetensors file, without mapping it: what is not asked for takes no memory at all.

A mapped file counts as memory of the process by some limits (``ulimit -v``, ``ulimit -d``) as a whole, and by others as
far as it was read. For ranks that may not hold a whole model, that is too much.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekern.checkpoint.errors import CheckpointCorruptError
from edgekern.checkpoint.stream import CODES

_DTYPES = {code: dtype for dtype, code in CODES.items()}


@dataclass(frozen=True)
class _Place:
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    """In the file."""


class TensorFile:
    """A safetensors file, tensor by tensor.

    Args:
        path: of the file.

    Raises:
        CheckpointCorruptError: it is none, or its header does not fit its size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise CheckpointCorruptError(f"{path} is not a safetensors file: it ends before its header does")
            text = file.read(length)
        try:
            header = json.loads(text)
            self._places = {
                name: _place(entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointCorruptError(f"{path} is not a safetensors file: its header: {error!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def like(self, name: str) -> Tensor:
        """Shape and dtype of a tensor, on the meta device."""
        place = self._places[name]
        return torch.empty(place.shape, dtype=place.dtype, device="meta")

    def read(self, name: str) -> Tensor:
        """A tensor, in memory of its own.

        Raises:
            CheckpointCorruptError: the file has become shorter.
        """
        place = self._places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype, device="cpu")
        if tensor.numel():
            room = tensor.view(-1).view(torch.uint8).numpy().data
            with self.path.open("rb", buffering=0) as file:
                file.seek(place.start)
                while room:
                    count = file.readinto(room)
                    if not count:
                        raise CheckpointCorruptError(f"{self.path} ends inside of tensor {name!r}; copy it again")
                    room = room[count:]
        return tensor


def _place(entry: dict[str, Any], data: int, size: int) -> _Place:
    dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(f"sizes must be whole numbers from 0 on, got {entry}")
    if end - start != math.prod(shape) * dtype.itemsize or data + end > size:
        raise ValueError(f"{entry} does not fit the file of {size} bytes")
    return _Place(shape, dtype, data + start)
