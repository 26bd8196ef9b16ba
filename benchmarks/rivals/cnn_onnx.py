"""Convolutional networks in ONNX Runtime and OpenVINO, both from the same ONNX files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rivals.cnn_task import BATCH_AXIS, GRAPHS, IMAGES, LOGITS, Bound, CnnSubject, FloatArray


class OnnxCnn(CnnSubject):
    """Whoever reads the graph that its argument names."""

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads)
        self.kind = kind


class OnnxRuntimeCnn(OnnxCnn):
    """Buffers bound, the batch known to the graph."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def load(self, folder: Path, network: str, batch: int) -> Bound:
        import onnxruntime

        from rivals.linear_onnxruntime import bound_session, own_session_options

        options = own_session_options(self.threads)
        options.add_free_dimension_override_by_name(BATCH_AXIS, batch)
        path = str(folder / GRAPHS[self.kind])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shapes = [(batch, *np.load(folder / name, mmap_mode="r").shape[1:]) for name in (IMAGES, LOGITS)]
        x, y = (onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for shape in shapes)
        return Bound(x.update_inplace, bound_session(session, x, y), y.numpy)


class OpenVinoCnn(OnnxCnn):
    """The batch known to the graph, one stream. float32 is held to float32: OpenVINO takes bfloat16 where it can."""

    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    def load(self, folder: Path, network: str, batch: int) -> Bound:
        import openvino

        from rivals.linear_openvino import compile_options

        core = openvino.Core()
        model = core.read_model(folder / GRAPHS[self.kind])
        shape = (batch, *np.load(folder / IMAGES, mmap_mode="r").shape[1:])
        model.reshape(list(shape))
        options: dict[str, Any] = {**compile_options(self.threads), "NUM_STREAMS": 1}
        if self.kind == "fp32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        request = core.compile_model(model, "CPU", options).create_infer_request()
        x = np.zeros(shape, np.float32)
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        self._shared = x  # a request reads shared memory, and does not keep it

        def read() -> FloatArray:
            return request.get_output_tensor().data

        return Bound(partial(np.copyto, x), request.infer, read)
