"""What a model is fused from: layers, normalisations, activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.nn.layers import CONV, LINEAR, Layer, find_layers

NORMS = {CONV: nn.BatchNorm2d, LINEAR: nn.BatchNorm1d}
"""The normalisation that can be folded into each kind of layer."""

_PLAIN = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "silu"}
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
    activations: tuple[nn.Module, ...]

    def __contains__(self, module: nn.Module) -> bool:
        return module in self.names

    def name(self, module: nn.Module) -> str:
        """The first name of one of them."""
        return self.names[module][0]


def parts_of(model: nn.Module) -> Parts:
    """Every linear and 2-d convolution layer, batch normalisation and activation module of ``model``."""
    layers = {layer.module: layer for layer in find_layers(model)}
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in layers or isinstance(module, (_BatchNorm, *_ACTIVATIONS)):
            names.setdefault(module, []).append(name)
    norms = tuple(module for module in names if isinstance(module, _BatchNorm))
    activations = tuple(module for module in names if isinstance(module, _ACTIVATIONS))
    return Parts({module: tuple(found) for module, found in names.items()}, layers, norms, activations)


def activation_of(module: nn.Module) -> str:
    """The name by which a fused layer applies the activation that ``module`` is; empty where none does."""
    forward = type(module).forward
    if "forward" in vars(module):
        return ""
    if isinstance(module, nn.GELU):
        return _GELUS.get(module.approximate, "") if forward is nn.GELU.forward else ""
    if isinstance(module, nn.Hardtanh):
        range_ = (module.min_val, module.max_val)
        return "relu6" if forward is nn.Hardtanh.forward and range_ == (0, 6) else ""
    return next((name for cls, name in _PLAIN.items() if isinstance(module, cls) and forward is cls.forward), "")
