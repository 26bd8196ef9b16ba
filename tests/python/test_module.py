"""Native linear layers by themselves: what they compute, and that they behave as modules should."""

import functools
import os
import signal
import threading
import time

import pytest
import torch
from small_models import KINDS, assert_same, canonical, layer_class, make_layer, make_scheme
from torch import nn

from edgekern import Float16, Float32, Int4, Int8, kernels
from edgekern.nn import F16Linear, F32Linear, FusedLinear, Int4Linear, Int8Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def make(kind):
    return functools.partial(make_layer, kind=kind)


# ------------------------------------------------------------------------------------------------- computing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (3, 0)])
def test_close_to_the_dense_layer(make, kind, dtype, bias, leading):
    linear, layer = make(bias=bias, dtype=dtype)
    x = torch.randn(*leading, 70).to(dtype)
    with torch.inference_mode():
        expected, y = linear(x), layer(x)
    assert y.shape == expected.shape
    assert y.dtype == dtype
    # Four bits: 70 products of variates with weights that are off by 0.005 in the mean square.
    atol = 0.2 if kind.startswith("int4") else 0.03
    torch.testing.assert_close(y.float(), expected.float(), atol=atol, rtol=0.02)


ACTIVATIONS = ["none", "relu", "gelu", "gelu_tanh", "silu", "relu6", "hardswish"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_same_bits_as_the_numpy_kernel_of_int8(activation):
    linear, layer = make_layer()
    fused = Int8Linear(70, 33, activation=activation)
    fused.load_state_dict(layer.state_dict())
    x = torch.randn(6, 70)
    q, scale = kernels.int8_quantize(linear.weight.detach().numpy())
    packed = kernels.int8_pack(q, scale, linear.bias.detach().numpy())
    expected = kernels.int8_linear(x.numpy(), packed, activation)
    with torch.inference_mode():
        assert torch.equal(fused(input=x), torch.from_numpy(expected))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_same_bits_as_the_numpy_kernel_of_int4(symmetric, activation):
    scheme = Int4(group_size=32, symmetric=symmetric, clip="mse")
    linear, _ = make_layer()
    layer = Int4Linear.from_linear(linear, scheme)
    fused = Int4Linear(70, 33, activation=activation, scheme=scheme)
    fused.load_state_dict(layer.state_dict())
    x = torch.randn(6, 70)
    canonical = kernels.int4_quantize(linear.weight.detach().numpy(), 32, symmetric=symmetric, clip="mse")
    packed = kernels.int4_pack(*canonical, linear.bias.detach().numpy(), k=70, group_size=32)
    expected = kernels.int4_linear(x.numpy(), packed, activation)
    with torch.inference_mode():
        assert torch.equal(fused(input=x), torch.from_numpy(expected))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", kernels.F32_CHANNELS)
@pytest.mark.parametrize(
    ("cls", "scheme", "pack", "run"),
    [
        (F32Linear, Float32, kernels.f32_pack, kernels.f32_linear),
        (F16Linear, Float16, kernels.f16_pack, kernels.f16_linear),
    ],
)
def test_same_bits_as_the_numpy_kernel_of_floats(cls, scheme, pack, run, channels, activation):
    torch.manual_seed(0)
    weight, bias = torch.randn(33, 70) * (torch.rand(33, 70) < 0.02), torch.randn(33)
    layer = cls(70, 33, activation=activation, scheme=scheme(channels=channels))
    layer.load_state_dict({"weight": weight, "bias": bias})
    x = torch.randn(6, 70)
    packed = pack(weight.numpy(), bias.numpy(), channels=channels)
    with torch.inference_mode():
        assert torch.equal(layer(input=x), torch.from_numpy(run(x.numpy(), packed, activation)))
    assert layer.choice.form == f"blocks_{channels}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), DTYPES[1:], DTYPES[:1] * 2]
)
def test_a_plain_f32_layer_computes_what_a_packed_one_does(activation, dtypes):
    own, outside = dtypes
    torch.manual_seed(0)
    one_in_each_block_of_8 = torch.arange(33)[:, None] % 8 == torch.arange(70) % 8
    state = {"weight": torch.randn(33, 70) * one_in_each_block_of_8, "bias": torch.randn(33)}
    packed, plain = (
        F32Linear(70, 33, activation=activation, dtype=own, scheme=Float32(channels=count)) for count in (1, 8)
    )
    packed.load_state_dict(state)
    plain.load_state_dict(state)
    assert (packed.choice.form, plain.choice.form) == ("blocks_1", "dense")
    x = torch.randn(5, 70).to(outside)
    with torch.inference_mode():
        y = plain(x)
        assert y.dtype == outside
        torch.testing.assert_close(y, packed(x), rtol=1.6e-2, atol=1e-2 if outside == own else 1e-5)


