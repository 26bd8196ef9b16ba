"""Finding the layers of a model, and the reasons why one cannot or should not be converted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgekern.config import Int8, Scheme
from edgekern.nn import NATIVE_EMBEDDINGS
from edgekern.nn.convolution import misfit, options_of, pads_of, weight_shape_of
from edgekern.nn.embedding import NativeEmbedding
from edgekern.nn.fused import FusedConv2d, FusedLinear
from edgekern.nn.native_conv import NativeConv2d
from edgekern.nn.native_layer import NativeLayer
from edgekern.nn.native_linear import NativeLinear
from edgekern.nn.qat_linear import QATLinear

DEFAULT_SCHEME = Int8()
"""What layers are looked at for, when nobody has said for what."""

LINEAR, CONV, TABLE, BAG = "Linear", "Conv2d", "Embedding", "EmbeddingBag"


@dataclass(frozen=True)
class Place:
    """Where a model holds a layer."""

    name: str
    """Fully qualified."""
    parent: nn.Module
    attribute: str


@dataclass(frozen=True)
class Layer:
    """One layer, which a model may hold in several places under several names."""

    module: nn.Module
    kind: str
    """``"Linear"`` or ``"Conv2d"``, and where tables are asked for ``"Embedding"`` or ``"EmbeddingBag"``."""
    names: tuple[str, ...]
    """Every fully qualified name; the first one is used in tables and files."""
    places: tuple[Place, ...]
    """One for each name, or none for a layer that is itself the model."""

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def native(self) -> NativeLayer | NativeEmbedding | None:
        """The module when it is one of ours."""
        return self.module if isinstance(self.module, NativeLayer | NativeEmbedding) else None

    @property
    def native_linear(self) -> NativeLinear | None:
        """The module when it is a linear layer of ours."""
        return self.module if isinstance(self.module, NativeLinear) else None

    @property
    def is_table(self) -> bool:
        """Whether rows are read from it by their number."""
        return self.kind in (TABLE, BAG)

    @property
    def linear(self) -> nn.Linear:
        """The module, of a layer without obstacles. Convolutions and tables have a weight too, and a bias or none."""
        return cast(nn.Linear, self.module)

    @property
    def conv(self) -> nn.Conv2d:
        """The module, of a convolution that is not native."""
        return cast(nn.Conv2d, self.module)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight; empty when it is not known yet."""
        if self.native:
            return self.native.weight_shape
        parameter = self.module._parameters.get("weight")
        weight = _computed_weight(self.module) if parameter is None else parameter
        return () if nn.parameter.is_lazy(weight) else tuple(weight.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the layer as PyTorch holds it; of a native layer, what weight and bias would take dense."""
        if self.native:
            bias = 0 if self.native.bias_dtype is None else self.shape[0] * self.native.bias_dtype.itemsize
            return math.prod(self.shape) * self.native.dtype.itemsize + bias
        tensors: list[Tensor] = [tensor for tensor in self.module.parameters() if not nn.parameter.is_lazy(tensor)]
        if not tensors and not self.module._parameters:
            tensors = [_computed_weight(self.module)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def find_layers(model: nn.Module, *, tables: bool = False) -> list[Layer]:
    """Every linear and 2-d convolution layer of ``model``, native and foreign ones too, in the model's order.

    ``tables`` asks for its embedding tables as well.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in modules.items():
        if kind := _kind(module):
            if tables or kind not in (TABLE, BAG):
                names[module].append(name)

    def place(name: str) -> Place:
        parent, _, attribute = name.rpartition(".")
        return Place(name, modules[parent], attribute)

    return [
        Layer(module, _kind(module), tuple(found), tuple(place(name) for name in found if name))
        for module, found in names.items()
    ]


def obstacle(layer: Layer, *, awaited: bool = False) -> str:
    """Why ``layer`` cannot be converted; empty when it can.

    ``awaited`` says that its values are still to come, so that the meta device is not in the way.
    """
    if layer.native:
        return f"{layer.native.format} already"
    structural = structural_obstacle(layer)
    return structural or obstacle_in_tensors(layer.linear, awaited=awaited) or _obstacle_in_shape(layer)


def structural_obstacle(layer: Layer) -> str:
    """Why no native layer could stand in for ``layer``, whatever tensors it holds; empty when one could."""
    module = layer.module
    if layer.native:
        return ""
    if isinstance(module, nn.EmbeddingBag):
        return "nn.EmbeddingBag adds up the rows that it reads, which no native layer does"
    return _obstacle_in_options(module) or obstacle_in_code(layer)


def obstacle_in_code(layer: Layer) -> str:
    """What else than a plain linear or convolution layer ``layer`` is, or is looked into as; empty when nothing."""
    module = layer.module
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        return f"quantised already, as {type(module).__module__}.{type(module).__name__}"
    return _obstacle_inside(module) or obstacle_around(layer)


def objection(layer: Layer, ties: dict[nn.Module, str], scheme: Scheme = DEFAULT_SCHEME) -> str:
    """Why ``scheme`` leaves ``layer`` alone unless a rule asks for it; empty when nothing speaks against it."""
    way_out = f"a rule for it converts it: PerLayer({{{layer.name!r}: {scheme!r}, '_default': {scheme!r}}})"
    if layer.module in ties:
        also = f"its weight is also {ties[layer.module]!r}"
        if layer.kind == CONV or scheme.format not in NATIVE_EMBEDDINGS:
            return f"{also}, so a packed copy would come on top; {way_out}"
        return f"{also}; {way_out.replace('converts it', 'converts it, and a table that it shares it with, as one')}"
    if layer.is_table:
        return f"an embedding table, whose rounding errors go through the whole model; {way_out}"
    if scheme.rounds and any(name.rpartition(".")[2] == "lm_head" for name in layer.names):
        return f"the output head, whose rounding errors go straight to the logits; {way_out}"
    return ""


def tied_weights(model: nn.Module) -> dict[nn.Module, str]:
    """For each layer whose weight another module holds too: the name of that other parameter."""
    owners: dict[object, list[tuple[nn.Module, str]]] = defaultdict(list)
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners[tensor_identity(parameter)].append((module, f"{path}.{name}" if path else name))
    ties: dict[nn.Module, str] = {}
    for shared in owners.values():
        for module, _ in shared:
            others = [name for owner, name in shared if owner is not module]
            if others and isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                ties.setdefault(module, others[0])
    return ties


def tensor_identity(tensor: Tensor) -> object:
    """Equal for two tensors that are the same elements of the same memory."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
    if not plain or not tensor.numel():
        return id(tensor)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())


def _kind(module: nn.Module) -> str:
    if isinstance(module, (NativeLinear, nn.Linear)):
        return LINEAR
    if isinstance(module, (NativeConv2d, nn.Conv2d)):
        return CONV
    if isinstance(module, (NativeEmbedding, nn.Embedding)):
        return TABLE
    if isinstance(module, nn.EmbeddingBag):
        return BAG
    # PyTorch's own quantised layers derive from neither, and are recognised without importing their packages.
    foreign = type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized"))
    if foreign and callable(getattr(module, "weight", None)):
        return next((kind for kind in (LINEAR, CONV) if kind in type(module).__name__), "")
    return ""


def _computed_weight(module: nn.Module) -> Tensor:
    """The weight where it is no parameter: a method of PyTorch's quantised layers, else an attribute."""
    weight = cast("Tensor | Callable[[], Tensor]", module.weight)
    return weight if isinstance(weight, Tensor) else weight()


def _obstacle_in_options(module: nn.Module) -> str:
    """A table that does more than read rows."""
    if not isinstance(module, nn.Embedding):
        return ""
    if module.max_norm is not None:
        return f"max_norm={module.max_norm} rescales its rows whenever they are read, which a native layer would not"
    for option in ("sparse", "scale_grad_by_freq"):
        if getattr(module, option):
            return f"{option}=True is about gradients, and a converted layer has none; set it to False first"
    return ""


def _obstacle_inside(module: nn.Linear | nn.Conv2d | nn.Embedding) -> str:
    """What the module computes is more than its input times its weight, plus bias; or more than rows of its weight."""
    if reason := obstacle_in_instance(module):
        return reason
    base = next(base for base in (nn.Linear, nn.Conv2d, nn.Embedding) if isinstance(module, base))
    if not _runs_as(base, module):
        return f"{type(module).__name__} has a forward of its own, which a native layer would not run"
    extra = [*(module._parameters.keys() - {"weight", "bias"}), *module._buffers, *module._modules]
    if extra:
        return f"holds more than weight and bias: {', '.join(sorted(extra))}"
    return ""


def obstacle_in_instance(module: nn.Linear | nn.Conv2d | nn.Embedding) -> str:
    """What was done to this one module, so that it is not what its class says."""
    if parametrize.is_parametrized(module):
        return "parametrised; parametrize.remove_parametrizations(layer, 'weight') makes its weight plain"
    if module._parameters.get("weight") is None:
        return "its weight is recomputed at every call; prune.remove or remove_weight_norm makes it plain"
    if "forward" in vars(module):
        return "its forward was replaced by another, which a native layer would not run"
    if "_compiled_call_impl" in vars(module):
        return "compiled by itself; convert first, then compile"
    return ""


def _runs_as(base: type[nn.Linear | nn.Conv2d | nn.Embedding], module: nn.Module) -> bool:
    if type(module) in (QATLinear, FusedLinear, FusedConv2d):
        return True  # its forward is what a native layer will do
    methods = ("forward", "_conv_forward") if base is nn.Conv2d else ("forward",)
    return all(getattr(type(module), method) is getattr(base, method) for method in methods)


def obstacle_around(layer: Layer) -> str:
    """Other code looks into the layer, past its forward."""
    module = layer.module
    if any(isinstance(place.parent, nn.MultiheadAttention) for place in layer.places):
        return "nn.MultiheadAttention reads its weight and never calls it"
    if module._backward_hooks or module._backward_pre_hooks:
        return "has backward hooks, which an inference-only layer would never call"
    if any(getattr(hook, "with_module", False) for hook in module._load_state_dict_pre_hooks.values()):
        return "has a load_state_dict hook bound to it, which would not survive it"
    return ""


def obstacle_in_tensors(module: nn.Linear | nn.Conv2d, *, awaited: bool = False) -> str:
    """Why the tensors are not plain floats in this machine's memory, or ``awaited`` there; empty when they are."""
    tensors = {"weight": module.weight, "bias": getattr(module, "bias", None)}  # a table has none
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if nn.parameter.is_lazy(tensor):
            return "lazy: its shape is not known before the first call"
        if tensor.is_meta and not awaited:
            return f"its {name} is on the meta device and has no values"
        if tensor.device.type != "cpu" and not tensor.is_meta:
            return f"its {name} is on {tensor.device}; move it with .cpu()"
        if type(tensor) not in (nn.Parameter, Tensor):
            return f"its {name} is a {type(tensor).__name__}, not a plain tensor"
        if tensor.layout != torch.strided:
            return f"its {name} has layout {tensor.layout}; .to_dense() makes it plain"
        if tensor.dtype not in NativeLinear.DTYPES:
            return f"its {name} is {tensor.dtype}; float32, bfloat16 and float16 are supported"
    return ""


def _obstacle_in_shape(layer: Layer) -> str:
    module, shape = layer.linear, layer.shape
    bias = cast("Tensor | None", getattr(module, "bias", None))
    if layer.kind == CONV:
        if reason := _obstacle_in_convolution(layer.conv):
            return reason
    elif len(shape) != 2 or not NativeLinear.fits(shape[1], shape[0]):
        return f"its weight of shape {list(shape)} is empty, too large, or no matrix"
    if bias is not None and bias.shape != shape[:1]:
        return f"its bias of shape {list(bias.shape)} does not fit its weight of shape {list(shape)}"
    return ""


def _obstacle_in_convolution(conv: nn.Conv2d) -> str:
    options = options_of(conv)
    if reason := misfit(options):
        return reason
    expected = weight_shape_of(options)
    if conv.weight.shape != expected:
        return f"its weight of shape {list(conv.weight.shape)} is not the {list(expected)} of its channels and kernel"
    if conv.padding_mode != "zeros" and tuple(conv._reversed_padding_repeated_twice) != pads_of(options):
        return f"its padding was changed after it was made, which padding_mode={conv.padding_mode!r} never notices"
    return ""
