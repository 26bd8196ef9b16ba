"""The f32 and f16 layers of kept blocks over NumPy arrays, on every ISA this CPU runs."""

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


class Format:
    """The functions of one format, and what it makes of weights."""

    def __init__(self, name):
        self.name, self.packed = name, getattr(kernels, f"{name.upper()}Packed")
        self.pack, self.linear = getattr(kernels, f"{name}_pack"), getattr(kernels, f"{name}_linear")

    def rounded(self, weight):
        return weight if self.name == "f32" else oracle.round_f16(weight)

    def halves(self, isa):
        return self.name == "f16" and kernels.f16_halves(isa)

    def bound(self, x, weight, bias, isa):
        """How far sums over weights as they were rounded may be off, as edgekern.h has it."""
        kept, sums = np.count_nonzero(weight, axis=1), np.abs(x) @ np.abs(weight).T
        if not self.halves(isa):
            return (kept + 2) * 2.0**-23 * (sums + np.abs(bias))
        largest = np.abs(x).max(axis=1, initial=0)[:, None] * np.abs(weight).max(axis=1, initial=0)
        of_sums = (1.1 * np.minimum(kept, 64) + 2) * 2.0**-11 * sums
        return of_sums + kept * 2.0**-29 * largest + (kept + 3) * 2.0**-23 * np.abs(bias)


F32, F16 = Format("f32"), Format("f16")


@pytest.fixture(params=[F32, F16], ids=lambda format: format.name)
def floats(request):
    return request.param


def sparse(rng, n, k, density):
    return rng.standard_normal((n, k), np.float32) * (rng.random((n, k)) < density).astype(np.float32)


def check_linear(floats, x, weight, bias, isa, channels, dtype="float32", activation="none"):
    array, name, values = as_dtype(x, dtype)
    packed = floats.pack(weight, bias, channels=channels)
    y = floats.linear(array, packed, activation, isa=isa, dtype=name)
    assert y.dtype == array.dtype
    got = oracle.from_bfloat16(y) if name else y.astype(np.float64)
    bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    values, weight = values.astype(np.float64), floats.rounded(weight).astype(np.float64)
    expected = oracle.activate(values @ weight.T + bias, activation)
    bound = 1.2 * floats.bound(values, weight, bias, isa)
    bound += ROUNDING[dtype] * np.abs(expected) + (6e-8 if dtype == "float16" else 0)
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
def test_linear_follows_the_formula(floats, isa, dtype, m, n, k, density, channels, with_bias, seed):
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    check_linear(
        floats, rng.standard_normal((m, k), np.float32), sparse(rng, n, k, density), bias, isa, channels, dtype
    )


@pytest.mark.parametrize("activation", list(kernels.ACTIVATIONS))
def test_activations_follow_the_formula(floats, isa, rng, activation):
    bias = np.linspace(-12, 12, 130, dtype=np.float32)  # every branch of the functions
    check_linear(
        floats, rng.standard_normal((9, 64), np.float32), sparse(rng, 130, 64, 0.2), bias, isa, 4, "float32", activation
    )


def test_leading_dimensions_and_memory_layout_do_not_matter(floats, isa, rng):
    packed = floats.pack(sparse(rng, 33, 50, 0.3), rng.standard_normal(33, np.float32), channels=2)
    x = rng.standard_normal((4, 6, 50), np.float32)
    expected = floats.linear(x, packed, isa=isa)
    assert expected.shape == (4, 6, 33)
    wide, spread = np.zeros((4, 6, 70), np.float32), np.zeros((4, 6, 100), np.float32)
    wide[..., 7:57], spread[..., ::2] = x, x
    for view in (wide[..., 7:57], spread[..., ::2], np.asfortranarray(x), np.ascontiguousarray(x[::-1])[::-1]):
        np.testing.assert_array_equal(floats.linear(view, packed, isa=isa), expected)


def test_empty_inputs_and_outputs(floats, isa, rng):
    packed = floats.pack(np.eye(3, 8, dtype=np.float32))
    assert floats.linear(np.empty((2, 0, 8), np.float16), packed, isa=isa).shape == (2, 0, 3)
    bias = np.arange(-2, 3, dtype=np.float32)
    no_inputs = floats.pack(np.empty((5, 0), np.float32), bias)
    y = floats.linear(np.empty((3, 0), np.float32), no_inputs, "relu", isa=isa)
    np.testing.assert_array_equal(y, [np.maximum(bias, 0)] * 3)
    no_outputs = floats.pack(np.empty((0, 4), np.float32))
    assert floats.linear(np.ones((3, 4), np.float32), no_outputs, isa=isa).shape == (3, 0)


def test_nan_reaches_only_what_a_weight_ties_it_to(floats, isa):
    x = np.array([[1, np.nan, 3], [1, 2, 3]], np.float32)
    y = floats.linear(x, floats.pack(np.array([[2, 0, 1], [0, 1, 0]], np.float32)), isa=isa)
    np.testing.assert_array_equal(y, [[np.nan if floats.halves(isa) else 5, np.nan], [5, 2]])


