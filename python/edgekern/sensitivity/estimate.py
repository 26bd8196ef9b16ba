"""The metrics by name, estimated for all layers from the gradients of one pass over the data.

To run a model for each layer and scheme takes hours where it is large. But a layer that is off by some d in its outputs
moves the model's outputs by J d, to first order, and what a metric makes of that is a sum of squares:

    mse   |J d|^2 / |outputs|^2       = E (g d)^2 / |outputs|^2    g: gradient of v * outputs, for v normal at random
    kl    (J d)^T F (J d) / 2         = E (g d)^2 / 2              g: gradient of log p(a word drawn from p)

F is the Fisher information of the softmax, which gives the divergence to second order. So a few rows (tokens) of each
layer's inputs are kept, with the gradient at its outputs; then any change to the layer is judged by running that layer
alone on them. Rows are taken for independent of each other, and so are the layers of a group. Squares of gradients are
what optimal brain damage (LeCun et al. 1989) and its descendants judge weights by; here they weigh what the layer
really puts out, activation rounding included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekern.calibration.observe import arguments, inference
from edgekern.nn.layers import Layer
from edgekern.sensitivity.quality import main_tensor
from edgekern.sensitivity.trial import Trial
from edgekern.sensitivity.units import Unit

_ROWS = 512  # of each layer, in all: (g d)^2 varies by sqrt(2) of its mean, so this leaves some 6 %
_IMAGES = 32  # for convolutions, whose rows are whole images


@dataclass
class _Seen:
    """What is kept of one layer's calls: inputs, outputs and gradients of the same rows, and how many there were."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    rows: int = 0

    def error(self, module: nn.Module) -> float:
        """The sum over all rows of (g d)^2, for the outputs that ``module`` gives in the layer's place."""
        total, kept = 0.0, 0
        for x, y, g in zip(self.inputs, self.outputs, self.gradients, strict=True):
            # Not through the module, which may have hooks.
            now = module.forward(x)
            moved = ((now.float() - y.float()) * g.float()).flatten(1).sum(1)
            total, kept = total + float(moved.square().sum()), kept + len(moved)
        return total * self.rows / kept if kept else 0.0


class Estimate:
    """Judges changes to single layers by what one pass forward and back has shown.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """

    higher_is_better = False
    baseline = 0.0

    def __init__(self, model: nn.Module, metric: str, layers: Sequence[Layer], batches: Iterable[Any]) -> None:
        self.name = f"estimated {metric}"
        self._seen = {layer.module: _Seen() for layer in layers}
        self._draw = torch.Generator().manual_seed(0)
        self._share = 1 / max(1, sum(1 for _ in batches))  # of the rows to keep, for each batch
        scale = 0.0
        with inference(model), torch.enable_grad(), ExitStack() as stack:
            anchor = torch.zeros((), requires_grad=True)
            for module in self._seen:
                hook = module.register_forward_hook(self._tapping(anchor), with_kwargs=True)
                stack.callback(hook.remove)
            for batch in batches:
                args, kwargs = arguments(batch)
                output = main_tensor(model(*args, **kwargs)).float()
                projected, part = (_kl if metric == "kl" else _mse)(output, self._draw)
                scale += part
                # No gradient of a weight is computed: the way to the anchor leads along the activations alone.
                torch.autograd.grad(projected, anchor)
        self._scale = 1 / scale if scale else 1.0

    def measure(self, unit: Unit, trial: Trial, what: str) -> float:
        """The estimate for the layers of ``unit`` as those of ``trial``."""
        layers = zip(unit.layers, trial.modules, strict=True)
        with torch.no_grad():
            return self._scale * sum(self._seen[layer.module].error(module) for layer, module in layers)

    def _tapping(self, anchor: Tensor) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
            seen, x = self._seen[module], args[0] if args else kwargs["input"]
            x, rows = _as_rows(module, x), _as_rows(module, y)
            most = max(1, round(self._share * (_IMAGES if isinstance(module, nn.Conv2d) else _ROWS)))
            chosen = torch.randperm(len(x), generator=self._draw)[:most]
            seen.rows += len(x)
            with torch.no_grad():
                seen.inputs.append(x.detach()[chosen])
                seen.outputs.append(module.forward(seen.inputs[-1]))

            def keep(gradient: Tensor) -> None:
                # The way back comes to the calls in another order than the way forward.
                places[at] = _as_rows(module, gradient)[chosen]

            places, at = seen.gradients, len(seen.gradients)
            places.append(torch.zeros_like(rows.detach()[chosen]))  # until then, or for outputs that nobody reads
            return cast(Tensor, _Tap.apply(y, anchor, keep))

        return hook


class _Tap(torch.autograd.Function):
    """The identity, showing the gradient that comes back; differentiable even where no weight is to be trained."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, anchor: Tensor, keep: Any) -> Tensor:
        ctx.keep = keep
        return y.clone()  # not a view: the model may change it in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.keep(gradients[0])
        return gradients[0], gradients[0].new_zeros(()), None


def _as_rows(module: nn.Module, tensor: Tensor) -> Tensor:
    """[rows, ...]: the vectors of a linear layer, the images of a convolution."""
    if isinstance(module, nn.Conv2d):
        return tensor.unsqueeze(0) if tensor.ndim == 3 else tensor
    return tensor.reshape(-1, tensor.shape[-1])


def _mse(output: Tensor, draw: torch.Generator) -> tuple[Tensor, float]:
    """What to differentiate, and what to divide the sum of squares by."""
    return (torch.randn(output.shape, generator=draw) * output).sum(), float(output.detach().square().sum())


def _kl(output: Tensor, draw: torch.Generator) -> tuple[Tensor, float]:
    likelihoods = F.log_softmax(output, -1).flatten(0, -2)
    words = torch.multinomial(likelihoods.detach().exp(), 1, generator=draw)
    return likelihoods.gather(1, words).sum(), 2.0 * len(words)
