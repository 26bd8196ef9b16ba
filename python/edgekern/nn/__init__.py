"""Layers that run on the native kernels."""

from __future__ import annotations

from edgekern.nn.f32_linear import F32Linear
from edgekern.nn.int4_linear import Int4Linear
from edgekern.nn.int8_linear import Int8Linear
from edgekern.nn.native_linear import NativeLinear

NATIVE_LINEARS: dict[str, type[NativeLinear]] = {layer.format: layer for layer in (Int8Linear, Int4Linear, F32Linear)}
"""The layer that replaces nn.Linear, by format name. A new format adds a row."""

__all__ = ["NATIVE_LINEARS", "F32Linear", "Int4Linear", "Int8Linear", "NativeLinear"]
