"""What layers of pruned weights that stay floats have in common, whatever they compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from edgekern.config import MEASURED, Float16, Float32
from edgekern.kernels import F32_CHANNELS, default_isa
from edgekern.nn.forms import DENSE, LEAST_ZEROS, Call, Choice, choose
from edgekern.nn.fused import ACTIVATION_FUNCTIONS
from edgekern.nn.memory import copies_of
from edgekern.nn.native_layer import NativeLayer, empty_bytes
from edgekern.summary import size_text

CHANNELS = {f"blocks_{channels}": channels for channels in F32_CHANNELS}
"""Output channels of a block, by the name of the form."""


class FloatForms(ABC):
    """What ``weight`` of floats can be packed as, and as it is."""

    kind: Hashable
    where: str = ""
    """What is measured on, where rows do not say that."""

    def __init__(self, layer: FloatLayer, weight: Tensor) -> None:
        self.layer, self.weight = layer, weight
        self.zeros = 1 - int(weight.count_nonzero()) / weight.numel()
        self._sizes: dict[str, float] = {}

    @property
    @abstractmethod
    def rows(self) -> tuple[int, ...] | int:
        """Numbers of rows to measure at."""

    @abstractmethod
    def inputs(self, rows: int) -> Tensor:
        """What to measure with."""

    @abstractmethod
    def call_dense(self, weight: Tensor) -> Call:
        """What computes the layer as PyTorch does."""

    @abstractmethod
    def call_packed(self, packed: Tensor) -> Call:
        """What computes it without zeros."""

    def sizes(self) -> Mapping[str, float]:
        """Bytes of every form."""
        if not self._sizes:
            sizes = {form: self.layer._packed_size(self.weight, channels) for form, channels in CHANNELS.items()}
            self._sizes = {DENSE: self.weight.nbytes, **sizes}
        return self._sizes

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        """What computes the layer, from a copy of its own each. Without the bias, which costs PyTorch some time."""
        if form == DENSE:
            return [self.call_dense(copy) for copy in copies_of(self.weight, copies)]
        packed = self.layer._pack_blocks(self.weight, None, CHANNELS[form], None)
        return [self.call_packed(copy) for copy in copies_of(packed, copies)]


class FloatLayer(NativeLayer):
    """A layer of float weights packed without their zeros.

    Where no packing is faster and smaller on this machine the layer keeps its weights plain, in their own dtype, and
    runs PyTorch's dense kernel: one that comes from another machine, or with other weights, is not slower here than the
    dense layer either. A state dict holds ``weight`` of ``dtype`` and :attr:`weight_shape`, zeros and all, and
    ``bias``.
    """

    scheme: Float32 | Float16
    _plain: tuple[Tensor, Tensor | None] | None
    """Weight and bias in the dense form, inside of ``packed``."""
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice", "_plain")

    # ------------------------------------------------------------------------------ what a kind of layer provides

    @abstractmethod
    def _forms(self, weight: Tensor) -> FloatForms:
        """What weights can be packed as."""

    @abstractmethod
    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What PyTorch computes, but for the activation."""

    @abstractmethod
    def _packed_size(self, weight: Tensor, channels: int) -> int:
        """Bytes that ``_pack_blocks`` makes."""

    @abstractmethod
    def _pack_blocks(self, weight: Tensor, bias: Tensor | None, channels: int, out: Tensor | None) -> Tensor:
        """Packs weights, and a bias of float32."""

    @abstractmethod
    def _unpack_blocks(self) -> tuple[Tensor, Tensor | None]:
        """What was packed, as float32."""

    # ------------------------------------------------------------------------------------------------- running

    def _run_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer in its dense form."""
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{type(self).__name__} has no backward, and its input requires grad: wrap the call in "
                "torch.inference_mode() or torch.no_grad() for inference, or call edgekern.dense_(model) to train"
            )
        alike = x.dtype == weight.dtype == (weight if bias is None else bias).dtype
        if alike:
            y = self._product(x, weight, bias)
        else:  # in float32, as it would be packed
            y = self._product(x.float(), weight.float(), None if bias is None else bias.float())
        if self.activation != "none":
            y = ACTIVATION_FUNCTIONS[self.activation](y)
        return y if alike else y.to(x.dtype)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that runs it; none where that is PyTorch's."""
        return () if self._plain is not None else (f"{self.format}_spmm_{default_isa()}",)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Those of the dense layer."""
        return in_features * out_features * dtype.itemsize

    # ----------------------------------------------------------------------------------------- from and to floats

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Chooses the form; then memory for it, and why the dense layer does better with these weights, if it does."""
        if bias is not None and not bias.isfinite().all():
            return empty_bytes(0), "its bias holds NaN or infinity"
        self.choice, reason = self._choose(weight)
        return empty_bytes(0 if reason else self._packed_size(weight, CHANNELS[self.choice.form])), reason

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Takes finite dense weights of ``weight_shape`` and packs a copy, into what ``reserve`` gave."""
        if packed is None:
            self.choice, _ = self._choose(weight)
        if self.choice.form == DENSE:
            self._keep_plain(weight.detach(), None if bias is None else bias.detach())
            return
        bias = None if bias is None else bias.detach().float()
        self._plain = None
        self.packed = self._pack_blocks(weight, bias, CHANNELS[self.choice.form], packed)

    def _choose(self, weight: Tensor) -> tuple[Choice, str]:
        """The form for these weights, and, where it is the dense one, why."""
        forms, channels = self._forms(weight.detach()), self.scheme.channels
        choice = choose(forms, MEASURED if channels == MEASURED else f"blocks_{channels}", forms.rows)
        choice = replace(choice, where=forms.where) if choice.timings else choice
        sizes = forms.sizes()
        if choice.form != DENSE and sizes[choice.form] <= sizes[DENSE]:
            return choice, ""
        dense = Choice(zeros=choice.zeros, timings=choice.timings, where=choice.where)
        return dense, _why_dense(choice, sizes)

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
        return {"weight": (self.weight_shape, self.dtype)}

    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        if self._plain is not None:
            weight, bias = self._plain
            return {"weight": weight.clone()}, None if bias is None else bias.clone()
        weight, bias = self._unpack_blocks()
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


def _why_dense(choice: Choice, sizes: Mapping[str, float]) -> str:
    if choice.timings:
        return f"measured faster as it is: {choice.compare()}"
    if choice.form == DENSE and choice.zeros < LEAST_ZEROS:
        zeros = f"{choice.zeros:.0%}" if choice.zeros else "none"
        return f"{zeros} of its weights are zero, and packing pays from {LEAST_ZEROS:.0%} on at best"
    smallest = min(sizes[form] for form in (CHANNELS if choice.form == DENSE else (choice.form,)))
    return f"packed it would be larger: {size_text(smallest)}, now {size_text(sizes[DENSE])}"
