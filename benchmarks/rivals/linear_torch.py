"""PyTorch's own linear layers: float32 (MKL), bfloat16 (oneDNN) and quantize_dynamic on both x86 engines."""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch

from rivals.linear_layer import Bound, FloatArray, LinearSubject


def torch_linear(weight: FloatArray, bias: FloatArray) -> torch.nn.Linear:
    """An nn.Linear with its own copy of the given parameters."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    return linear.eval()


class TorchLinear(LinearSubject):
    """Anything that is called like an nn.Linear, under inference_mode."""

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def session(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def bind(self, layer: torch.nn.Module, x: FloatArray) -> Bound:
        lhs = torch.from_numpy(x).to(self.dtype)
        return Bound(partial(layer, lhs), lambda: layer(lhs).float().numpy())


class TorchFloat32(TorchLinear):
    bytes_per_weight = 4

    def build(self, weight: FloatArray, bias: FloatArray) -> torch.nn.Module:
        return torch_linear(weight, bias)


class TorchBfloat16(TorchLinear):
    """bfloat16 in and out: a user of bfloat16 converts the whole model, so no conversions are timed."""

    bytes_per_weight = 2
    dtype = torch.bfloat16

    def build(self, weight: FloatArray, bias: FloatArray) -> torch.nn.Module:
        return torch_linear(weight, bias).bfloat16()


class _TorchDynamic(TorchLinear):
    bytes_per_weight = 1
    engine: ClassVar[str]

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.backends.quantized.engine = self.engine

    def build(self, weight: FloatArray, bias: FloatArray) -> torch.nn.Module:
        if self._layers:
            return copy.deepcopy(self._layers[0])  # packs its own weights again
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # announced, and still the int8 path on CPU
            model = torch.nn.Sequential(torch_linear(weight, bias))
            return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)[0]


class TorchDynamicX86(_TorchDynamic):
    """FBGEMM, torch's default engine on x86."""

    engine = "x86"


class TorchDynamicOneDnn(_TorchDynamic):
    engine = "onednn"
