"""Whether a checkpoint and a model belong together, and how the tensors get in."""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekern.checkpoint.errors import CheckpointMismatchError
from edgekern.checkpoint.manifest import Manifest, dtype_name
from edgekern.checkpoint.records import ConvRecord, Record, TableRecord
from edgekern.nn.convolution import options_of, weight_shape_of
from edgekern.nn.fused import FusedLinear
from edgekern.nn.layers import CONV, LINEAR, TABLE, Layer, find_layers, structural_obstacle
from edgekern.nn.native_linear import NativeLinear


@dataclass
class Fit:
    """How the tensors that are not in native layers go into the model."""

    state: dict[str, Tensor]
    hidden: dict[str, Tensor]
    """Non-persistent buffers that the model has on the meta device."""
    ties: list[list[tuple[nn.Module, str]]]
    """Places of each parameter that the model holds more than once."""
    assign: bool
    """Whether the tensors replace the model's own, which are on the meta device, or are copied into them."""


def find_places(model: nn.Module, manifest: Manifest) -> list[Layer]:
    """The model's layer for each record."""
    layers = {name: layer for layer in find_layers(model, tables=True) for name in layer.names}
    places = []
    for record in manifest.records:
        name = record.names[0]
        layer = layers.get(name)
        kind, shape = _kind_and_shape(record)
        if layer is None or layer.kind != kind:
            close = difflib.get_close_matches(name, layers, n=3)
            hint = f"close to it: {', '.join(map(repr, close))}" if close else "nothing is close to it"
            raise CheckpointMismatchError(f"the model has no layer {name!r}, which the checkpoint converts; {hint}")
        if not layer.places:
            raise CheckpointMismatchError("the model is itself a single layer, which has no place to be replaced in")
        if set(layer.names) != set(record.names):
            raise CheckpointMismatchError(
                f"the checkpoint shares one layer under {list(record.names)}, the model under {list(layer.names)}"
            )
        if layer.shape != shape:
            raise CheckpointMismatchError(
                f"layer {name!r}: the checkpoint's weight is {list(shape)}, the model's {list(layer.shape)}"
            )
        if reason := structural_obstacle(layer):
            raise CheckpointMismatchError(f"layer {name!r} of the model cannot be replaced: {reason}")
        if difference := _difference(record, layer):
            raise CheckpointMismatchError(f"layer {name!r}: {difference}")
        places.append(layer)
    return places


def _kind_and_shape(record: Record) -> tuple[str, tuple[int, ...]]:
    if isinstance(record, TableRecord):
        return TABLE, (record.num_embeddings, record.embedding_dim)
    if isinstance(record, ConvRecord):
        return CONV, weight_shape_of(record.options)
    return LINEAR, (record.out_features, record.in_features)


def _difference(record: Record, layer: Layer) -> str:
    """What else than its weights would make the stored layer compute something other than the model's."""
    if isinstance(record, TableRecord):
        return ""
    module = layer.module
    if isinstance(record, ConvRecord):
        own, stored = options_of(module), record.options
    else:
        own = {"activation": module.activation if isinstance(module, FusedLinear | NativeLinear) else "none"}
        stored = {"activation": record.activation}
    name = next((name for name in stored if stored[name] != own[name]), None)
    if name is None:
        return ""
    # Where the model's own activation is a module of its own, it would be applied twice.
    hint = "; fuse the model first, as the saved one was: edgekern.fuse_(model)" if name == "activation" else ""
    return f"the checkpoint's has {name}={stored[name]!r}, the model's {own[name]!r}{hint}"


def fit(model: nn.Module, layers: list[Layer], manifest: Manifest, tensors: dict[str, Tensor]) -> Fit:
    """Checks that the tensors outside native layers are those the model has room for."""
    inside = tuple(f"{name}." for layer in layers for name in layer.names)
    slots = {name: slot for name, slot in model.state_dict().items() if not name.startswith(inside)}
    hidden = set(manifest.non_persistent)
    state = {name: tensor for name, tensor in tensors.items() if name not in hidden and not name.startswith(inside)}
    state.update({name: tensors[to] for name, to in manifest.aliases.items() if not name.startswith(inside)})
    problems = [f"{name!r} is missing from the checkpoint" for name in slots.keys() - state.keys()]
    problems += [f"{name!r} is unknown to the model" for name in state.keys() - slots.keys()]
    problems += [text for name in slots.keys() & state.keys() if (text := _differs(name, slots[name], state[name]))]
    buffers = {name: buffer for name, buffer in model.named_buffers() if name not in slots and buffer.is_meta}
    for name, buffer in buffers.items():
        if name not in hidden:
            problems.append(f"buffer {name!r} has no values in the model (meta device) nor in the checkpoint")
        elif text := _differs(name, buffer, tensors[name]):
            problems.append(text)
    ties, untied = _ties(model, inside, manifest)
    problems += untied
    if problems:
        shown = sorted(problems)[:10]
        more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise CheckpointMismatchError("\n  ".join(["the checkpoint does not fit the model:", *shown, *more]))
    assign = any(isinstance(slot, Tensor) and slot.is_meta for slot in slots.values())
    return Fit(state, {name: tensors[name] for name in buffers}, ties, assign)


def _differs(name: str, slot: object, tensor: Tensor) -> str:
    if not isinstance(slot, Tensor):
        return f"{name!r} is a {type(slot).__name__} in the model, a tensor in the checkpoint"
    if slot.shape != tensor.shape or slot.dtype != tensor.dtype:
        return (
            f"{name!r} is {dtype_name(slot.dtype)} {list(slot.shape)} in the model, "
            f"{dtype_name(tensor.dtype)} {list(tensor.shape)} in the checkpoint"
        )
    return ""


def _ties(
    model: nn.Module, inside: tuple[str, ...], manifest: Manifest
) -> tuple[list[list[tuple[nn.Module, str]]], list[str]]:
    """Places of shared parameters, and complaints about those that the checkpoint does not share."""
    places: dict[nn.Parameter, list[tuple[str, nn.Module, str]]] = defaultdict(list)
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            name = f"{path}.{attribute}" if path else attribute
            if parameter is not None and not name.startswith(inside):
                places[parameter].append((name, module, attribute))
    shared = [group for group in places.values() if len(group) > 1]
    problems = []
    for group in shared:
        names = [name for name, _, _ in group]
        if len({manifest.aliases.get(name, name) for name in names}) > 1:
            problems.append(f"{' and '.join(map(repr, names))} are one tensor in the model, not in the checkpoint")
    return [[(module, attribute) for _, module, attribute in group] for group in shared], problems


def fill(model: nn.Module, plan: Fit) -> None:
    with torch.no_grad():
        if plan.assign:
            # Copies, because the tensors are the file itself: truncating it later would crash the process.
            copies = {id(tensor): tensor.clone() for tensor in plan.state.values()}
            state = {name: copies[id(tensor)] for name, tensor in plan.state.items()}
        else:
            state = plan.state
        model.load_state_dict(state, strict=False, assign=plan.assign)
        for name, tensor in plan.hidden.items():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = tensor.clone()
        if plan.assign:
            for (module, attribute), *others in plan.ties:
                for other, name in others:
                    other._parameters[name] = module._parameters[attribute]
