"""State dicts, pickles and copies of Int8Linear: canonical, exact, and strict about what they take."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import assert_same, canonical, make_layer
from torch import nn

from edgekern.nn import Int8Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def test_state_dict_is_canonical():
    linear, layer = make_layer(bias=True, dtype=torch.bfloat16)
    state = layer.state_dict()
    described = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    assert described == {
        "weight": (torch.int8, (33, 70)),
        "weight_scale": (torch.float32, (33, 1)),
        "bias": (torch.bfloat16, (33,)),
    }
    assert torch.equal(state["bias"], linear.bias)
    assert "bias" not in make_layer(bias=False)[1].state_dict()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    assign=st.booleans(),
)
def test_state_dicts_pickles_and_copies_are_exact(shape, dtype, bias, seed, assign):
    _, layer = make_layer(*shape, bias=bias, dtype=dtype, seed=seed)
    state = canonical(layer)
    loaded = Int8Linear(*shape, bias=bias, dtype=dtype)
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


def test_a_pickle_names_no_packed_bytes():
    state = make_layer()[1].__getstate__()
    assert "packed" not in state
    assert state["canonical"].keys() == {"weight", "weight_scale", "bias"}


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


@pytest.mark.parametrize("name", ["zero_point", "weight.sub", "_extra_state"])
def test_unexpected_keys_are_listed(name):
    _, layer = make_layer()
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


def test_an_empty_layer_is_like_one_on_the_meta_device():
    layer = Int8Linear(8, 4)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    assert layer.weight.is_meta
    assert copy.deepcopy(layer).packed.numel() == 0
    with pytest.raises(ValueError, match="packed"):
        layer(torch.randn(1, 8))


def test_the_default_device_does_not_matter():
    linear, layer = make_layer()
    state = canonical(layer)
    with torch.device("meta"):
        made = [Int8Linear.from_linear(linear), copy.deepcopy(layer), Int8Linear(70, 33)]
        made[2].load_state_dict(state)
    for other in made:
        assert_same(canonical(other), state)
