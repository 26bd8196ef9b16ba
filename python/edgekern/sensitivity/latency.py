"""How long one layer takes, alone: in floats, in int8, and in int8 once it was pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.bench.interleave import interleave
from edgekern.calibration.observe import gather
from edgekern.config import Int8
from edgekern.convert import convert_
from edgekern.nn.layers import Layer

_ROUNDS, _TURN_SECONDS = 40, 0.005  # many short turns: a burst of other work hits few of them


@dataclass(frozen=True)
class Times:
    """Median milliseconds of one call."""

    float_ms: float
    int8_ms: float
    pruned_ms: tuple[float, ...]
    """By sparsity, in the order of ``Candidates.add``."""


@dataclass
class Candidates:
    """One linear layer's converted copies, timed together so that a busy machine is unfair to none of them."""

    layer: Layer
    example: Tensor
    """An input, of the shape and dtype that the layer is given in the model."""
    _copies: list[nn.Module] = field(default_factory=list)

    def add(self) -> None:
        """Takes the layer as it is pruned now."""
        self._copies.append(self._converted())

    def times(self) -> Times:
        """Measures; the layer is dense again by now."""
        linear, dense = self.layer.linear, self._converted()
        weight, bias, x = linear.weight, linear.bias, self.example
        # Not through the module, which may have hooks.
        calls: dict[str, Callable[[], object]] = {
            "float": lambda: nn.functional.linear(x, weight, bias),
            "int8": lambda: dense(x),
        }
        for index, copy in enumerate(self._copies):
            calls[str(index)] = lambda copy=copy: copy(x)  # type: ignore[misc]
        with torch.inference_mode():
            found = interleave(calls, _ROUNDS, _TURN_SECONDS)
        pruned = tuple(found[str(index)].p50 for index in range(len(self._copies)))
        return Times(found["float"].p50, found["int8"].p50, pruned)

    def _converted(self) -> nn.Module:
        """The layer in int8, packed for as many rows as it is given in the model."""
        linear = self.layer.linear
        copy = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        copy.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        if linear.bias is not None:
            copy.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        holder = nn.Sequential(copy).eval()
        convert_(holder, Int8(rows=max(1, self.example[..., 0].numel())))
        return holder[0]


def example_inputs(model: nn.Module, layers: Iterable[Layer], batches: Iterable[Any]) -> Mapping[nn.Module, Tensor]:
    """For each layer that the data reach, random numbers of the shape and dtype of its first input."""
    generator = torch.Generator().manual_seed(0)
    found: dict[nn.Module, Tensor] = {}

    def observe(module: nn.Module) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            if module not in found:
                found[module] = torch.randn(x.shape, generator=generator).to(x.dtype)

        return keep

    gather(model, {layer.module: observe(layer.module) for layer in layers}, batches)
    return found
