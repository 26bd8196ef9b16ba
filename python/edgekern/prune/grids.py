"""The values that SparseGPT rounds weights to, such that conversion finds the same ones and rounds nothing again."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from edgekern import ops
from edgekern.config import Int4, Int8


class Grid(Protocol):
    """What weights may be, column by column, as a sweep comes to them."""

    width: int
    """Columns that share levels: runs that are swept as one are a multiple of them."""

    def reach(self, column: int, weight: Tensor) -> None:
        """It is the turn of ``column``; ``weight`` [out, in] is what the sweep has made of all of them by now."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """The values of the column, [out], as they shall stay."""


class Floats:
    """Any value."""

    width = 1

    def reach(self, column: int, weight: Tensor) -> None:
        """Nothing depends on where the sweep is."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """As they are."""
        return values


class Int8Grid:
    """The int8 grid that converting the result will find, and so the very integers it will store.

    Conversion takes the step of a row from its largest weight: max|w| / 127. A sweep moves weights, so the largest
    would not stay what it was, and a grid with another step would round everything once more. Therefore the step comes
    from the largest weight of the pruned row, and that one weight, the anchor, is pinned to its value, while no other
    may exceed it. The step is then found again bit for bit. In bfloat16, a multiple q of the step is off by up to
    q / 512, less than half a step for q up to 127, and rounds to the same q.
    """

    width = 1

    def __init__(self, pruned: Tensor, dtype: torch.dtype) -> None:
        stored = pruned.to(dtype).float()  # what the layer will hold
        self._anchor = stored.abs().argmax(1)
        self._pinned = stored.gather(1, self._anchor[:, None])[:, 0]
        self._largest = self._pinned.abs()
        self._step = self._largest / 127

    def reach(self, column: int, weight: Tensor) -> None:
        """The steps are those of whole rows, and known."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """To a multiple of the row's step, or the anchor's value."""
        steps = torch.where(self._step > 0, values / self._step, 0).round()
        rounded = (steps * self._step).clamp(-self._largest, self._largest)
        return torch.where(self._anchor == column, self._pinned, rounded)


class Int4Grid:
    """The levels of each group of columns, settled when the sweep reaches the first of them, from what it has made of
    the weights by then.

    Nothing has to be pinned: conversion looks for levels that all weights of a group lie on, before it takes new ones.
    """

    def __init__(self, scheme: Int4, kept: Tensor) -> None:
        self.width = scheme.group_size
        self._scheme, self._kept = scheme, kept
        self._scale = self._zero = torch.empty(0)

    def reach(self, column: int, weight: Tensor) -> None:
        """At the first column of a group, settles its levels."""
        if column % self.width:
            return
        columns, scheme = slice(column, column + self.width), self._scheme
        group = weight[:, columns] * self._kept[:, columns]
        _, scale, zero = ops.int4_quantize(group, self.width, symmetric=scheme.symmetric, clip=scheme.clip)
        self._scale = scale[:, 0].float()
        self._zero = torch.full_like(self._scale, 8) if zero is None else zero[:, 0].float()

    def round(self, column: int, values: Tensor) -> Tensor:
        """To the nearest level."""
        levels = (values / self._scale).round().clamp(-self._zero, 15 - self._zero)
        return levels * self._scale


def grid_for(scheme: Int8 | Int4, pruned: Tensor, kept: Tensor, dtype: torch.dtype) -> Grid:
    """The grid that ``convert_`` with ``scheme`` finds.

    Args:
        scheme: what the layer will be converted to.
        pruned: float32 [out, in], pruned but not rounded.
        kept: bool [out, in], the mask.
        dtype: of the layer's weight.
    """
    return Int8Grid(pruned, dtype) if isinstance(scheme, Int8) else Int4Grid(scheme, kept)
