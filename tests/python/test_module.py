"""Int8Linear by itself: what it computes, and that it behaves as a module should."""

import copy
import io
import os
import pickle
import signal
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekern import kernels
from edgekern.nn import Int8Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(in_features=70, out_features=33, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    return linear, Int8Linear.from_linear(linear)


def canonical(layer):
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name


# ------------------------------------------------------------------------------------------------- computing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (3, 0)])
def test_close_to_the_dense_layer(dtype, bias, leading):
    linear, layer = make(bias=bias, dtype=dtype)
    x = torch.randn(*leading, 70).to(dtype)
    with torch.inference_mode():
        expected, y = linear(x), layer(x)
    assert y.shape == expected.shape
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected.float(), atol=0.03, rtol=0.02)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
def test_same_bits_as_the_numpy_kernel(activation):
    linear, layer = make()
    fused = Int8Linear(70, 33, activation=activation)
    fused.load_state_dict(layer.state_dict())
    x = torch.randn(6, 70)
    q, scale = kernels.int8_quantize(linear.weight.detach().numpy())
    packed = kernels.int8_pack(q, scale, linear.bias.detach().numpy())
    expected = kernels.int8_linear(x.numpy(), packed, activation)
    with torch.inference_mode():
        assert torch.equal(fused(input=x), torch.from_numpy(expected))


def test_output_follows_the_input_dtype_not_the_weights():
    _, layer = make(dtype=torch.float32)
    with torch.inference_mode():
        assert layer(torch.randn(2, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autograd_is_refused_and_everything_short_of_it_works():
    _, layer = make()
    x = torch.randn(3, 70)
    with pytest.raises(ValueError, match="no backward"):
        layer(x.clone().requires_grad_())
    with torch.no_grad():
        quiet = layer(x.clone().requires_grad_())
    assert torch.equal(layer(x), quiet)
    assert not layer(x).requires_grad


def test_a_layer_made_in_inference_mode_works_outside_of_it():
    linear, layer = make()
    with torch.inference_mode():
        made_inside = Int8Linear.from_linear(linear)
    x = torch.randn(3, 70)
    assert torch.equal(made_inside(x), layer(x))


def test_forward_makes_no_python_detours():
    # nn.Module.__getattr__ is the slow way to an attribute; the hot path must find everything in the instance.
    _, layer = make()
    assert {"packed", "out_features", "_activation_code"} <= vars(layer).keys()
    assert not list(layer.parameters())
    assert not list(layer.buffers())


def test_dynamo_and_export_see_one_operator():
    _, layer = make()
    x = torch.randn(4, 70)
    with torch.inference_mode():
        expected = layer(x)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.edgekern.int8_linear.default]
    assert torch.equal(program.module()(x[:3]), expected[:3])


# ------------------------------------------------------------------------------------------ looking like nn.Linear


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_and_bias_look_dense(dtype):
    linear, layer = make(dtype=dtype)
    assert (layer.weight.shape, layer.weight.dtype) == (linear.weight.shape, dtype)
    step = linear.weight.detach().float().abs().amax(1, keepdim=True) / 127
    error = (layer.weight.float() - linear.weight.detach().float()).abs()
    assert (error <= step * 0.501 + step * 127 * torch.finfo(dtype).eps).all()
    assert torch.equal(layer.bias, linear.bias)
    assert layer.bias.dtype == dtype
    assert make(bias=False)[1].bias is None
    with pytest.raises(KeyError, match="already exists"):
        layer.weight = nn.Parameter(torch.zeros(33, 70))


def test_dense_gives_a_linear_that_quantises_to_the_same_layer():
    _, layer = make()
    dense = layer.eval().dense()
    assert type(dense) is nn.Linear
    assert not dense.training
    assert torch.equal(dense.weight, layer.weight)
    x = torch.randn(4, 70)
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear.from_linear(dense)(x), layer(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="activation='relu'"):
        Int8Linear(4, 4, activation="relu").dense()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "sizes from 1, got 0 and 4"),
        ({"out_features": -1}, "sizes from 1"),
        ({"activation": "tanh"}, "activation: expected one of none, relu, gelu, gelu_tanh, silu; got 'tanh'"),
        ({"dtype": torch.float64}, "dtype: expected torch.float32"),
        ({"bias_dtype": torch.int8}, "bias_dtype: expected torch.float32"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Int8Linear(**{"in_features": 4, "out_features": 4, **arguments})


def test_repr():
    assert repr(Int8Linear(8, 4)) == "Int8Linear(in_features=8, out_features=4, bias=True)"
    assert repr(Int8Linear(8, 4, False, "gelu")).endswith("bias=False, activation='gelu')")


# --------------------------------------------------------------------------------------------------- state dicts


def test_state_dict_is_canonical():
    linear, layer = make(bias=True, dtype=torch.bfloat16)
    state = layer.state_dict()
    described = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    assert described == {
        "weight": (torch.int8, (33, 70)),
        "weight_scale": (torch.float32, (33, 1)),
        "bias": (torch.bfloat16, (33,)),
    }
    assert torch.equal(state["bias"], linear.bias)
    assert "bias" not in make(bias=False)[1].state_dict()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    assign=st.booleans(),
)
def test_state_dicts_pickles_and_copies_are_exact(shape, dtype, bias, seed, assign):
    _, layer = make(*shape, bias=bias, dtype=dtype, seed=seed)
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
    state = make()[1].__getstate__()
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
        (lambda s: make()[0].state_dict(), "Missing key.*weight_scale"),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_that_do_not_fit_change_nothing(change, message, assign):
    layer = make(seed=1)[1]
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(make(seed=2)[1])), assign=assign)
    assert_same(canonical(layer), before)


