"""How int4's scales are chosen: clipping, and weights that are rounded already. NumPy alone."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import as_dtype, quick, round_as, seeds, sizes

from edgekern import kernels

DTYPES = ["float32", "float16", "bfloat16"]
group_sizes = st.sampled_from(kernels.INT4_GROUP_SIZES)
PARTS = [1 - i / 32 for i in range(17)]
POWERS = {"mse": 2.0, "hqq": 0.75}
"""Of the error that each way to clip lowers."""


def heavy_tailed(seed, n, k):
    rng = np.random.default_rng(seed)
    weight = 0.02 * rng.standard_t(4, (n, k)) * (rng.random((n, k)) < 0.8)
    return weight.astype(np.float32)


def values_of(weight, group_size, symmetric, **options):
    """What quantised weights stand for."""
    w, scale, zero = kernels.int4_quantize(weight, group_size, symmetric=symmetric, **options)
    return oracle.int4_values(w, scale, zero, weight.shape[1], group_size)


def errors(values, weight, group_size, power=2.0):
    """Sum of the powers of the errors of each group, float64 [N, groups]."""
    return np.add.reduceat(np.abs(values - weight) ** power, np.arange(0, weight.shape[1], group_size), axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(n=sizes, k=sizes, group_size=group_sizes, symmetric=st.booleans(), seed=seeds)
def test_clipping_never_raises_its_error_of_a_group(dtype, n, k, group_size, symmetric, seed):
    given, name, weight = as_dtype(heavy_tailed(seed, n, k), dtype)
    for clip, power in POWERS.items():
        whole, clipped = (
            errors(values_of(given, group_size, symmetric, clip=how, dtype=name), weight, group_size, power)
            for how in ("none", clip)
        )
        assert (clipped <= whole * (1 + 1e-6)).all()


@quick
@given(n=sizes, k=sizes, group_size=group_sizes, symmetric=st.booleans(), seed=seeds)
def test_clipping_takes_the_best_of_the_ranges(n, k, group_size, symmetric, seed):
    weight = heavy_tailed(seed, n, k)
    wanted = []
    for part in PARTS:
        q, scale, zero = oracle.int4_quantize(weight, group_size, symmetric, part=part)
        values = oracle.int4_values(oracle.int4_bytes(q), scale, zero, k, group_size)
        wanted.append(errors(values, weight, group_size))
    got = errors(values_of(weight, group_size, symmetric, clip="mse"), weight, group_size)
    assert (got <= np.min(wanted, axis=0) * (1 + 3e-4)).all()  # one is as good as another within what floats can tell


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", kernels.INT4_GROUP_SIZES)
def test_clipping_pays_where_weights_stick_out(group_size, symmetric):
    weight = heavy_tailed(0, 64, 1024)
    for clip, power in POWERS.items():
        whole, clipped = (
            errors(values_of(weight, group_size, symmetric, clip=how), weight, group_size, power).sum()
            for how in ("none", clip)
        )
        assert clipped < 0.98 * whole


@pytest.mark.parametrize("symmetric", [True, False])
def test_half_quadratic_steps_find_more_than_ranges(symmetric):
    """By the error they lower they beat the best of the ranges for it, which is where they start."""
    weight, size = heavy_tailed(1, 64, 1024), 64
    ranges = []
    for part in PARTS:
        q, scale, zero = oracle.int4_quantize(weight, size, symmetric, part=part)
        values = oracle.int4_values(oracle.int4_bytes(q), scale, zero, weight.shape[1], size)
        ranges.append(errors(values, weight, size, 0.75))
    best, got = np.min(ranges, axis=0), errors(values_of(weight, size, symmetric, clip="hqq"), weight, size, 0.75)
    assert (got <= best * (1 + 3e-4)).all()
    assert got.sum() < 0.995 * best.sum()


@quick
@given(n=sizes, k=sizes, group_size=group_sizes, symmetric=st.booleans(), seed=seeds)
def test_zeros_stay_zero_however_weights_are_clipped(n, k, group_size, symmetric, seed):
    weight = heavy_tailed(seed, n, k)
    for clip in kernels.INT4_CLIPS:
        assert (values_of(weight, group_size, symmetric, clip=clip)[weight == 0] == 0).all()


@pytest.mark.parametrize("clip", kernels.INT4_CLIPS)
@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(
    n=sizes,
    k=sizes,
    group_size=group_sizes,
    symmetric=st.booleans(),
    density=st.sampled_from([0.02, 0.2, 1.0]),
    most=st.integers(1, 15),
    seed=seeds,
)
def test_weights_that_were_int4_keep_their_values(dtype, clip, n, k, group_size, symmetric, density, most, seed):
    """Also where no weight of a group is at its ends, and where halves have rounded the products."""
    rng = np.random.default_rng(seed)
    groups = -(-k // group_size)
    scale = np.exp2(rng.uniform(-23, 2, (n, groups))).astype(np.float16).astype(np.float32)
    zero = np.full((n, groups), 8) if symmetric else rng.integers(0, 16, (n, groups))
    zero = zero[:, np.arange(k) // group_size]
    q = np.clip(zero + rng.integers(-most, most + 1, (n, k)) * (rng.random((n, k)) < density), 0, 15) - zero
    weight, name, values = as_dtype(scale[:, np.arange(k) // group_size] * q.astype(np.float32), dtype)
    again = values_of(weight, group_size, symmetric, clip=clip, dtype=name)
    np.testing.assert_array_equal(round_as(again.astype(np.float32), dtype), values)
