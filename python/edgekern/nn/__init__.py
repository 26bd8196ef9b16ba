"""Layers that run on the native kernels."""

from __future__ import annotations

from edgekern.nn.int8_linear import Int8Linear

NATIVE_LINEARS: dict[str, type[Int8Linear]] = {Int8Linear.format: Int8Linear}
"""The layer that replaces nn.Linear, by format name. A new format adds a row."""

__all__ = ["NATIVE_LINEARS", "Int8Linear"]
