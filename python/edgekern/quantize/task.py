"""Quantising, as the planner asks about it: which layers can be quantised, and which should be."""

from __future__ import annotations

from torch import nn

from edgekern.config import GPTQ, Calibrated, Migrating, Scheme
from edgekern.nn.layers import CONV, Layer, objection, obstacle
from edgekern.nn.qat_linear import at_odds
from edgekern.nn.schemes import obstacle_in_scheme


class QuantizeError(ValueError):
    """A model cannot be quantised as asked. It is as it was before the call."""


class Quantizing:
    """The task of ``quantize_``: what conversion would do to a layer, but for the memory a packed copy takes."""

    verb = "quantise"
    done = "quantised"
    layers = "linear or 2-d convolution layers"
    tables = False
    error: type[ValueError] = QuantizeError

    def is_for(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear | nn.Conv2d)

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        assert isinstance(scheme, Calibrated)
        if layer.native:
            return f"{layer.native.format} already; quantise before converting"
        if layer.kind == CONV and isinstance(scheme, Migrating):
            way_out = scheme.gptq or GPTQ(scheme.target)
            return f"scaling input channels is for linear layers; {way_out!r} rounds a convolution by its inputs"
        reason = obstacle_in_scheme(layer, scheme.target) or obstacle(layer)
        if not reason and layer.linear.weight.is_inference():
            return "its weight was made under torch.inference_mode and cannot be changed in place; clone it"
        return reason or at_odds(layer.module, scheme.target)

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        if layer.module in ties:
            way_out = f"a rule for it quantises it: PerLayer({{{layer.name!r}: {scheme!r}, '_default': {scheme!r}}})"
            return f"its weight is also {ties[layer.module]!r}, which would be rounded with it; {way_out}"
        return objection(layer, {}, scheme)

    def is_done(self, layer: Layer) -> bool:
        return False
