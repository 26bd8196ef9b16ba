"""The values that SparseGPT rounds weights to, such that conversion finds the same ones and rounds nothing again."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from edgekern import ops
from edgekern.config import Int4


class Grid(Protocol):
    """What weights may be, column by column, as a sweep comes to them."""

    def reach(self, column: int, weight: Tensor) -> None:
        """It is the turn of ``column``; ``weight`` [out, in] is what the sweep has made of all of them by now."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """The values of the column, [out], as they shall stay."""


class Floats:
    """Any value. Remembers the weights of each group of ``group_size`` columns as they were when it was reached."""

    def __init__(self, group_size: int | None = None) -> None:
        self._group_size = group_size
        self.reached: dict[int, Tensor] = {}

    def reach(self, column: int, weight: Tensor) -> None:
        """At the first column of a group, copies it."""
        if self._group_size and column % self._group_size == 0:
            self.reached[column] = weight[:, column : column + self._group_size].clone()

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
    """The levels of each group of columns, settled when the sweep reaches the first of them.

    They have to span what the weights kept will be in the end, which is often much more than what they are then: they
    make up for those pruned after them. So they are taken from what a sweep without rounding made of the group, moved
    by what rounding has changed before it. Nothing has to be pinned: conversion looks for levels that all weights of a
    group lie on, before it takes new ones.
    """

    def __init__(self, scheme: Int4, kept: Tensor, pruned: Tensor, before: Floats) -> None:
        self._scheme, self._kept, self._pruned, self._before = scheme, kept, pruned, before
        self._scale = self._zero = torch.empty(0)

    def reach(self, column: int, weight: Tensor) -> None:
        """At the first column of a group, settles its levels."""
        scheme = self._scheme
        if column % scheme.group_size:
            return
        columns = slice(column, column + scheme.group_size)
        expected = self._pruned[:, columns] + (weight[:, columns] - self._before.reached.pop(column))
        _, scale, zero = ops.int4_quantize(
            expected * self._kept[:, columns], scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip
        )
        self._scale = scale[:, 0].float()
        self._zero = torch.full_like(self._scale, 8) if zero is None else zero[:, 0].float()

    def round(self, column: int, values: Tensor) -> Tensor:
        """To the nearest level."""
        levels = (values / self._scale).round().clamp(-self._zero, 15 - self._zero)
        return levels * self._scale
