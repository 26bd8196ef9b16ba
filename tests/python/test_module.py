"""Int8Linear by itself: what it computes, and that it behaves as a module should."""

import os
import signal
import threading
import time

import pytest
import torch
from small_models import assert_same, canonical, make_layer
from torch import nn

from edgekern import kernels
from edgekern.nn import Int8Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# ------------------------------------------------------------------------------------------------- computing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (3, 0)])
def test_close_to_the_dense_layer(dtype, bias, leading):
    linear, layer = make_layer(bias=bias, dtype=dtype)
    x = torch.randn(*leading, 70).to(dtype)
    with torch.inference_mode():
        expected, y = linear(x), layer(x)
    assert y.shape == expected.shape
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected.float(), atol=0.03, rtol=0.02)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
def test_same_bits_as_the_numpy_kernel(activation):
    linear, layer = make_layer()
    fused = Int8Linear(70, 33, activation=activation)
    fused.load_state_dict(layer.state_dict())
    x = torch.randn(6, 70)
    q, scale = kernels.int8_quantize(linear.weight.detach().numpy())
    packed = kernels.int8_pack(q, scale, linear.bias.detach().numpy())
    expected = kernels.int8_linear(x.numpy(), packed, activation)
    with torch.inference_mode():
        assert torch.equal(fused(input=x), torch.from_numpy(expected))


def test_output_follows_the_input_dtype_not_the_weights():
    _, layer = make_layer(dtype=torch.float32)
    with torch.inference_mode():
        assert layer(torch.randn(2, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autograd_is_refused_and_everything_short_of_it_works():
    _, layer = make_layer()
    x = torch.randn(3, 70)
    with pytest.raises(ValueError, match="no backward"):
        layer(x.clone().requires_grad_())
    with torch.no_grad():
        quiet = layer(x.clone().requires_grad_())
    assert torch.equal(layer(x), quiet)
    assert not layer(x).requires_grad


def test_a_layer_made_in_inference_mode_works_outside_of_it():
    linear, layer = make_layer()
    with torch.inference_mode():
        made_inside = Int8Linear.from_linear(linear)
    x = torch.randn(3, 70)
    assert torch.equal(made_inside(x), layer(x))


def test_forward_makes_no_python_detours():
    # nn.Module.__getattr__ is the slow way to an attribute; the hot path must find everything in the instance.
    _, layer = make_layer()
    assert {"packed", "out_features", "_activation_code"} <= vars(layer).keys()
    assert not list(layer.parameters())
    assert not list(layer.buffers())


def test_dynamo_and_export_see_one_operator():
    _, layer = make_layer()
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
    linear, layer = make_layer(dtype=dtype)
    assert (layer.weight.shape, layer.weight.dtype) == (linear.weight.shape, dtype)
    step = linear.weight.detach().float().abs().amax(1, keepdim=True) / 127
    error = (layer.weight.float() - linear.weight.detach().float()).abs()
    assert (error <= step * 0.501 + step * 127 * torch.finfo(dtype).eps).all()
    assert torch.equal(layer.bias, linear.bias)
    assert layer.bias.dtype == dtype
    assert make_layer(bias=False)[1].bias is None
    with pytest.raises(KeyError, match="already exists"):
        layer.weight = nn.Parameter(torch.zeros(33, 70))


def test_dense_gives_a_linear_that_quantises_to_the_same_layer():
    _, layer = make_layer()
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
        ({"in_features": 0}, "cannot pack 0 features in, 4 out; at least 1 each"),
        ({"out_features": -1}, "cannot pack"),
        ({"in_features": 1 << 40}, "cannot pack"),
        ({"out_features": 10**30}, "cannot pack"),
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
    _, layer = make_layer()
    before, x = canonical(layer), torch.randn(2, 70)
    expected = layer(x)
    moved = move(nn.Sequential(layer))
    assert_same(canonical(moved[0]), before)
    assert torch.equal(moved(x), expected)


def test_other_devices_are_refused_with_the_way_out():
    with pytest.raises(RuntimeError, match=r"on the CPU, not on meta; dense_\(model\)"):
        nn.Sequential(make_layer()[1]).to("meta")


def test_share_memory_shares_the_packed_bytes():
    _, layer = make_layer()
    assert layer.share_memory().packed.is_shared()


# ------------------------------------------------------------------------------------------- threads and processes


def test_several_threads_at_once():
    _, layer = make_layer(200, 300)
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
    _, layer = make_layer(200, 300)
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
