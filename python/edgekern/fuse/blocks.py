"""``fuse_blocks_``: what transformers' models do between linear layers, in few operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from operator import mul
from typing import Any

import torch
from torch import fx, nn

from edgekern.calibration.observe import inference
from edgekern.fuse.calls import undisturbed
from edgekern.fuse.parts import activation_in
from edgekern.nn import share_inputs_
from edgekern.nn.gated_mlp import GatedMLP
from edgekern.nn.rms_norm import RMSNorm
from edgekern.nn.rotary import Rotary, Rotate, rotate_natively_, rotates_by
from edgekern.nn.swap import uninterrupted

_GATED = ("gate_proj", "up_proj", "down_proj")
_OF_A_NORM = {"to", "float", "type_as", "pow", "square", "mean", "rsqrt", "mul", "add", "getattr"}
"""All that a norm may consist of: with these, it scales a row by some power of what is in it, and nothing else."""
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class BlockReport:
    """What :func:`fuse_blocks_` did, by the names of modules."""

    shared: tuple[tuple[str, ...], ...]
    """Layers that one call computes, since they read the same input."""
    norms: tuple[str, ...]
    mlps: tuple[str, ...]
    rotations: tuple[str, ...]
    """Attention modules."""


def fuse_blocks_(model: nn.Module) -> BlockReport:
    """Lets the blocks of a converted transformer run in few operators, in place.

    - Query, key and value, and gate and up, are computed in one call, which quantises their input once. Results stay
      what they were, to the bit. They are known by the names that transformers gives them.
    - An RMS norm with one ``weight`` becomes :class:`edgekern.nn.RMSNorm`: one operator in place of six.
    - An MLP with ``gate_proj``, ``up_proj`` and ``down_proj`` becomes :class:`edgekern.nn.GatedMLP`: one operator in
      place of five.

    - An attention module that calls transformers' ``apply_rotary_pos_emb`` rotates by one operator in place of nine,
      in float32 to the same bits.

    Norms and MLPs are recognised by what they compute, not by their class: ``torch.fx`` traces each, and the graph has
    to be that of the formula; norms and rotations are tried on numbers. Any other is left as it is, as are modules with
    hooks, and ones whose forward was replaced. Parameters and layers stay the objects they are, by the names they have.
    Results change by the rounding of floats.

    Calling it again does nothing more. What is loaded by :mod:`edgekern.integrations.transformers` went through it.

    Args:
        model: converted. Of floats, only norms gain by it.

    Returns:
        What was found, by name.

    Raises:
        TypeError: not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    norms = _replaced(model, _norm)
    mlps = _replaced(model, _mlp)
    attentions = {name: module for name, module in model.named_modules() if _rotates(module)}
    with uninterrupted():
        for parent, name, new, _ in (*norms, *mlps):
            parent._modules[name] = new
        for module in attentions.values():
            rotate_natively_(module)
    return BlockReport(
        shared=share_inputs_(model),
        norms=tuple(full for _, _, _, full in norms),
        mlps=tuple(full for _, _, _, full in mlps),
        rotations=tuple(attentions),
    )


Replacement = tuple[nn.Module, str, nn.Module, str]


def _replaced(model: nn.Module, made: Callable[[nn.Module], nn.Module | None]) -> list[Replacement]:
    """Each child that something else stands in for: its parent, its name there, that, and its full name."""
    new: dict[nn.Module, nn.Module | None] = {}
    found = []
    for path, parent in model.named_modules():
        for name, child in parent.named_children():
            if child not in new:
                new[child] = None if _is_bound(child) else made(child)
            if (other := new[child]) is not None:
                found.append((parent, name, other, f"{path}.{name}" if path else name))
    return found


