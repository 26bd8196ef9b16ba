"""Layers that run on the native kernels."""

from __future__ import annotations

from edgekern.nn.embedding import Int4Embedding, Int8Embedding, NativeEmbedding
from edgekern.nn.float_conv2d import F32Conv2d
from edgekern.nn.float_linear import F16Linear, F32Linear
from edgekern.nn.fused import FusedConv2d, FusedLinear
from edgekern.nn.gated_mlp import GatedMLP
from edgekern.nn.int4_conv2d import Int4Conv2d
from edgekern.nn.int4_linear import Int4Linear
from edgekern.nn.int8_conv2d import Int8Conv2d
from edgekern.nn.int8_linear import Int8Linear
from edgekern.nn.native_conv import NativeConv2d
from edgekern.nn.native_layer import NativeLayer
from edgekern.nn.native_linear import NativeLinear
from edgekern.nn.qat_linear import QATLinear
from edgekern.nn.rms_norm import RMSNorm
from edgekern.nn.shared_input import SharedInput, share_inputs_

NATIVE_LINEARS: dict[str, type[NativeLinear]] = {
    layer.format: layer for layer in (Int8Linear, Int4Linear, F32Linear, F16Linear)
}
"""The layer that replaces nn.Linear, by format name. A new format adds a row."""

NATIVE_CONVS: dict[str, type[NativeConv2d]] = {conv.format: conv for conv in (Int8Conv2d, Int4Conv2d, F32Conv2d)}
"""The layer that replaces nn.Conv2d, by format name; formats that are not here leave convolutions alone."""

NATIVE_EMBEDDINGS: dict[str, type[NativeEmbedding]] = {table.format: table for table in (Int8Embedding, Int4Embedding)}
"""The layer that replaces nn.Embedding, by format name; formats that are not here leave tables alone."""

__all__ = [
    "NATIVE_CONVS",
    "NATIVE_EMBEDDINGS",
    "NATIVE_LINEARS",
    "F16Linear",
    "F32Conv2d",
    "F32Linear",
    "FusedConv2d",
    "FusedLinear",
    "GatedMLP",
    "Int4Conv2d",
    "Int4Embedding",
    "Int4Linear",
    "Int8Conv2d",
    "Int8Embedding",
    "Int8Linear",
    "NativeConv2d",
    "NativeEmbedding",
    "NativeLayer",
    "NativeLinear",
    "QATLinear",
    "RMSNorm",
    "SharedInput",
    "share_inputs_",
]
