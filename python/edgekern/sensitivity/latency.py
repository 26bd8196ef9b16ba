"""How long one layer takes, alone: in floats, and as what it is converted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.bench.interleave import interleave
from edgekern.calibration.observe import gather
from edgekern.nn import NativeLayer
from edgekern.nn.convolution import options_of
from edgekern.nn.layers import CONV, Layer
from edgekern.nn.memory import copies_to_measure, part_of_a_model

_ROUNDS, _TURN_SECONDS = 40, 0.005  # many short turns: a burst of other work hits few of them

Call = Callable[[], object]


@dataclass
class Stopwatch:
    """Times layers. Those of one shape whose weights take the same bytes run alike, and share a measurement."""

    model_bytes: int
    """Of all layers that are scanned, as floats. Weights come from the cache or not as they do in such a model."""
    _known: dict[Hashable, tuple[float, ...]] = field(default_factory=dict)

    def times(self, layer: Layer, example: Tensor, natives: Sequence[NativeLayer]) -> tuple[float, ...]:
        """Median milliseconds of one call with ``example``: of the float layer, and of each of the others.

        They are timed in turns, so that a busy machine is unfair to none of them.
        """
        linear = layer.linear
        like = tuple((each.scheme, each.choice.form, round(math.log(each.packed_bytes) / 0.02)) for each in natives)
        options = tuple(options_of(layer.conv).items()) if layer.kind == CONV else ()
        own = (tuple(linear.weight.shape), linear.weight.dtype, linear.bias is None, options)
        key = (own, tuple(example.shape), like)
        if key not in self._known:
            share = self.model_bytes / layer.dense_bytes
            # Each by a name of its own: two schemes may have come to the same.
            calls = {"float": _float_calls(layer, example, share)}
            calls |= {str(i): _native_calls(each, example, share) for i, each in enumerate(natives)}
            with torch.inference_mode():
                found = interleave({name: _next_of(each) for name, each in calls.items()}, _ROUNDS, _TURN_SECONDS)
            self._known[key] = tuple(found[name].p50 for name in calls)
        return self._known[key]


def _float_calls(layer: Layer, x: Tensor, share: float) -> list[Call]:
    module, count = layer.module, _copies(layer.linear.weight.nbytes, share)
    return _forwards([module, *(_float_twin(module) for _ in range(count - 1))], x)


def _native_calls(native: NativeLayer, x: Tensor, share: float) -> list[Call]:
    return _forwards([native, *(_twin(native) for _ in range(_copies(native.packed_bytes, share) - 1))], x)


def _forwards(modules: Sequence[nn.Module], x: Tensor) -> list[Call]:
    # Not the modules themselves, which may have hooks.
    return [lambda module=module: module.forward(x) for module in modules]  # type: ignore[misc]


def _copies(nbytes: int, share: float) -> int:
    """How many to call one after the other, in a model that is so many times as large."""
    with part_of_a_model(round(nbytes * share)):
        return copies_to_measure(nbytes)


def _float_twin(module: nn.Module) -> nn.Module:
    """The same layer of floats with its weight elsewhere in memory."""
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    weight = nn.Parameter(cast(Tensor, module.weight).detach().clone(), requires_grad=False)
    vars(twin)["_parameters"] = {**module._parameters, "weight": weight}
    return twin


def _twin(native: NativeLayer) -> NativeLayer:
    """The same with weights elsewhere in memory. Copying the module itself would choose its form again."""
    twin = object.__new__(type(native))
    vars(twin).update(vars(native))
    for name in ("packed", "packed_few"):
        packed = vars(native).get(name)
        if packed is not None:
            vars(twin)[name] = packed.clone()
    return twin


def _next_of(calls: Sequence[Call]) -> Call:
    turns = cycle(calls)
    return lambda: next(turns)()


def example_inputs(
    model: nn.Module, layers: Iterable[Layer], batches: Iterable[Any], rows: int | None
) -> Mapping[nn.Module, Tensor]:
    """For each layer that the data reach, random numbers of the shape and dtype of its first input, or of ``rows``."""
    generator = torch.Generator().manual_seed(0)
    found: dict[nn.Module, Tensor] = {}

    def observe(module: nn.Module) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            if module not in found:
                shape = x.shape if rows is None or isinstance(module, nn.Conv2d) else (rows, x.shape[-1])
                found[module] = torch.randn(shape, generator=generator).to(x.dtype)

        return keep

    gather(model, {layer.module: observe(layer.module) for layer in layers}, batches)
    return found


def made_up_inputs(layers: Iterable[Layer], rows: int) -> Mapping[nn.Module, Tensor]:
    """For each layer, random numbers of that many rows, in the dtype of the weights."""
    generator = torch.Generator().manual_seed(0)
    return {
        layer.module: torch.randn(rows, layer.shape[1], generator=generator).to(layer.linear.weight.dtype)
        for layer in layers
        if layer.kind == "Linear"
    }
