"""Packing, quantisation and exact integers against the oracle, on every ISA this CPU runs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import MAX_EXACT_K, TAILS, as_dtype, quick, random_int8, random_uint8, seeds, sizes

from edgekern import kernels


def pack(weight, isa=None):
    return kernels.int8_pack(weight, np.ones(len(weight), np.float32), isa=isa)


def check_matmul(q, zero_point, weight, isa):
    expected = oracle.matmul(q, zero_point, weight)
    got = kernels.int8_matmul(q, zero_point, pack(weight, isa), isa=isa)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------------------------------------ exact integers


@pytest.mark.parametrize("m", [*range(1, 18), 33, 64, 97])
def test_matmul_is_exact_for_every_row_count(isa, rng, m):
    for n, k in [(1, 1), (17, 65), (64, 64), (33, 127), (130, 260)]:
        check_matmul(random_uint8(rng, m, k), rng.integers(0, 256, m, dtype=np.int32), random_int8(rng, n, k), isa)


@pytest.mark.parametrize("k", TAILS)
def test_matmul_is_exact_for_every_tail(isa, rng, k):
    for n in TAILS:
        for m in (1, 7):
            check_matmul(random_uint8(rng, m, k), rng.integers(0, 256, m, dtype=np.int32), random_int8(rng, n, k), isa)


@quick
@given(m=st.integers(1, 40), n=sizes, k=sizes, seed=seeds)
def test_matmul_is_exact_for_any_shape(isa, m, n, k, seed):
    rng = np.random.default_rng(seed)
    check_matmul(random_uint8(rng, m, k), rng.integers(0, 256, m, dtype=np.int32), random_int8(rng, n, k), isa)


@pytest.mark.parametrize("zero_point", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("weights", [[-128], [127], [-128, 127], [127, 127, -128]])
@pytest.mark.parametrize("activations", [[0], [255], [0, 255], [255, 255, 0]])
def test_matmul_is_exact_at_the_extremes(isa, activations, weights, zero_point):
    k = 517
    q = np.resize(np.array(activations, np.uint8), (5, k))
    weight = np.resize(np.array(weights, np.int8), (35, k))
    check_matmul(q, np.full(5, zero_point, np.int32), weight, isa)


@pytest.mark.parametrize(("value", "zero_point"), [(255, 0), (0, 255)])
def test_the_largest_sum_fits_int32(isa, value, zero_point):
    q = np.full((2, MAX_EXACT_K), value, np.uint8)
    check_matmul(q, np.full(2, zero_point, np.int32), np.full((3, MAX_EXACT_K), -128, np.int8), isa)


def test_one_outlier_does_not_spill_into_its_neighbours(isa):
    q = np.zeros((6, 200), np.uint8)
    q[3, 77] = 255
    weight = np.zeros((40, 200), np.int8)
    weight[21, 77] = -128
    got = kernels.int8_matmul(q, np.zeros(6, np.int32), pack(weight, isa), isa=isa)
    assert got[3, 21] == 255 * -128
    assert np.count_nonzero(got) == 1


def test_matmul_without_rows(isa):
    got = kernels.int8_matmul(
        np.empty((0, 8), np.uint8), np.empty(0, np.int32), pack(np.ones((3, 8), np.int8), isa), isa=isa
    )
    assert got.shape == (0, 3)


# ---------------------------------------------------------------------------------------------- pack, unpack


@quick
@given(n=sizes, k=sizes, with_bias=st.booleans(), seed=seeds)
def test_unpack_inverts_pack(isa, n, k, with_bias, seed):
    rng = np.random.default_rng(seed)
    q, scale = random_int8(rng, n, k), rng.standard_normal(n, np.float32)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    packed = kernels.int8_pack(q, scale, bias, isa=isa)
    assert (packed.n, packed.k, packed.has_bias) == (n, k, with_bias)
    assert packed.data.ctypes.data % 64 == 0
    q_back, scale_back, bias_back = packed.unpack()
    np.testing.assert_array_equal(q_back, q)
    np.testing.assert_array_equal(scale_back, scale)
    if with_bias:
        np.testing.assert_array_equal(bias_back, bias)
    else:
        assert bias_back is None


def test_packing_costs_little_memory():
    packed = pack(np.ones((1024, 1024), np.int8))
    assert packed.nbytes == packed.data.nbytes
    assert packed.nbytes < 1024 * 1024 * 1.02


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_packed_weights_stay_aligned(rng, duplicate):
    weight = random_int8(rng, 19, 37)
    twin = duplicate(pack(weight))
    assert twin.data.ctypes.data % 64 == 0
    np.testing.assert_array_equal(twin.unpack()[0], weight)


def test_packed_bytes_are_realigned(rng):
    packed = pack(random_int8(rng, 19, 37))
    shifted = np.empty(packed.nbytes + 1, np.uint8)[1:]
    shifted[:] = packed.data
    np.testing.assert_array_equal(kernels.Int8Packed(shifted).unpack()[0], packed.unpack()[0])


def test_packing_takes_any_layout(rng):
    q, scale = random_int8(rng, 30, 50), rng.standard_normal(20, np.float32)
    for view in (q[:, 3:43], q[::2, :], q.T, q[::-1], q[:, ::-1]):
        n = len(view)
        scales = np.resize(scale, 2 * n)[::2]
        back = kernels.int8_pack(view, scales).unpack()
        np.testing.assert_array_equal(back[0], view)
        np.testing.assert_array_equal(back[1], scales)


# ------------------------------------------------------------------------------------------------- quantise


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@quick
@given(n=sizes, k=sizes, exponent=st.integers(-20, 10), seed=seeds)
def test_weights_quantise_like_the_oracle(dtype, n, k, exponent, seed):
    x = np.ldexp(np.random.default_rng(seed).standard_normal((n, k), np.float32), exponent)
    x[0] = 0
    weight, name, values = as_dtype(x, dtype)
    q, scale = kernels.int8_quantize(weight, name)
    expected_q, expected_scale = oracle.quantize_rhs(values)
    np.testing.assert_array_equal(scale, expected_scale)
    np.testing.assert_array_equal(q, expected_q)


def test_weights_at_the_ends_of_float32():
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    weight = np.array([[huge, -huge, 1], [tiny, -tiny, 0], [1e-37, 0, -1e-37]], np.float32)
    q, scale = kernels.int8_quantize(weight)
    expected_q, expected_scale = oracle.quantize_rhs(weight)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(scale, expected_scale)
    assert q[0].tolist() == [127, -127, 0]


def check_lhs(x, isa, dtype="float32"):
    array, name, values = as_dtype(x, dtype)
    got = kernels.int8_quantize_lhs(array, isa=isa, dtype=name)
    for actual, wanted in zip(got, oracle.quantize_lhs(values), strict=True):
        assert actual.dtype == wanted.dtype
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@quick
@given(m=st.integers(1, 20), k=sizes, exponent=st.integers(-20, 10), shift=st.sampled_from([0, 0, -3, 3]), seed=seeds)
def test_activations_quantise_like_the_oracle(isa, dtype, m, k, exponent, shift, seed):
    x = np.random.default_rng(seed).standard_normal((m, k), np.float32) + np.float32(shift)
    check_lhs(np.ldexp(x, exponent), isa, dtype)


def test_activations_at_the_ends_of_float32(isa):
    huge, tiny = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    rows = [
        [huge, -huge, 0, 1],
        [huge, huge, huge, huge],
        [tiny, -tiny, 0, 0],
        [255 * 2.0**-100, 0, 0, 0],
        [254 * 2.0**-100, 0, 0, 0],
        [0, 0, 0, 0],
        [-0.0, -0.0, -0.0, -0.0],
        [5, 5, 5, 5],
        [-5, -5, -5, -5],
        [np.nan, 1, 2, 3],
        [1, 2, 3, np.inf],
        [-np.inf, np.inf, 0, 1],
    ]
    check_lhs(np.array(rows, np.float32), isa)


def test_activations_round_half_to_even(isa):
    # Range 0..255 makes the scale 1 and the zero point 0: q is x rounded.
    check_lhs(np.array([[0, 255, 0.5, 1.5, 2.5, 3.5, 253.5, 254.5, 127.49999]], np.float32), isa)
    check_lhs(np.array([[-128, 127, -0.5, 0.5, -1.5, 1.5, -127.5, 126.5]], np.float32), isa)
