"""OpenVINO: a MatMul + Add graph with 8-bit compressed weights, laid out as its weight compression does."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import openvino
from openvino import opset13 as op

from rivals.linear_layer import Bound, FloatArray, LinearSubject


def compressed_linear(weight: FloatArray, bias: FloatArray, m: int) -> openvino.Model:
    """y [M, N] with s8 weights and one scale per output channel, M fixed so that the plugin can specialise."""
    x = op.parameter([m, weight.shape[1]], np.float32)
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    levels = op.convert(op.constant(np.rint(weight / scale).astype(np.int8)), "f32")
    product = op.matmul(x, op.multiply(levels, op.constant(scale)), transpose_a=False, transpose_b=True)
    return openvino.Model([op.add(product, op.constant(bias))], [x], "linear")


def compile_options(threads: int) -> dict[str, Any]:
    """One request at a time on `threads` threads; everything else (dynamic quantisation too) as OpenVINO sets it."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}


class OpenVinoInt8Weights(LinearSubject):
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    bytes_per_weight = 1

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._core = openvino.Core()

    def build(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        return weight, bias  # compiled in bind(), where M is known

    def bind(self, layer: tuple[FloatArray, FloatArray], x: FloatArray) -> Bound:
        model = compressed_linear(*layer, m=len(x))
        request = self._core.compile_model(model, "CPU", compile_options(self.threads)).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        return Bound(request.infer, lambda: request.get_output_tensor().data.copy())
