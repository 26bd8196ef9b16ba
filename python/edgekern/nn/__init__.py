"""Layers that run on the native kernels."""

from __future__ import annotations

from edgekern.nn.float_linear import F16Linear, F32Linear
from edgekern.nn.int4_linear import Int4Linear
from edgekern.nn.int8_linear import Int8Linear
from edgekern.nn.native_linear import NativeLinear
from edgekern.nn.qat_linear import QATLinear

NATIVE_LINEARS: dict[str, type[NativeLinear]] = {
    layer.format: layer for layer in (Int8Linear, Int4Linear, F32Linear, F16Linear)
}
"""The layer that replaces nn.Linear, by format name. A new format adds a row."""

__all__ = ["NATIVE_LINEARS", "F16Linear", "F32Linear", "Int4Linear", "Int8Linear", "NativeLinear", "QATLinear"]
