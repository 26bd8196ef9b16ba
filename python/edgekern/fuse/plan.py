"""Deciding what is fused into what, and if not why. Nothing here changes a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from edgekern.fuse.calls import Call, Calls
from edgekern.fuse.fold import folded, obstacle_in_norm, obstacle_in_pair
from edgekern.fuse.obstacles import hands_on, hooked, obstacle_in_layer, obstacle_in_removal, watched
from edgekern.fuse.parts import Parts
from edgekern.fuse.same_padding import Padding
from edgekern.nn.fused import ACTIVATION_FUNCTIONS, FusedConv2d, FusedLinear
from edgekern.nn.layers import Layer, tied_weights

_MODULES = {
    "relu": "nn.ReLU",
    "relu6": "nn.ReLU6",
    "hardtanh": "nn.ReLU6",
    "hardswish": "nn.Hardswish",
    "silu": "nn.SiLU",
    "gelu": "nn.GELU",
}
"""Modules in place of functions."""


@dataclass
class Fusion:
    """What one layer becomes."""

    layer: Layer
    padding: Padding | None = None
    """Of a convolution that pads in a forward of its own."""
    norm: nn.Module | None = None
    values: tuple[Tensor, Tensor] | None = None
    """Weight and bias with the norm in them."""
    activation: nn.Module | None = None


class Plan:
    """What each layer becomes, and where each norm and activation goes.

    Attributes:
        fusions: one for each layer.
        into: the layers that each norm or activation goes into; those that stay have no entry.
        reasons: why each part is left alone, as far as it is.
    """

    def __init__(self, model: nn.Module, parts: Parts, calls: Calls) -> None:
        self._parts, self._calls = parts, calls
        self._hooked = hooked(model, parts)
        self._ties = tied_weights(model)
        self._transparent = {module for module in model.modules() if hands_on(module)}
        self.fusions = {module: Fusion(layer) for module, layer in parts.layers.items()}
        self.into: dict[nn.Module, list[Layer]] = {}
        self.reasons: dict[nn.Module, str] = {}
        for module, layer in parts.layers.items():
            reason, self.fusions[module].padding = obstacle_in_layer(layer, calls)
            if reason:
                self.reasons[module] = reason
        self._each(parts.norms, self._take_norm)
        self._transparent |= self.into.keys()
        self._each(parts.activations, self._take_activation)
        for module, fusion in self.fusions.items():
            if module not in self.reasons and fusion.activation is None:
                self.reasons[module] = self._why_no_activation(module)

    def _each(self, parts: Iterable[nn.Module], take: Callable[[nn.Module, list[Layer]], None]) -> None:
        sources = self._sources()
        for module in parts:
            try:
                _stays_if(obstacle_in_removal(module, self._calls))
                layers = self._layers_before(module, sources)
                take(module, layers)
            except _Stays as why:
                self.reasons[module] = str(why)
            else:
                self.into[module] = layers

    def _take_norm(self, norm: nn.Module, layers: list[Layer]) -> None:
        _stays_if(obstacle_in_norm(norm))
        values = []
        for layer in layers:
            shared = f"its weight is also {self._ties[layer.module]!r}" if layer.module in self._ties else ""
            if reason := shared or obstacle_in_pair(layer, norm):
                raise _Stays(f"cannot be folded into {layer.name!r}: {reason}")
            try:
                values.append(folded(cast(nn.Linear, layer.module), norm))
            except ValueError as error:
                raise _Stays(f"cannot be folded into {layer.name!r}: {error}") from None
        for layer, value in zip(layers, values, strict=True):
            self.fusions[layer.module].norm, self.fusions[layer.module].values = norm, value

    def _take_activation(self, activation: nn.Module, layers: list[Layer]) -> None:
        if not self._parts.activations[activation]:
            raise _Stays(f"no fused layer applies it; they apply {', '.join(ACTIVATION_FUNCTIONS)}")
        for layer in layers:
            self.fusions[layer.module].activation = activation

    # ------------------------------------------------------------------------------------------------ who reads whom

    def _layers_before(self, module: nn.Module, sources: dict[Call, Call]) -> list[Layer]:
        """The layers of which all results go to ``module`` alone, and no others do; or else it stays."""
        layers: dict[nn.Module, Layer] = {}
        for call in self._calls.of[module]:
            source = sources.get(call)
            if source is None or source.module not in self._parts.layers:
                found = f"follows {source.name!r}, which is" if source else "follows"
                raise _Stays(f"{found} no linear or 2-d convolution layer")
            layer = layers[source.module] = self._parts.layers[source.module]
            if reason := self.reasons.get(source.module):
                raise _Stays(f"follows {layer.name!r}, which is left alone: {reason}")
            if isinstance(fused := source.module, FusedConv2d | FusedLinear) and fused.activation != "none":
                raise _Stays(f"follows {layer.name!r}, which applies {fused.activation!r} already")
        for layer in layers.values():
            for call in self._calls.of[layer.module]:
                self._check_alone(call, module)
        return list(layers.values())

    def _check_alone(self, call: Call, module: nn.Module) -> None:
        """That ``module`` and nothing else reads what a layer gives in this call."""
        readers = list(self._readers(call))
        others = [_said(reader) for reader in readers if not (isinstance(reader, Call) and reader.module is module)]
        _stays_if(f"what {call.name!r} gives is read by {others[0]} as well" if others else "")
        _stays_if("" if len(readers) == 1 else f"{call.name!r} is not followed by it every time, and by it alone")
        between = watched(call, cast(Call, readers[0]), self._hooked)
        _stays_if(f"hooks of {between!r} see what is between {call.name!r} and it" if between else "")

    def _sources(self) -> dict[Call, Call]:
        """Which call's result each call reads, past modules that hand on what they are given."""
        calls = [call for module, made in self._calls.of.items() if module not in self._transparent for call in made]
        return {reader: call for call in calls for reader in self._readers(call) if isinstance(reader, Call)}

    def _readers(self, call: Call) -> Iterator[Call | str]:
        for reader in call.readers:
            if isinstance(reader, Call) and reader.module in self._transparent:
                yield from self._readers(reader)
            else:
                yield reader

    def _why_no_activation(self, module: nn.Module) -> str:
        said = sorted({_said(reader) for call in self._calls.of[module] for reader in self._readers(call)})
        function = said[0].rstrip("_") if len(said) == 1 else ""
        if function in _MODULES:
            as_module = f"as a module, {_MODULES[function]}, it could be"
            return f"no activation: {said[0]} is called inside a forward, where it cannot be taken out; {as_module}"
        return f"no activation: its result goes to {' and '.join(said) or 'nobody'}"


class _Stays(Exception):
    """Why a norm or an activation is left where it is."""


def _stays_if(reason: str) -> None:
    if reason:
        raise _Stays(reason)


def _said(reader: Call | str) -> str:
    return repr(reader.name) if isinstance(reader, Call) else reader
