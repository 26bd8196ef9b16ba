"""The int8 layer as a whole, over NumPy arrays: values, memory layouts, threads."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import MAX_EXACT_K, as_dtype, quick, random_int8, seeds, sizes

from edgekern import kernels
from edgekern._lib import core

TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


def check_linear(x, weight, scale, bias, isa, activation="none", dtype="float32"):
    array, name, values = as_dtype(x, dtype)
    y = kernels.int8_linear(array, kernels.int8_pack(weight, scale, bias, isa=isa), activation, isa=isa, dtype=name)
    expected, magnitude = oracle.linear(values, weight, scale, bias, activation)
    assert y.dtype == array.dtype
    got = oracle.from_bfloat16(y) if name else y
    error = np.abs(got - expected)
    bound = TOLERANCE[dtype] * np.maximum(magnitude, np.abs(expected)) + (6e-8 if dtype == "float16" else 1e-30)
    assert (error <= bound).all(), f"error {error.max()} at {np.argwhere(error > bound)[0]}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@quick
@given(m=st.integers(1, 20), n=sizes, k=sizes, with_bias=st.booleans(), seed=seeds)
def test_linear_follows_the_formula(isa, dtype, m, n, k, with_bias, seed):
    rng = np.random.default_rng(seed)
    weight, scale = random_int8(rng, n, k), rng.uniform(1e-4, 1e-3, n).astype(np.float32)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    check_linear(rng.standard_normal((m, k), np.float32), weight, scale, bias, isa, dtype=dtype)


@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_activations_follow_the_formula(isa, rng, activation):
    for m, n, k in [(1, 33, 65), (9, 130, 64)]:
        weight, scale = random_int8(rng, n, k), rng.uniform(1e-4, 2e-3, n).astype(np.float32)
        bias = np.linspace(-12, 12, n, dtype=np.float32)  # every branch of the functions
        x = rng.standard_normal((m, k), np.float32)
        y = kernels.int8_linear(x, kernels.int8_pack(weight, scale, bias, isa=isa), activation, isa=isa)
        expected, magnitude = oracle.linear(x, weight, scale, bias, activation)
        np.testing.assert_allclose(y, expected, rtol=0, atol=4e-6 * (1 + magnitude.max()))


def test_nan_and_inf_rows_give_nan_and_leave_the_others_alone(isa, rng):
    packed = kernels.int8_pack(
        random_int8(rng, 70, 90), np.full(70, 0.01, np.float32), rng.standard_normal(70, np.float32), isa=isa
    )
    clean = rng.standard_normal((11, 90), np.float32)
    dirty = clean.copy()
    dirty[2, 0], dirty[5, 89], dirty[10, 44] = np.nan, np.inf, -np.inf
    expected, got = (kernels.int8_linear(x, packed, isa=isa) for x in (clean, dirty))
    bad = np.isin(np.arange(11), [2, 5, 10])
    assert np.isnan(got[bad]).all()
    np.testing.assert_array_equal(got[~bad], expected[~bad])


def test_zero_rows_give_the_bias(isa, rng):
    bias = rng.standard_normal(45, np.float32)
    packed = kernels.int8_pack(random_int8(rng, 45, 77), np.full(45, 0.1, np.float32), bias, isa=isa)
    x = rng.standard_normal((5, 77), np.float32)
    x[1], x[4] = 0, -0.0
    y = kernels.int8_linear(x, packed, isa=isa)
    np.testing.assert_array_equal(y[[1, 4]], [bias, bias])


def test_weights_deeper_than_one_int32_sum(isa, rng):
    for k in (MAX_EXACT_K + 1, 2 * MAX_EXACT_K + 100):
        weight, scale = random_int8(rng, 18, k), np.full(18, 1e-3, np.float32)
        x = rng.standard_normal((3, k), np.float32) + 1
        expected, _ = oracle.linear(x, weight, scale)
        y = kernels.int8_linear(x, kernels.int8_pack(weight, scale, isa=isa), isa=isa)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_empty_inputs(isa):
    packed = kernels.int8_pack(np.ones((3, 8), np.int8), np.ones(3, np.float32), isa=isa)
    assert kernels.int8_linear(np.empty((0, 8), np.float32), packed, isa=isa).shape == (0, 3)
    assert kernels.int8_linear(np.empty((2, 0, 8), np.float16), packed, isa=isa).shape == (2, 0, 3)


def test_no_input_features_leave_the_bias(isa):
    bias = np.arange(-2, 3, dtype=np.float32)
    packed = kernels.int8_pack(np.empty((5, 0), np.int8), np.ones(5, np.float32), bias, isa=isa)
    y = kernels.int8_linear(np.empty((3, 0), np.float32), packed, "relu", isa=isa)
    np.testing.assert_array_equal(y, [np.maximum(bias, 0)] * 3)


def test_no_output_features(isa):
    packed = kernels.int8_pack(np.empty((0, 4), np.int8), np.empty(0, np.float32), isa=isa)
    assert kernels.int8_linear(np.ones((3, 4), np.float32), packed, isa=isa).shape == (3, 0)


# --------------------------------------------------------------------------------- layouts, threads, limits


def layouts(x):
    """The same values [6, 50] in other memory: strided, unaligned, transposed, reversed."""
    wide = np.zeros((6, 80), x.dtype)
    wide[:, 7:57] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[:] = x
    item = np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)  # aligned to its elements alone
    item[:] = x
    spread = np.zeros((6, 100), x.dtype)
    spread[:, ::2] = x
    return {
        "wide rows": wide[:, 7:57],
        "unaligned": unaligned,
        "element-aligned": item,
        "fortran": np.asfortranarray(x),
        "every second column": spread[:, ::2],
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_layout_does_not_matter(isa, rng, dtype):
    packed = kernels.int8_pack(random_int8(rng, 20, 50), np.full(20, 0.01, np.float32), isa=isa)
    x = rng.standard_normal((6, 50), np.float32).astype(dtype)
    expected, expected_q = kernels.int8_linear(x, packed, isa=isa), kernels.int8_quantize_lhs(x, isa=isa)[0]
    for name, view in layouts(x).items():
        np.testing.assert_array_equal(kernels.int8_linear(view, packed, isa=isa), expected, err_msg=name)
        np.testing.assert_array_equal(kernels.int8_quantize_lhs(view, isa=isa)[0], expected_q, err_msg=name)


def test_leading_dimensions_fold(rng):
    packed = kernels.int8_pack(random_int8(rng, 9, 12), np.full(9, 0.01, np.float32))
    x = rng.standard_normal((2, 3, 4, 12), np.float32)
    flat = kernels.int8_linear(x.reshape(24, 12), packed)
    np.testing.assert_array_equal(kernels.int8_linear(x, packed), flat.reshape(2, 3, 4, 9))
    np.testing.assert_array_equal(kernels.int8_linear(x[0, 0, 0], packed), flat[0])
    swapped = kernels.int8_linear(x.swapaxes(0, 2), packed)
    np.testing.assert_array_equal(swapped.swapaxes(0, 2), flat.reshape(2, 3, 4, 9))


def test_every_thread_count_gives_the_same_bits(isa, rng):
    for m, n, k in [(1, 2000, 300), (70, 300, 500), (400, 64, 100)]:
        weight, scale = random_int8(rng, n, k), np.full(n, 0.01, np.float32)
        packed = kernels.int8_pack(weight, scale, rng.standard_normal(n, np.float32), isa=isa)
        x, results = rng.standard_normal((m, k), np.float32), []
        for threads in (1, 2, 3, 4):
            kernels.set_num_threads(threads)
            assert kernels.get_num_threads() == threads
            results.append(kernels.int8_linear(x, packed, "gelu", isa=isa))
            np.testing.assert_array_equal(kernels.int8_pack(weight, scale, isa=isa).unpack()[0], weight)
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_the_machine_limits_can_be_measured(isa):
    few, many = (core.peak_int8_macs(isa, steps) for steps in (1, 1000))
    assert 0 < few < many
    data = np.arange(1000, dtype=np.uint8)
    core.stream_read(isa, data)
