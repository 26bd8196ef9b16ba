"""Models of compressed-tensors: native layers filled from their tensors, and what is said of such layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgekern.checkpoint import CheckpointMismatchError, CheckpointUnsupportedError
from edgekern.checkpoint.compressed import (
    CompressedConfig,
    StoredAs,
    StoredTensor,
    canonical,
    config_to_dict,
)
from edgekern.checkpoint.compressed.files import PARTS, layer_parts
from edgekern.config import Int4, Int8
from edgekern.loading.stored import Record, StoredLayers
from edgekern.nn import NativeConv2d, NativeEmbedding, NativeLayer, NativeLinear
from edgekern.nn.layers import Layer, find_layers


class CompressedLayers(StoredLayers):
    """The layers that such a checkpoint has integers of. Everything is checked here, by the files' headers.

    Args:
        model: built on the meta device, with nn.Linear layers.
        config: what its ``config.json`` says.
        tensors: what its files hold.

    Raises:
        CheckpointMismatchError: tensors that are not the model's, or not as ``config`` says.
        CheckpointUnsupportedError: a layer that no kernel here multiplies.
    """

    def __init__(self, model: nn.Module, config: CompressedConfig, tensors: Mapping[str, StoredTensor]) -> None:
        parts: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            name, _, part = key.rpartition(".")
            parts[name][part] = tensor
        self._stored: dict[str, StoredAs] = {}
        self._parts: dict[str, dict[str, Tensor]] = {}
        records: dict[str, Record] = {}
        for layer in find_layers(model):
            name = next((name for name in layer.names if name in parts), layer.name)
            stored = config.stored(name, _classes(layer.module)) if isinstance(layer.module, nn.Linear) else None
            if stored is not None:
                records[layer.name], self._parts[layer.name] = _record(layer, name, stored, parts.pop(name, {}))
                self._stored[layer.name] = stored
        _check_nothing_over(parts)
        if not records:
            raise CheckpointMismatchError("quantization_config: no linear layer of the model is among its targets")
        self.rounded: dict[str, float] = {}
        """Layers whose scales were rounded to float16: the largest change, relative to the channel's largest scale."""
        super().__init__(model, records)

    def _room(self, name: str, native: NativeLayer | NativeEmbedding) -> dict[str, Tensor]:
        return self._parts.pop(name)

    def _canonical(
        self, name: str, native: NativeLayer | NativeEmbedding, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        rows, columns = native.weight_shape
        read = canonical(self._stored[name], tensors, (rows, columns), name)
        if read.rounded:
            self.rounded[name] = read.rounded
        return read.tensors


def _classes(module: nn.Module) -> list[str]:
    return [cls.__name__ for cls in type(module).__mro__ if issubclass(cls, nn.Module)]


def _record(
    layer: Layer, name: str, stored: StoredAs, there: Mapping[str, StoredTensor]
) -> tuple[Record, dict[str, Tensor]]:
    """What the native layer will be, and room for its tensors."""
    linear = layer.linear
    bias = None if linear.bias is None else linear.bias.dtype
    shape = (linear.out_features, linear.in_features)
    return Record(stored.scheme, linear.weight.dtype, bias), layer_parts(there, name, stored, shape, bias)


def _check_nothing_over(parts: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    """Refuses what is left: embeddings are stored so too, and layers of another model."""
    for name, there in parts.items():
        if over := sorted(set(PARTS) & there.keys()):
            raise CheckpointMismatchError(
                f"the checkpoint has {f'{name}.{over[0]}'!r}, but the model has no linear layer {name!r} among the "
                "targets of quantization_config"
            )


# ------------------------------------------------------------------------------------------------------------ writing


def compressed_settings(model: nn.Module) -> dict[str, Any]:
    """``quantization_config`` of a converted model, as compressed-tensors has it.

    Raises:
        CheckpointUnsupportedError: no layer is converted, or one is to what that format has no room for.
    """
    layers = find_layers(model)
    natives = {layer.name: native for layer in layers if (native := layer.native_linear)}
    if not natives:
        raise CheckpointUnsupportedError("no layer of the model is converted; call convert_ first")
    for name, native in natives.items():
        _check_writable(name, native)
    for layer in layers:
        if isinstance(conv := layer.native, NativeConv2d):  # it is written as floats
            _check_no_activation(layer.name, conv)
    others = [name for layer in layers if layer.kind == "Linear" and not layer.native for name in layer.names]
    return config_to_dict({name: native.scheme for name, native in natives.items()}, others)


def _check_writable(name: str, native: NativeLinear) -> None:
    scheme = native.scheme
    if not isinstance(scheme, Int8 | Int4):
        raise CheckpointUnsupportedError(
            f"layer {name!r} is {native.format}, which compressed-tensors has no format for; "
            "dense_(model) makes it floats, or convert with Int8() or Int4()"
        )
    _check_no_activation(name, native)
    if isinstance(scheme, Int4) and native.in_features % scheme.group_size:
        fits = [size for size in (64, 32) if native.in_features % size == 0]
        out = f"convert it with Int4(group_size={fits[0]})" if fits else "leave it alone (None), or give it Int8()"
        raise CheckpointUnsupportedError(
            f"layer {name!r} of {native.in_features} input features ends in a group of less than {scheme.group_size}, "
            f"which compressed-tensors does not take; {out}"
        )


def _check_no_activation(name: str, native: NativeLayer) -> None:
    if native.activation != "none":
        raise CheckpointUnsupportedError(
            f"layer {name!r} applies {native.activation} itself, which compressed-tensors has no word for"
        )