def test_output_follows_the_input_dtype_not_the_weights(make):
    _, layer = make(dtype=torch.float32)
    with torch.inference_mode():
        assert layer(torch.randn(2, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autograd_is_refused_and_everything_short_of_it_works(make):
    _, layer = make()
    x = torch.randn(3, 70)
    with pytest.raises(ValueError, match="no backward"):
        layer(x.clone().requires_grad_())
    with torch.no_grad():
        quiet = layer(x.clone().requires_grad_())
    assert torch.equal(layer(x), quiet)
    assert not layer(x).requires_grad


def test_a_layer_made_in_inference_mode_works_outside_of_it(make, kind):
    linear, layer = make()
    with torch.inference_mode():
        made_inside = layer_class(kind).from_linear(linear, make_scheme(kind))
    x = torch.randn(3, 70)
    assert torch.equal(made_inside(x), layer(x))


def test_forward_makes_no_python_detours(make):
    # nn.Module.__getattr__ is the slow way to an attribute; the hot path must find everything in the instance.
    _, layer = make()
    hot = {Int8Linear: {"packed_few"}, F32Linear: {"_plain"}}.get(type(layer), set())
    assert {"packed", "out_features", "_activation_code"} | hot <= vars(layer).keys()
    assert not list(layer.parameters())
    assert not list(layer.buffers())


def test_dynamo_and_export_see_one_operator(make, kind):
    _, layer = make()
    x = torch.randn(4, 70)
    with torch.inference_mode():
        expected = layer(x)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    ops = torch.ops.edgekern
    operators = {
        "int8": ops.int8_linear,
        "int8 float": ops.int8_float_linear,
        "int4": ops.int4_linear,
        "int4 zero": ops.int4_linear,
        "int4 float": ops.int4_float_linear,
        "f32": ops.f32_linear,
        "f32 plain": torch.ops.aten.linear,
        "f16": ops.f16_linear,
    }
    assert calls == [operators[kind].default]
    torch.testing.assert_close(program.module()(x[:3]), expected[:3])


# ------------------------------------------------------------------------------------------ looking like nn.Linear


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_and_bias_look_dense(make, kind, dtype):
    linear, layer = make(dtype=dtype)
    assert (layer.weight.shape, layer.weight.dtype) == (linear.weight.shape, dtype)
    largest = linear.weight.detach().float().abs().amax(1, keepdim=True)
    error = (layer.weight.float() - linear.weight.detach().float()).abs()
    # Of int8, half a step; int4 may clip a weight by half its range; f16 has 11 bits.
    allowed = {
        "int8": largest / 127 * 0.501 + largest * torch.finfo(dtype).eps,
        "int4": 0.51 * largest,
        "f16": linear.weight.detach().float().abs() * 2**-11 + largest * 2**-25,
    }
    assert (error <= allowed.get(kind.split()[0], torch.zeros(1))).all()
    if kind == "int4":
        assert error.square().mean() < (largest.mean() / 7) ** 2 / 12
    assert torch.equal(layer.bias, linear.bias)
    assert layer.bias.dtype == dtype
    layer.weight.zero_()
    layer.bias.zero_()
    assert layer.weight.any()
    assert torch.equal(layer.bias, linear.bias), "each access gives a new tensor"
    assert make(bias=False)[1].bias is None
    with pytest.raises(KeyError, match="already exists"):
        layer.weight = nn.Parameter(torch.zeros(33, 70))


def test_dense_gives_a_linear_that_converts_to_the_same_layer(make, kind):
    _, layer = make()
    dense = layer.eval().dense()
    assert type(dense) is nn.Linear
    assert not dense.training
    assert torch.equal(dense.weight, layer.weight)
    x = torch.randn(4, 70)
    with torch.inference_mode():
        again = layer_class(kind).from_linear(dense, make_scheme(kind))
        torch.testing.assert_close(again(x), layer(x), atol=1e-5, rtol=1e-5)
    fused = layer_class(kind)(4, 4, activation="relu").dense()
    assert (type(fused), fused.activation) == (FusedLinear, "relu")


@pytest.mark.parametrize("cls", [Int8Linear, Int4Linear, F32Linear])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "cannot pack 0 features in, 4 out; at least 1 each"),
        ({"out_features": -1}, "cannot pack"),
        ({"in_features": 1 << 40}, "cannot pack"),
        ({"out_features": 10**30}, "cannot pack"),
        ({"activation": "tanh"}, r"activation: expected one of none, relu, gelu, .*; got 'tanh'"),
        ({"dtype": torch.float64}, "dtype: expected torch.float32"),
        ({"bias_dtype": torch.int8}, "bias_dtype: expected torch.float32"),
    ],
)
def test_wrong_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**{"in_features": 4, "out_features": 4, **arguments})


