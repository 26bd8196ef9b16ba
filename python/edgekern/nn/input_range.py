"""Ranges of inputs that are known beforehand, as the canonical tensors that hold them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgekern.kernels import Range

LIKE: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "input_scale": ((1,), torch.float32),
    "input_zero_point": ((1,), torch.int8),
}
"""Names, shapes and dtypes of them, which compressed-tensors uses too."""

_LOWEST = -128  # what input_zero_point is counted from in files; kernels count from 0


def to_tensors(given: Range) -> dict[str, Tensor]:
    """The tensors of a range."""
    step, zero_point = given
    return {
        "input_scale": torch.tensor([step], dtype=torch.float32, device="cpu"),
        "input_zero_point": torch.tensor([zero_point + _LOWEST], dtype=torch.int8, device="cpu"),
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Range:
    """The range of such tensors."""
    return float(tensors["input_scale"]), int(tensors["input_zero_point"]) - _LOWEST