def test_the_number_of_threads_changes_no_bit(floats, isa, rng):
    packed = floats.pack(sparse(rng, 300, 700, 0.2))
    x = rng.standard_normal((70, 700), np.float32)
    kernels.set_num_threads(1)
    expected = floats.linear(x, packed, isa=isa)
    kernels.set_num_threads(3)
    np.testing.assert_array_equal(floats.linear(x, packed, isa=isa), expected)


# ------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(n=sizes, k=sizes, channels=channel_counts, with_bias=st.booleans(), seed=seeds)
def test_unpack_inverts_pack(floats, dtype, n, k, channels, with_bias, seed):
    rng = np.random.default_rng(seed)
    weight, name, values = as_dtype(sparse(rng, n, k, 0.3), dtype)
    bias = rng.standard_normal(n, np.float32) if with_bias else None
    packed = floats.pack(weight, bias, channels=channels, dtype=name)
    assert (packed.n, packed.k, packed.has_bias, packed.channels) == (n, k, with_bias, channels)
    padded = np.zeros((-(-n // channels) * channels, k), bool)
    padded[:n] = values != 0
    assert packed.blocks == np.count_nonzero(padded.reshape(-1, channels, k).any(axis=1))
    weight_back, bias_back = packed.unpack()
    np.testing.assert_array_equal(weight_back, floats.rounded(values))
    assert floats.pack(weight_back, bias, channels=channels).data.tobytes() == packed.data.tobytes()
    if with_bias:
        np.testing.assert_array_equal(bias_back, bias)
    else:
        assert bias_back is None


def test_packing_takes_any_layout(floats, rng):
    weight = sparse(rng, 30, 50, 0.3)
    for view in (weight[:, 3:43], weight[::2], weight.T, weight[::-1], weight[:, ::-1]):
        np.testing.assert_array_equal(floats.pack(view).unpack()[0], floats.rounded(view))


def test_memory_follows_the_weights_that_are_left(floats, rng):
    packed = floats.pack(sparse(rng, 1024, 2048, 0.1))
    assert packed.nbytes < packed.blocks * {"f32": 5.4, "f16": 3.3}[floats.name] + 1024 * 12


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_packed_weights_stay_aligned(floats, rng, duplicate):
    weight = sparse(rng, 19, 37, 0.3)
    twin = duplicate(floats.pack(weight))
    assert isinstance(twin, floats.packed)
    assert twin.data.ctypes.data % 64 == 0
    np.testing.assert_array_equal(twin.unpack()[0], floats.rounded(weight))


WEIGHT, X = np.eye(3, 4, dtype=np.float32), np.ones((2, 4), np.float32)
INT8 = kernels.int8_pack(np.eye(3, 4, dtype=np.int8), np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f.pack(WEIGHT.astype(np.float64)), TypeError, "weight must be .*float32.*got float64"),
        (lambda f: f.pack(WEIGHT[0]), ValueError, "weight must have 2 dimensions"),
        (lambda f: f.pack(WEIGHT, channels=3), ValueError, "channels must be 1, 2, 4 or 8, got 3"),
        (lambda f: f.pack(WEIGHT, np.ones(4, np.float32)), ValueError, "bias must have 3 values"),
        (lambda f: f.pack(WEIGHT, np.ones(3)), TypeError, "bias must be .*float32.*got float64"),
        (lambda f: f.pack(WEIGHT * np.float32("nan")), ValueError, "must be finite"),
        (lambda f: f.pack(WEIGHT, np.full(3, np.inf, np.float32)), ValueError, "must be finite"),
        (lambda f: f.linear(X.astype(np.float64), f.pack(WEIGHT)), TypeError, "x must be .*float32"),
        (lambda f: f.linear(X[:, :3], f.pack(WEIGHT)), ValueError, "x must have 4 columns.*got 3"),
        (lambda f: f.linear(X, INT8), TypeError, "packed must be an F(32|16)Packed from f(32|16)_pack, got Int8Packed"),
        (lambda f: f.linear(X, f.pack(WEIGHT), "tanh"), ValueError, "activation must be one of"),
        (lambda f: f.packed(INT8.data), ValueError, "holds no packed f(32|16) matrix.*f(32|16)_pack"),
    ],
)
def test_errors_say_what_was_expected(floats, call, error, message):
    with pytest.raises(error, match=message):
        call(floats)


def test_a_matrix_of_the_other_format_is_refused():
    for one, other in ((F32, F16), (F16, F32)):
        with pytest.raises(TypeError, match=f"packed must be an {one.packed.__name__} from {one.name}_pack"):
            one.linear(X, other.pack(WEIGHT))
        with pytest.raises(ValueError, match=f"holds no packed {one.name} matrix"):
            one.packed(other.pack(WEIGHT).data)


def test_halves_are_multiplied_where_the_isa_says_so(isa):
    assert kernels.f16_halves(isa) == (isa in ("neon_dotprod", "neon_i8mm"))
    assert kernels.f16_halves() == kernels.f16_halves(kernels.default_isa())
