"""Where a layer's weights are when it is called: in the cache or, in a model that is larger than that, in memory.

Few rows take no longer to multiply than their weights take to arrive, so forms compare differently in either case: one
that keeps fewer bytes may be slower from the cache and faster from memory. What is measured has to be what happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from torch import Tensor

USUAL_CACHE = 32 << 20  # bytes to reckon with where the system does not say: a desktop's L3

_model_bytes: ContextVar[int] = ContextVar("model_bytes", default=0)


@contextmanager
def part_of_a_model(nbytes: int) -> Iterator[None]:
    """Inside, layers are packed as parts of a model whose packed weights take so many bytes. Outside, each is alone."""
    token = _model_bytes.set(nbytes)
    try:
        yield
    finally:
        _model_bytes.reset(token)


def copies_to_measure(nbytes: int) -> int:
    """How many copies of what takes ``nbytes`` to call one after the other, so that each comes from where it will."""
    model, held = _model_bytes.get(), last_level_cache()
    # Twice the cache: even if it does not let go of the oldest first, little of a copy is left when its turn comes.
    return 1 if model <= held else max(2, math.ceil(min(model, 2 * held) / nbytes))


def copies_of(tensor: Tensor, count: int) -> list[Tensor]:
    """``tensor`` and as many copies as make ``count``."""
    return [tensor, *(tensor.clone() for _ in range(count - 1))]


@cache
def last_level_cache() -> int:
    """Bytes of the largest cache of the first CPU."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_bytes(path.read_text().strip()) for path in sizes), default=USUAL_CACHE)


def _bytes(size: str) -> int:
    """Of what Linux writes, as 512K."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
    return int(size.rstrip("KMG")) * unit
