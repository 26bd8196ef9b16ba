"""Tensors from one rank to another, so that waiting for the network and computing go on at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from edgekern.parallel.group import Group

Like = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype: whoever receives a tensor has to know them."""
_AT_ONCE = 2
"""Tensors on their way to a rank that has not taken them, unless told otherwise; they take memory."""

VALUES, TOKENS, SHAPES = 1, 2, 3
"""Tags: messages of each arrive in order, whatever there is of the others."""


class Outbox:
    """Sends tensors to a rank, without waiting until it takes them, unless ``at_once`` are on their way already."""

    def __init__(self, group: Group, to: int, tag: int, at_once: int = _AT_ONCE) -> None:
        self._group, self._to, self._tag, self._at_once = group, to, tag, at_once
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()

    def send(self, tensor: Tensor) -> None:
        """Sends a tensor, which must not be changed afterwards."""
        data = _bytes(tensor.contiguous())
        with self._group.talking("sending to it", self._to):
            while len(self._under_way) >= self._at_once:
                self._under_way.popleft()[0].wait()
            work = dist.isend(data, self._to, tag=self._tag)
            assert work is not None  # both ranks are in the group
            self._under_way.append((work, data))

    def flush(self) -> None:
        """Returns when all was taken."""
        with self._group.talking("sending to it", self._to):
            while self._under_way:
                self._under_way.popleft()[0].wait()


def receive(group: Group, source: int, tag: int, like: Like) -> Tensor:
    """The next tensor from a rank."""
    return next(receive_all(group, source, tag, [like]))


def receive_all(group: Group, source: int, tag: int, likes: Iterable[Like]) -> Iterator[Tensor]:
    """Tensors from a rank; while one is used, the next arrives."""
    doing = "waiting for what it computes"
    posted: tuple[dist.Work, Tensor] | None = None
    for shape, dtype in likes:
        tensor = torch.empty(shape, dtype=dtype)
        with group.talking(doing, source):
            work = dist.irecv(_bytes(tensor), source, tag=tag)
            assert work is not None
            if posted is not None:
                posted[0].wait()
        if posted is not None:
            yield posted[1]
        posted = (work, tensor)
    if posted is not None:
        with group.talking(doing, source):
            posted[0].wait()
        yield posted[1]


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory as uint8: gloo does not know every dtype."""
    return tensor.view(-1).view(torch.uint8)
