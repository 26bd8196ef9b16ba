"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): prune a matrix and let the weights kept make up for it.

The sweep is that of ``edgekern.calibration.obs``: it settles the columns one by one, for all rows at once, and this
chooses which weights go when it is their turn.

Rounding a weight that is kept is an error like removing it, and made up for in the same way (section 3.5 of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekern.calibration.grids import Floats, Grid, Int4Grid, Int8Grid
from edgekern.calibration.obs import Settled, inverse_factor, sweep
from edgekern.config import Int4, Int8
from edgekern.prune.patterns import Pattern, nearest


def sparsegpt(
    matrix: Tensor,
    hessian: Tensor,
    pattern: Pattern,
    sparsity: float,
    damping: float,
    block_size: int,
    joint: Int8 | Int4 | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The pruned matrix, float32 [out, in].

    The mask of each run of ``block_size`` columns, or group of an N:M pattern, is chosen when its turn comes, by what
    removal costs at that moment.

    Args:
        matrix: float32 [out, in].
        hessian: float32 [in, in]: X^T X, up to a positive factor.
        pattern: what may be removed together.
        sparsity: share to remove.
        damping: added to the diagonal, times its mean.
        block_size: columns in a run.
        joint: what the weights kept are also rounded to, and back, making up for that as well.
        dtype: of the layer's weight, which will hold the result.

    Raises:
        ValueError: weights that ``joint`` cannot hold.
        torch.linalg.LinAlgError: the damped Hessian is not positive definite.
    """
    factor, silent = inverse_factor(hessian, damping)
    choice = _Choice(pattern, sparsity, silent, torch.ones_like(matrix, dtype=torch.bool))
    floats = Floats(joint.group_size if isinstance(joint, Int4) else None)
    pruned = sweep(matrix, factor, block_size, choice, floats)
    if joint is None:
        return pruned
    # A second sweep from the beginning, for the grid depends on what the first one left: its steps are those of the
    # largest weights of each row or group.
    grid: Grid
    if isinstance(joint, Int8):
        grid = Int8Grid(pruned, dtype)
    else:
        grid = Int4Grid(joint, choice.kept, floats.moved(pruned))
    return sweep(matrix, factor, block_size, Settled(choice.kept), grid)


@dataclass
class _Choice:
    """Chooses the mask as the sweep goes, in ``kept``."""

    pattern: Pattern
    sparsity: float
    silent: Tensor
    kept: Tensor

    def __post_init__(self) -> None:
        self._quota = _Quota(self.pattern, self.sparsity)
        self._chosen = 0

    def choose(self, column: int, end: int, weights: Tensor, diagonal: Tensor) -> None:
        """Settles the mask of ``column`` and those that choose with it, up to ``end``, if it is not yet.

        ``weights`` and ``diagonal`` begin at ``column``.
        """
        if column < self._chosen:
            return
        until = end if self.pattern.choice_width is None else min(column + self.pattern.choice_width, end)
        width = until - column
        scores = (weights[:, :width] / diagonal[:width]).square()
        scores[:, self.silent[column:until]] = 0
        self.kept[:, column:until] = self._quota.keep(scores)
        self._chosen = until


class _Quota:
    """Spends the share to remove over runs of columns, so that rounding in each does not add up."""

    def __init__(self, pattern: Pattern, sparsity: float) -> None:
        self._pattern, self._sparsity = pattern, sparsity
        self._seen = self._removed = 0

    def keep(self, scores: Tensor) -> Tensor:
        units = self._pattern.unit_scores(scores).numel()
        self._seen += units
        count = nearest(self._sparsity * self._seen) - self._removed
        self._removed += count
        return self._pattern.keep(scores, count / units)
