"""A layer's weight as the matrix that patterns see, and back.

A convolution's [out, in, kh, kw] is read as [out, kh * kw * in], with the input channels innermost. That is the order
in which a kernel over channels-last activations walks it: neighbouring channels of one pixel lie side by side in
memory, so a block of four columns is one load of four activations. In the order [in, kh, kw] it would be four taps of
one channel, each at another address.
"""

from __future__ import annotations

from torch import Tensor


def to_matrix(weight: Tensor) -> Tensor:
    """[out, in] of a linear layer as it is, [out, in, kh, kw] as [out, kh * kw * in]."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``to_matrix``, for a weight of the shape of ``like``; what has that shape already stays."""
    if like.shape == matrix.shape:
        return matrix
    out, channels, height, width = like.shape
    return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)
