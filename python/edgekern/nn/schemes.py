"""Which schemes a layer can have, by its kind, and the native layer that it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from torch import nn

from edgekern.config import Scheme
from edgekern.nn import NATIVE_CONVS, NATIVE_EMBEDDINGS, NATIVE_LINEARS, NativeEmbedding, NativeLayer
from edgekern.nn.embedding import in_rows
from edgekern.nn.layers import CONV, Layer


def obstacle_in_scheme(layer: Layer, scheme: Scheme) -> str:
    """Why a layer of this kind cannot be what ``scheme`` says; empty when it can."""
    if layer.kind == CONV:
        return "" if layer.native else _obstacle_to_convolution(layer, scheme)
    if not layer.is_table:
        return NATIVE_LINEARS[scheme.format].obstacle_in_activations(scheme) if scheme.format in NATIVE_LINEARS else ""
    if scheme.format not in NATIVE_EMBEDDINGS:
        return f"{type(scheme).__name__}() is for linear layers; embedding tables can be Int8() or Int4()"
    try:
        in_rows(scheme)
    except ValueError as error:
        return str(error)
    return ""


def _obstacle_to_convolution(layer: Layer, scheme: Scheme) -> str:
    if scheme.format not in NATIVE_CONVS:
        return f"{type(scheme).__name__}() is for linear layers; convolutions can be Int8(), Int4() or Float32()"
    return NATIVE_CONVS[scheme.format].obstacle_in_form(scheme, vars(layer.module))


def weight_bytes_as(layer: Layer, scheme: Scheme) -> int:
    """What the weights of ``layer`` take by ``scheme`` if none are left out; 0 where that is not for such layers."""
    kinds: Mapping[str, type[NativeLayer]] = NATIVE_CONVS if layer.kind == CONV else NATIVE_LINEARS
    weight = layer.linear.weight
    columns = math.prod(weight.shape[1:])
    return kinds[scheme.format].weight_bytes(columns, len(weight), weight.dtype) if scheme.format in kinds else 0


def empty_native(layer: Layer, scheme: Scheme) -> NativeLayer | NativeEmbedding:
    """What ``layer``, which has no obstacles, becomes by ``scheme``: still without weights.

    Raises:
        ValueError: a table, and a form that its rows cannot be read from.
    """
    if layer.is_table:
        return NATIVE_EMBEDDINGS[scheme.format].like(cast(nn.Embedding, layer.module), scheme)
    if layer.kind == CONV:
        return NATIVE_CONVS[scheme.format].like(layer.conv, scheme)
    return NATIVE_LINEARS[scheme.format].like(layer.linear, scheme)
