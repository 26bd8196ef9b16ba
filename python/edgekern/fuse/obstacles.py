"""Why a part of a model cannot take another in, or cannot be taken out."""

from __future__ import annotations

from torch import nn

from edgekern.fuse.calls import Call, Calls
from edgekern.fuse.parts import Parts
from edgekern.fuse.same_padding import Padding, padding_of
from edgekern.nn.fused import FusedConv2d, FusedLinear
from edgekern.nn.layers import Layer, obstacle_around, obstacle_in_code, obstacle_in_instance, obstacle_in_tensors
from edgekern.nn.qat_linear import QATLinear

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def obstacle_in_layer(layer: Layer, calls: Calls) -> tuple[str, Padding | None]:
    """Why nothing can be fused into a layer, empty when something can; and of a convolution that pads itself, how."""
    module = layer.module
    if reason := _obstacle_in_kind(layer) or obstacle_in_calls(module, calls):
        return reason, None
    if module._forward_hooks:
        return "has forward hooks, which would be given another result", None
    if isinstance(module, nn.Conv2d) and _has_own_forward(module):
        reason = obstacle_in_instance(module) or obstacle_around(layer)
        reason = reason or obstacle_in_tensors(module) or _obstacle_in_contents(module)
        padding = None if reason else padding_of(module)
        if padding is None and not reason:
            reason = f"{type(module).__name__} has a forward of its own, which is not padding and a plain convolution"
        return reason, padding
    if isinstance(module, FusedConv2d | FusedLinear):
        return obstacle_in_instance(module) or obstacle_around(layer), None
    return obstacle_in_code(layer), None


def obstacle_in_calls(module: nn.Module, calls: Calls) -> str:
    """Why it is not known who reads a part's results; empty when it is."""
    return calls.obstacles.get(module, "" if module in calls.of else "the model never calls it")


def obstacle_in_removal(module: nn.Module, calls: Calls) -> str:
    """Why ``nn.Identity`` cannot stand in for a norm or an activation, whatever is before it; empty when it can."""
    if has_hooks(module):
        return "has hooks, which would be gone with it"
    if "forward" in vars(module) or "_compiled_call_impl" in vars(module):
        return "its forward was replaced by another, or compiled"
    return obstacle_in_calls(module, calls)


def hands_on(module: nn.Module) -> bool:
    """Whether a module gives what it is given, and nobody else sees it."""
    return type(module) is nn.Identity and "forward" not in vars(module) and not has_hooks(module)


def hooked(model: nn.Module, parts: Parts) -> list[str]:
    """Names of modules around parts that have hooks, which see what goes in and out."""
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if module not in parts and (module._forward_hooks or module._forward_pre_hooks)
    ]


def watched(source: Call, reader: Call, hooked: list[str]) -> str:
    """Which of the ``hooked`` modules has one of two calls inside of it, so that its hooks see what is between them."""
    return next((name for name in hooked if _inside(source.name, name) != _inside(reader.name, name)), "")


def has_hooks(module: nn.Module) -> bool:
    """Whether other code is run when the module is called, or gradients pass it."""
    return any(vars(module).get(name) for name in _HOOKS)


def _inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")


def _obstacle_in_kind(layer: Layer) -> str:
    if layer.native:
        return f"{layer.native.format} already; fuse before converting"
    if isinstance(layer.module, QATLinear):
        return f"prepared to train for {layer.module.scheme!r}; undo_qat_ makes it plain"
    weight = layer.module._parameters.get("weight")
    if weight is not None and nn.parameter.is_lazy(weight):
        return "lazy: its shape is not known before the first call"
    return ""


def _has_own_forward(conv: nn.Conv2d) -> bool:
    own = any(getattr(type(conv), name) is not getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward"))
    return own and type(conv) is not FusedConv2d


def _obstacle_in_contents(conv: nn.Conv2d) -> str:
    """What a forward of its own may read that a plain convolution does not have."""
    names = [name for name, _ in [*conv.named_parameters(), *conv.named_buffers()] if name not in ("weight", "bias")]
    return f"holds more than weight and bias: {', '.join(sorted(names))}" if names else ""