def _is_bound(module: nn.Module) -> bool:
    """Whether something holds on to this very object: a hook, or a forward of its own."""
    own = vars(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward")
    return any(own.get(name) for name in hooks)


def _graph(module: nn.Module) -> list[fx.Node]:
    """The nodes of what a module does, its children left closed; none where it cannot be traced."""

    class Closed(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    try:
        with inference(module), undisturbed(module):
            return list(Closed().trace(module).nodes)
    except Exception:  # of whatever kind the module's code, or tracing, raises
        return []


def _rotates(module: nn.Module) -> bool:
    """Whether a module calls a function of the usual name that gives the very bits of the native operator."""
    function = None if _is_bound(module) else rotates_by(module)
    return function is not None and _rotates_alike(function)


@cache
def _rotates_alike(function: Rotate) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (
        torch.randn(*shape, generator=generator, device="cpu")
        for shape in ((2, 3, 5, 16), (2, 1, 5, 16), *[(2, 5, 16)] * 2)
    )
    with torch.inference_mode():
        try:
            expected = function(q, k, cos, sin)
        except Exception:  # a function of another kind, of the same name
            return False
        got = Rotary(function)(q, k, cos, sin)
    return all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


# ------------------------------------------------------------------------------------------------- norms


def _norm(module: nn.Module) -> RMSNorm | None:
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 1 or weight.is_meta or isinstance(module, RMSNorm):
        return None
    if len(module._parameters) > 1 or any(True for _ in (*module.children(), *module.buffers())):
        return None
    eps = vars(module).get("variance_epsilon", vars(module).get("eps"))
    if not isinstance(eps, float) or not (type(module) is nn.RMSNorm or _is_scaling(_graph(module))):
        return None
    norm = RMSNorm(weight, eps).train(module.training)
    return norm if _alike(module, norm) else None


def _is_scaling(nodes: Iterable[fx.Node]) -> bool:
    names = {_called(node) for node in nodes if node.op.startswith("call")}
    return {"mean", "rsqrt"} <= names <= _OF_A_NORM


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _alike(module: nn.Module, norm: RMSNorm) -> bool:
    """Whether both give the same for rows of the size of eps, of 1 and of much more."""
    features = len(norm.weight)
    x = torch.randn(6, features, generator=torch.Generator().manual_seed(0), device="cpu")
    x *= torch.tensor([norm.eps**0.5, 1e-2, 1.0, 1.0, 30.0, 1e3])[:, None]
    x = x.to(norm.weight.dtype)
    with inference(module):
        expected, got = module(x), norm.by_torch(x)
    if expected.dtype != got.dtype:
        return False
    close = (expected - got).abs().float() <= max(_TOLERANCE, torch.finfo(got.dtype).eps) * expected.abs().float()
    return bool(close.all())


# -------------------------------------------------------------------------------------------------- MLPs


def _mlp(module: nn.Module) -> GatedMLP | None:
    if isinstance(module, GatedMLP) or not set(_GATED) <= module._modules.keys():
        return None
    own = [module._parameters, module._buffers]
    activation = _activation_of(module) if not any(own) else ""
    if not activation:
        return None
    gate, up, down = (module.get_submodule(name) for name in _GATED)
    return GatedMLP(gate, up, down, activation).train(module.training)


def _activation_of(module: nn.Module) -> str:
    """The activation of what is just the formula of a gated MLP; empty for anything else."""
    nodes = _graph(module)
    calls = {str(node.target): node for node in nodes if node.op == "call_module"}
    products = [node for node in nodes if node.op == "call_function" and node.target is mul]
    activations = [name for name in calls if name not in _GATED]
    if len(nodes) != 7 or len(calls) != 4 or len(products) != 1 or len(activations) != 1:
        return ""
    x, y = nodes[0], nodes[-1]
    gate, up, down = (calls.get(name) for name in _GATED)
    act, product = calls[activations[0]], products[0]
    reads: list[tuple[fx.Node | None, tuple[Any, ...]]] = [
        (gate, (x,)),
        (up, (x,)),
        (act, (gate,)),
        (down, (product,)),
        (y, (down,)),
    ]
    if any(node is None or node.args != args or node.kwargs for node, args in reads):
        return ""
    if product.args not in ((act, up), (up, act)):
        return ""
    return activation_in(module.get_submodule(activations[0]))
