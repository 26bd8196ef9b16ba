"""A model as a whole: what it gives for a batch, and its operators as ``torch.export`` traces them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import arguments, inference

INSIDE = "model."
"""What names of modules and parameters begin with in a program."""


def call_model(model: nn.Module, batch: object) -> list[Tensor]:
    """The tensors that the model returns for a batch, in eval mode and without autograd."""
    args, kwargs = arguments(batch)
    with inference(model):
        return list(tensors_of(model(*args, **kwargs)))


def tensors_of(output: object) -> Iterator[Tensor]:
    """The tensors in what a model returns: alone, or in mappings, tuples and lists."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors_of(item)
    elif isinstance(output, tuple | list):
        for item in output:
            yield from tensors_of(item)


def program_of(model: nn.Module, batch: object) -> torch.export.ExportedProgram:
    """The operators that the model runs for a batch, in eval mode; names in it begin with :data:`INSIDE`.

    Raises:
        Exception: of whatever kind ``torch.export`` raises where it cannot trace a model.
    """
    args, kwargs = arguments(batch)
    with inference(model):
        return torch.export.export(_TensorsOnly(model), args, kwargs, strict=False)


def cause_of(error: Exception) -> str:
    """The first line of what an exception says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _TensorsOnly(nn.Module):
    """A model without what ``torch.export`` does not let it return, such as caches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return list(tensors_of(self.model(*args, **kwargs)))
