"""The int4 linear layer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgekern import ops
from edgekern._lib import core
from edgekern.config import FLOAT, MEASURED, Int4, Scheme
from edgekern.kernels import INT4_FORMS, default_isa
from edgekern.nn.forms import DENSE, Call, choose, dense_for_floats, random_rows
from edgekern.nn.memory import copies_of
from edgekern.nn.native_layer import empty_bytes
from edgekern.nn.native_linear import NativeLinear

# Looked up once: going through torch.ops at every call would cost as much as a small layer.
_int4_linear = torch.ops.edgekern.int4_linear.default
_int4_float_linear = torch.ops.edgekern.int4_float_linear.default

_SURE_TO_FIT = 458_000  # 7 times the largest float16: below it in magnitude, no weight needs a larger scale
_ROWS_AT_ONCE = 256  # that weights are widened by: whole, they would take more room than the dense layer does


class Int4Linear(NativeLinear):
    """``nn.Linear`` on 4-bit weights; see :class:`NativeLinear` for arguments and use.

    A state dict holds ``weight`` uint8 ``[out_features, ceil(in_features / 2)]``, two weights a byte, the one of the
    lower input feature in the low half, ``weight_scale`` float16 ``[out_features, groups]``, ``weight_zero`` uint8
    ``[out_features, groups]`` of values 0 to 15 where the scheme is not symmetric, which is 8 where it is, and
    ``bias``. A weight is ``weight_scale * (weight - weight_zero)``.
    """

    format: ClassVar[str] = Int4.format
    scheme_class: ClassVar[type[Int4]] = Int4
    exact: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "weight_zero")

    scheme: Int4

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``input``."""
        if self.shared is not None and input.numel() >= self.shared.least:
            return self.shared(self, input)
        return self.alone(input)

    def alone(self, input: Tensor) -> Tensor:
        """What ``forward`` gives, computed by a call of this layer's own."""
        op = _int4_float_linear if self.scheme.activations == FLOAT else _int4_linear
        return op(input, self.packed, self.out_features, self._activation_code)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that may run it: for many rows of input, for few."""
        infix = "_float" if self.activations == FLOAT else ""
        return tuple(f"{self.format}{infix}_{name}_{default_isa()}" for name in ("gemm", "gemv"))

    @property
    def activations(self) -> str:
        """How its inputs are rounded: as the scheme says."""
        return self.scheme.activations

    @classmethod
    def obstacle_in_activations(cls, scheme: Scheme) -> str:
        """Static ranges are for convolutions."""
        if scheme.needs_data:
            return "static ranges of int4 are for convolutions; give linear layers Int4() or Int8(activations='static')"
        return ""

    @property
    def dense_packed_size(self) -> int:
        """Bytes of the packed buffer when all weights are kept."""
        scheme = self.scheme
        return core.int4_dense_packed_size(self.out_features, self.in_features, scheme.group_size, scheme.symmetric)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Half a byte each."""
        return (in_features + 1) // 2 * out_features

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Memory for the form asked for, or for all of the weights, which no form chosen by measuring exceeds.

        Raises:
            ValueError: weights that need a larger scale than float16 has.
        """
        if bias is not None and not bias.isfinite().all():
            return empty_bytes(0), "its bias holds NaN or infinity"
        low, high = torch.aminmax(weight.detach())  # one pass, no copy
        largest, dense = max(-float(low), float(high)), self.scheme.form in (MEASURED, DENSE)
        if dense and largest <= _SURE_TO_FIT:
            return empty_bytes(self.dense_packed_size), ""
        try:
            weights = self._quantize(weight)
        except ValueError:
            raise ValueError(
                f"its weights reach {largest:.3g}, and int4's float16 scales hold up to {_SURE_TO_FIT:,}; "
                "leave it alone (None), or give it Int8()"
            ) from None
        return empty_bytes(self.dense_packed_size if dense else weights.packed_size(self.scheme.form)), ""

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Quantises finite dense weights ``[out_features, in_features]`` and packs them, into what ``reserve`` gave.

        Raises:
            ValueError: weights that need a larger scale than float16 has, or a bias that is not finite.
        """
        self._pack_into(self._quantize(weight), bias, packed)

    def _quantize(self, weight: Tensor) -> _Weights:
        scheme = self.scheme
        parts = ops.int4_quantize(weight.detach(), scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)
        return _Weights(*parts, self.in_features, scheme.group_size)

    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        n, k = self.out_features, self.in_features
        groups = -(-k // self.scheme.group_size)
        like: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight": ((n, -(-k // 2)), torch.uint8),
            "weight_scale": ((n, groups), torch.float16),
        }
        return like if self.scheme.symmetric else {**like, "weight_zero": ((n, groups), torch.uint8)}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        w, scale, zero, bias = ops.int4_unpack(self.packed)
        tensors = {"weight": w, "weight_scale": scale}
        return tensors if zero is None else {**tensors, "weight_zero": zero}, bias

    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        weights = self._weights_of(tensors)
        weight = torch.empty(self.out_features, self.in_features, dtype=self.dtype, device=weights.w.device)
        for part, rows in zip(weights.split(), weight.split(_ROWS_AT_ONCE), strict=True):
            rows.copy_(ops.int4_values(part.w, part.scale, part.zero, k=part.k, group_size=part.group_size))
        return weight

    def _pack(self, tensors: dict[str, Tensor]) -> None:
        if not tensors["weight_scale"].isfinite().all():
            raise ValueError("NaN or infinite scale")
        self._pack_into(self._weights_of(tensors), tensors.get("bias"))

    def _weights_of(self, tensors: dict[str, Tensor]) -> _Weights:
        zero = tensors.get("weight_zero")
        return _Weights(tensors["weight"], tensors["weight_scale"], zero, self.in_features, self.scheme.group_size)

    def _pack_into(self, weights: _Weights, bias: Tensor | None, packed: Tensor | None = None) -> None:
        if self.activations == FLOAT:
            choice = dense_for_floats(weights, self.scheme.form)
        else:
            choice = choose(weights, self.scheme.form, self.scheme.rows)
        if choice.form not in (DENSE, self.scheme.form):
            packed = None  # a smaller form was chosen
        self.packed = weights.pack(choice.form, None if bias is None else bias.detach().float(), packed)
        self.choice = choice
        self.linear_code = self._code_as("int4_float" if self.activations == FLOAT else "int4")


