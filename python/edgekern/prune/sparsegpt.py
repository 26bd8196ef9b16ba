"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): prune a matrix and let the weights kept make up for it.

For a matrix W and its inputs X, [samples, in], each row w of W is a least-squares problem: change w to a w' with zeros
so that |X w' - X w|^2 is least. Removing weight k alone, with all weights after it free to move, costs
w_k^2 / U_kk^2, and moves those weights by -(w_k / U_kk) * U_k: here U is the upper Cholesky factor of the inverse of
H = X^T X, whose row k holds what is needed after columns 0..k-1 are settled. All rows share U, so the columns are
settled one by one for all rows at once. As in the paper, each run of ``block_size`` columns is finished before the
columns after it are updated, with one matrix product instead of many rank-1 updates.

Rounding a weight that is kept is an error like removing it, and made up for in the same way (section 3.5 of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekern.config import Int4, Int8
from edgekern.prune.grids import Floats, Grid, Int4Grid, Int8Grid
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
    factor, silent = _inverse_factor(hessian, damping)
    choice = _Choice(pattern, sparsity, silent, torch.ones_like(matrix, dtype=torch.bool))
    floats = Floats(joint.group_size if isinstance(joint, Int4) else None)
    pruned = _sweep(matrix, factor, block_size, choice, floats)
    if joint is None:
        return pruned
    # A second sweep from the beginning, for the grid depends on what the first one left: its steps are those of the
    # largest weights of each row or group.
    grid: Grid
    if isinstance(joint, Int8):
        grid = Int8Grid(pruned, dtype)
    else:
        grid = Int4Grid(joint, choice.kept, pruned, floats)
    return _sweep(matrix, factor, block_size, _Settled(choice.kept), grid)


def _sweep(
    matrix: Tensor,
    factor: Tensor,
    block_size: int,
    choice: _Choice | _Settled,
    grid: Grid,
) -> Tensor:
    """Settles the columns one by one: each weight goes to zero or to what ``grid`` has for it."""
    weight = matrix.clone()
    columns = weight.shape[1]
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        block, local = weight[:, start:end], factor[start:end, start:end]  # views: the block is updated in place
        errors = torch.zeros_like(block)
        for column in range(end - start):
            choice.choose(start + column, end, block[:, column:], local.diagonal()[column:])
            grid.reach(start + column, weight)
            present = block[:, column].clone()
            final = grid.round(start + column, present) * choice.kept[:, start + column]
            error = (present - final) / local[column, column]
            block[:, column:] -= error[:, None] * local[column, column:]
            block[:, column] = final  # exactly, where the update left a rounding error
            errors[:, column] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight


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


@dataclass
class _Settled:
    """A mask that was chosen before."""

    kept: Tensor

    def choose(self, column: int, end: int, weights: Tensor, diagonal: Tensor) -> None:
        """Nothing is left to choose."""


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


def _inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The upper U with U^T U = inverse of the damped Hessian, and which inputs were always zero."""
    damped = hessian.clone()
    diagonal = damped.diagonal()  # a view
    silent = diagonal == 0
    # A silent input's row and column are zero; any positive number keeps it invertible and apart from the others.
    diagonal[silent] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True), silent
