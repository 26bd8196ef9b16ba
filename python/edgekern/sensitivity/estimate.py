"""The metrics by name, measured once for each layer, and taken from there for its other schemes.

To run a model for each layer and each of many schemes takes long. But metrics by name grow with the square of a
layer's error, as long as that is small. So the model is run with the first scheme that a layer is tried with. For the
others the layer runs alone, on a few rows (tokens) of the inputs that it had, and the loss is that of the first by the
ratio of the squared errors of its outputs, activation rounding included.

Gradients in place of that one run, each row's error taken to act by itself, would be faster still. They were tried, and
off by a factor of six for the first value projection of SmolLM2: rounding errs alike for all tokens, and attention adds
up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import gather
from edgekern.nn.layers import Layer
from edgekern.sensitivity.quality import Quality
from edgekern.sensitivity.trial import Trial
from edgekern.sensitivity.units import Unit

_ROWS = 512  # of each layer, in all
_IMAGES = 32  # for convolutions, whose rows are whole images


@dataclass
class _Seen:
    """Some rows of a layer's inputs, and what it made of them."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def error(self, module: nn.Module) -> float:
        """The squared error of the outputs that ``module`` gives in the layer's place, over the square of its own."""
        error = total = 0.0
        for x, y in zip(self.inputs, self.outputs, strict=True):
            # Not through the module, which may have hooks.
            error += float((module.forward(x).float() - y.float()).square().sum())
            total += float(y.float().square().sum())
        return error / total if total else 0.0


class Estimate:
    """Judges the first change to a unit by running the model, and others by the errors of the unit's layers."""

    higher_is_better = False

    def __init__(self, model: nn.Module, metric: str, layers: Sequence[Layer], batches: Iterable[Any]) -> None:
        self._quality = Quality(model, metric, batches, False)
        self.name, self.baseline = f"estimated {metric}", self._quality.baseline
        self._seen = {layer.module: _Seen() for layer in layers}
        self._first: dict[str, tuple[float, float]] = {}
        self._draw = torch.Generator().manual_seed(0)
        self._share = 1 / max(1, sum(1 for _ in batches))  # of the rows to keep, for each batch
        gather(model, {module: self._keeper(module) for module in self._seen}, batches)

    def measure(self, unit: Unit, trial: Trial, what: str) -> float:
        """The metric, or what it is for a change that errs so many times as much."""
        with torch.no_grad():
            layers = zip(unit.layers, trial.modules, strict=True)
            error = sum(self._seen[layer.module].error(module) for layer, module in layers)
        value, first = self._first.get(unit.name, (0.0, 0.0))
        if first > 0:
            return value * error / first
        value = self._quality.measure(unit, trial, what)
        self._first[unit.name] = value, error
        return value

    def _keeper(self, module: nn.Module) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            rows = _as_rows(module, x)
            most = max(1, round(self._share * (_IMAGES if isinstance(module, nn.Conv2d) else _ROWS)))
            chosen = torch.randperm(len(rows), generator=self._draw)[:most]
            seen = self._seen[module]
            seen.inputs.append(rows[chosen])
            seen.outputs.append(module.forward(seen.inputs[-1]))

        return keep


def _as_rows(module: nn.Module, tensor: Tensor) -> Tensor:
    """[rows, ...]: the vectors of a linear layer, the images of a convolution."""
    if isinstance(module, nn.Conv2d):
        return tensor.unsqueeze(0) if tensor.ndim == 3 else tensor
    return tensor.reshape(-1, tensor.shape[-1])
