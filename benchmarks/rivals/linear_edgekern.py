"""edgekern: nn.Linear converted in place."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

import edgekern as ek
from rivals.linear_layer import FloatArray
from rivals.linear_torch import TorchLinear, torch_linear


class EdgekernLinear(TorchLinear):
    """A layer of the scheme that is called so, by its defaults but for the activations."""

    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")

    def __init__(self, threads: int, scheme: str, activations: str = "dynamic") -> None:
        super().__init__(threads)
        self._scheme: ek.Int8 | ek.Int4 = getattr(ek, scheme)(activations=activations)
        if scheme == "Int4":
            self.largest_error = 0.15  # of normal variates, four bits leave a tenth

    def build(self, weight: FloatArray, bias: FloatArray) -> torch.nn.Module:
        model = torch.nn.Sequential(torch_linear(weight, bias))
        ek.convert_(model, self._scheme)
        if not isinstance(model[0], ek.nn.Int8Linear | ek.nn.Int4Linear) or model[0].scheme != self._scheme:
            raise TypeError(f"expected convert_ to give a layer of {self._scheme}, got {type(model[0]).__name__}")
        return model[0]

    def bytes_of(self, layer: torch.nn.Module) -> float:
        return layer.packed.nbytes

    def prepare(self, **task: Any) -> dict[str, Any]:
        return {**super().prepare(**task), "packed_bytes": self.bytes_of(self._layers[0])}