def test_a_scheme_of_the_other_kind_is_refused():
    with pytest.raises(TypeError, match=r"F32Linear: scheme must be a Float32, got Int8\(\)"):
        F32Linear(4, 4, scheme=Int8())
    with pytest.raises(TypeError, match=r"Int4Linear: scheme must be a Int4, got Int8\(\)"):
        Int4Linear(4, 4, scheme=Int8())
    with pytest.raises(TypeError, match=r"Int8Linear: scheme must be a Int8, got Int4\(group_size=64\)"):
        Int8Linear(4, 4, scheme=Int4(64))
    with pytest.raises(TypeError, match=r"Int8Linear: scheme must be a Int8, got Float32\(channels=4\)"):
        Int8Linear(4, 4, scheme=Float32(channels=4))


def test_repr():
    assert repr(Int8Linear(8, 4)) == "Int8Linear(in_features=8, out_features=4, bias=True)"
    assert repr(Int8Linear(8, 4, False, "gelu")).endswith("bias=False, activation='gelu')")


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
def test_casts_leave_packed_weights_alone(make, move):
    _, layer = make()
    before, x = canonical(layer), torch.randn(2, 70)
    expected = layer(x)
    moved = move(nn.Sequential(layer))
    assert_same(canonical(moved[0]), before)
    assert torch.equal(moved(x), expected)


def test_other_devices_are_refused_with_the_way_out(make):
    with pytest.raises(RuntimeError, match=r"on the CPU, not on meta; dense_\(model\)"):
        nn.Sequential(make()[1]).to("meta")


def test_share_memory_shares_the_packed_bytes(make):
    _, layer = make()
    x = torch.randn(2, 70)
    expected = layer(x)
    assert layer.share_memory().packed.is_shared()
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)


def test_share_memory_shares_what_a_plain_layer_reads():
    _, layer = make_layer(kind="f32 plain")
    layer.share_memory().packed.zero_()
    assert not layer(torch.randn(2, 70)).any()


# ------------------------------------------------------------------------------------------- threads and processes


def test_several_threads_at_once(make):
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
@pytest.mark.parametrize("kind", ["int8", "int4", "f32", "f16"])  # a plain one calls torch's own operators
def test_a_forked_child_computes_and_unpacks(make):
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
