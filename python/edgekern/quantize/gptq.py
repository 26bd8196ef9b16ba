"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): round a matrix and let the weights not yet rounded make up for it.

The sweep is that of ``edgekern.calibration.obs``, with nothing to remove: the weights that are zero stay, the others go
to the values that conversion will find.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekern import ops
from edgekern.calibration.grids import Grid, Int4Grid, Int8Grid, SettledInt4Grid, int4_floats
from edgekern.calibration.obs import Settled, inverse_factor, sweep
from edgekern.config import GPTQ, Int4, Int8

BLOCK_SIZE = 128
"""Columns of a run. A multiple of every group size, so that a group is up to date when its first column is reached."""


def gptq(matrix: Tensor, hessians: Tensor, scheme: GPTQ, dtype: torch.dtype) -> Tensor:
    """The rounded matrix, float32 [out, in].

    Args:
        matrix: float32 [out, in]; its zeros stay.
        hessians: X^T X, up to a positive factor: float32 [in, in], or [groups, in, in], each of as many rows. Their
            columns are taken in one order, that of the inputs of all groups together.
        scheme: what to round to, and how; its bias correction comes after this.
        dtype: of the layer's weight, which will hold the result.

    Raises:
        ValueError: weights that ``scheme.to`` cannot hold.
        torch.linalg.LinAlgError: the damped Hessian is not positive definite.
    """
    order = torch.arange(matrix.shape[1])
    if scheme.act_order:
        strengths = hessians.diagonal(dim1=-2, dim2=-1).reshape(-1, len(order)).sum(0)
        order = strengths.argsort(descending=True, stable=True)
    weight = matrix[:, order]
    mask = Settled(weight != 0)
    grid: Grid
    if isinstance(scheme.to, Int8):
        grid = Int8Grid(weight, dtype)
    elif scheme.act_order:
        grid = SettledInt4Grid(scheme.to, matrix, order)
    else:
        grid = Int4Grid(scheme.to, mask.kept)
    factor, _ = inverse_factor(hessians[..., order, :][..., order], scheme.damping)
    return sweep(weight, factor, BLOCK_SIZE, mask, grid)[:, order.argsort()]


def nearest(matrix: Tensor, to: Int4 | Int8) -> Tensor:
    """What converting to ``to`` makes of the matrix by itself, each weight going to the nearest value: float32.

    ``matrix`` is [out, in], of any dtype of a weight.

    Raises:
        ValueError: weights that ``to`` cannot hold.
    """
    if isinstance(to, Int4):
        return int4_floats(matrix, to)
    q, scale = ops.int8_quantize(matrix)
    matrix = matrix.float()
    largest = matrix.abs().amax(1, keepdim=True)
    # The largest of a row stays what it is, for conversion takes the scale from it; see Int8Grid.
    anchor = matrix.abs().argmax(1, keepdim=True)
    return (q * scale[:, None]).clamp(-largest, largest).scatter(1, anchor, matrix.gather(1, anchor))


def squared_error(matrix: Tensor, other: Tensor, hessians: Tensor) -> float:
    """The sum of squares of X (W - W')^T, from H = X^T X: [groups, in, in], each of as many rows of [out, in]."""
    difference = (matrix - other).unflatten(0, (len(hessians), -1))
    return float(((difference @ hessians) * difference).sum(dtype=torch.float64))
