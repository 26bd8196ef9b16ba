"""What the kernels compute, once more, in plain NumPy: integers in int64, floats step by step in float32.

Also the inputs that the kernel tests share: sizes around every tile edge, hypothesis strategies, random integers.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SMALLEST_SCALE = np.float32(2.0**-100)
MAX_EXACT_K = 65536

TAILS = [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255]
sizes = st.one_of(st.sampled_from(TAILS), st.integers(1, 300))
seeds = st.integers(0, 2**32 - 1)
quick = settings(
    max_examples=min(40, settings.default.max_examples),  # fewer under an emulator: conftest.py
    deadline=None,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.function_scoped_fixture],
)


def random_int8(rng, *shape):
    return rng.integers(-128, 128, shape, dtype=np.int8)


def random_uint8(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def as_dtype(x, dtype):
    """(the array to pass, the dtype argument, the float32 values it stands for)."""
    if dtype == "bfloat16":
        bits = to_bfloat16(x)
        return bits, "bfloat16", from_bfloat16(bits)
    x = x.astype(dtype)
    return x, None, x.astype(np.float32)


def round_f16(weight):
    """Weights [N, K] as float16 times a power of two a row: its largest, once rounded, is 1 or more, and below 2."""
    weight = weight.astype(np.float64)
    fraction, exponent = np.frexp(np.abs(weight).max(axis=1, initial=0, keepdims=True))
    exponent += np.rint(fraction * 2.0**11) == 2.0**11
    scale = np.where(fraction == 0, 1, np.exp2(exponent - 1))
    return ((weight / scale).astype(np.float16) * scale).astype(np.float32)


def quantize_rhs(weight):
    """Weights [N, K] to (q int8, scale float32 [N])."""
    weight = weight.astype(np.float32)
    scale = np.abs(weight).max(axis=1, initial=0) / np.float32(127)
    scale[scale < np.finfo(np.float32).tiny] = np.inf  # a row too small for a scale: every q is 0
    q = np.rint(weight / scale[:, None]).astype(np.int8)
    return q, np.where(np.isinf(scale), np.float32(1), scale)


def quantize_lhs(x):
    """Activations [M, K] to (q uint8, scale float32 [M], zero_point int32 [M])."""
    x = x.astype(np.float32)
    finite = np.isfinite(x).all(axis=1)
    x = np.where(finite[:, None], x, np.float32(0))
    low, high = x.min(axis=1, initial=0), x.max(axis=1, initial=0)
    scale = high / np.float32(255) - low / np.float32(255)
    empty = scale < SMALLEST_SCALE
    inverse = np.float32(1) / np.where(empty, np.float32(1), scale)
    zero_point = np.clip(np.rint(-low * inverse), 0, 255).astype(np.int32)
    q = np.clip(np.rint(x * inverse[:, None]).astype(np.int64) + zero_point[:, None], 0, 255)
    q[empty], zero_point[empty], scale[empty] = 0, 0, 1
    scale[~finite] = np.nan
    return q.astype(np.uint8), scale, zero_point


def quantize_by(x, scale, zero_point):
    """Activations [M, K] to q uint8 by one range for all."""
    inverse = np.float32(1) / np.float32(scale)
    return np.clip(np.rint(x.astype(np.float32) * inverse).astype(np.int64) + zero_point, 0, 255).astype(np.uint8)


def matmul(q, zero_point, weight):
    """[M, K] x [N, K] to exact int64 [M, N]."""
    return (q.astype(np.int64) - zero_point[:, None].astype(np.int64)) @ weight.astype(np.int64).T


def activate(y, activation):
    if activation == "relu":
        return np.maximum(y, 0)
    if activation == "gelu":
        return y / 2 * (1 + np.vectorize(math.erf, otypes=[np.float64])(y / math.sqrt(2)))
    if activation == "gelu_tanh":
        return y / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    if activation == "silu":
        return y / (1 + np.exp(-y))
    if activation == "relu6":
        return np.clip(y, 0, 6)
    if activation == "hardswish":
        return y * np.clip(y + 3, 0, 6) / 6
    return y


def linear(x, weight, weight_scale, bias=None, activation="none"):
    """The float formula of the layer over quantised x, in float64, and the size its rounding errors scale with."""
    q, scale, zero_point = quantize_lhs(x)
    factor = scale[:, None].astype(np.float64) * weight_scale.astype(np.float64)
    y = factor * matmul(q, zero_point, weight)
    magnitude = np.abs(y)
    if bias is not None:
        y, magnitude = y + bias, magnitude + np.abs(bias)
    return activate(y, activation), magnitude


def to_bfloat16(x):
    """float32 to bfloat16 bits (uint16), round half to even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_as(x, dtype):
    """float32 values, rounded to what another dtype holds."""
    return as_dtype(x, dtype)[2]


