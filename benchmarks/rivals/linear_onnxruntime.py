"""ONNX Runtime: a MatMul + Add graph as its own dynamic quantiser rewrites it."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rivals.linear_layer import Bound, FloatArray, LinearSubject


def linear_graph(weight: FloatArray, bias: FloatArray) -> onnx.ModelProto:
    """y [M, N] = x [M, K] W^T + b as ONNX, with M free."""
    n, k = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["product"]), helper.make_node("Add", ["product", "bias"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T), "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quantized(model: onnx.ModelProto) -> bytes:
    """The model after ONNX Runtime's quantiser: u8 activations, s8 weights with a scale per output channel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
        return path.read_bytes()


@cache
def session_options(threads: int) -> onnxruntime.SessionOptions:
    """One pool of `threads` threads for every session of this process, as the rotation through layers needs.

    The pool can be made once only, hence the cache.
    """
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


class OnnxRuntimeDynamic(LinearSubject):
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    bytes_per_weight = 1

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._options = session_options(threads)
        self._model = b""

    def build(self, weight: FloatArray, bias: FloatArray) -> onnxruntime.InferenceSession:
        if not self._layers:
            self._model = quantized(linear_graph(weight, bias))
        return onnxruntime.InferenceSession(self._model, self._options, providers=["CPUExecutionProvider"])

    def bind(self, layer: onnxruntime.InferenceSession, x: FloatArray) -> Bound:
        # Bound buffers save ONNX Runtime the allocation and copy of its plain run().
        output = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty((len(x), len(self._bias)), np.float32))
        binding = layer.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", output)
        return Bound(partial(layer.run_with_iobinding, binding), output.numpy)
