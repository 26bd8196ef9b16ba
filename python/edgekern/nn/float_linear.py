"""The linear layers of pruned weights that stay floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import Float16, Float32
from edgekern.nn.float_layer import FloatForms, FloatLayer
from edgekern.nn.forms import Call, random_rows
from edgekern.nn.native_linear import NativeLinear


@dataclass(frozen=True)
class _Packing:
    """How a format packs weights, and the op that runs them."""

    size: Callable[[Tensor, int], int]
    pack: Callable[[Tensor, Tensor | None, int, Tensor | None], Tensor]
    unpack: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    # Looked up once: going through torch.ops at every call would cost as much as a small layer.
    linear: Callable[..., Tensor]


class FloatLinear(FloatLayer, NativeLinear):
    """``nn.Linear`` on float weights packed without their zeros; see :class:`FloatLayer` for how they are held, and
    :class:`NativeLinear` for arguments and use.
    """

    _packing: ClassVar[_Packing]
    _chosen_here: ClassVar[tuple[str, ...]] = (*FloatLayer._chosen_here, "shared", "linear_code")

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``input``."""
        if self._plain is not None:
            return self._run_plain(input, *self._plain)
        return self._packing.linear(input, self.packed, self.out_features, self._activation_code)

    def _forms(self, weight: Tensor) -> FloatForms:
        return _LinearForms(self, weight)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight, bias)

    def _packed_size(self, weight: Tensor, channels: int) -> int:
        return self._packing.size(weight, channels)

    def _pack_blocks(self, weight: Tensor, bias: Tensor | None, channels: int, out: Tensor | None) -> Tensor:
        return self._packing.pack(weight, bias, channels, out)

    def _unpack_blocks(self) -> tuple[Tensor, Tensor | None]:
        return self._packing.unpack(self.packed)


class F32Linear(FloatLinear):
    """Weights packed as float32 whatever ``dtype``, and so are products and sums; see :class:`FloatLinear`."""

    format: ClassVar[str] = Float32.format
    scheme_class: ClassVar[type[Float32]] = Float32
    _packing: ClassVar[_Packing] = _Packing(
        ops.f32_packed_size, ops.f32_pack, ops.f32_unpack, torch.ops.edgekern.f32_linear.default
    )


class F16Linear(FloatLinear):
    """Weights packed as float16, rounded; see :class:`edgekern.Float16` for sums, :class:`FloatLinear` for the rest.

    Weights that are kept plain are not rounded, and those of a state dict are what the layer multiplies.
    """

    format: ClassVar[str] = Float16.format
    scheme_class: ClassVar[type[Float16]] = Float16
    _packing: ClassVar[_Packing] = _Packing(
        ops.f16_packed_size, ops.f16_pack, ops.f16_unpack, torch.ops.edgekern.f16_linear.default
    )


class _LinearForms(FloatForms):
    """Those of ``weight`` [N, K]."""

    layer: FloatLinear

    def __init__(self, layer: FloatLinear, weight: Tensor) -> None:
        super().__init__(layer, weight)
        self.kind = (layer.format, tuple(weight.shape), weight.dtype)

    @property
    def rows(self) -> tuple[int, ...] | int:
        return self.layer.scheme.rows

    def inputs(self, rows: int) -> Tensor:
        return random_rows(rows, self.weight.shape[1], self.weight.dtype)

    def call_dense(self, weight: Tensor) -> Call:
        return partial(nn.functional.linear, weight=weight)

    def call_packed(self, packed: Tensor) -> Call:
        return partial(self.layer._packing.linear, packed=packed, out_features=len(self.weight), activation=0)
