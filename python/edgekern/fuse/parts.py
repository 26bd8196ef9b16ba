"""What a model is fused from: layers, normalisations, activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.nn.layers import CONV, LINEAR, Layer, Place, find_layers

NORMS = {CONV: nn.BatchNorm2d, LINEAR: nn.BatchNorm1d}
"""The normalisation that can be folded into each kind of layer."""

_PLAIN = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "silu"}
_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}
_WITHOUT_FORM = (
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
"""Activations that no fused layer applies; ReLU6 is an ``nn.Hardtanh``."""


@dataclass(frozen=True)
class Parts:
    """The modules of a model that fusing is about, each once."""

    in_order: tuple[nn.Module, ...]
    """All of them, as they come in the model."""
    layers: dict[nn.Module, Layer]
    norms: dict[nn.Module, Layer]
    activations: dict[nn.Module, Layer]

    def __contains__(self, module: nn.Module) -> bool:
        return module in self.layers or module in self.norms or module in self.activations

    def __getitem__(self, module: nn.Module) -> Layer:
        """Where one of them stands, under which names."""
        return self.layers.get(module) or self.norms.get(module) or self.activations[module]


def parts_of(model: nn.Module) -> Parts:
    """Every linear and 2-d convolution layer, batch normalisation and activation module of ``model``."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[nn.Module, list[str]] = {}
    for name, module in modules.items():
        names.setdefault(module, []).append(name)

    def standing(module: nn.Module) -> Layer:
        places = [(name, *name.rpartition(".")) for name in names[module] if name]
        held = tuple(Place(name, modules[parent], attribute) for name, parent, _, attribute in places)
        return Layer(module, type(module).__name__, tuple(names[module]), held)

    layers = {layer.module: layer for layer in find_layers(model)}
    norms = {module: standing(module) for module in names if isinstance(module, _BatchNorm)}
    activations = {module: standing(module) for module in names if _is_activation(module)}
    every = layers.keys() | norms.keys() | activations.keys()
    return Parts(tuple(module for module in names if module in every), layers, norms, activations)


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
    return next(
        (name for cls, name in _PLAIN.items() if isinstance(module, cls) and forward is cls.forward),  # type: ignore[attr-defined]
        "",
    )


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, (nn.GELU, *_PLAIN, *_WITHOUT_FORM))
