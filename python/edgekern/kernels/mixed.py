"""int8 and int4 weights by activations that stay floats."""

from __future__ import annotations

from edgekern._lib import core
from edgekern.kernels.int4 import Int4Packed
from edgekern.kernels.int8 import Int8Packed
from edgekern.kernels.packed import BFloat16, FloatArray, data_of, run_linear


def int8_float_linear(
    x: FloatArray,
    packed: Int8Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """A whole linear layer of int8 weights, x not quantised: ``act(x @ (scale * q).T + bias)``, summed in float32.

    The order of the sum depends on the ISA and on the number of rows, its bits not on the number of threads.

    Args:
        x: [..., K] float32 or float16, or bfloat16 bits.
        packed: weights [N, K] and bias from :func:`int8_pack`, in the dense form, for the same ISA.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        [..., N] of x's dtype.

    Raises:
        ValueError: another form than the dense one.
    """
    return run_linear(core.int8_float_linear, x, data_of(packed, Int8Packed), activation, isa, dtype)


def int4_float_linear(
    x: FloatArray,
    packed: Int4Packed,
    activation: str = "none",
    *,
    isa: str | None = None,
    dtype: BFloat16 | None = None,
) -> FloatArray:
    """The same of int4 weights, ``act(x @ (scale * (w - zero)).T + bias)``; see :func:`int8_float_linear`."""
    return run_linear(core.int4_float_linear, x, data_of(packed, Int4Packed), activation, isa, dtype)
