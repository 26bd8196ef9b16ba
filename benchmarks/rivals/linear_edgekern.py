"""edgekern: nn.Linear converted in place."""

from __future__ import annotations

from typing import ClassVar

import torch

import edgekern as ek
from rivals.linear_layer import FloatArray
from rivals.linear_torch import TorchLinear, torch_linear


class EdgekernLinear(TorchLinear):
    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")
    bytes_per_weight = 1

    def build(self, weight: FloatArray, bias: FloatArray) -> torch.nn.Module:
        model = torch.nn.Sequential(torch_linear(weight, bias))
        ek.convert_(model, ek.Int8())
        if not isinstance(model[0], ek.nn.Int8Linear):
            raise TypeError(f"expected convert_ to give an Int8Linear, got {type(model[0]).__name__}")
        return model[0]
