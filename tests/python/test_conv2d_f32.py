"""Convolutions of pruned weights that stay float32, by themselves: what they compute, and that they are modules."""

import copy
import io
import pickle

import pytest
import torch
from conv_oracle import ACTIVATIONS, DTYPES, LAYOUTS, convolutions, edges, is_depthwise, make_conv, make_images
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import quick
from small_models import assert_same, canonical, pretend_times
from torch import nn
from torch.nn import functional as F

from edgekern import Float32, Int8, kernels, ops
from edgekern.nn import F32Conv2d
from edgekern.nn.forms import Choice
from edgekern.nn.fused import FusedConv2d

PLAIN = {"in_channels": 8, "out_channels": 12, "kernel_size": (3, 3), "padding": (1, 1)}
CHANNELS = (1, 2, 4, 8)


def run(layer, x):
    with torch.inference_mode():
        return layer(x)


def pruned(options, density=0.3, seed=0):
    """A convolution of which about a share of the weights is left."""
    conv = make_conv(options, seed)
    conv.weight.mul_(torch.rand(conv.weight.shape) < density)
    return conv


def packed(conv, channels=4):
    """Its native layer in blocks of so many channels, also where that is larger than the dense one."""
    layer = F32Conv2d.like(conv, Float32(channels=channels))
    layer.choice = Choice(f"blocks_{channels}")
    layer.take_(conv.weight, conv.bias, layer._pack_blocks(conv.weight, None, channels, None))
    return layer


