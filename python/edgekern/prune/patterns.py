"""Patterns: which weights may go together. Each turns scores and a share to remove into a mask of what is kept.

Scores are finite and have the shape of the weight's matrix, [out, in]. The lowest go first; among equal scores the one
that comes first in row-major order, so that the same scores always give the same mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekern.config import parse_pattern


class Pattern(Protocol):
    """What a pattern must provide."""

    @property
    def choice_width(self) -> int | None:
        """Columns that choose their mask together, independent of all others; None when all of a row may."""

    def misfit(self, rows: int, columns: int) -> str:
        """Why it cannot be applied to a matrix of this shape; empty when it can."""

    def units(self, rows: int, columns: int) -> tuple[int, int]:
        """The shape of ``unit_scores`` for a matrix of this shape."""

    def unit_scores(self, scores: Tensor) -> Tensor:
        """One score for each group that is kept or removed as a whole, 2-D."""

    def spread(self, units: Tensor, rows: int, columns: int) -> Tensor:
        """A mask of units, as of ``unit_scores``, for every weight: bool [rows, columns]."""

    def keep(self, scores: Tensor, sparsity: float, by_row: bool = False) -> Tensor:
        """The mask, bool like ``scores``; ``by_row`` removes the same share of every row of units."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``rows`` x ``columns`` kept or removed as a whole; of 1 x 1, this is unstructured sparsity.

    Blocks at the right and lower border of a matrix that is no multiple are cut to what is there. A block's score is
    the mean of its weights' scores, so that a cut block competes on equal terms. The share removed is of blocks,
    rounded to the nearest number of them (half up).
    """

    rows: int
    columns: int

    choice_width = None

    def misfit(self, rows: int, columns: int) -> str:
        if rows >= self.rows and columns >= self.columns:
            return ""
        return f"its {rows} x {columns} weights are smaller than one {self.rows}x{self.columns} block"

    def units(self, rows: int, columns: int) -> tuple[int, int]:
        return -(-rows // self.rows), -(-columns // self.columns)

    def unit_scores(self, scores: Tensor) -> Tensor:
        if self.rows == self.columns == 1:
            return scores
        return self._block_sums(scores) / self._block_sums(torch.ones_like(scores))

    def spread(self, units: Tensor, rows: int, columns: int) -> Tensor:
        if self.rows == self.columns == 1:
            return units
        return units.repeat_interleave(self.rows, 0)[:rows].repeat_interleave(self.columns, 1)[:, :columns]

    def keep(self, scores: Tensor, sparsity: float, by_row: bool = False) -> Tensor:
        units = self.unit_scores(scores)
        lines = units if by_row else units.reshape(1, -1)
        kept = ~lowest(lines, nearest(sparsity * lines.shape[1])).view_as(units)
        return self.spread(kept, *scores.shape)

    def _block_sums(self, scores: Tensor) -> Tensor:
        rows, columns = scores.shape
        padded = F.pad(scores, (0, -columns % self.columns, 0, -rows % self.rows))
        return padded.unflatten(1, (-1, self.columns)).sum(-1).unflatten(0, (-1, self.rows)).sum(1)


@dataclass(frozen=True)
class NOfM:
    """At most ``kept`` of every ``of`` neighbours in a row. A short last group counts as if padded with zeros.

    So a last group of ``kept`` or fewer loses nothing, and a ragged row loses a little less than 1 - N/M.
    """

    kept: int
    of: int

    @property
    def choice_width(self) -> int:
        return self.of

    def misfit(self, rows: int, columns: int) -> str:
        return "" if columns >= self.of else f"its rows of {columns} weights are shorter than one group of {self.of}"

    def units(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, columns

    def unit_scores(self, scores: Tensor) -> Tensor:
        return scores

    def spread(self, units: Tensor, rows: int, columns: int) -> Tensor:
        return units

    def keep(self, scores: Tensor, sparsity: float, by_row: bool = False) -> Tensor:
        rows, columns = scores.shape
        # The padding goes first: it is below every score.
        groups = F.pad(scores, (0, -columns % self.of), value=-math.inf).reshape(-1, self.of)
        return ~lowest(groups, self.of - self.kept).reshape(rows, -1)[:, :columns]


PATTERNS: dict[str, Callable[[int, int], Pattern]] = {"RxC": Blocks, "N:M": NOfM}
"""By the kind that ``parse_pattern`` finds. A new pattern adds a row here and a line to the grammar there."""


def pattern_of(name: str) -> Pattern:
    """The pattern that ``Prune.pattern`` names."""
    kind, first, second = parse_pattern(name)
    return PATTERNS[kind](first, second)


def lowest(lines: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest of each line; among equals, at the first ones."""
    if count == 0:
        return torch.zeros_like(lines, dtype=torch.bool)
    threshold = lines.kthvalue(count, dim=1, keepdim=True).values  # several times as fast as sorting
    below, equal = lines < threshold, lines == threshold
    return below | (equal & (equal.cumsum(1) <= count - below.sum(1, keepdim=True)))


def nearest(value: float) -> int:
    """The nearest integer, half up: Python's own rounding would send 0.5 and 2.5 down."""
    whole = math.floor(value)
    return whole + (value - whole >= 0.5)  # floor(value + 0.5) errs just below 0.5, where the sum rounds to 1
