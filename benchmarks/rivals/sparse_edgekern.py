"""edgekern's ops on a weight packed into a form that is asked for, where convert_ would choose one itself."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgekern import Int4, kernels
from rivals.linear_layer import FloatArray
from rivals.linear_torch import TorchLinear

Packed = kernels.Int8Packed | kernels.Int4Packed | kernels.F32Packed | kernels.F16Packed

_int8_linear = torch.ops.edgekern.int8_linear.default
_int4_linear = torch.ops.edgekern.int4_linear.default
_f32_linear = torch.ops.edgekern.f32_linear.default
_f16_linear = torch.ops.edgekern.f16_linear.default
_NO_ACTIVATION = kernels.ACTIVATIONS["none"]


class PackedLinear(nn.Module):
    """A packed weight, called as edgekern.nn's layers call their own."""

    def __init__(self, packed: Packed, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op
        self.packed = torch.from_numpy(packed.data)
        self.out_features = packed.n

    def forward(self, input: Tensor) -> Tensor:
        return self.op(input, self.packed, self.out_features, _NO_ACTIVATION)


class EdgekernPacked(TorchLinear):
    """A layer whose weight is packed once a mask and copied for more."""

    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")

    op: ClassVar[Callable[..., Tensor]]

    @abstractmethod
    def pack(self, weight: FloatArray, bias: FloatArray | None) -> Packed:
        """The weight as the op takes it."""

    def build(self, weight: FloatArray, bias: FloatArray) -> PackedLinear:
        return copy.deepcopy(self._layers[0]) if self._layers else PackedLinear(self.pack(weight, bias), type(self).op)

    def bytes_of(self, layer: PackedLinear) -> float:
        return layer.packed.nbytes

    def prepare(self, **task: Any) -> dict[str, Any]:
        return {**super().prepare(**task), "isa": kernels.default_isa()}


class EdgekernForm(EdgekernPacked):
    """int8 weights in one of the forms that there are."""

    op = _int8_linear

    def __init__(self, threads: int, form: str) -> None:
        super().__init__(threads)
        # Dense is what an edgekern packs that has no other form, so that such a one can be measured too.
        self._options = {} if form == "dense" else {"form": form}
        try:
            self.pack(np.zeros((8, 8), np.float32), None)
        except (TypeError, ValueError) as error:
            raise NotImplementedError(f"this edgekern cannot pack the form {form!r}: {error}") from None

    def pack(self, weight: FloatArray, bias: FloatArray | None) -> Packed:
        return kernels.int8_pack(*kernels.int8_quantize(weight), bias, **self._options)


class EdgekernInt4(EdgekernPacked):
    """int4 weights, by the defaults of edgekern.Int4, in one of the forms that there are."""

    op = _int4_linear
    largest_error = 0.15  # of normal variates, four bits leave a tenth

    def __init__(self, threads: int, form: str) -> None:
        super().__init__(threads)
        self._scheme = Int4(form=form)

    def pack(self, weight: FloatArray, bias: FloatArray | None) -> Packed:
        scheme, k = self._scheme, weight.shape[1]
        canonical = kernels.int4_quantize(weight, scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)
        return kernels.int4_pack(*canonical, bias, k=k, group_size=scheme.group_size, form=scheme.form)


class EdgekernF32(EdgekernPacked):
    """float32 weights, blocks of some output features kept."""

    op = _f32_linear

    def __init__(self, threads: int, channels: str) -> None:
        super().__init__(threads)
        self._channels = int(channels)

    def pack(self, weight: FloatArray, bias: FloatArray | None) -> Packed:
        return kernels.f32_pack(weight, bias, channels=self._channels)


class EdgekernF16(EdgekernF32):
    """The same as float16, multiplied as halves where the CPU does that. float32 in and out, as everybody's."""

    op = _f16_linear

    def pack(self, weight: FloatArray, bias: FloatArray | None) -> Packed:
        return kernels.f16_pack(weight, bias, channels=self._channels)
