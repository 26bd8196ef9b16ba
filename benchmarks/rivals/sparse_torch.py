"""PyTorch's own sparse linear layers on a CPU: CSR in float32 (MKL), and QNNPACK's 1x4 blocks in int8."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.ao.nn.sparse.quantized import dynamic
from torch.ao.nn.sparse.quantized.utils import LinearBlockSparsePattern
from torch.ao.quantization import per_channel_dynamic_qconfig

from rivals.linear_layer import FloatArray
from rivals.linear_torch import TorchLinear, torch_linear


class CsrLinear(nn.Module):
    """y^T = W x^T + b, the order that torch's CSR product is fastest in. F.linear refuses CSR in inference mode."""

    def __init__(self, weight: FloatArray, bias: FloatArray) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
            self.weight = torch.from_numpy(weight).to_sparse_csr()
        self.bias = torch.from_numpy(bias)[:, None]

    def forward(self, input: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.weight, input.t()).t()  # [M, N], column-major: no copy is timed


class TorchCsr(TorchLinear):
    def build(self, weight: FloatArray, bias: FloatArray) -> nn.Module:
        return CsrLinear(weight, bias)


class TorchQnnpack1x4(TorchLinear):
    """u8 activations chosen at every call, s8 weights with a scale per output channel, in 1x4 blocks."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.backends.quantized.engine = "qnnpack"

    def build(self, weight: FloatArray, bias: FloatArray) -> nn.Module:
        linear = torch_linear(weight, bias)
        linear.qconfig = per_channel_dynamic_qconfig
        with LinearBlockSparsePattern(1, 4), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return dynamic.Linear.from_float(linear)
