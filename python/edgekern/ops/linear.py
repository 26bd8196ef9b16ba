"""Linear layers:

``int8_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int4_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int8_float_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``int4_float_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``f32_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``
``f16_linear(Tensor x, Tensor packed, SymInt out_features, int activation) -> Tensor``

- ``x``: [..., K] float32, bfloat16 or float16 on CPU, any strides
- ``packed``: uint8, 1-D, from :func:`~edgekern.ops.int8_pack`, :func:`~edgekern.ops.int4_pack`,
  :func:`~edgekern.ops.f32_pack` or :func:`~edgekern.ops.f16_pack`
- ``out_features``: N, which fake tensors cannot read from ``packed``
- ``activation``: a code of :data:`~edgekern.ops.ACTIVATIONS`
- result: [..., N] of x's dtype, contiguous

``int8_linear_2``, ``int8_linear_3``, ``int4_linear_2`` and ``int4_linear_3`` are two or three layers that read the same
x, which is quantised once, in one parallel region: ``(Tensor x, Tensor packed_0, Tensor packed_1, SymInt
out_features_0, SymInt out_features_1, int activation) -> (Tensor, Tensor)``, and likewise for three. Each result is
that of the layer alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgekern.ops.registration import check_fake, register

__all__ = ["LINEARS"]

LINEARS = {name: code for code, name in enumerate(("int8", "int4", "int8_float", "int4_float", "f32", "f16"))}
"""Codes of formats, and of activations that stay floats, for ops that take any."""


def _fake_linear(op: str, count: int) -> Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]:
    """What a linear op of ``count`` layers does with fake tensors."""

    def linear(x: torch.Tensor, *rest: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        packed, out_features = rest[:count], rest[count:-1]
        if x.dim() == 0:
            raise ValueError(f"edgekern.{op}: x must have at least one dimension, got a scalar")
        check_fake(op, x, *packed)
        results = tuple(x.new_empty((*x.shape[:-1], n)) for n in out_features)
        return results[0] if count == 1 else results

    return linear


for _format in LINEARS:
    _op = f"{_format}_linear"
    register(_op, _fake_linear(_op, 1))
for _op in ("int8_linear", "int4_linear"):
    for _count in (2, 3):
        register(f"{_op}_{_count}", _fake_linear(_op, _count))
