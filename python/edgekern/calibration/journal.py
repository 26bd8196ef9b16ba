"""Changing weights one by one, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgekern.calibration.matrix import from_matrix
from edgekern.nn.layers import tensor_identity
from edgekern.nn.swap import uninterrupted

Replace = Callable[[Tensor, Tensor], None]


class _PutBack(Exception):
    """Ends a block whose changes shall not stay."""


@contextmanager
def journal() -> Iterator[Replace]:
    """Gives weights, or biases, other values, and puts every one back when the block ends by an exception.

    A weight may be given new values several times: what it gets back is what it had at first.
    """
    originals: dict[object, tuple[Tensor, Tensor]] = {}

    def replace(weight: Tensor, matrix: Tensor) -> None:
        identity = tensor_identity(weight)
        original = weight if identity in originals else weight.clone()
        with uninterrupted(), torch.no_grad():
            originals.setdefault(identity, (weight, original))
            weight.copy_(from_matrix(matrix, weight))

    try:
        yield replace
    except BaseException:
        with uninterrupted(), torch.no_grad():
            for weight, original in originals.values():
                weight.copy_(original)
        raise


@contextmanager
def borrowed() -> Iterator[Replace]:
    """As :func:`journal`, but everything is put back however the block ends."""
    try:
        with journal() as replace:
            yield replace
            raise _PutBack
    except _PutBack:
        pass
