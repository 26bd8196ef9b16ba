"""Quantising, as the planner asks about it: which layers can be quantised, and which should be."""

from __future__ import annotations

from torch import nn

from edgekern.config import Scheme
from edgekern.config.calibrated import Calibrated
from edgekern.nn.layers import CONV, Layer, objection, obstacle
from edgekern.nn.qat_linear import at_odds


class QuantizeError(ValueError):
    """A model cannot be quantised as asked. It is as it was before the call."""


class Quantizing:
    """The task of ``quantize_``: what conversion would do to a layer, but for the memory a packed copy takes."""

    verb = "quantise"
    done = "quantised"
    layers = "linear layers"
    tables = False
    error: type[ValueError] = QuantizeError

    def is_for(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        assert isinstance(scheme, Calibrated)
        if layer.native:
            return f"{layer.native.format} already; quantise before converting"
        if layer.kind == CONV:
            return "calibration is for linear layers; convert_ with Int8() rounds a convolution to the nearest values"
        reason = obstacle(layer)
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
