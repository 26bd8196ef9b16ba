"""Rows of packed matrices over NumPy arrays, on every ISA this CPU runs."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import quick, seeds, sizes

from edgekern import kernels


def as_floats(rows, dtype):
    """What a kernel gave, as float64."""
    return oracle.from_bfloat16(rows).astype(np.float64) if dtype == "bfloat16" else rows.astype(np.float64)


def rounded(values, dtype):
    return oracle.as_dtype(values.astype(np.float32), dtype)[2].astype(np.float64)


@pytest.mark.parametrize("dtype", kernels.FLOATS)
@quick
@given(n=sizes, k=sizes, count=st.integers(0, 9), wide=st.booleans(), seed=seeds)
def test_int8_rows_are_the_weights(isa, dtype, n, k, count, wide, seed):
    rng = np.random.default_rng(seed)
    q, scale = oracle.random_int8(rng, n, k), rng.random(n, np.float32)
    packed = kernels.int8_pack(q, scale, isa=isa)
    indices = rng.integers(0, n, (2, count), np.int64 if wide else np.int32)
    rows = kernels.int8_embedding(indices, packed, dtype, isa=isa)
    assert rows.shape == (2, count, k)
    np.testing.assert_array_equal(as_floats(rows, dtype), rounded(q * scale[:, None], dtype)[indices])


@pytest.mark.parametrize("dtype", kernels.FLOATS)
@quick
@given(n=sizes, k=sizes, group_size=st.sampled_from([32, 64, 128]), symmetric=st.booleans(), seed=seeds)
def test_int4_rows_are_the_weights(isa, dtype, n, k, group_size, symmetric, seed):
    rng = np.random.default_rng(seed)
    group = np.arange(k) // group_size
    zero = np.full((n, group[-1] + 1), 8) if symmetric else rng.integers(0, 16, (n, group[-1] + 1))
    q, scale = rng.integers(0, 16, (n, k)), (rng.random(zero.shape) / 50).astype(np.float16)
    zeros = None if symmetric else zero.astype(np.uint8)
    packed = kernels.int4_pack(oracle.int4_bytes(q), scale, zeros, k=k, group_size=group_size, isa=isa)
    indices = rng.integers(0, n, 7)
    weight = scale.astype(np.float32)[:, group] * (q - zero[:, group]).astype(np.float32)
    rows = kernels.int4_embedding(indices, packed, dtype, isa=isa)
    np.testing.assert_array_equal(as_floats(rows, dtype), rounded(weight, dtype)[indices])


Q, SCALE = np.ones((5, 8), np.int8), np.ones(5, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: kernels.int8_embedding(np.array([1, 5]), p), IndexError, "indices must be from 0 to 4, got 5"),
        (lambda p: kernels.int8_embedding(np.array([-1, 5]), p), IndexError, "indices must be from 0 to 4, got -1"),
        (lambda p: kernels.int8_embedding(np.ones(2), p), TypeError, "indices must be .*int64 or int32, got float64"),
        (lambda p: kernels.int8_embedding([1], p), TypeError, "indices must be .*got list"),
        (lambda p: kernels.int8_embedding(np.array([1]), p, "float64"), ValueError, "dtype must be one of float32, "),
        (lambda p: kernels.int4_embedding(np.array([1]), p), TypeError, "packed must be an Int4Packed"),
        (
            lambda p: kernels.int8_embedding(np.array([1]), kernels.int8_pack(Q, SCALE, form="bitmap")),
            ValueError,
            "int8_embedding: unknown form",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call(kernels.int8_pack(Q, SCALE))
