"""OpenVINO: a MatMul + Add graph with weights of eight or four bits, laid out as its weight compression does."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as op

from rivals.int4_weights import GROUP, Int4Weights, quantize_int4
from rivals.linear_layer import Bound, FloatArray, LinearSubject


def compressed_int8(weight: FloatArray) -> openvino.Node:
    """weight [N, K] as s8 with one scale per output channel."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    levels = op.convert(op.constant(np.rint(weight / scale).astype(np.int8)), "f32")
    return op.multiply(levels, op.constant(scale))


def compressed_int4(weight: Int4Weights) -> openvino.Node:
    """weight [N, K] as u4 with a scale and a zero point per output channel and group."""
    n, groups, group = weight.levels.shape

    def u4(values: NDArray[np.uint8]) -> openvino.Node:
        return op.convert(op.constant(values, dtype=openvino.Type.u4), "f16")

    levels = op.subtract(u4(weight.levels), u4(weight.zero))
    values = op.multiply(levels, op.constant(weight.scale.astype(np.float16)))
    shape = op.constant(np.array([n, groups * group]))
    return op.convert(op.reshape(values, shape, special_zero=False), "f32")


def compressed_linear(weight: openvino.Node, bias: FloatArray, x: openvino.Node) -> openvino.Model:
    """y [M, N] = x [M, K] W^T + b."""
    product = op.matmul(x, weight, transpose_a=False, transpose_b=True)
    return openvino.Model([op.add(product, op.constant(bias))], [x], "linear")


def compile_options(threads: int) -> dict[str, Any]:
    """One request at a time on `threads` threads; everything else (dynamic quantisation too) as OpenVINO sets it."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}


class OpenVinoInt8Weights(LinearSubject):
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    bytes_per_weight = 1
    compress = staticmethod(compressed_int8)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._core = openvino.Core()

    def build(self, weight: FloatArray, bias: FloatArray) -> tuple[Any, FloatArray]:
        return weight, bias  # compiled in bind(), where M is known

    def bind(self, layer: tuple[Any, FloatArray], x: FloatArray) -> Bound:
        weight, bias = layer
        # M is fixed, so that the plugin can specialise.
        model = compressed_linear(self.compress(weight), bias, op.parameter(x.shape, np.float32))
        request = self._core.compile_model(model, "CPU", compile_options(self.threads)).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        self._shared = x  # a request reads shared memory, and does not keep it
        return Bound(request.infer, lambda: request.get_output_tensor().data.copy())


class OpenVinoInt4Weights(OpenVinoInt8Weights):
    """What OpenVINO's int4 language models look like."""

    bytes_per_weight = 0.5
    largest_error = 0.15
    compress = staticmethod(compressed_int4)

    def build(self, weight: FloatArray, bias: FloatArray) -> tuple[Int4Weights, FloatArray]:
        if self._layers:
            return self._layers[0]  # numbers alone: each is compiled with memory of its own
        return quantize_int4(weight, math.gcd(GROUP, weight.shape[1])), bias  # groups have to divide K
