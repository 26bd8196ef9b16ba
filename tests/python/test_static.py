"""Activations rounded by one range for all rows: the kernels over NumPy arrays, the options, and finding the range."""

from __future__ import annotations

import pickle

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import as_dtype, quick, random_int8, seeds, sizes

from edgekern import GPTQ, Int4, Int8, PerLayer, Prune, config_from_dict, kernels
from edgekern._lib import core
from edgekern.config import needing_data

DTYPES = ["float32", "float16", "bfloat16"]
RANGE = (0.0078125, 100)  # of -0.78 to 1.21

# ------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(m=st.integers(1, 20), k=sizes, scale=st.floats(2**-10, 1.0, width=32), zero=st.integers(0, 255), seed=seeds)
def test_rows_are_rounded_by_the_range_and_saturate(isa, dtype, m, k, scale, zero, seed):
    x = np.random.default_rng(seed).standard_normal((m, k), np.float32) * 10
    array, name, values = as_dtype(x, dtype)
    q, scales, zeros = kernels.int8_quantize_lhs(array, input_range=(scale, zero), isa=isa, dtype=name)
    np.testing.assert_array_equal(q, oracle.quantize_by(values, scale, zero))
    np.testing.assert_array_equal(scales, np.full(m, scale, np.float32))
    np.testing.assert_array_equal(zeros, np.full(m, zero))


@pytest.mark.parametrize("form", kernels.FORMS)
def test_linear_follows_the_formula(isa, rng, form):
    for m, n, k in [(1, 33, 65), (20, 70, 130), (131, 16, 40)]:
        weight, scale = random_int8(rng, n, k), rng.uniform(1e-4, 2e-3, n).astype(np.float32)
        weight[rng.random((n, k)) < 0.6] = 0
        bias = rng.standard_normal(n, np.float32)
        x = rng.standard_normal((m, k), np.float32)
        packed = kernels.int8_pack(weight, scale, bias, form=form, input_range=RANGE, isa=isa)
        q = oracle.quantize_by(x, *RANGE)
        acc = oracle.matmul(q, np.full(m, RANGE[1], np.int32), weight)
        expected = acc * (np.float64(RANGE[0]) * scale.astype(np.float64)) + bias
        np.testing.assert_allclose(kernels.int8_linear(x, packed, isa=isa), expected, rtol=2e-6, atol=2e-6)


def test_rows_with_nan_and_inf_are_as_by_their_own_range(isa, rng):
    packed = kernels.int8_pack(random_int8(rng, 70, 90), np.full(70, 0.01, np.float32), input_range=RANGE, isa=isa)
    clean = rng.standard_normal((40, 90), np.float32)
    dirty = clean.copy()
    dirty[2, 0], dirty[5, 89], dirty[39, 44] = np.nan, np.inf, -np.inf
    expected, got = (kernels.int8_linear(x, packed, isa=isa) for x in (clean, dirty))
    bad = np.isin(np.arange(40), [2, 5, 39])
    assert np.isnan(got[bad]).all()
    np.testing.assert_array_equal(got[~bad], expected[~bad])
    q, scale, zero = kernels.int8_quantize_lhs(dirty, input_range=RANGE, isa=isa)
    assert np.isnan(scale[bad]).all()
    assert not q[bad].any()
    assert not zero[bad].any()


def test_a_packed_matrix_tells_its_range_and_keeps_it(rng):
    weight, scale = random_int8(rng, 5, 8), np.full(5, 0.1, np.float32)
    plain = kernels.int8_pack(weight, scale)
    packed = kernels.int8_pack(weight, scale, input_range=RANGE)
    assert plain.input_range is None
    assert packed.input_range == pickle.loads(pickle.dumps(packed)).input_range == RANGE
    assert packed.nbytes == plain.nbytes
    np.testing.assert_array_equal(packed.unpack()[0], weight)
    core.int8_set_range(packed.data, None)
    assert packed.data.tobytes() == plain.data.tobytes()


@pytest.mark.parametrize(
    ("given_range", "error", "message"),
    [
        ((0.0, 3), ValueError, r"a scale from 2\^-100 to 2\^100 and a zero point from 0 to 255, got \(0.0, 3\)"),
        ((float("nan"), 3), ValueError, r"got \(nan, 3\)"),
        ((1e300, 3), ValueError, "got"),
        ((1e-40, 3), ValueError, "got"),
        ((-1.0, 3), ValueError, "got"),
        ((1.0, -1), ValueError, r"got \(1.0, -1\)"),
        ((1.0, 256), ValueError, r"got \(1.0, 256\)"),
        ((1.0, 2**40), ValueError, "got"),
        (1.0, TypeError, r"a pair \(scale, zero_point\) of a float and an int, or None; got 1.0"),
        ((1.0,), TypeError, "a pair"),
        ((1.0, 2.5), TypeError, "a pair"),
        (("wide", 2), TypeError, "a pair"),
    ],
)
def test_other_ranges_are_refused(given_range, error, message):
    x, weight = np.ones((1, 4), np.float32), np.ones((2, 4), np.int8)
    with pytest.raises(error, match=f"range must be .*{message}"):
        kernels.int8_quantize_lhs(x, input_range=given_range)
    with pytest.raises(error, match=f"range must be .*{message}"):
        kernels.int8_pack(weight, np.ones(2, np.float32), input_range=given_range)


# ------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    "scheme",
    [
        Int8(activations="static"),
        Int8(activations="static", ranges="mse", packings=2),
        Int8(activations="static", ranges="percentile", percentile=99),
        GPTQ(Int8(activations="static", ranges="percentile")),
    ],
    ids=repr,
)
def test_options_are_said_and_read_again(scheme):
    assert config_from_dict(scheme.to_dict()) == scheme
    assert eval(repr(scheme)) == scheme


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activations": "fixed"}, ValueError, "unknown activations 'fixed'; this version knows .*static"),
        ({"activations": "static", "ranges": "kl"}, ValueError, "unknown ranges 'kl'; .* minmax, percentile, mse"),
        ({"ranges": "mse"}, ValueError, "ranges='mse' is of activations='static', not 'dynamic'"),
        ({"activations": "static", "percentile": 99.0}, ValueError, "percentile=99.0 is of ranges='percentile'"),
        ({"activations": "static", "ranges": "percentile", "percentile": 50}, ValueError, "above 50 and at most 100"),
        ({"activations": "static", "ranges": "percentile", "percentile": 100.5}, ValueError, "at most 100, got 100.5"),
        ({"activations": "static", "ranges": "percentile", "percentile": "99"}, TypeError, "must be a number, got str"),
    ],
)
def test_options_that_do_not_go_together(options, error, message):
    for scheme in (Int8, Int4):
        with pytest.raises(error, match=f"{scheme.__name__}: .*{message}"):
            scheme(**options)


def test_who_needs_data():
    static = Int8(activations="static")
    assert static.needs_data
    assert GPTQ().needs_data
    assert not Int8().needs_data
    assert not Int4().needs_data
    assert Int4(activations="static").needs_data
    assert needing_data(static) is static
    assert needing_data(PerLayer({"a": None, "b": Int4(), "c": static})) is static
    assert needing_data(PerLayer({"a": None, "b": Int4()})) is None
    with pytest.raises(ValueError, match="joint rounds weights, and ranges of activations are convert_'s to find"):
        Prune(0.5, method="sparsegpt", joint=static)
