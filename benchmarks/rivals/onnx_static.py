"""ONNX Runtime's static quantiser, as its guide sets it for x86 with VNNI.

QDQ, u8 activations and s8 weights. A scale for each output channel costs little time, the guide says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from rivals.cnn_task import FloatArray


class Batches(CalibrationDataReader):
    """Each batch, once, for the graph's only input."""

    def __init__(self, name: str, batches: Iterable[FloatArray]) -> None:
        self._name = name
        self._batches: Iterator[FloatArray] = iter(batches)

    def get_next(self) -> dict[str, FloatArray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantize(model: onnx.ModelProto | Path, path: Path, batches: Iterable[FloatArray]) -> None:
    """Writes the quantised graph to `path`; the ranges of activations are the widest that `batches` show."""
    graph = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    quantize_static(
        graph,
        path,
        Batches(graph.graph.input[0].name, batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