def assert_as_computed(found, x, conv, activation="none"):
    """``found`` is what the definition says: sums in float32 of as many products as there are, then x's dtype."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    images = F.pad(x, edges(conv, x.shape[-2:]), mode).double()
    options = (None, conv.stride, 0, conv.dilation, conv.groups)
    y, size = (F.conv2d(a, w, *options) for a, w in ((images, conv.weight.double()), _sizes(images, conv)))
    if conv.bias is not None:
        bias = conv.bias.double()[:, None, None]
        y, size = y + bias, size + bias.abs()
    error = (conv.weight[0].numel() + 2) * 2.0**-23 * size
    y = ACTIVATIONS[activation](y)
    rounding = {torch.float32: 0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[x.dtype] * y.abs()
    tiny = 6e-8 if x.dtype == torch.float16 else 1e-38
    bound = error + rounding + tiny if activation == "none" else 1.2 * error + rounding + 3e-6 * (1 + y.abs())
    assert found.shape == y.shape
    assert found.dtype == x.dtype
    assert ((found.double() - y).abs() <= bound).all()


def _sizes(images, conv):
    return images.abs(), conv.weight.double().abs()


# ------------------------------------------------------------------------------------------------- computing


@quick
@given(
    drawn=convolutions(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    channels=st.sampled_from(CHANNELS),
    density=st.sampled_from([0, 0.05, 0.3, 1]),
    seed=st.integers(0, 1000),
)
def test_any_convolution(drawn, dtype, layout, channels, density, seed):
    options, shape = drawn
    assume(not is_depthwise(options))
    conv, x = pruned(options, density, seed), make_images(shape, dtype, seed, layout)
    y = run(packed(conv, channels), x)
    assert_as_computed(y, x, conv)
    assert y.shape == run(conv, x.float()).shape


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_format_is_that_of_the_images(layout, kernel):
    conv = pruned({**PLAIN, "kernel_size": kernel, "padding": kernel // 2})
    x = make_images((2, 8, 6, 5), layout=layout)
    y = run(packed(conv), x)
    last = layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert_as_computed(y, x, conv)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_activations(activation, groups):
    conv, x = pruned({**PLAIN, "groups": groups, "activation": activation}), 3 * make_images((2, 8, 7, 7))
    assert_as_computed(run(packed(conv), x), x, conv, activation)


@quick
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_same_padding_follows_the_size_of_the_images(size, kernel, stride, dilation):
    options = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "same_padding": True}
    conv, x = pruned({"in_channels": 3, "out_channels": 5, **options}), make_images((2, 3, *size))
    y = run(packed(conv), x)
    assert y.shape[2:] == tuple(-(-length // stride) for length in size)
    assert_as_computed(y, x, conv)


def test_one_image_without_a_batch():
    for mode in ("zeros", "reflect"):
        conv, x = pruned({**PLAIN, "padding_mode": mode}), make_images((1, 8, 5, 4))
        y = run(packed(conv), x[0])
        assert y.shape == (12, 5, 4)
        assert torch.equal(y, run(packed(conv), x)[0])


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_batch_of_single_pixels_and_one_of_none(kernel):
    conv = pruned({**PLAIN, "kernel_size": kernel, "padding": kernel // 2})
    x = make_images((37, 8, 1, 1))
    assert_as_computed(run(packed(conv), x), x, conv)
    assert run(packed(conv), x[:0]).shape == (0, 12, 1, 1)


def test_a_nan_stays_in_its_window():
    conv, x = pruned(PLAIN, density=1), make_images((3, 8, 6, 6))
    x[1, 3, 0, 0] = float("nan")
    y = run(packed(conv), x)
    assert y[1, :, :2, :2].isnan().all()
    assert y.isnan().sum() == 12 * 4


def test_autograd_is_refused_and_everything_short_of_it_works():
    x = make_images((1, 8, 4, 4))
    for layer in (packed(pruned(PLAIN)), F32Conv2d.from_conv2d(pruned(PLAIN, 1))):
        with pytest.raises(ValueError, match="no backward"):
            layer(x.clone().requires_grad_())
        with torch.no_grad():
            quiet = layer(x.clone().requires_grad_())
        assert torch.equal(layer(x), quiet)
        assert not quiet.requires_grad


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.randn(2, 7, 4, 4), ValueError),
        (torch.randn(8, 4), ValueError),
        (torch.randn(1, 8, 4, 4, dtype=torch.float64), (TypeError, ValueError)),
        (torch.ones(1, 8, 4, 4, dtype=torch.uint8), (TypeError, ValueError)),
        (torch.empty(1, 8, 4, 4, device="meta"), ValueError),
    ],
)
def test_inputs_that_cannot_be(x, error):
    with pytest.raises(error, match=r"\bx\b"):
        run(packed(pruned(PLAIN)), x)


def test_images_smaller_than_the_kernel():
    layer = packed(pruned({**PLAIN, "padding": 0, "dilation": 3}))
    with pytest.raises(ValueError, match=r"f32_conv2d: a window of 3 x 3 at dilation \(3, 3\) must fit x"):
        run(layer, make_images((1, 8, 6, 6)))


def test_dynamo_and_export_see_one_operator():
    layer, x = packed(pruned(PLAIN)), make_images((4, 8, 6, 6))
    expected = run(layer, x)
    with torch.inference_mode():
        assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.edgekern.f32_conv2d.default]
    torch.testing.assert_close(program.module()(x[:3]), expected[:3])


# ------------------------------------------------------------------------------------------------- packing


@quick
@given(drawn=convolutions(), dtype=st.sampled_from(DTYPES), channels=st.sampled_from(CHANNELS), seed=st.integers(0, 99))
def test_unpacking_gives_back_every_weight(drawn, dtype, channels, seed):
    options, _ = drawn
    assume(not is_depthwise(options))
    conv = pruned(options, seed=seed).to(dtype)
    bias = None if conv.bias is None else conv.bias.float()
    data = ops.f32_conv2d_pack(conv.weight, bias, channels, conv.groups)
    assert data.numel() == ops.f32_conv2d_packed_size(conv.weight, channels, conv.groups)
    weight, found = ops.f32_conv2d_unpack(data)
    assert torch.equal(weight, conv.weight.float())
    assert found is None if bias is None else torch.equal(found, bias)


WEIGHT = torch.ones(12, 8, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.f32_conv2d_pack(WEIGHT, channels=3), "channels must be 1, 2, 4 or 8, got 3"),
        (lambda: ops.f32_conv2d_pack(WEIGHT, groups=5), "groups that divide both"),
        (lambda: ops.f32_conv2d_pack(WEIGHT[0]), r"weight must be filters .* got shape \[8, 3, 3\]"),
        (lambda: ops.f32_conv2d_pack(WEIGHT[:, :1], groups=12), "a depthwise convolution cannot be packed as f32"),
        (lambda: ops.f32_conv2d_pack(WEIGHT, torch.ones(5)), "bias must have 12 values"),
        (lambda: ops.f32_conv2d_pack(WEIGHT / 0), "must be finite"),
        (lambda: ops.f32_conv2d_pack(WEIGHT, out=torch.empty(64, dtype=torch.uint8)), "out must have the [0-9]+ bytes"),
        (lambda: ops.f32_conv2d_unpack(torch.zeros(640, dtype=torch.uint8)), "holds no packed f32 convolution"),
        (lambda: ops.f32_conv2d_unpack(ops.f32_conv2d_pack(WEIGHT)[:-64].clone()), "or a truncated one"),
    ],
)
def test_what_cannot_be_packed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------------ as a module


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dicts_pickles_and_copies_are_exact(dtype, channels):
    options = {**PLAIN, "in_channels": 64, "groups": 2}
    layer = F32Conv2d.from_conv2d(pruned(options, 0.02).to(dtype), Float32(channels=channels))
    assert layer.choice.form == f"blocks_{channels}"
    state, x = canonical(layer), make_images((2, 64, 6, 7), dtype)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} == {
        "weight": (dtype, (12, 32, 3, 3)),
        "bias": (dtype, (12,)),
    }
    loaded = F32Conv2d(**options, dtype=dtype, scheme=Float32(channels=channels))
    loaded.load_state_dict(state)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    expected = run(layer, x)
    for other in (loaded, copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer)), saved):
        assert_same(canonical(other), state)
        assert other.choice == layer.choice
        assert torch.equal(run(other, x), expected)
        assert repr(other) == repr(layer)


@quick
@given(drawn=convolutions(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 1000))
def test_weights_that_are_kept_plain_run_as_in_pytorch(drawn, dtype, seed):
    options, shape = drawn
    assume(not is_depthwise(options))
    conv, x = make_conv(options, seed).to(dtype), make_images(shape, dtype, seed)
    layer = F32Conv2d.from_conv2d(conv)
    assert (layer.choice.form, layer.kernels) == ("dense", ())
    assert torch.equal(run(layer, x), run(conv, x))
    assert torch.equal(canonical(pickle.loads(pickle.dumps(layer)))["weight"], conv.weight)


def test_plain_weights_take_other_dtypes_and_activations(monkeypatch):
    pretend_times(monkeypatch, {"dense": [1], "blocks_1": [2]})
    conv = pruned({**PLAIN, "activation": "silu", "padding": 0, "pads": (1, 0, 2, 1)})
    layer = F32Conv2d.from_conv2d(conv)
    assert layer.kernels == ()
    for dtype in DTYPES:
        x = make_images((2, 8, 6, 7), dtype)
        assert torch.equal(run(layer, x), run(conv, x.float()).to(dtype))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, nn.Conv2d),
        ({"bias": False, "stride": 2, "groups": 4}, nn.Conv2d),
        ({"padding": (2, 0), "padding_mode": "replicate"}, nn.Conv2d),
        ({"activation": "hardswish"}, FusedConv2d),
        ({"same_padding": True, "padding": 0, "stride": 2}, FusedConv2d),
    ],
)
def test_dense_gives_back_every_bit(options, kind):
    conv = pruned({**PLAIN, **options}).eval()
    dense = packed(conv).eval().dense()
    assert type(dense) is kind
    assert repr(dense) == repr(conv)
    assert_same(dense.state_dict(), conv.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": 8, "out_channels": 8}, ValueError, "F32Conv2d: a depthwise convolution has too few weights"),
        ({"stride": 0}, ValueError, "stride must be"),
        ({"scheme": Int8()}, TypeError, r"F32Conv2d: scheme must be a Float32, got Int8\(\)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        F32Conv2d(**{**PLAIN, **arguments})


def test_the_kernel_is_named():
    assert packed(pruned(PLAIN)).kernels == (f"f32_spmm_{kernels.default_isa()}",)