def int4_quantize(weight, group_size, symmetric, dtype="float32", part=1):
    """Weights [N, K] to (integers [N, K], scale float16 [N, groups], zero int64 [N, groups]).

    ``part`` of each group's range is covered, unless its weights lie on levels already, as ``dtype`` rounds them.
    """
    weight = weight.astype(np.float32)
    group = np.arange(weight.shape[1]) // group_size
    starts = np.arange(0, weight.shape[1], group_size)
    low = np.minimum(np.minimum.reduceat(weight, starts, axis=1), np.float32(0))
    high = np.maximum(np.maximum.reduceat(weight, starts, axis=1), np.float32(0))

    def zero_of(scale, low):
        return np.full(scale.shape, 8) if symmetric else np.clip(np.rint(-low / scale), 0, 15).astype(np.int64)

    def integers(scale, zero):
        steps = np.rint(weight / scale.astype(np.float32)[:, group]).astype(np.int64)
        return np.clip(steps, -zero[:, group], 15 - zero[:, group])

    low_part, high_part = low * np.float32(part), high * np.float32(part)
    if symmetric:
        wanted = np.maximum(high_part / np.float32(7), -low_part / np.float32(8)).astype(np.float16)
    else:
        wanted = (high_part / np.float32(15) - low_part / np.float32(15)).astype(np.float16)
    empty = wanted == 0
    scale = np.where(empty, np.float16(1), wanted)
    zero = zero_of(np.where(empty, np.float32(np.inf), scale.astype(np.float32)), low_part)
    settled = (low == 0) & (high == 0)
    for candidate in _int4_scales(low, high, symmetric, dtype):
        usable = (candidate > 0) & np.isfinite(candidate)
        candidate = np.where(usable, candidate, np.float16(1))
        candidate_zero = zero_of(candidate.astype(np.float32), low)
        values = candidate.astype(np.float32)[:, group] * integers(candidate, candidate_zero).astype(np.float32)
        lies = np.logical_and.reduceat(round_as(values, dtype) == weight, starts, axis=1)
        taken = usable & lies & ~settled
        scale, zero = np.where(taken, candidate, scale), np.where(taken, candidate_zero, zero)
        settled, empty = settled | taken, empty & ~taken
    q = np.where(empty[:, group], 0, integers(scale, zero)) + zero[:, group]
    return q, scale, zero


def _int4_scales(low, high, symmetric, dtype):
    """float16 scales [N, groups] by which weights of this range may be multiples, the largest first."""
    span = np.maximum(high, -low) if symmetric else high - low
    reach = {"float32": 0, "float16": 2, "bfloat16": 9}[dtype]
    for levels in range(1, 9 if symmetric else 16):
        step = span / np.float32(levels)
        nearest = step.astype(np.float16)
        if dtype == "float32":
            yield np.where(nearest.astype(np.float32) == step, nearest, np.float16(0))
            continue
        for i in range(2 * reach + 1):
            bits = nearest.view(np.int16) + np.int16(i // 2 if i % 2 == 0 else -(i + 1) // 2)
            yield np.maximum(bits, 0).astype(np.int16).view(np.float16)


def int4_values(w, scale, zero, k, group_size):
    """What canonical int4 weights stand for, float64 [N, K]."""
    group = np.arange(k) // group_size
    q = np.stack((w & 15, w >> 4), axis=-1).reshape(len(w), -1)[:, :k].astype(np.int64)
    return scale.astype(np.float64)[:, group] * (q - (8 if zero is None else zero.astype(np.int64)[:, group]))


def int4_bytes(q):
    """Nibbles [N, K] two a byte, even k in the low half."""
    padded = np.pad(q, ((0, 0), (0, q.shape[1] % 2))).astype(np.uint8)
    return padded[:, ::2] | padded[:, 1::2] << 4


def int4_linear(x, q, scale, zero, group_size, bias=None, activation="none"):
    """The float formula over quantised x, in float64, and the error that edgekern.h allows before activation."""
    a, lhs_scale, zero_point = quantize_lhs(x)
    group = np.arange(q.shape[1]) // group_size
    weight = scale.astype(np.float64)[:, group] * (q - zero[:, group])
    bias = np.zeros(len(q)) if bias is None else bias.astype(np.float64)
    lhs_scale = lhs_scale.astype(np.float64)[:, None]
    y = lhs_scale * ((a.astype(np.float64) - zero_point[:, None]) @ weight.T) + bias
    magnitude = lhs_scale * 255 * np.abs(weight).sum(axis=1) + np.abs(bias)
    return activate(y, activation), (scale.shape[1] + 3) * 2.0**-23 * magnitude
