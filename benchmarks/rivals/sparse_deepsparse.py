"""DeepSparse 1.8.0, the last release: float32 and int8 graphs with the zeros in their weights.

It needs older packages than everybody else, hence a virtual environment of its own; see README.md.
"""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from deepsparse import Engine
from deepsparse.cpu import cpu_vnni_compatible
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save
from onnx.helper import make_node

from rivals.linear_layer import Bound, FloatArray, LinearSubject


def graph(nodes: list[NodeProto], constants: dict[str, NDArray[Any]], m: int, k: int, n: int) -> ModelProto:
    """ONNX: y [M, N] from x [M, K]. Everything is fixed, so that the engine can specialise."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


class DeepSparse(LinearSubject):
    packages: ClassVar[tuple[str, ...]] = ("deepsparse",)

    @abstractmethod
    def model(self, weight: FloatArray, bias: FloatArray, x: FloatArray) -> ModelProto:
        """The layer for inputs like x."""

    def build(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        return weight, bias  # compiled in bind(), where M is known

    def bind(self, layer: tuple[FloatArray, FloatArray], x: FloatArray) -> Bound:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "linear.onnx"
            save(self.model(*layer, x), path)
            engine = Engine(str(path), batch_size=len(x), num_cores=self.threads)
        if engine.fraction_of_supported_ops != 1:  # the rest would be ONNX Runtime's speed, under a wrong name
            raise NotImplementedError(f"DeepSparse runs {engine.fraction_of_supported_ops:.0%} of the graph itself")
        call = partial(engine.run, [x], val_inp=False)
        return Bound(call, lambda: call()[0])


class DeepSparseFloat32(DeepSparse):
    """MatMul + Add."""

    def model(self, weight: FloatArray, bias: FloatArray, x: FloatArray) -> ModelProto:
        nodes = [make_node("MatMul", ["x", "weight"], ["product"]), make_node("Add", ["product", "bias"], ["y"])]
        return graph(nodes, {"weight": weight.T, "bias": bias}, *x.shape, len(weight))


class DeepSparseInt8(DeepSparse):
    """QuantizeLinear + MatMulInteger + Add + Cast + Mul, u8 by s8 with a scale per output channel.

    The scale of the activations is fixed beforehand, from this very input, where all others choose one at every call:
    DeepSparse dies of DynamicQuantizeLinear before a MatMulInteger, and elsewhere leaves it to ONNX Runtime.
    """

    def model(self, weight: FloatArray, bias: FloatArray, x: FloatArray) -> ModelProto:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        x_scale = np.float32((high - low) / 255)
        scale = np.abs(weight).max(axis=1) / np.float32(127)
        scale[scale == 0] = 1  # a row without weights
        nodes = [
            make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["levels"]),
            # DeepSparse dies when the zero point of the weight is left out.
            make_node("MatMulInteger", ["levels", "weight", "x_zero", "weight_zero"], ["product"]),
            make_node("Add", ["product", "bias"], ["sum"]),
            make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
            make_node("Mul", ["float", "scale"], ["y"]),
        ]
        constants = {
            "x_scale": np.array(x_scale),
            "x_zero": np.array(round(-low / x_scale), np.uint8),
            "weight": np.rint(weight / scale[:, None]).astype(np.int8).T,
            "weight_zero": np.array(0, np.int8),
            "bias": np.rint(bias / (scale * x_scale)).astype(np.int32),
            "scale": scale * x_scale,
        }
        return graph(nodes, constants, *x.shape, len(weight))


class DeepSparseInt8Fast(DeepSparseInt8):
    """Without VNNI, DeepSparse emulates its exact sums by default. Here it may add in saturating 16-bit sums."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if cpu_vnni_compatible():
            raise NotImplementedError("the CPU has VNNI, so DeepSparse emulates nothing")
        os.environ["NM_FAST_VNNI_EMULATION"] = "1"
