"""By what the input channels of layers are scaled: AWQ's and SmoothQuant's choice. Numbers alone.

A scale s, [in], multiplies the weights' columns and divides the inputs, so that nothing changes but how both round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekern import ops
from edgekern.calibration.observe import Inputs
from edgekern.calibration.ranges import InputRange
from edgekern.config import AWQ, FLOAT, Int4, Int8, Migrating, SmoothQuant
from edgekern.quantize.gptq import nearest

_WIDEST = 1e4
"""No channel is scaled by more, or by less than one over it: what floats and halves hold with room to spare."""


def find_scale(scheme: Migrating, matrices: Sequence[tuple[Tensor, Int4 | Int8]], inputs: Inputs) -> Tensor | None:
    """The scale for layers that share an input: float32 [in]; None when none is better than all ones.

    Args:
        scheme: what asks for it.
        matrices: each layer's weights, float32 [out, in], and what they will be rounded to.
        inputs: what the layers were given.

    Raises:
        ValueError: weights that cannot be rounded so.
    """
    if isinstance(scheme, SmoothQuant):
        columns = torch.stack([matrix.abs().amax(0) for matrix, _ in matrices]).amax(0)
        return smooth_scale(inputs.largest, columns, scheme.alpha)
    assert isinstance(scheme, AWQ)
    judge = _Judge(matrices, inputs.rows)
    best, least = None, judge.error(None)
    for step in range(1, scheme.steps):
        scale = strength_scale(inputs.mean_size(), step / scheme.steps)
        error = judge.error(scale)
        if error < least:
            best, least = scale, error
    return best


def smooth_scale(inputs: Tensor, columns: Tensor, alpha: float) -> Tensor:
    """max|x|^alpha / max|w|^(1 - alpha) of each channel (Xiao et al. 2022, arXiv 2211.10438): float32 [in].

    ``inputs`` and ``columns`` are max|x| and max|w| of each, [in]. Channels without any input or weight keep theirs.
    """
    used = (inputs > 0) & (columns > 0)
    scale = inputs.pow(alpha) / columns.pow(1 - alpha)
    return torch.where(used, scale, 1).clamp(1 / _WIDEST, _WIDEST)


def strength_scale(inputs: Tensor, alpha: float) -> Tensor:
    """mean|x|^alpha of each channel (Lin et al. 2023, arXiv 2306.00978), about one in the middle: float32 [in].

    ``inputs`` is mean|x| of each, [in]. Channels without any input keep theirs.
    """
    used = inputs > 0
    scale = inputs.pow(alpha)
    if used.any():
        low, high = torch.aminmax(scale[used])
        scale = scale / (low * high).sqrt()
    return torch.where(used, scale, 1).clamp(1 / _WIDEST, _WIDEST)


@dataclass
class _Judge:
    """How much layers' outputs change when their weights, and inputs, are rounded after scaling."""

    matrices: Sequence[tuple[Tensor, Int4 | Int8]]
    rows: Tensor
    """Inputs, float32 [samples, in]."""

    def __post_init__(self) -> None:
        self._outputs = [self.rows @ matrix.T for matrix, _ in self.matrices]
        self._squares = [float(outputs.square().sum()) for outputs in self._outputs]

    def error(self, scale: Tensor | None) -> float:
        """The squared error of each layer's outputs as a share of their square, added up."""
        rows = self.rows if scale is None else self.rows / scale
        kept: dict[Int8 | Int4 | str, Tensor] = {}  # rows as they are rounded, of which most layers share one
        total = 0.0
        for (matrix, to), outputs, square in zip(self.matrices, self._outputs, self._squares, strict=True):
            rounded = nearest(matrix if scale is None else matrix * scale, to)
            by = to if to.needs_data else to.activations
            if by not in kept:
                kept[by] = rounded_rows(rows, to)
            total += float((outputs - kept[by] @ rounded.T).square().sum()) / square if square else 0.0
        return total


def rounded_rows(rows: Tensor, to: Int4 | Int8) -> Tensor:
    """Activations [samples, in] as layers of ``to`` round them, if they do: a static range is the one of these rows."""
    if to.activations == FLOAT:
        return rows
    found = None
    if to.needs_data:
        seen = InputRange(to)
        seen(rows)
        found = seen.found("a layer")
    q, scale, zero = ops.int8_quantize_rows(rows, None if isinstance(found, str) else found)
    return (q - zero[:, None]) * scale[:, None]
