"""Settling the weights of a layer one by one, such that those not yet settled make up for it.

For a matrix W and its inputs X, [samples, in], each row w of W is a least-squares problem: change w to a w' of allowed
values so that |X w' - X w|^2 is least. Changing weight k by d, with all weights after it free to move, costs
d^2 / U_kk^2, and moves those weights by (d / U_kk) * U_k: here U is the upper Cholesky factor of the inverse of
H = X^T X, whose row k holds what is needed after columns 0..k-1 are settled. All rows share U, so the columns are
settled one by one for all rows at once. Each run of ``block_size`` columns is finished before the columns after it are
updated, with one matrix product instead of many rank-1 updates.

This is how SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774) removes weights and GPTQ (Frantar et al. 2022, arXiv
2210.17323) rounds them; both go back to the optimal brain surgeon (Hassibi and Stork 1992).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgekern.calibration.grids import Grid


class Mask(Protocol):
    """Which weights stay, chosen as a sweep comes to them or before."""

    kept: Tensor
    """bool [out, in]: true where a weight stays, as far as it is chosen."""

    def choose(self, column: int, end: int, weights: Tensor, diagonal: Tensor) -> None:
        """It is the turn of ``column``: settles it, and what has to be chosen with it, up to ``end``.

        ``weights`` [out, ...] and ``diagonal`` of the factor begin at ``column``.
        """


@dataclass
class Settled:
    """A mask that was chosen before."""

    kept: Tensor

    def choose(self, column: int, end: int, weights: Tensor, diagonal: Tensor) -> None:
        """Nothing is left to choose."""


def sweep(
    matrix: Tensor,
    factor: Tensor,
    block_size: int,
    mask: Mask,
    grid: Grid,
) -> Tensor:
    """Settles the columns one by one: each weight goes to zero or to what ``grid`` has for it.

    Args:
        matrix: float32 [out, in].
        factor: float32 [in, in], from :func:`inverse_factor`; or [groups, in, in], each for as many rows of the matrix,
            where nothing is left for ``mask`` to choose.
        block_size: columns that are finished before those after them are updated.
        mask: which weights stay.
        grid: what those may be.

    Returns:
        float32 [out, in].
    """
    weight = matrix.clone()
    columns = weight.shape[1]
    factors = factor.view(-1, columns, columns)
    groups = weight.unflatten(0, (len(factors), -1))  # views, as those below: what is updated in them is the weight
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        block, local = weight[:, start:end], factors[:, start:end, start:end]
        errors = torch.zeros_like(groups[..., start:end])
        for column in range(end - start):
            mask.choose(start + column, end, block[:, column:], local[0].diagonal()[column:])
            grid.reach(start + column, weight)
            present = block[:, column].clone()
            final = grid.round(start + column, present) * mask.kept[:, start + column]
            error = (present - final).view(len(factors), -1) / local[:, column, column, None]
            groups[..., start + column : end] -= error[..., None] * local[:, None, column, column:]
            block[:, column] = final  # exactly, where the update left a rounding error
            errors[..., column] = error
        groups[..., end:] -= errors @ factors[:, start:end, end:]
    return weight


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The upper U with U^T U = inverse of the damped Hessian, [..., in, in], and which inputs were always zero."""
    damped = hessian.clone()
    diagonal = damped.diagonal(dim1=-2, dim2=-1)  # a view
    silent = diagonal == 0
    # A silent input's row and column are zero; any positive number keeps it invertible and apart from the others.
    diagonal[silent] = 1
    diagonal += damping * diagonal.mean(-1, keepdim=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True), silent
