"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): prune a matrix and let the weights kept make up for it.

For a matrix W and its inputs X, [samples, in], each row w of W is a least-squares problem: change w to a w' with zeros
so that |X w' - X w|^2 is least. Removing weight k alone, with all weights after it free to move, costs
w_k^2 / U_kk^2, and moves those weights by -(w_k / U_kk) * U_k: here U is the upper Cholesky factor of the inverse of
H = X^T X, whose row k holds what is needed after columns 0..k-1 are settled. All rows share U, so the columns are
settled one by one for all rows at once. As in the paper, each run of ``block_size`` columns is finished before the
columns after it are updated, with one matrix product instead of many rank-1 updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekern.prune.patterns import Pattern, nearest


def sparsegpt(
    matrix: Tensor, hessian: Tensor, pattern: Pattern, sparsity: float, damping: float, block_size: int
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

    Raises:
        torch.linalg.LinAlgError: the damped Hessian is not positive definite.
    """
    weight = matrix.clone()
    columns = weight.shape[1]
    keep = torch.ones_like(weight, dtype=torch.bool)
    factor, silent = _inverse_factor(hessian, damping)
    quota = _Quota(pattern, sparsity)
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        block, local = weight[:, start:end], factor[start:end, start:end]  # views: the block is updated in place
        errors = torch.zeros_like(block)
        width = pattern.choice_width or end - start
        for column in range(end - start):
            if column % width == 0:
                choice = slice(column, min(column + width, end - start))
                scores = (block[:, choice] / local.diagonal()[choice]).square()
                scores[:, silent[start:end][choice]] = 0
                keep[:, start:end][:, choice] = quota.keep(scores)
            gone = ~keep[:, start + column]
            error = torch.where(gone, block[:, column] / local[column, column], 0)
            block[:, column:] -= error[:, None] * local[column, column:]
            errors[:, column] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight.mul_(keep)  # exact zeros, where the updates left rounding errors


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
