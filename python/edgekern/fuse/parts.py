"""What a model is fused from: layers, normalisations, activations."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.calibration.observe import inference
from edgekern.fuse.calls import undisturbed
from edgekern.nn.layers import CONV, LINEAR, Layer, find_layers

NORMS = {CONV: nn.BatchNorm2d, LINEAR: nn.BatchNorm1d}
"""The normalisation that can be folded into each kind of layer."""

_PLAIN = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "silu"}
_FUNCTIONS = {F.relu: "relu", torch.relu: "relu", F.relu6: "relu6", F.hardswish: "hardswish", F.silu: "silu"}
_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}
_ACTIVATIONS = (
    nn.GELU,
    *_PLAIN,
    # No fused layer applies the rest, except ReLU6, which is an nn.Hardtanh.
    nn.CELU,
    nn.ELU,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.SELU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)


@dataclass(frozen=True)
class Parts:
    """The modules of a model that fusing is about, each once, in the model's order."""

    names: dict[nn.Module, tuple[str, ...]]
    """Of all of them: every fully qualified name; the first one is used in tables."""
    layers: dict[nn.Module, Layer]
    norms: tuple[nn.Module, ...]
    activations: dict[nn.Module, str]
    """By what name a fused layer applies each; empty where none does."""

    def __contains__(self, module: nn.Module) -> bool:
        return module in self.names

    def name(self, module: nn.Module) -> str:
        """The first name of one of them."""
        return self.names[module][0]


def parts_of(model: nn.Module) -> Parts:
    """Every linear and 2-d convolution layer, batch normalisation and activation module of ``model``."""
    layers = {layer.module: layer for layer in find_layers(model)}
    activations = {}
    for module in model.modules():
        known = isinstance(module, _ACTIVATIONS)
        if module is model and not known:
            continue
        if (name := activation_in(module)) or known:
            activations[module] = name
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in layers or module in activations or isinstance(module, _BatchNorm):
            names.setdefault(module, []).append(name)
    norms = tuple(module for module in names if isinstance(module, _BatchNorm))
    return Parts({module: tuple(found) for module, found in names.items()}, layers, norms, activations)


def activation_in(module: nn.Module) -> str:
    """The name of the activation that a module is, of PyTorch or of other code; empty where no fused layer has it."""
    return _activation_of(module) if isinstance(module, _ACTIVATIONS) else _function_in(module)


def _activation_of(module: nn.Module) -> str:
    """The name of the activation that one of PyTorch's modules is."""
    forward = type(module).forward
    if "forward" in vars(module):
        return ""
    if isinstance(module, nn.GELU):
        return _GELUS.get(module.approximate, "") if forward is nn.GELU.forward else ""
    if isinstance(module, nn.Hardtanh):
        range_ = (module.min_val, module.max_val)
        return "relu6" if forward is nn.Hardtanh.forward and range_ == (0, 6) else ""
    return next((name for cls, name in _PLAIN.items() if isinstance(module, cls) and forward is cls.forward), "")


def _function_in(module: nn.Module) -> str:
    """The name of the activation that a module of other code is, if calling its function is all that it does."""
    if type(module).__module__.startswith(("torch.", "edgekern.")) or "forward" in vars(module):
        return ""
    if any(True for _ in chain(module.children(), module.parameters(), module.buffers())):
        return ""
    try:
        with inference(module), undisturbed(module):
            nodes = list(fx.symbolic_trace(module).graph.nodes)
    except Exception:  # of whatever kind the module's code, or tracing, raises
        return ""
    if [node.op for node in nodes] != ["placeholder", "call_function", "output"]:
        return ""
    x, call, result = nodes
    options = {**call.kwargs}
    options.pop("inplace", None)
    if call.args != (x,) or result.args != (call,):
        return ""
    if call.target is F.gelu:
        return _GELUS.get(str(options.pop("approximate", "none")), "")
    return "" if options else _FUNCTIONS.get(call.target, "")
