"""Trying whether a module can take a division that the weights of layers make up for.

Nothing is concluded from what a module is called or how it is made. Its output channels are scaled by random powers of
two and the layers' weights by their inverses, neither of which rounds a float, and the model runs: it has to give the
same bits. What other layers, a residual path or a curved function make of the scaled channels shows at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekern.calibration.journal import Replace, borrowed
from edgekern.calibration.observe import arguments, inference, tensors_in
from edgekern.calibration.walk import Walk
from edgekern.quantize.producers import own_parameters

_LOOSE = {torch.float16: 1e-3}
"""By what share of the largest output others may differ: small halves lose bits when they are halved."""
_TIGHT = 1e-6
"""Elsewhere: room for sums in another order."""


class Trials:
    """Tries producers by what a model, or one block of it, makes of the first batch."""

    def __init__(self, model: nn.Module, walk: Walk, batch: object) -> None:
        self._model, self._walk, self._batch = model, walk, batch
        self._generator = torch.Generator().manual_seed(0)
        self._before: tuple[nn.Module | None, list[Tensor]] | None = None

    def takes(self, source: nn.Module, layers: Sequence[nn.Module], features: int, block: nn.Module | None) -> bool:
        """Whether ``source`` can take a division of the inputs of ``layers``.

        ``block``, if any, holds them all, and its layers were shown their inputs last: it is run alone, if it can be.
        """
        if block is not None and not self._walk.keeps(block):
            block = None
        if self._before is None or self._before[0] is not block:
            self._before = (block, self._outcome(block))
        before = self._before[1]
        powers = 2.0 ** torch.tensor([-2.0, -1.0, 1.0, 2.0])[torch.randint(4, (features,), generator=self._generator)]
        with borrowed() as replace:
            divide(source, powers, replace)
            unmade_up_for = self._outcome(block)
            for layer in layers:
                multiply(layer, powers, replace)
            after = self._outcome(block)
        # A division that goes unnoticed by itself would prove nothing.
        return _same(before, after) and not _same(before, unmade_up_for)

    def _outcome(self, block: nn.Module | None) -> list[Tensor]:
        if block is not None:
            return self._walk.rerun(block)
        args, kwargs = copy.deepcopy(arguments(self._batch))
        with inference(self._model):
            return tensors_in(self._model(*args, **kwargs))


def divide(source: nn.Module, scale: Tensor, replace: Replace) -> None:
    """Divides the output channels of ``source`` by ``scale``, [channels]."""
    for parameter in own_parameters(source):
        weight = parameter.detach()
        replace(weight, weight / scale.view(-1, *[1] * (weight.ndim - 1)))


def multiply(layer: nn.Module, scale: Tensor, replace: Replace) -> None:
    """Multiplies the input channels of a linear layer by ``scale``, [channels]."""
    weight = layer.get_parameter("weight").detach()
    replace(weight, weight * scale)


def _same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return bool(left) and len(left) == len(right) and all(map(_close, left, right))


def _close(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point():
        return torch.equal(left, right)
    if not torch.equal(left.isnan(), right.isnan()):
        return False
    share = _LOOSE.get(left.dtype, _TIGHT)
    left, right = left.nan_to_num(), right.nan_to_num()
    if not left.numel() or torch.equal(left, right):
        return True
    return bool((left - right).abs().max() <= share * left.abs().max())
