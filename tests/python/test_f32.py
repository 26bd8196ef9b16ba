"""The f32 layer of kept blocks over NumPy arrays, on every ISA this CPU runs."""

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
channel_counts = st.sampled_from([1, 2, 4, 8])


def sparse(rng, n, k, density):
    return rng.standard_normal((n, k), np.float32) * (rng.random((n, k)) < density).astype(np.float32)


def check_linear(x, weight, bias, isa, channels, dtype="float32", activation="none"):
    array, name, values = as_dtype(x, dtype)
    packed = kernels.f32_pack(weight, bias, channels=channels)
    y = kernels.f32_linear(array, packed, activation, isa=isa, dtype=name)
    assert y.dtype == array.dtype
    got = oracle.from_bfloat16(y) if name else y.astype(np.float64)
    bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    values, weight = values.astype(np.float64), weight.astype(np.float64)
    expected = oracle.activate(values @ weight.T + bias, activation)
    magnitude = np.abs(values) @ np.abs(weight).T + np.abs(bias)
    bound = (np.count_nonzero(weight, axis=1) + 2) * 2.0**-23 * magnitude
    bound = 1.2 * bound + ROUNDING[dtype] * np.abs(expected) + (6e-8 if dtype == "float16" else 0)
    if activation != "none":
        bound += 3e-6 * (1 + np.abs(expected))
    error = np.abs(got - expected)
    assert (error <= bound).all(), f"error {error.max()} at {np.argwhere(error > bound)[0]}"


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(
    m=st.integers(1, 80),
    n=sizes,
    k=sizes,
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    channels=channel_counts,
    with_bias=st.booleans(),
    seed=seeds,
)
def test_linear_follows_the_formula(isa, dtype, m, n, k, density, channels, with_bias, seed):
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    check_linear(rng.standard_normal((m, k), np.float32), sparse(rng, n, k, density), bias, isa, channels, dtype)


@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_activations_follow_the_formula(isa, rng, activation):
    bias = np.linspace(-12, 12, 130, dtype=np.float32)  # every branch of the functions
    check_linear(
        rng.standard_normal((9, 64), np.float32), sparse(rng, 130, 64, 0.2), bias, isa, 4, "float32", activation
    )


def test_leading_dimensions_and_memory_layout_do_not_matter(isa, rng):
    packed = kernels.f32_pack(sparse(rng, 33, 50, 0.3), rng.standard_normal(33, np.float32), channels=2)
    x = rng.standard_normal((4, 6, 50), np.float32)
    expected = kernels.f32_linear(x, packed, isa=isa)
    assert expected.shape == (4, 6, 33)
    wide, spread = np.zeros((4, 6, 70), np.float32), np.zeros((4, 6, 100), np.float32)
    wide[..., 7:57], spread[..., ::2] = x, x
    for view in (wide[..., 7:57], spread[..., ::2], np.asfortranarray(x), np.ascontiguousarray(x[::-1])[::-1]):
        np.testing.assert_array_equal(kernels.f32_linear(view, packed, isa=isa), expected)


def test_empty_inputs_and_outputs(isa, rng):
    packed = kernels.f32_pack(np.eye(3, 8, dtype=np.float32))
    assert kernels.f32_linear(np.empty((2, 0, 8), np.float16), packed, isa=isa).shape == (2, 0, 3)
    bias = np.arange(-2, 3, dtype=np.float32)
    no_inputs = kernels.f32_pack(np.empty((5, 0), np.float32), bias)
    y = kernels.f32_linear(np.empty((3, 0), np.float32), no_inputs, "relu", isa=isa)
    np.testing.assert_array_equal(y, [np.maximum(bias, 0)] * 3)
    no_outputs = kernels.f32_pack(np.empty((0, 4), np.float32))
    assert kernels.f32_linear(np.ones((3, 4), np.float32), no_outputs, isa=isa).shape == (3, 0)


def test_nan_reaches_only_what_a_weight_ties_it_to(isa):
    x = np.array([[1, np.nan, 3], [1, 2, 3]], np.float32)
    y = kernels.f32_linear(x, kernels.f32_pack(np.array([[2, 0, 1], [0, 1, 0]], np.float32)), isa=isa)
    np.testing.assert_array_equal(y, [[5, np.nan], [5, 2]])