@pytest.mark.parametrize("name", ["zero_point", "weight.sub", "_extra_state"])
def test_unexpected_keys_are_listed(name):
    _, layer = make()
    state = {**canonical(layer), name: torch.zeros(1)}
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{name}"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).unexpected_keys == [name]


def test_not_strict_still_means_all_tensors_of_a_layer():
    model = nn.Sequential(make(seed=1)[1], make(seed=2)[1])
    other = nn.Sequential(make(seed=3)[1], make(seed=4)[1]).state_dict()
    second = {name: tensor for name, tensor in other.items() if name.startswith("1.")}
    missing = model.load_state_dict(second, strict=False).missing_keys
    assert missing == ["0.weight", "0.weight_scale", "0.bias"]
    assert torch.equal(model[1].state_dict()["weight"], other["1.weight"])
    with pytest.raises(RuntimeError, match=r"loaded together; without weight, weight_scale none was"):
        model.load_state_dict({"0.bias": other["0.bias"]}, strict=False)


def test_a_bias_is_cast_to_the_layers_own_dtype():
    layer = Int8Linear(70, 33, dtype=torch.bfloat16)
    state = canonical(make()[1])
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
    linear, layer = make()
    state = canonical(layer)
    with torch.device("meta"):
        made = [Int8Linear.from_linear(linear), copy.deepcopy(layer), Int8Linear(70, 33)]
        made[2].load_state_dict(state)
    for other in made:
        assert_same(canonical(other), state)


# --------------------------------------------------------------------------------------------- moving and casting


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double(),
        lambda m: m.to(torch.float16),
        lambda m: m.type(torch.float16),
        lambda m: m.to("cpu"),
        lambda m: m.cpu(),
        lambda m: m.eval().train(),
        lambda m: m.requires_grad_(False),
        lambda m: m.to_empty(device="cpu"),
        lambda m: m.share_memory(),
    ],
)
def test_casts_leave_integers_alone(move):
    _, layer = make()
    before, x = canonical(layer), torch.randn(2, 70)
    expected = layer(x)
    moved = move(nn.Sequential(layer))
    assert_same(canonical(moved[0]), before)
    assert torch.equal(moved(x), expected)


def test_other_devices_are_refused_with_the_way_out():
    with pytest.raises(RuntimeError, match=r"on the CPU, not on meta; dense_\(model\)"):
        nn.Sequential(make()[1]).to("meta")


def test_share_memory_shares_the_packed_bytes():
    _, layer = make()
    assert layer.share_memory().packed.is_shared()


# ------------------------------------------------------------------------------------------- threads and processes


def test_several_threads_at_once():
    _, layer = make(200, 300)
    inputs = [torch.randn(size, 200) for size in (1, 3, 17, 64)]
    with torch.inference_mode():
        expected = [layer(x) for x in inputs]
    wrong = []

    def work(x, y):
        with torch.inference_mode():
            wrong.extend(1 for _ in range(50) if not torch.equal(layer(x), y))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns; surviving it is the point
def test_a_forked_child_computes_and_unpacks():
    _, layer = make(200, 300)
    x = torch.randn(64, 200)
    with torch.inference_mode():
        expected, weight = layer(x).numpy(), layer.state_dict()["weight"].numpy()
    child = os.fork()
    if child == 0:
        try:
            with torch.inference_mode():  # compared by NumPy: torch's own operators may wait for the parent's threads
                same = (layer(x).numpy() == expected).all() and (layer.state_dict()["weight"].numpy() == weight).all()
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
