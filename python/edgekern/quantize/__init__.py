"""Quantising with calibration data: weights of a float model at values that conversion keeps."""

from __future__ import annotations

from edgekern.quantize.apply import quantize_
from edgekern.quantize.report import QuantizeReport, QuantizeRow
from edgekern.quantize.task import QuantizeError

__all__ = [
    "QuantizeError",
    "QuantizeReport",
    "QuantizeRow",
    "quantize_",
]