@dataclass(frozen=True)
class _Weights:
    """Canonical weights [N, K], and what they can be packed as."""

    w: Tensor
    scale: Tensor
    zero: Tensor | None
    k: int
    group_size: int

    @property
    def zeros(self) -> float:
        return 1 - sum(int(part.integers().count_nonzero()) for part in self.split()) / (len(self.w) * self.k)

    def inputs(self, rows: int) -> Tensor:
        return random_rows(rows, self.k, torch.float32)

    @property
    def kind(self) -> Hashable:
        return ("int4", len(self.w), self.k, self.group_size, self.zero is None)

    def split(self) -> list[_Weights]:
        """The same by some rows at a time."""
        zeros = repeat(None) if self.zero is None else self.zero.split(_ROWS_AT_ONCE)
        parts = zip(self.w.split(_ROWS_AT_ONCE), self.scale.split(_ROWS_AT_ONCE), zeros, strict=False)
        return [_Weights(*part, self.k, self.group_size) for part in parts]

    def integers(self) -> Tensor:
        return ops.int4_integers(self.w, self.zero, k=self.k, group_size=self.group_size)

    def packed_size(self, form: str) -> int:
        return ops.int4_packed_size(self.w, self.scale, self.zero, **self._options(form))

    def pack(self, form: str, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        return ops.int4_pack(self.w, self.scale, self.zero, bias, **self._options(form), out=out)

    def _options(self, form: str) -> dict[str, Any]:
        return {"k": self.k, "group_size": self.group_size, "form": form}

    def sizes(self) -> Mapping[str, float]:
        return {form: self.packed_size(form) for form in INT4_FORMS}

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        packed, n = self.pack(form), len(self.w)
        return [partial(_int4_linear, packed=copy, out_features=n, activation=0) for copy in copies_of(packed, copies)]
