"""Changing weights one by one, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgekern.calibration.matrix import from_matrix
from edgekern.nn.swap import uninterrupted


@contextmanager
def journal() -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Gives weights the values of matrices, and puts every one back when the block ends by an exception."""
    originals: list[tuple[Tensor, Tensor]] = []

    def replace(weight: Tensor, matrix: Tensor) -> None:
        original = weight.clone()
        with uninterrupted(), torch.no_grad():
            originals.append((weight, original))
            weight.copy_(from_matrix(matrix, weight))

    try:
        yield replace
    except BaseException:
        with uninterrupted(), torch.no_grad():
            for weight, original in originals:
                weight.copy_(original)
        raise
