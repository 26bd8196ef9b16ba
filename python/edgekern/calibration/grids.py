"""The values that a sweep rounds weights to, such that conversion finds the same ones and rounds nothing again."""

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

    def moved(self, weight: Tensor) -> dict[int, Tensor]:
        """By which the weights of each group have moved since it was reached; ``weight`` [out, in] is them now."""
        size = self._group_size or 0
        return {column: weight[:, column : column + size] - before for column, before in self.reached.items()}


class Int8Grid:
    """The int8 grid that converting the result will find, and so the very integers it will store.

    Conversion takes the step of a row from its largest weight: max|w| / 127. A sweep moves weights, so the largest
    would not stay what it was, and a grid with another step would round everything once more. Therefore the step comes
    from the largest weight of the row before any is rounded; that one, the anchor, is pinned to its value, and no other
    may exceed it. The step is then found again bit for bit. In bfloat16, a multiple q of the step is off by up to
    q / 512, less than half a step for q up to 127, and rounds to the same q.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        stored = weight.to(dtype).float()  # what the layer will hold
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


class SettledInt4Grid:
    """Levels of groups that are settled before the sweep, so that columns may come in any order.

    They are those that conversion would take for the matrix as it is.

    Args:
        scheme: the groups and their levels.
        matrix: float32 [out, in], in its own order.
        order: int64 [in]: the columns as the sweep takes them.
    """

    def __init__(self, scheme: Int4, matrix: Tensor, order: Tensor) -> None:
        _, scale, zero = _quantize(matrix, scheme)
        self._groups = (order // scheme.group_size).tolist()
        self._scale, self._zero = scale.float(), _zeros(scale, zero)

    def reach(self, column: int, weight: Tensor) -> None:
        """All is settled."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """To the nearest level of the group that the column belongs to."""
        group = self._groups[column]
        return _to_levels(values, self._scale[:, group], self._zero[:, group])


class Int4Grid:
    """The levels of each group of columns, settled when the sweep reaches the first of them.

    They have to span what the weights kept will be in the end. Where others are pruned after them, and they make up for
    that, this is often much more than what they are then. So ``moves``, by the first column of a group, says by how
    much a sweep without rounding has moved it from there on. Nothing has to be pinned: conversion looks for levels that
    all weights of a group lie on, before it takes new ones.
    """

    def __init__(self, scheme: Int4, kept: Tensor, moves: dict[int, Tensor] | None = None) -> None:
        self._scheme, self._kept, self._moves = scheme, kept, moves
        self._scale = self._zero = torch.empty(0)

    def reach(self, column: int, weight: Tensor) -> None:
        """At the first column of a group, settles its levels."""
        scheme = self._scheme
        if column % scheme.group_size:
            return
        columns = slice(column, column + scheme.group_size)
        expected = weight[:, columns] if self._moves is None else weight[:, columns] + self._moves.pop(column)
        _, scale, zero = _quantize(expected * self._kept[:, columns], scheme)
        self._scale, self._zero = scale[:, 0].float(), _zeros(scale, zero)[:, 0]

    def round(self, column: int, values: Tensor) -> Tensor:
        """To the nearest level."""
        return _to_levels(values, self._scale, self._zero)


def int4_floats(matrix: Tensor, scheme: Int4) -> Tensor:
    """The values that conversion rounds the weights of ``matrix`` to, each by itself: float32 [out, in]."""
    w, scale, zero = _quantize(matrix, scheme)
    return ops.int4_values(w, scale, zero, k=matrix.shape[1], group_size=scheme.group_size)


def _quantize(matrix: Tensor, scheme: Int4) -> tuple[Tensor, Tensor, Tensor | None]:
    return ops.int4_quantize(matrix, scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)


def _zeros(scale: Tensor, zero: Tensor | None) -> Tensor:
    """The zero points [out, groups] as floats."""
    return torch.full_like(scale, 8, dtype=torch.float32) if zero is None else zero.float()


def _to_levels(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (values / scale).round().clamp(-zero, 15 - zero) * scale
