"""Which of a checkpoint's weights are stored as mask and values, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from edgekern.checkpoint import bitmask, nibbles
from edgekern.checkpoint.bitmask import PARTS, WEIGHT
from edgekern.checkpoint.records import ConvRecord, LayerRecord
from edgekern.config import Int4
from edgekern.nn.convolution import weight_shape_of


def split_all(
    tensors: Mapping[str, Tensor], layers: tuple[LayerRecord | ConvRecord, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors as they are stored, and the names of the weights among them that were split."""
    int4 = _int4_weights(layers)
    stored: dict[str, Tensor] = {}
    names = []
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        parts = None
        if owner and leaf == WEIGHT and not any(f"{owner}.{part}" in tensors for part in PARTS):
            if layer := int4.get(name):
                parts = nibbles.split(tensor, tensors.get(f"{name}_zero"), _columns(layer), _group_size(layer))
            else:
                parts = bitmask.split(tensor)
        if parts is None:
            stored[name] = tensor
        else:
            stored.update({f"{owner}.{part}": value for part, value in parts.items()})
            names.append(name)
    return stored, tuple(names)


def join_all(
    stored: Mapping[str, Tensor], names: tuple[str, ...], layers: tuple[LayerRecord | ConvRecord, ...]
) -> dict[str, Tensor]:
    """The inverse of :func:`split_all`, for those of ``names`` whose parts are in ``stored``."""
    int4 = _int4_weights(layers)
    tensors = dict(stored)
    for name in names:
        owner = name.rpartition(".")[0]
        if f"{owner}.bitmask" not in tensors:
            continue
        parts = {part: tensors.pop(f"{owner}.{part}") for part in PARTS}
        if layer := int4.get(name):
            tensors[name] = nibbles.join(parts, tensors.get(f"{name}_zero"), _group_size(layer), name)
        else:
            tensors[name] = bitmask.join(parts, name)
    return tensors


def _int4_weights(layers: tuple[LayerRecord | ConvRecord, ...]) -> dict[str, LayerRecord | ConvRecord]:
    return {f"{layer.names[0]}.{WEIGHT}": layer for layer in layers if isinstance(layer.scheme, Int4)}


def _columns(layer: LayerRecord | ConvRecord) -> int:
    """Weights of an output channel."""
    return layer.in_features if isinstance(layer, LayerRecord) else math.prod(weight_shape_of(layer.options)[1:])


def _group_size(layer: LayerRecord | ConvRecord) -> int:
    assert isinstance(layer.scheme, Int4)
    return layer.scheme.group_size