def test_the_number_of_threads_changes_no_bit(isa, rng):
    packed = kernels.f32_pack(sparse(rng, 300, 700, 0.2))
    x = rng.standard_normal((70, 700), np.float32)
    kernels.set_num_threads(1)
    expected = kernels.f32_linear(x, packed, isa=isa)
    kernels.set_num_threads(3)
    np.testing.assert_array_equal(kernels.f32_linear(x, packed, isa=isa), expected)


# ------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(n=sizes, k=sizes, channels=channel_counts, with_bias=st.booleans(), seed=seeds)
def test_unpack_inverts_pack(dtype, n, k, channels, with_bias, seed):
    rng = np.random.default_rng(seed)
    weight, name, values = as_dtype(sparse(rng, n, k, 0.3), dtype)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    packed = kernels.f32_pack(weight, bias, channels=channels, dtype=name)
    assert (packed.n, packed.k, packed.has_bias, packed.channels) == (n, k, with_bias, channels)
    padded = np.zeros((-(-n // channels) * channels, k), bool)
    padded[:n] = values != 0
    assert packed.blocks == np.count_nonzero(padded.reshape(-1, channels, k).any(axis=1))
    weight_back, bias_back = packed.unpack()
    np.testing.assert_array_equal(weight_back, values)
    if with_bias:
        np.testing.assert_array_equal(bias_back, bias)
    else:
        assert bias_back is None


def test_packing_takes_any_layout(rng):
    weight = sparse(rng, 30, 50, 0.3)
    for view in (weight[:, 3:43], weight[::2], weight.T, weight[::-1], weight[:, ::-1]):
        np.testing.assert_array_equal(kernels.f32_pack(view).unpack()[0], view)


def test_memory_follows_the_weights_that_are_left(rng):
    packed = kernels.f32_pack(sparse(rng, 1024, 2048, 0.1))
    assert packed.nbytes < packed.blocks * 5.4 + 1024 * 8


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_packed_weights_stay_aligned(rng, duplicate):
    weight = sparse(rng, 19, 37, 0.3)
    twin = duplicate(kernels.f32_pack(weight))
    assert isinstance(twin, kernels.F32Packed)
    assert twin.data.ctypes.data % 64 == 0
    np.testing.assert_array_equal(twin.unpack()[0], weight)


WEIGHT, X = np.eye(3, 4, dtype=np.float32), np.ones((2, 4), np.float32)
INT8 = kernels.int8_pack(np.eye(3, 4, dtype=np.int8), np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.f32_pack(WEIGHT.astype(np.float64)), TypeError, "weight must be .*float32.*got float64"),
        (lambda: kernels.f32_pack(WEIGHT[0]), ValueError, "weight must have 2 dimensions"),
        (lambda: kernels.f32_pack(WEIGHT, channels=3), ValueError, "channels must be 1, 2, 4 or 8, got 3"),
        (lambda: kernels.f32_pack(WEIGHT, np.ones(4, np.float32)), ValueError, "bias must have 3 values"),
        (lambda: kernels.f32_pack(WEIGHT, np.ones(3)), TypeError, "bias must be .*float32.*got float64"),
        (lambda: kernels.f32_pack(WEIGHT * np.float32("nan")), ValueError, "must be finite"),
        (lambda: kernels.f32_pack(WEIGHT, np.full(3, np.inf, np.float32)), ValueError, "must be finite"),
        (lambda: kernels.f32_linear(X.astype(np.float64), kernels.f32_pack(WEIGHT)), TypeError, "x must be .*float32"),
        (lambda: kernels.f32_linear(X[:, :3], kernels.f32_pack(WEIGHT)), ValueError, "x must have 4 columns.*got 3"),
        (lambda: kernels.f32_linear(X, INT8), TypeError, "packed must be an F32Packed from f32_pack, got Int8Packed"),
        (lambda: kernels.f32_linear(X, kernels.f32_pack(WEIGHT), "tanh"), ValueError, "activation must be one of"),
        (lambda: kernels.F32Packed(INT8.data), ValueError, "holds no packed f32 matrix.*f32_pack"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()
