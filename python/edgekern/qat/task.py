"""Preparing for training, as the planner asks about it: what conversion would do to a layer."""

from __future__ import annotations

from torch import nn

from edgekern.config import Scheme
from edgekern.nn.fused import FusedLinear
from edgekern.nn.layers import CONV, Layer, objection, obstacle
from edgekern.nn.qat_linear import at_odds


class QATError(ValueError):
    """A model cannot be prepared as asked. It is as it was before the call."""


class Preparing:
    """The task of ``prepare_qat_``."""

    verb = "prepare"
    done = "prepared"
    layers = "linear layers"
    tables = False
    error: type[ValueError] = QATError

    def is_for(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        if layer.native:
            return f"{layer.native.format} already, and without a backward; dense_(model) makes it trainable"
        if layer.kind == CONV:
            return "training with rounding is for linear layers; convert_ with Int8() takes a convolution as it is"
        if isinstance(layer.module, FusedLinear) and layer.module.activation != "none":
            return f"applies {layer.module.activation} itself, which training does not; prepare before fuse_"
        reason = obstacle(layer)
        if not reason and layer.linear.weight.is_inference():
            return "its weight was made under torch.inference_mode and cannot be trained; clone it"
        return reason or at_odds(layer.module, scheme)

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        return objection(layer, ties, scheme)

    def is_done(self, layer: Layer) -> bool:
        return False
