"""One convolution as a statically quantised ONNX graph, in ONNX Runtime and OpenVINO.

Float32 images are quantised, convolved and turned to float32 again; the ranges of both are those of the very images
that are timed, and take no time.
"""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rivals.conv_layer import Conv, ConvSubject, FloatArray, Weights
from rivals.linear_layer import Bound
from rivals.linear_onnxruntime import bound_session, own_session_options
from rivals.onnx_static import quantize


def conv_graph(conv: Conv, weights: Weights) -> onnx.ModelProto:
    """The convolution in float32, for images of its size."""
    node = helper.make_node(
        "Conv",
        ["x", "weight", "bias"],
        ["y"],
        kernel_shape=[conv.kernel] * 2,
        strides=[conv.stride] * 2,
        pads=[conv.padding] * 4,
        group=conv.groups,
    )
    shapes = {
        "x": [conv.batch, conv.in_channels, conv.size, conv.size],
        "y": [conv.batch, conv.out_channels, conv.out_size, conv.out_size],
    }
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(value, name) for name, value in weights._asdict().items()]
    graph = helper.make_graph([node], "conv", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class OnnxConv(ConvSubject):
    """Whoever reads the quantised graph."""

    @abstractmethod
    def compile(self, model: bytes, conv: Conv, x: FloatArray) -> Bound:
        """The serialised graph, ready to run on x."""

    def bind(self, conv: Conv, weights: Weights, x: FloatArray) -> Bound:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize(conv_graph(conv, weights), path, [x])
            model = path.read_bytes()
        return self.compile(model, conv, x)


class OnnxRuntimeConv(OnnxConv):
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def compile(self, model: bytes, conv: Conv, x: FloatArray) -> Bound:
        options = own_session_options(self.threads)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        shape = (conv.batch, conv.out_channels, conv.out_size, conv.out_size)
        images, output = map(onnxruntime.OrtValue.ortvalue_from_numpy, (x, np.empty(shape, np.float32)))
        return Bound(bound_session(session, images, output), output.numpy)


class OpenVinoConv(OnnxConv):
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    def compile(self, model: bytes, conv: Conv, x: FloatArray) -> Bound:
        import openvino

        from rivals.linear_openvino import compile_options

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model), "CPU", compile_options(self.threads))
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        self._shared = model, x  # a request reads shared memory, and does not keep it
        return Bound(request.infer, lambda: request.get_output_tensor().data.copy())
