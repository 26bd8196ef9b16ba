"""int8 and int4 weights by activations that stay floats, over NumPy arrays, on every ISA this CPU runs."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import as_dtype, quick, seeds, sizes

from edgekern import kernels

DTYPES = ["float32", "float16", "bfloat16"]
ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # of the result


def check(op, packed, weight, bias, x, isa, dtype="float32", activation="none"):
    """Within what edgekern.h allows, by float64 sums of the weights as they are packed."""
    array, name, values = as_dtype(x, dtype)
    y = op(array, packed, activation, isa=isa, dtype=name)
    assert (y.dtype, y.shape) == (array.dtype, (*x.shape[:-1], len(weight)))
    got = oracle.from_bfloat16(y) if name else y.astype(np.float64)
    values, shift = values.astype(np.float64), 0.0 if bias is None else bias.astype(np.float64)
    plain = values @ weight.T + shift
    expected = oracle.activate(plain, activation)
    bound = (x.shape[-1] + 4) * 2.0**-23 * (np.abs(values) @ np.abs(weight).T + np.abs(shift))
    bound = 1.2 * bound + ROUNDING[dtype] * np.abs(expected) + (6e-8 if dtype == "float16" else 0)
    if activation != "none":
        bound += 3e-6 * (1 + np.abs(expected))
    error = np.abs(got - expected)
    assert (error <= bound).all(), f"error {error.max()} at {np.argwhere(error > bound)[0]}"


def int8_layer(rng, n, k, bias, isa):
    q, scale = oracle.random_int8(rng, n, k), (rng.random(n) / 50 + 0.001).astype(np.float32)
    return kernels.int8_pack(q, scale, bias, isa=isa), q * scale.astype(np.float64)[:, None]


def int4_layer(rng, n, k, bias, isa, group_size, symmetric):
    group = np.arange(k) // group_size
    zero = np.full((n, group[-1] + 1), 8) if symmetric else rng.integers(0, 16, (n, group[-1] + 1))
    q, scale = rng.integers(0, 16, (n, k)), (rng.random(zero.shape) / 50 + 0.001).astype(np.float16)
    zeros = None if symmetric else zero.astype(np.uint8)
    packed = kernels.int4_pack(oracle.int4_bytes(q), scale, zeros, bias, k=k, group_size=group_size, isa=isa)
    return packed, scale.astype(np.float64)[:, group] * (q - zero[:, group])


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(m=st.integers(1, 30), n=sizes, k=sizes, with_bias=st.booleans(), seed=seeds)
def test_int8_follows_the_formula(isa, dtype, m, n, k, with_bias, seed):
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    packed, weight = int8_layer(rng, n, k, bias, isa)
    x = rng.standard_normal((m, k), np.float32) + np.float32(0.4)
    check(kernels.int8_float_linear, packed, weight, bias, x, isa, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(
    m=st.integers(1, 30),
    n=sizes,
    k=sizes,
    group_size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    with_bias=st.booleans(),
    seed=seeds,
)
def test_int4_follows_the_formula(isa, dtype, m, n, k, group_size, symmetric, with_bias, seed):
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    packed, weight = int4_layer(rng, n, k, bias, isa, group_size, symmetric)
    x = rng.standard_normal((m, k), np.float32) + np.float32(0.4)
    check(kernels.int4_float_linear, packed, weight, bias, x, isa, dtype)


@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_activations_follow_the_formula(isa, rng, activation):
    bias = np.linspace(-12, 12, 130, dtype=np.float32)  # every branch of the functions
    packed, weight = int8_layer(rng, 130, 70, bias, isa)
    x = rng.standard_normal((2, 3, 70), np.float32)
    check(kernels.int8_float_linear, packed, weight, bias, x, isa, activation=activation)


@pytest.mark.parametrize("m", [1, 2, 9])
def test_nan_and_infinity_go_where_floats_take_them(isa, rng, m):
    x = rng.standard_normal((m, 100), np.float32)
    x[0, 17], x[m - 1, 90] = np.inf, np.nan if m > 1 else -np.inf
    for op, (packed, weight) in (
        (kernels.int8_float_linear, int8_layer(rng, 130, 100, None, isa)),
        (kernels.int4_float_linear, int4_layer(rng, 130, 100, None, isa, 32, symmetric=False)),
    ):
        with np.errstate(invalid="ignore"):
            exact = (x.astype(np.float64)[:, None] * weight).sum(-1)
        y = op(x, packed, isa=isa)  # some weights are zero, and infinity times them is NaN
        np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
        np.testing.assert_array_equal(y[np.isinf(exact)], exact[np.isinf(exact)])
        assert np.isfinite(y[1 : m - 1]).all()


def test_threads_change_no_bit(isa, rng):
    packed, _ = int8_layer(rng, 300, 700, None, isa)
    for m in (1, 7, 70):
        x, results = rng.standard_normal((m, 700), np.float32), []
        for threads in (1, 3):
            kernels.set_num_threads(threads)
            results.append(kernels.int8_float_linear(x, packed, isa=isa))
        np.testing.assert_array_equal(*results)


Q, SCALE, X = np.ones((5, 8), np.int8), np.ones(5, np.float32), np.ones((2, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: kernels.int8_float_linear(X[:, :7], p), ValueError, "x must have 8 columns.*got 7"),
        (lambda p: kernels.int8_float_linear(X.astype("f8"), p), TypeError, "x must be .*float32"),
        (lambda p: kernels.int8_float_linear(X, p, "tanh"), ValueError, "activation must be one of"),
        (lambda p: kernels.int4_float_linear(X, p), TypeError, "packed must be an Int4Packed from int4_pack"),
        (
            lambda p: kernels.int8_float_linear(X, kernels.int8_pack(Q, SCALE, form="bitmap")),
            ValueError,
            "int8_float_linear: unknown form",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call(kernels.int8_pack(Q, SCALE))
