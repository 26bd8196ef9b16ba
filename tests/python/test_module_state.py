"""State dicts, pickles and copies of native layers: canonical, exact, and strict about what they take."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import KINDS, assert_same, canonical, layer_class, make_layer, make_scheme
from torch import nn

from edgekern import Int4
from edgekern.nn import F32Linear, Int4Linear, Int8Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def test_state_dict_is_canonical():
    linear, layer = make_layer(bias=True, dtype=torch.bfloat16)
    state = layer.state_dict()
    assert described(state) == {
        "weight": (torch.int8, (33, 70)),
        "weight_scale": (torch.float32, (33, 1)),
        "bias": (torch.bfloat16, (33,)),
    }
    assert torch.equal(state["bias"], linear.bias)
    assert "bias" not in make_layer(bias=False)[1].state_dict()


def described(state):
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}


def test_the_state_dict_of_int4_is_nibbles_and_scales_by_group():
    symmetric, asymmetric = make_layer(71, 33, kind="int4")[1], make_layer(71, 33, kind="int4 zero")[1]
    bias = (torch.float32, (33,))
    assert described(symmetric.state_dict()) == {
        "weight": (torch.uint8, (33, 36)),
        "weight_scale": (torch.float16, (33, 1)),
        "bias": bias,
    }
    assert described(asymmetric.state_dict()) == {
        "weight": (torch.uint8, (33, 36)),
        "weight_scale": (torch.float16, (33, 3)),
        "weight_zero": (torch.uint8, (33, 3)),
        "bias": bias,
    }
    assert (asymmetric.state_dict()["weight"][:, -1] < 16).all()  # nothing beyond the last of an odd number


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["f32", "f32 plain"])
def test_the_state_dict_of_f32_is_that_of_the_dense_layer(kind, dtype):
    linear, layer = make_layer(dtype=dtype, kind=kind)
    assert_same(layer.state_dict(), linear.state_dict())


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    assign=st.booleans(),
)
def test_state_dicts_pickles_and_copies_are_exact(kind, shape, dtype, bias, seed, assign):
    _, layer = make_layer(*shape, bias=bias, dtype=dtype, seed=seed, kind=kind)
    state = canonical(layer)
    loaded = layer_class(kind)(*shape, bias=bias, dtype=dtype, scheme=make_scheme(kind))
    loaded.load_state_dict(state, assign=assign)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    x = torch.randn(3, shape[0]).to(dtype)
    expected = layer(x)
    for other in (loaded, copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer)), saved):
        assert_same(canonical(other), state)
        assert torch.equal(other(x), expected)
        assert repr(other) == repr(layer)


def test_any_int8_value_survives_also_minus_128():
    values = torch.arange(-128, 128, dtype=torch.int8).reshape(16, 16)
    layer = Int8Linear(16, 16, bias=False)
    layer.load_state_dict({"weight": values, "weight_scale": torch.ones(16, 1)})
    assert torch.equal(layer.state_dict()["weight"], values)
    assert torch.equal(layer.weight, values.float())


@pytest.mark.parametrize("zero", [None, 0, 3, 15])
def test_any_nibble_survives_whatever_stands_for_zero(zero):
    layer = Int4Linear(16, 16, bias=False, scheme=Int4(32, symmetric=zero is None))
    zeros = {} if zero is None else {"weight_zero": torch.full((16, 1), zero, dtype=torch.uint8)}
    state = {
        "weight": torch.arange(128, dtype=torch.uint8).reshape(16, 8) * 2 + 1,
        "weight_scale": torch.ones(16, 1).half(),
    }
    layer.load_state_dict({**state, **zeros})
    assert_same(layer.state_dict(), {**state, **zeros})
    nibbles = torch.stack((state["weight"] & 15, state["weight"] >> 4), -1).reshape(16, 16)
    assert torch.equal(layer.weight, nibbles.float() - (8 if zero is None else zero))


INT8_CHOSEN = {"packed", "packed_few", "choice", "_few_elements", "shared", "linear_code", "input_range"}
INT4_CHOSEN = {"packed", "choice", "shared", "linear_code"}
F32_CHOSEN = {"packed", "choice", "_plain", "shared", "linear_code"}
CHOSEN = [*[INT8_CHOSEN] * 2, *[INT4_CHOSEN] * 3, *[F32_CHOSEN] * 3]


@pytest.mark.parametrize(("kind", "chosen"), list(zip(KINDS, CHOSEN, strict=True)))
def test_a_pickle_names_nothing_that_was_chosen_here(kind, chosen):
    layer = make_layer(kind=kind)[1]
    state = layer.__getstate__()
    assert vars(layer).keys() - state.keys() == chosen
    assert state["canonical"].keys() == canonical(layer).keys()


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, 'Missing key.*"weight", "weight_scale", "bias"'),
        (lambda s: without(s, "weight_scale"), 'Missing key.*"weight_scale"'),
        (lambda s: {**s, "weight": s["weight"][:, :-1]}, "size mismatch for weight"),
        (lambda s: {**s, "weight_scale": s["weight_scale"].flatten()}, "size mismatch for weight_scale"),
        (lambda s: {**s, "bias": s["bias"][:-1]}, "size mismatch for bias"),
        (lambda s: {**s, "weight": s["weight"].float()}, "dtype mismatch for weight: expected torch.int8"),
        (lambda s: {**s, "weight_scale": s["weight_scale"].double()}, "dtype mismatch for weight_scale"),
        (lambda s: {**s, "weight_scale": s["weight_scale"] * float("nan")}, "NaN or infinite scale"),
        (lambda s: {**s, "weight_scale": s["weight_scale"] / 0}, "NaN or infinite scale"),
        (lambda s: {**s, "weight": "int8"}, "expected torch.Tensor"),
        (lambda s: make_layer()[0].state_dict(), "Missing key.*weight_scale"),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_that_do_not_fit_change_nothing(change, message, assign):
    layer = make_layer(seed=1)[1]
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(make_layer(seed=2)[1])), assign=assign)
    assert_same(canonical(layer), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, 'Missing key.*"weight", "bias"'),
        (lambda s: without(s, "weight"), 'Missing key.*"weight"'),
        (lambda s: {**s, "weight": s["weight"][:, :-1]}, "size mismatch for weight"),
        (lambda s: {**s, "bias": s["bias"][:-1]}, "size mismatch for bias"),
        (lambda s: {**s, "weight": s["weight"] * float("nan")}, "NaN or infinity in the weight or the bias"),
        (lambda s: {**s, "bias": s["bias"] / 0}, "NaN or infinity in the weight or the bias"),
        (lambda s: {**s, "weight": s["weight"].double() * 1e300}, "NaN or infinity in the weight or the bias"),
        (lambda s: {**s, "weight": "float32"}, "expected torch.Tensor"),
        (lambda s: canonical(make_layer()[1]), "dtype mismatch for weight: expected torch.float32, got torch.int8"),
    ],
)
@pytest.mark.parametrize("kind", ["f32", "f32 plain", "f16"])
def test_float_state_dicts_that_do_not_fit_change_nothing(kind, change, message):
    layer = make_layer(seed=1, kind=kind)[1]
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(make_layer(seed=2, kind=kind)[1])))
    assert_same(canonical(layer), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, 'Missing key.*"weight", "weight_scale", "weight_zero", "bias"'),
        (lambda s: without(s, "weight_zero"), 'Missing key.*"weight_zero"'),
        (lambda s: {**s, "weight": s["weight"][:, :-1]}, "size mismatch for weight"),
        (lambda s: {**s, "weight_zero": s["weight_zero"][:, :1]}, "size mismatch for weight_zero"),
        (lambda s: {**s, "weight": s["weight"].float()}, "dtype mismatch for weight: expected torch.uint8"),
        (lambda s: {**s, "weight": s["weight"].to(torch.int8)}, "dtype mismatch for weight: expected torch.uint8"),
        (lambda s: {**s, "weight_scale": s["weight_scale"].float()}, "dtype mismatch for weight_scale: .*float16"),
        (lambda s: {**s, "weight_scale": s["weight_scale"] / 0}, "NaN or infinite scale"),
        (lambda s: {**s, "weight_zero": s["weight_zero"] + 16}, "zero at most 15"),
        (lambda s: {**s, "bias": s["bias"] / 0}, "scale and bias must be finite"),
        (lambda s: canonical(make_layer()[1]), "Missing key.*weight_zero|size mismatch"),
    ],
)
def test_int4_state_dicts_that_do_not_fit_change_nothing(change, message):
    layer = make_layer(seed=1, kind="int4 zero")[1]
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(make_layer(seed=2, kind="int4 zero")[1])))
    assert_same(canonical(layer), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zero_point", "weight.sub", "_extra_state"])
def test_unexpected_keys_are_listed(kind, name):
    _, layer = make_layer(kind=kind)
    state = {**canonical(layer), name: torch.zeros(1)}
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{name}"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).unexpected_keys == [name]


def test_not_strict_still_means_all_tensors_of_a_layer():
    model = nn.Sequential(make_layer(seed=1)[1], make_layer(seed=2)[1])
    other = nn.Sequential(make_layer(seed=3)[1], make_layer(seed=4)[1]).state_dict()
    second = {name: tensor for name, tensor in other.items() if name.startswith("1.")}
    missing = model.load_state_dict(second, strict=False).missing_keys
    assert missing == ["0.weight", "0.weight_scale", "0.bias"]
    assert torch.equal(model[1].state_dict()["weight"], other["1.weight"])
    with pytest.raises(RuntimeError, match=r"loaded together; without weight, weight_scale none was"):
        model.load_state_dict({"0.bias": other["0.bias"]}, strict=False)


def test_a_bias_is_cast_to_the_layers_own_dtype():
    layer = Int8Linear(70, 33, dtype=torch.bfloat16)
    state = canonical(make_layer()[1])
    layer.load_state_dict(state)
    assert torch.equal(layer.bias, state["bias"].bfloat16())


def test_float_weights_are_cast_to_the_layers_own_dtype():
    layer = F32Linear(70, 33, dtype=torch.bfloat16, bias_dtype=torch.float32)
    state = canonical(make_layer(kind="f32")[1])
    layer.load_state_dict(state)
    assert_same(canonical(layer), {"weight": state["weight"].bfloat16(), "bias": state["bias"]})


def test_a_float_layer_takes_weights_of_any_mask():
    """Packed for the weights it holds: what does not gain by packing is kept plain, and back."""
    layer = make_layer(kind="f32")[1]
    pruned, full = canonical(layer), canonical(make_layer(kind="f32 plain", seed=1)[1])
    x = torch.randn(4, 70)
    expected = layer(x)
    layer.load_state_dict(full)
    assert (layer.choice.form, layer.packed_bytes) == ("dense", (70 + 1) * 33 * 4)
    full["weight"].zero_()  # a copy was taken
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert layer.weight.all()
    layer.load_state_dict(pruned)
    assert layer.choice.form == "blocks_1"
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("kind", ["int8", "int4", "f32", "f16"])
def test_an_empty_layer_is_like_one_on_the_meta_device(kind):
    layer = layer_class(kind)(8, 4)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    assert layer.weight.is_meta
    assert copy.deepcopy(layer).packed.numel() == 0
    with pytest.raises(ValueError, match="packed"):
        layer(torch.randn(1, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_device_does_not_matter(kind):
    linear, layer = make_layer(kind=kind)
    scheme, state = make_scheme(kind), canonical(layer)
    with torch.device("meta"):
        made = [
            layer_class(kind).from_linear(linear, scheme),
            copy.deepcopy(layer),
            layer_class(kind)(70, 33, scheme=scheme),
        ]
        made[2].load_state_dict(state)
    for other in made:
        assert_same(canonical(other), state)
