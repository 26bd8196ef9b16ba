"""edgekern's int8 op on a weight packed into a form that is asked for, where convert_ would choose one itself."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgekern import kernels
from rivals.linear_layer import FloatArray
from rivals.linear_torch import TorchLinear

_int8_linear = torch.ops.edgekern.int8_linear.default
_NO_ACTIVATION = kernels.ACTIVATIONS["none"]


class PackedLinear(nn.Module):
    """A packed weight, called as edgekern.nn.Int8Linear calls its own."""

    def __init__(self, packed: kernels.Int8Packed) -> None:
        super().__init__()
        self.packed = torch.from_numpy(packed.data)
        self.out_features = packed.n

    def forward(self, input: Tensor) -> Tensor:
        return _int8_linear(input, self.packed, self.out_features, _NO_ACTIVATION)


class EdgekernForm(TorchLinear):
    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")

    def __init__(self, threads: int, form: str) -> None:
        super().__init__(threads)
        # Dense is what an edgekern packs that has no other form, so that such a one can be measured too.
        self._options = {} if form == "dense" else {"form": form}
        try:
            self._pack(np.zeros((8, 8), np.float32), None)
        except (TypeError, ValueError) as error:
            raise NotImplementedError(f"this edgekern cannot pack the form {form!r}: {error}") from None

    def _pack(self, weight: FloatArray, bias: FloatArray | None) -> kernels.Int8Packed:
        return kernels.int8_pack(*kernels.int8_quantize(weight), bias, **self._options)

    def build(self, weight: FloatArray, bias: FloatArray) -> PackedLinear:
        return copy.deepcopy(self._layers[0]) if self._layers else PackedLinear(self._pack(weight, bias))

    def bytes_of(self, layer: PackedLinear) -> float:
        return layer.packed.nbytes

    def prepare(self, **task: Any) -> dict[str, Any]:
        return {**super().prepare(**task), "isa": kernels.default_isa()}
