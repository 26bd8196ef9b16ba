"""The int8 linear layer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from edgekern import ops
from edgekern._lib import core
from edgekern.config import FLOAT, MEASURED, STATIC, Int8
from edgekern.kernels import FORMS, Range, default_isa
from edgekern.nn import input_range
from edgekern.nn.forms import DENSE, Call, choose, dense_for_floats, random_rows
from edgekern.nn.memory import copies_of
from edgekern.nn.native_layer import empty_bytes
from edgekern.nn.native_linear import NativeLinear

# Looked up once: going through torch.ops at every call would cost as much as a small layer.
_int8_linear = torch.ops.edgekern.int8_linear.default
_int8_float_linear = torch.ops.edgekern.int8_float_linear.default


class Int8Linear(NativeLinear):
    """``nn.Linear`` on 8-bit weights; see :class:`NativeLinear` for arguments and use.

    The weights may be packed a second time (``packed_few``), when the scheme allows it, for calls of few rows. A state
    dict holds ``weight`` int8 ``[out_features, in_features]``, ``weight_scale`` float32 ``[out_features, 1]`` and
    ``bias``; where the scheme has static activations, also ``input_scale`` float32 ``[1]`` and ``input_zero_point``
    int8 ``[1]``, the value from -128 to 127 that stands for 0.

    Attributes:
        input_range: with static activations, the scale and the zero point, from 0 to 255, that all inputs are rounded
            by. An empty layer has to be given them before :meth:`take_`.
    """

    format: ClassVar[str] = Int8.format
    scheme_class: ClassVar[type[Int8]] = Int8
    exact: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "input_scale", "input_zero_point")
    _chosen_here: ClassVar[tuple[str, ...]] = (
        *("packed", "packed_few", "choice", "_few_elements", "shared", "linear_code"),
        "input_range",  # chosen nowhere, but canonical: input_scale and input_zero_point
    )

    scheme: Int8
    packed_few: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``input``."""
        if self.shared is not None and input.numel() >= self.shared.least:
            return self.shared(self, input)
        return self.alone(input)

    def alone(self, input: Tensor) -> Tensor:
        """What ``forward`` gives, computed by a call of this layer's own."""
        packed = self.packed
        if self.scheme.activations == FLOAT:
            return _int8_float_linear(input, packed, self.out_features, self._activation_code)
        if self.packed_few is not None and input.numel() <= self._few_elements:
            packed = self.packed_few
        return _int8_linear(input, packed, self.out_features, self._activation_code)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that may run it: for many rows of input, for few."""
        if self.activations == FLOAT:
            return tuple(f"{self.format}_float_{name}_{default_isa()}" for name in ("gemm", "gemv"))
        names = ("spmm",) if self.choice.form.startswith(("blocks", "csr")) else ("gemm", "gemv")
        return tuple(f"{self.format}_{name}_{default_isa()}" for name in names)

    @property
    def activations(self) -> str:
        """How its inputs are rounded: as the scheme says."""
        return self.scheme.activations

    @property
    def dense_packed_size(self) -> int:
        """Bytes of the packed buffer when all weights are kept."""
        return core.int8_dense_packed_size(self.out_features, self.in_features)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """One byte each."""
        return in_features * out_features

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Memory for the form asked for, or for all of the weights, which no form chosen by measuring exceeds.

        Raises:
            ValueError: the scheme names a form that cannot hold these weights.
        """
        if self.scheme.form in (MEASURED, DENSE):
            return empty_bytes(self.dense_packed_size), ""
        return empty_bytes(ops.int8_packed_size(ops.int8_quantize(weight.detach())[0], self.scheme.form)), ""

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Quantises finite dense weights ``[out_features, in_features]`` and packs them, into what ``reserve`` gave.

        Raises:
            ValueError: the scheme names a form that cannot hold these weights, or has static activations and
                ``input_range`` is not set.
        """
        q, scale = ops.int8_quantize(weight.detach())
        self._pack_into(q, scale, bias, self.input_range, packed)

    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        n, k = self.out_features, self.in_features
        own = input_range.LIKE if self.activations == STATIC else {}
        return {"weight": ((n, k), torch.int8), "weight_scale": ((n, 1), torch.float32), **own}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        q, scale, bias = ops.int8_unpack(self.packed)
        tensors = {"weight": q, "weight_scale": scale.unsqueeze(1)}
        if self.input_range is not None:
            tensors |= input_range.to_tensors(self.input_range)
        return tensors, bias

    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        return tensors["weight"].float().mul_(tensors["weight_scale"]).to(self.dtype)

    def _pack(self, tensors: dict[str, Tensor]) -> None:
        if not tensors["weight_scale"].isfinite().all():
            raise ValueError("NaN or infinite scale")
        given = input_range.from_tensors(tensors) if self.activations == STATIC else None
        self._pack_into(tensors["weight"], tensors["weight_scale"], tensors.get("bias"), given)

    def _pack_into(
        self, q: Tensor, scale: Tensor, bias: Tensor | None, given: Range | None, packed: Tensor | None = None
    ) -> None:
        scheme, forms = self.scheme, _Forms(q, given)
        if (given is None) == (self.activations == STATIC):
            raise ValueError(f"with {scheme!r} input_range must {'' if given is None else 'not '}be given")
        if self.activations == FLOAT:
            choice = dense_for_floats(forms, scheme.form)
        else:
            choice = choose(forms, scheme.form, scheme.rows, scheme.packings)
        scale, bias = scale.flatten(), None if bias is None else bias.detach().float()
        if choice.form not in (DENSE, scheme.form):
            packed = None  # a smaller form was chosen
        self.packed = ops.int8_pack(q, scale, bias, choice.form, packed, given)
        self.packed_few = ops.int8_pack(q, scale, bias, choice.few, None, given) if choice.few else None
        if self.shared is not None and given is not None:
            self.shared.part()  # one call rounds by one range, and this one may be new
        self.choice, self._few_elements = choice, choice.few_rows * self.in_features
        self.input_range = given
        format = "int8_float" if scheme.activations == FLOAT else "int8"
        self.linear_code = -1 if choice.few else self._code_as(format)

    def _empty(self) -> None:
        super()._empty()
        self.packed_few = self.input_range = None
        self._few_elements = 0

    def _memory(self) -> list[Tensor]:
        return [self.packed] if self.packed_few is None else [self.packed, self.packed_few]


class _Forms:
    """What ``q`` int8 [N, K] can be packed as, with a range to round activations by or without."""

    def __init__(self, q: Tensor, input_range: Range | None) -> None:
        self._q, self._range = q, input_range
        self.zeros = 1 - int(q.count_nonzero()) / q.numel()
        self.kind: Hashable = ("int8", tuple(q.shape), input_range is None)

    def inputs(self, rows: int) -> Tensor:
        return random_rows(rows, self._q.shape[1], torch.float32)

    def sizes(self) -> Mapping[str, float]:
        return {form: self._size(form) for form in FORMS}

    def _size(self, form: str) -> float:
        try:
            return ops.int8_packed_size(self._q, form)
        except ValueError:  # more weights in a channel than the form can sum
            return math.inf

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        n = len(self._q)
        packed = ops.int8_pack(self._q, torch.ones(n, device="cpu"), None, form, None, self._range)
        return [partial(_int8_linear, packed=copy, out_features=n, activation=0) for copy in copies_of(packed, copies)]
