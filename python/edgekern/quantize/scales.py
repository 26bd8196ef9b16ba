"""By what the input channels of layers are scaled: AWQ's and SmoothQuant's choice. Numbers alone.

A scale s, [in], multiplies the weights' columns and divides the inputs, so that nothing changes but how both round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekern import kernels
from edgekern.calibration.observe import Inputs
from edgekern.config import ACTIVATIONS_KEPT, AWQ, Int4, Int8, Migrating, SmoothQuant
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
        self._kinds = {to.activations for _, to in self.matrices}

    def error(self, scale: Tensor | None) -> float:
        """The squared error of each layer's outputs as a share of their square, added up."""
        given = self.rows if scale is None else self.rows / scale
        seen = {kind: rounded_rows(given) if kind != ACTIVATIONS_KEPT else given for kind in self._kinds}
        total = 0.0
        for (matrix, to), outputs, square in zip(self.matrices, self._outputs, self._squares, strict=True):
            rounded, rows = nearest(matrix if scale is None else matrix * scale, to), seen[to.activations]
            total += float((outputs - rows @ rounded.T).square().sum()) / square if square else 0.0
        return total


def rounded_rows(rows: Tensor) -> Tensor:
    """Activations [samples, in] as int8 and int4 layers round them while they run."""
    q, scale, zero = (torch.from_numpy(part) for part in kernels.int8_quantize_lhs(rows.numpy()))
    return (q - zero[:, None]) * scale[:, None]
