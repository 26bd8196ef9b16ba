"""The int4 layer over NumPy arrays, on every ISA this CPU runs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import as_dtype, quick, seeds, sizes

from edgekern import kernels

DTYPES = ["float32", "float16", "bfloat16"]
ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # of the result
group_sizes = st.sampled_from([32, 64, 128])
forms = st.sampled_from(list(kernels.INT4_FORMS))


def random_weights(rng, n, k, group_size, density, symmetric):
    """(q [N, K], scale, zero [N, groups])."""
    groups = -(-k // group_size)
    zero = np.full((n, groups), 8) if symmetric else rng.integers(0, 16, (n, groups))
    q = np.where(rng.random((n, k)) < density, rng.integers(0, 16, (n, k)), zero[:, np.arange(k) // group_size])
    return q, (rng.random((n, groups)) / 50 + 0.001).astype(np.float16), zero


def pack(q, scale, zero, symmetric, bias=None, **options):
    zero = None if symmetric else zero.astype(np.uint8)
    return kernels.int4_pack(oracle.int4_bytes(q), scale, zero, bias, k=q.shape[1], **options)


def check_linear(x, weights, group_size, symmetric, bias, form, isa, dtype="float32", activation="none"):
    array, name, values = as_dtype(x, dtype)
    packed = pack(*weights, symmetric, bias, group_size=group_size, form=form, isa=isa)
    y = kernels.int4_linear(array, packed, activation, isa=isa, dtype=name)
    assert y.dtype == array.dtype
    got = oracle.from_bfloat16(y) if name else y.astype(np.float64)
    expected, bound = oracle.int4_linear(values, *weights, group_size, bias, activation)
    bound = 1.2 * bound + ROUNDING[dtype] * np.abs(expected) + (6e-8 if dtype == "float16" else 0)
    if activation != "none":
        bound += 3e-6 * (1 + np.abs(expected))
    error = np.abs(got - expected)
    assert (error <= bound).all(), f"error {error.max()} at {np.argwhere(error > bound)[0]}"


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(
    m=st.integers(1, 20),
    n=sizes,
    k=sizes,
    group_size=group_sizes,
    density=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    symmetric=st.booleans(),
    form=forms,
    with_bias=st.booleans(),
    seed=seeds,
)
def test_linear_follows_the_formula(isa, dtype, m, n, k, group_size, density, symmetric, form, with_bias, seed):
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, n, k, group_size, density, symmetric)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    x = rng.standard_normal((m, k), np.float32) + np.float32(0.4)
    check_linear(x, weights, group_size, symmetric, bias, form, isa, dtype)


@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_activations_follow_the_formula(isa, rng, activation):
    bias = np.linspace(-12, 12, 130, dtype=np.float32)  # every branch of the functions
    weights = random_weights(rng, 130, 70, 64, 0.5, True)
    check_linear(rng.standard_normal((3, 70), np.float32), weights, 64, True, bias, "dense", isa, activation=activation)


@quick
@given(
    m=st.integers(1, 7), n=sizes, k=st.integers(2, 300), symmetric=st.booleans(), zero=st.integers(0, 255), seed=seeds
)
def test_what_needs_no_rounding_is_exact(isa, m, n, k, symmetric, zero, seed):
    rng = np.random.default_rng(seed)
    q, scale, zeros = random_weights(rng, n, k, 64, 0.5, symmetric)
    scale = np.exp2(rng.integers(0, 3, scale.shape)).astype(np.float16)
    x = rng.integers(-zero, 256 - zero, (m, k)).astype(np.float32)
    x[:, 0], x[:, 1] = -zero, 255 - zero  # so that its scale is 1
    weight = scale.astype(np.float64)[:, np.arange(k) // 64] * (q - zeros[:, np.arange(k) // 64])
    for form in kernels.INT4_FORMS:
        y = kernels.int4_linear(x, pack(q, scale, zeros, symmetric, group_size=64, form=form, isa=isa), isa=isa)
        np.testing.assert_array_equal(y, x @ weight.T)


def test_forms_and_threads_change_no_bit(isa, rng):
    weights = random_weights(rng, 300, 700, 128, 0.3, False)
    for m in (2, 70):
        x = rng.standard_normal((m, 700), np.float32)
        results = []
        for threads in (1, 3):
            kernels.set_num_threads(threads)
            results += [
                kernels.int4_linear(x, pack(*weights, False, form=form, isa=isa), isa=isa)
                for form in kernels.INT4_FORMS
            ]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_nan_stays_in_its_row_and_a_zero_row_is_the_bias(isa, rng):
    bias = rng.standard_normal(40, np.float32)
    packed = pack(*random_weights(rng, 40, 90, 32, 0.5, True), True, bias, group_size=32, isa=isa)
    x = rng.standard_normal((4, 90), np.float32)
    clean = kernels.int4_linear(x, packed, isa=isa)
    x[1, 7], x[2, 8], x[3] = np.nan, np.inf, 0
    y = kernels.int4_linear(x, packed, isa=isa)
    assert np.isnan(y[1:3]).all()
    np.testing.assert_array_equal(y[0], clean[0])
    np.testing.assert_array_equal(y[3], bias)


def test_leading_dimensions_fold(isa, rng):
    packed = pack(*random_weights(rng, 9, 33, 32, 1.0, True), True, group_size=32, isa=isa)
    x = rng.standard_normal((2, 3, 33), np.float32)
    y = kernels.int4_linear(x, packed, isa=isa)
    np.testing.assert_array_equal(y.reshape(6, 9), kernels.int4_linear(x.reshape(6, 33), packed, isa=isa))
    assert kernels.int4_linear(x[:0], packed, isa=isa).shape == (0, 3, 9)


# ------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(n=sizes, k=sizes, group_size=group_sizes, symmetric=st.booleans(), seed=seeds)
def test_quantizing_follows_the_formula(dtype, n, k, group_size, symmetric, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((n, k), np.float32) * (rng.random((n, k)) < 0.7)
    weight, name, values = as_dtype(weight.astype(np.float32), dtype)
    w, scale, zero = kernels.int4_quantize(weight, group_size, symmetric=symmetric, dtype=name)
    q_wanted, scale_wanted, zero_wanted = oracle.int4_quantize(values, group_size, symmetric, dtype)
    np.testing.assert_array_equal(w, oracle.int4_bytes(q_wanted))
    np.testing.assert_array_equal(scale, scale_wanted)
    assert (w.dtype, scale.dtype) == (np.uint8, np.float16)
    if symmetric:
        assert zero is None
    else:
        np.testing.assert_array_equal(zero, zero_wanted)
    assert ((q_wanted == zero_wanted[:, np.arange(k) // group_size]) | (values != 0)).all()


@quick
@given(n=sizes, k=sizes, group_size=group_sizes, symmetric=st.booleans(), form=forms, bias=st.booleans(), seed=seeds)
def test_unpack_inverts_pack(isa, n, k, group_size, symmetric, form, bias, seed):
    rng = np.random.default_rng(seed)
    q, scale, zero = random_weights(rng, n, k, group_size, 0.4, symmetric)
    b = rng.standard_normal(n, np.float32) if bias else None
    packed = pack(q, scale, zero, symmetric, b, group_size=group_size, form=form, isa=isa)
    assert (packed.n, packed.k, packed.has_bias, packed.form) == (n, k, bias, form)
    assert (packed.group_size, packed.symmetric) == (group_size, symmetric)
    w_back, scale_back, zero_back, bias_back = packed.unpack()
    np.testing.assert_array_equal(w_back, oracle.int4_bytes(q))
    np.testing.assert_array_equal(scale_back, scale)
    assert zero_back is None if symmetric else (zero_back == zero).all()
    assert bias_back is None if b is None else (bias_back == b).all()


def test_packing_takes_any_layout(rng):
    q, scale, zero = random_weights(rng, 30, 128, 32, 0.3, False)
    w, zero = oracle.int4_bytes(q), zero.astype(np.uint8)
    wanted = kernels.int4_pack(w, scale, zero, k=128, group_size=32).data
    views = (np.repeat(w, 2, axis=1)[:, ::2], np.asfortranarray(scale), np.pad(zero, ((0, 0), (0, 3)))[:, :4])
    np.testing.assert_array_equal(kernels.int4_pack(*views, k=128, group_size=32).data, wanted)


def test_memory_follows_the_weights_that_are_left(rng):
    weights = random_weights(rng, 1024, 2048, 128, 0.32, True)  # of 32 % one in sixteen is zero again
    beside = 1024 * 8 + 1024 * 2048 / 128 * 2 + 2048
    assert pack(*weights, True).nbytes <= 1024 * 2048 / 2 + beside
    assert pack(*weights, True, form="bitmap").nbytes <= 1024 * 2048 * (1 / 8 + 0.3 / 2 * 1.02) + beside


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_packed_weights_stay_aligned(rng, duplicate):
    twin = duplicate(pack(*random_weights(rng, 19, 37, 32, 0.3, True), True, group_size=32))
    assert isinstance(twin, kernels.Int4Packed)
    assert twin.data.ctypes.data % 64 == 0
    assert repr(twin).startswith("Int4Packed(n=19, k=37, has_bias=False")


W, SCALE = np.full((3, 20), 0x79, np.uint8), np.ones((3, 2), np.float16)
ZERO, X = np.full((3, 2), 3, np.uint8), np.ones((2, 40), np.float32)
OPTIONS = {"k": 40, "group_size": 32}


def packed():
    return kernels.int4_pack(W, SCALE, ZERO, **OPTIONS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.int4_quantize(X.astype(np.float64)), TypeError, "weight must be .*float32.*got float64"),
        (lambda: kernels.int4_quantize(X[0]), ValueError, "weight must have 2 dimensions"),
        (lambda: kernels.int4_quantize(X, 48), ValueError, "group_size must be 32, 64 or 128, got 48"),
        (lambda: kernels.int4_quantize(X, clip="max"), ValueError, "clip must be one of none, mse, hqq; got 'max'"),
        (lambda: kernels.int4_quantize(X * np.float32("nan")), ValueError, "weight must be finite"),
        (lambda: kernels.int4_quantize(X * np.float32(1e9)), ValueError, "weight must be finite and below"),
        (lambda: kernels.int4_pack(W.astype(np.int8), SCALE, **OPTIONS), TypeError, "w must be .*uint8, got int8"),
        (lambda: kernels.int4_pack(W, SCALE, k=42, group_size=32), ValueError, "w must have 21 columns for k=42"),
        (lambda: kernels.int4_pack(W, SCALE, k=40, group_size=16), ValueError, "group_size must be .*got 16"),
        (
            lambda: kernels.int4_pack(W, SCALE.astype("f4"), **OPTIONS),
            TypeError,
            "scale must be .*float16.*got float32",
        ),
        (lambda: kernels.int4_pack(W, SCALE[:, :1], **OPTIONS), ValueError, r"scale must have shape \(3, 2\)"),
        (lambda: kernels.int4_pack(W, SCALE, ZERO[:2], **OPTIONS), ValueError, r"zero must have shape \(3, 2\)"),
        (lambda: kernels.int4_pack(W, SCALE, ZERO.astype("i4"), **OPTIONS), TypeError, "zero must be .*uint8"),
        (lambda: kernels.int4_pack(W, SCALE, ZERO + 13, **OPTIONS), ValueError, "zero at most 15"),
        (
            lambda: kernels.int4_pack(W, SCALE * np.float16("inf"), **OPTIONS),
            ValueError,
            "scale and bias must be finite",
        ),
        (lambda: kernels.int4_pack(W, SCALE, None, np.ones(4, "f4"), **OPTIONS), ValueError, "bias must have 3 values"),
        (
            lambda: kernels.int4_pack(W, SCALE, form="blocks_4", **OPTIONS),
            ValueError,
            "form must be one of dense, bitmap, bitmap_2",
        ),
        (lambda: kernels.int4_linear(X[:, :39], packed()), ValueError, "x must have 40 columns.*got 39"),
        (lambda: kernels.int4_linear(X.astype(np.float64), packed()), TypeError, "x must be .*float32"),
        (lambda: kernels.int4_linear(X, packed(), "tanh"), ValueError, "activation must be one of"),
        (lambda: kernels.int4_linear(X, packed().data), TypeError, "packed must be an Int4Packed from int4_pack"),
        (lambda: kernels.Int4Packed(packed().data[:-64]), ValueError, "holds no packed int4 matrix.*int4_pack"),
        (lambda: kernels.Int8Packed(packed().data), ValueError, "holds no packed int8 matrix"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()
