"""Small layers' packed weights side by side on huge pages.

A layer of a few hundred KiB is too small for a huge page of its own. Read from memory, each of its 4 KiB pages costs a
TLB miss, and the prefetcher stops at its end; a model of many such layers then reads at a part of the memory's rate.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgekern.nn.native_layer import NativeLayer
from edgekern.nn.swap import return_freed_memory

HUGE_PAGE = 2 << 20
LARGE = 2 * HUGE_PAGE  # bytes; from here on packing itself asks for huge pages, which cover at least half of the layer
ROOM = 32 << 20  # bytes of weights that are moved together: what memory use may grow by meanwhile
_ALIGNMENT = 64  # of packed weights


def gather_weights_(model: nn.Module) -> None:
    """Moves the packed weights of all small native layers of ``model`` next to each other, onto huge pages.

    The layers keep their tensors, which lie elsewhere from then on. Memory that several layers share is freed with the
    last of them. Nothing happens to weights that would not fill one huge page, or where the system has none.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    layers = (module for module in model.modules() if isinstance(module, NativeLayer))
    for parts in _rooms(part for layer in layers for part in layer._memory() if 0 < part.nbytes < LARGE):
        _move_(parts)
        return_freed_memory()


def _rooms(parts: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """The tensors, in their order, in lists of about :data:`ROOM` bytes."""
    room: list[Tensor] = []
    taken = 0
    for part in parts:
        room.append(part)
        taken += _padded(part)
        if taken >= ROOM:
            yield room
            room, taken = [], 0
    if room:
        yield room


def _move_(parts: list[Tensor]) -> None:
    size = sum(map(_padded, parts))
    if size < HUGE_PAGE:
        return
    # In inference mode tensors that were made in it can be changed, and so can all others.
    with torch.inference_mode():
        memory = torch.empty(size + HUGE_PAGE, dtype=torch.uint8, device="cpu")
        start = -memory.data_ptr() % HUGE_PAGE
        _advise(memory[start:])
        for part in parts:
            there = memory[start : start + part.numel()].copy_(part)
            part.set_(there.untyped_storage(), there.storage_offset(), part.shape, part.stride())
            start += _padded(part)


def _advise(memory: Tensor) -> None:
    """Asks for huge pages before anything is written; it is advice, and what comes of it changes no result."""
    advice = (ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(memory.nbytes), mmap.MADV_HUGEPAGE)
    ctypes.CDLL(None).madvise(*advice)


def _padded(part: Tensor) -> int:
    return -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
