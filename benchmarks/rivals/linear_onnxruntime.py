"""ONNX Runtime: a MatMul + Add graph as its own dynamic quantiser rewrites it, and its MatMulNBits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rivals.int4_weights import GROUP, pack_nibbles, quantize_int4
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


def matmul_nbits(weight: FloatArray, bias: FloatArray) -> onnx.ModelProto:
    """The same with int4 weights: one MatMulNBits, which adds the bias."""
    n, k = weight.shape
    levels, scale, zero = quantize_int4(weight, GROUP)
    constants = {
        "weight": pack_nibbles(levels),
        "scale": scale.reshape(-1),
        "zero": pack_nibbles(zero[..., 0]).reshape(-1),
        "bias": bias,
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", "weight", "scale", "zero", "", "bias"],
        ["y"],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=4,
        block_size=GROUP,
        accuracy_level=4,
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@cache
def session_options(threads: int) -> onnxruntime.SessionOptions:
    """One pool of `threads` threads for every session of this process, as the rotation through layers needs.

    The pool can be made once only, hence the cache. No session can have one of its own then, nor can those of the
    static quantiser.
    """
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


def own_session_options(threads: int) -> onnxruntime.SessionOptions:
    """A pool of `threads` threads for one session, in processes that have one at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def bound_session(
    session: onnxruntime.InferenceSession, x: onnxruntime.OrtValue, y: onnxruntime.OrtValue
) -> Callable[[], None]:
    """A call of a session with one input and one output, from x into y.

    Bound buffers save ONNX Runtime the allocation and copy of its plain run().
    """
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, x)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, y)
    return partial(session.run_with_iobinding, binding)


class OnnxRuntimeDynamic(LinearSubject):
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    bytes_per_weight = 1

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._options = session_options(threads)
        self._model = b""

    def model(self, weight: FloatArray, bias: FloatArray) -> bytes:
        """The serialised graph."""
        return quantized(linear_graph(weight, bias))

    def build(self, weight: FloatArray, bias: FloatArray) -> onnxruntime.InferenceSession:
        if not self._layers:
            self._model = self.model(weight, bias)
        return onnxruntime.InferenceSession(self._model, self._options, providers=["CPUExecutionProvider"])

    def bind(self, layer: onnxruntime.InferenceSession, x: FloatArray) -> Bound:
        output = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty((len(x), len(self._bias)), np.float32))
        return Bound(bound_session(layer, onnxruntime.OrtValue.ortvalue_from_numpy(x), output), output.numpy)


class OnnxRuntimeInt4(OnnxRuntimeDynamic):
    """Activations in eight bits (accuracy_level 4), as ONNX Runtime's int4 language models have them."""

    bytes_per_weight = 0.5
    largest_error = 0.15

    def model(self, weight: FloatArray, bias: FloatArray) -> bytes:
        return matmul_nbits(weight, bias).SerializeToString()
