"""The linear layers of pruned weights that stay floats."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import MEASURED, Float16, Float32
from edgekern.kernels import F32_CHANNELS, default_isa
from edgekern.nn.forms import DENSE, LEAST_ZEROS, Call, Choice, choose, random_rows
from edgekern.nn.fused import ACTIVATION_FUNCTIONS
from edgekern.nn.memory import copies_of
from edgekern.nn.native_layer import empty_bytes
from edgekern.nn.native_linear import NativeLinear
from edgekern.summary import size_text

_CHANNELS = {f"blocks_{channels}": channels for channels in F32_CHANNELS}
"""Output channels of a block, by the name of the form."""


@dataclass(frozen=True)
class _Packing:
    """How a format packs weights, and the op that runs them."""

    format: str
    size: Callable[[Tensor, int], int]
    pack: Callable[[Tensor, Tensor | None, int, Tensor | None], Tensor]
    unpack: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    # Looked up once: going through torch.ops at every call would cost as much as a small layer.
    linear: Callable[..., Tensor]


class FloatLinear(NativeLinear):
    """``nn.Linear`` on float weights packed without their zeros; see :class:`NativeLinear` for arguments and use.

    Where no packing is faster and smaller on this machine the layer keeps its weights plain, in their own dtype, and
    runs PyTorch's dense kernel: one that comes from another machine, or with other weights, is not slower here than
    nn.Linear either. A state dict holds ``weight`` ``[out_features, in_features]`` of ``dtype``, zeros and all, and
    ``bias``.
    """

    _packing: ClassVar[_Packing]
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice", "_plain", "shared", "linear_code")

    scheme: Float32 | Float16
    _plain: tuple[Tensor, Tensor | None] | None
    """Weight and bias in the dense form, inside of ``packed``."""

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``input``."""
        if self._plain is not None:
            return self._run_plain(input, *self._plain)
        return self._packing.linear(input, self.packed, self.out_features, self._activation_code)

    def _run_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer in its dense form."""
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{type(self).__name__} has no backward, and its input requires grad: wrap the call in "
                "torch.inference_mode() or torch.no_grad() for inference, or call edgekern.dense_(model) to train"
            )
        alike = x.dtype == weight.dtype == (weight if bias is None else bias).dtype
        if alike:
            y = nn.functional.linear(x, weight, bias)
        else:  # in float32, as it would be packed
            y = nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
        if self.activation != "none":
            y = ACTIVATION_FUNCTIONS[self.activation](y)
        return y if alike else y.to(x.dtype)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that runs it; none where that is PyTorch's."""
        return () if self._plain is not None else (f"{self.format}_spmm_{default_isa()}",)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Those of nn.Linear."""
        return in_features * out_features * dtype.itemsize

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Chooses the form; then memory for it, and why nn.Linear does better with these weights, when it does."""
        if bias is not None and not bias.isfinite().all():
            return empty_bytes(0), "its bias holds NaN or infinity"
        self.choice, reason = self._choose(weight)
        return empty_bytes(0 if reason else self._packing.size(weight, _CHANNELS[self.choice.form])), reason

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Takes finite dense weights ``[out_features, in_features]`` and packs a copy, into what ``reserve`` gave."""
        if packed is None:
            self.choice, _ = self._choose(weight)
        if self.choice.form == DENSE:
            self._keep_plain(weight.detach(), None if bias is None else bias.detach())
            return
        bias = None if bias is None else bias.detach().float()
        self._plain = None
        self.packed = self._packing.pack(weight, bias, _CHANNELS[self.choice.form], packed)

    def _choose(self, weight: Tensor) -> tuple[Choice, str]:
        """The form for these weights, and, where it is the dense one, why."""
        forms = _Forms(weight.detach(), self._packing)
        channels, rows = self.scheme.channels, self.scheme.rows
        choice = choose(forms, MEASURED if channels == MEASURED else f"blocks_{channels}", rows)
        sizes = forms.sizes()
        if choice.form != DENSE and sizes[choice.form] <= sizes[DENSE]:
            return choice, ""
        return Choice(zeros=choice.zeros, timings=choice.timings), _why_dense(choice, sizes)

    def _keep_plain(self, weight: Tensor, bias: Tensor | None) -> None:
        """Weight, then bias, in one piece of memory."""
        parts = [weight] if bias is None else [weight, bias]
        starts = [0, -(-weight.nbytes // 4) * 4]  # no dtype asks for more alignment
        packed = empty_bytes(weight.nbytes if bias is None else starts[1] + bias.nbytes)
        views = []
        for part, start in zip(parts, starts, strict=False):
            view = packed[start : start + part.nbytes].view(part.dtype).view(part.shape)
            views.append(view.copy_(part))
        self.packed, self._plain = packed, (views[0], None if bias is None else views[1])

    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"weight": ((self.out_features, self.in_features), self.dtype)}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        if self._plain is not None:
            weight, bias = self._plain
            return {"weight": weight.clone()}, None if bias is None else bias.clone()
        weight, bias = self._packing.unpack(self.packed)
        return {"weight": weight.to(self.dtype)}, bias

    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        return tensors["weight"]

    def _pack(self, tensors: dict[str, Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("NaN or infinity in the weight or the bias")
        self.take_(tensors["weight"], tensors.get("bias"))

    def _empty(self) -> None:
        super()._empty()
        self._plain = None


class F32Linear(FloatLinear):
    """Weights packed as float32 whatever ``dtype``, and so are products and sums; see :class:`FloatLinear`."""

    format: ClassVar[str] = Float32.format
    scheme_class: ClassVar[type[Float32]] = Float32
    _packing: ClassVar[_Packing] = _Packing(
        format, ops.f32_packed_size, ops.f32_pack, ops.f32_unpack, torch.ops.edgekern.f32_linear.default
    )


class F16Linear(FloatLinear):
    """Weights packed as float16, rounded; see :class:`edgekern.Float16` for sums, :class:`FloatLinear` for the rest.

    Weights that are kept plain are not rounded, and those of a state dict are what the layer multiplies.
    """

    format: ClassVar[str] = Float16.format
    scheme_class: ClassVar[type[Float16]] = Float16
    _packing: ClassVar[_Packing] = _Packing(
        format, ops.f16_packed_size, ops.f16_pack, ops.f16_unpack, torch.ops.edgekern.f16_linear.default
    )


class _Forms:
    """What ``weight`` [N, K] of floats can be packed as, and as it is."""

    def __init__(self, weight: Tensor, packing: _Packing) -> None:
        self._weight, self._packing = weight, packing
        self.zeros = 1 - int(weight.count_nonzero()) / weight.numel()
        self.kind: Hashable = (packing.format, tuple(weight.shape), weight.dtype)
        self._sizes: dict[str, float] = {}

    def inputs(self, rows: int) -> Tensor:
        return random_rows(rows, self._weight.shape[1], self._weight.dtype)

    def sizes(self) -> Mapping[str, float]:
        if not self._sizes:
            sizes = {form: self._packing.size(self._weight, channels) for form, channels in _CHANNELS.items()}
            self._sizes = {DENSE: self._weight.nbytes, **sizes}
        return self._sizes

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        # Without the bias, which costs PyTorch some time and the packed forms none.
        if form == DENSE:
            return [partial(nn.functional.linear, weight=copy) for copy in copies_of(self._weight, copies)]
        packed, n = self._packing.pack(self._weight, None, _CHANNELS[form], None), len(self._weight)
        op = self._packing.linear
        return [partial(op, packed=copy, out_features=n, activation=0) for copy in copies_of(packed, copies)]


def _why_dense(choice: Choice, sizes: Mapping[str, float]) -> str:
    if choice.timings:
        return f"measured faster as it is: {choice.compare()}"
    if choice.form == DENSE and choice.zeros < LEAST_ZEROS:
        zeros = f"{choice.zeros:.0%}" if choice.zeros else "none"
        return f"{zeros} of its weights are zero, and packing pays from {LEAST_ZEROS:.0%} on at best"
    smallest = min(sizes[form] for form in (_CHANNELS if choice.form == DENSE else (choice.form,)))
    return f"packed it would be larger: {size_text(smallest)}, now {size_text(sizes[DENSE])}"
