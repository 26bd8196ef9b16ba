"""Int8 convolutions by themselves: what they compute, and that they behave as modules should."""

import copy

import pytest
import torch
from conv_oracle import (
    ACTIVATIONS,
    DTYPES,
    LAYOUTS,
    assert_as_computed,
    convolutions,
    convolve,
    make_conv,
    make_images,
    native,
    scheme_of,
)
from hypothesis import given
from hypothesis import strategies as st
from oracle import quick
from small_models import assert_same, canonical
from torch import nn

from edgekern import Int4, Int8, ops
from edgekern.nn import Int8Conv2d
from edgekern.nn.fused import FusedConv2d

PLAIN = {"in_channels": 8, "out_channels": 12, "kernel_size": (3, 3), "padding": (1, 1)}


def run(layer, x):
    with torch.inference_mode():
        return layer(x)


# ------------------------------------------------------------------------------------------------- computing


@quick
@given(
    drawn=convolutions(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    form=st.sampled_from(Int8Conv2d.FORMS),
    density=st.sampled_from([0, 0.05, 0.3, 1, 1]),
    seed=st.integers(0, 1000),
)
def test_any_convolution(drawn, dtype, layout, form, density, seed):
    options, shape = drawn
    conv = make_conv(options, seed)
    conv.weight.mul_(torch.rand(conv.weight.shape) < density)
    x = make_images(shape, dtype, seed, layout)
    y = run(native(conv, scheme_of(form, options)), x)
    assert_as_computed(y, x, conv)
    assert y.shape == run(conv, x.float()).shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_format_is_that_of_the_images(layout):
    conv, x = make_conv(PLAIN), make_images((2, 8, 6, 5), layout=layout)
    y = run(native(conv), x)
    last = layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert torch.equal(y, run(native(conv), x.contiguous()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("groups", [1, 8])
def test_activations(activation, groups):
    conv = make_conv({**PLAIN, "out_channels": 16, "groups": groups, "activation": activation})
    x = 3 * make_images((2, 8, 7, 7))
    assert_as_computed(run(native(conv), x), x, conv, activation)


def test_the_activations_tested_are_all_there_are():
    assert ACTIVATIONS.keys() == ops.ACTIVATIONS.keys()


@quick
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_same_padding_follows_the_size_of_the_images(size, kernel, stride, dilation):
    options = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "same_padding": True}
    conv = make_conv({"in_channels": 3, "out_channels": 5, **options})
    x = make_images((2, 3, *size))
    y = run(native(conv), x)
    assert y.shape[2:] == tuple(-(-length // stride) for length in size)
    assert y.shape == run(conv, x).shape
    assert_as_computed(y, x, conv)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"padding_mode": "reflect"}, {"padding": "same"}])
def test_close_to_the_dense_layer(options, dtype):
    conv = make_conv({**PLAIN, **options}).to(dtype)
    x = make_images((3, 8, 9, 9), dtype)
    expected, y = run(conv, x).float(), run(native(conv), x)
    assert y.dtype == dtype
    assert (y.float() - expected).abs().max() <= 0.03 * expected.abs().max()


def test_one_image_without_a_batch():
    conv, x = make_conv(PLAIN), make_images((1, 8, 5, 4))
    y = run(native(conv), x[0])
    assert y.shape == run(conv, x[0]).shape == (12, 5, 4)
    assert torch.equal(y, run(native(conv), x)[0])
    reflecting = make_conv({**PLAIN, "padding_mode": "reflect"})
    assert torch.equal(run(native(reflecting), x[0]), run(native(reflecting), x)[0])


def test_images_of_a_batch_do_not_touch_each_other():
    layer, x = native(make_conv(PLAIN)), make_images((4, 8, 6, 6))
    x[1] *= 1e4
    x[2, 3, 4, 5] = float("nan")
    y = run(layer, x)
    for i in (0, 1, 3):
        assert torch.equal(y[i : i + 1], run(layer, x[i : i + 1]))
    assert y[2].isnan().all()


def test_an_image_of_zeros_gives_the_bias():
    conv = make_conv(PLAIN)
    y = run(native(conv), torch.zeros(1, 8, 4, 4))
    assert torch.equal(y, conv.bias[None, :, None, None].expand(1, 12, 4, 4))


def test_beyond_the_edges_is_exactly_zero_also_where_zero_is_no_value_of_the_image():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
    nn.init.ones_(conv.weight)
    x = torch.full((1, 1, 3, 3), 100.0)  # a range from 0 to 100, of which only the top is there
    y = run(native(conv), x)
    torch.testing.assert_close(y, run(conv, x), rtol=1e-5, atol=1e-3)


def test_sums_beyond_int32_are_exact_by_blocks():
    conv = nn.Conv2d(8192, 2, 3).requires_grad_(False)  # K = 73,728
    nn.init.ones_(conv.weight)
    x = torch.ones(1, 8192, 3, 3)
    expected, *_ = convolve(x, conv)
    torch.testing.assert_close(run(native(conv), x).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", Int8Conv2d.FORMS)
def test_pruned_weights_stay_zero_and_forms_agree(form):
    conv = make_conv({**PLAIN, "in_channels": 64})
    conv.weight.mul_(torch.rand(conv.weight.shape) < 0.3)
    x = make_images((2, 64, 6, 6))
    layer = native(conv, Int8(form=form))
    assert not layer.weight[conv.weight == 0].any()
    assert layer.choice.form == form
    assert layer.choice.zeros == pytest.approx(0.7, abs=0.02)
    assert torch.equal(run(layer, x), run(native(conv), x))


def test_the_output_has_the_dtype_of_the_input_whatever_that_of_the_weights():
    layer = native(make_conv(PLAIN))
    for dtype in DTYPES:
        assert run(layer, make_images((1, 8, 4, 4), dtype)).dtype == dtype


def test_autograd_is_refused_and_everything_short_of_it_works():
    layer, x = native(make_conv(PLAIN)), make_images((1, 8, 4, 4))
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
        (torch.randn(1, 1, 8, 4, 4), ValueError),
        (torch.randn(1, 8, 4, 4, dtype=torch.float64), (TypeError, ValueError)),
        (torch.ones(1, 8, 4, 4, dtype=torch.int64), (TypeError, ValueError)),
        (torch.randn(1, 8, 4, 4, dtype=torch.complex64), (TypeError, ValueError)),
        (torch.empty(1, 8, 4, 4, device="meta"), ValueError),
    ],
)
def test_inputs_that_cannot_be(x, error):
    with pytest.raises(error, match=r"\bx\b"):
        run(native(make_conv(PLAIN)), x)


def test_images_smaller_than_the_kernel():
    layer = native(make_conv({**PLAIN, "padding": 0, "dilation": 3}))
    with pytest.raises(ValueError, match=r"a window of 3 x 3 at dilation \(3, 3\) must fit x"):
        run(layer, make_images((1, 8, 6, 6)))


def test_dynamo_and_export_see_one_operator():
    layer, x = native(make_conv(PLAIN)), make_images((4, 8, 6, 6))
    expected = run(layer, x)
    with torch.inference_mode():
        assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.edgekern.int8_conv2d.default]
    torch.testing.assert_close(program.module()(x[:3]), expected[:3])


def test_forward_makes_no_python_detours():
    layer = native(make_conv(PLAIN))
    hot = {"packed", "_pads", "_before_pads", "_after_pads", "same_padding", "padding_mode"}
    assert hot <= vars(layer).keys()
    assert not list(layer.parameters())
    assert not list(layer.buffers())


# ------------------------------------------------------------------------------------------ looking like nn.Conv2d


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "stride": 2, "groups": 4},
        {"padding": "same", "dilation": (2, 1)},
        {"padding": "valid", "padding_mode": "circular"},
        {"padding": (2, 0), "padding_mode": "replicate"},
    ],
)
def test_dense_gives_a_convolution_that_converts_to_the_same_layer(options):
    conv = make_conv({**PLAIN, **options}).eval()
    layer = native(conv).eval()
    dense = layer.dense()
    assert type(dense) is nn.Conv2d
    assert repr(dense) == repr(conv)
    assert not dense.training
    assert torch.equal(dense.weight, layer.weight)
    largest = conv.weight.abs().amax((1, 2, 3), keepdim=True)
    assert ((dense.weight - conv.weight).abs() <= largest / 127 * 0.501).all()
    assert (dense.bias is None) == (conv.bias is None)
    x = make_images((2, 8, 7, 7))
    torch.testing.assert_close(run(native(dense), x), run(layer, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        {"activation": "hardswish"},
        {"same_padding": True, "padding": 0, "stride": 2},
        {"pads": (0, 1, 0, 2), "padding": 0},
    ],
)
def test_dense_of_what_nn_conv2d_cannot_do_is_a_fused_convolution(extra):
    conv = make_conv({**PLAIN, **extra})
    dense = native(conv).dense()
    assert type(dense) is FusedConv2d
    assert repr(dense) == repr(conv)
    x = make_images((2, 8, 7, 7))
    expected = run(dense, x)
    assert (run(native(conv), x) - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_and_bias_look_dense(dtype):
    conv = make_conv(PLAIN).to(dtype)
    layer = native(conv)
    assert (layer.weight.shape, layer.weight.dtype) == (conv.weight.shape, dtype)
    assert torch.equal(layer.bias, conv.bias)
    assert layer.bias.dtype == dtype
    layer.weight.zero_()
    assert layer.weight.any(), "each access gives a new tensor"


def test_weights_in_channels_last_order_are_the_same_weights():
    conv = make_conv(PLAIN)
    other = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    assert not other.weight.is_contiguous()
    assert_same(canonical(native(other)), canonical(native(conv)))


def test_options_that_were_changed_after_it_was_made_count():
    conv, x = make_conv(PLAIN), make_images((1, 8, 9, 9))
    conv.stride, conv.dilation, conv.padding = 1, (2, 2), (2, 2)  # as segmentation models do to their backbones
    assert run(native(conv), x).shape == run(conv, x).shape
    expected = run(conv, x)
    assert (run(native(conv), x) - expected).abs().max() <= 0.03 * expected.abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number from 1, got 0"),
        ({"out_channels": 2.0}, "out_channels must be a whole number from 1, got 2.0"),
        ({"groups": 3}, "in_channels=8 does not divide into groups=3"),
        ({"kernel_size": 0}, r"kernel_size must be one or two whole numbers from 1, got \(0, 0\)"),
        ({"kernel_size": (3,)}, r"kernel_size must be one or two whole numbers from 1, got \(3,\)"),
        ({"stride": (1, 0)}, "stride must be"),
        ({"dilation": -1}, "dilation must be"),
        ({"padding": -1}, "padding must be 'same', 'valid', or one or two whole numbers from 0"),
        ({"padding": "SAME"}, "padding must be 'same'"),
        ({"padding": "same", "stride": 2}, r"padding='same' has no meaning with stride=\(2, 2\)"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of zeros, reflect, replicate, circular; got 'mirror'"),
        ({"same_padding": True}, r"expected one of padding, same_padding and pads.*padding=\(1, 1\), same_padding=T"),
        ({"padding": 0, "pads": (1, 1, 0, 0), "padding_mode": "reflect"}, "the last two with padding_mode='zeros'"),
        ({"padding": 0, "pads": (1, 1)}, "pads must be None or four whole numbers from 0"),
        ({"in_channels": 1 << 40}, "too large to be packed"),
        ({"out_channels": 10**30}, "too large to be packed"),
        ({"activation": "tanh"}, "activation: expected one of none, relu"),
        ({"dtype": torch.float64}, "dtype: expected torch.float32"),
        ({"scheme": Int8(activations="float")}, "Int8Conv2d: activations='float' is for linear layers"),
        ({"scheme": Int8(form="csr"), "groups": 8, "out_channels": 8}, "'csr' is not for depthwise convolutions"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Int8Conv2d(**{**PLAIN, **arguments})


def test_a_scheme_of_the_other_kind_is_refused():
    with pytest.raises(TypeError, match=r"Int8Conv2d: scheme must be a Int8, got Int4\(\)"):
        Int8Conv2d(4, 4, 1, scheme=Int4())


def test_repr():
    assert repr(Int8Conv2d(8, 4, 3)) == "Int8Conv2d(8, 4, kernel_size=(3, 3), stride=(1, 1))"
    shown = repr(Int8Conv2d(8, 4, 3, 2, 1, groups=2, bias=False, padding_mode="reflect", activation="relu6"))
    assert shown.endswith("padding=(1, 1), groups=2, padding_mode='reflect', activation='relu6', bias=False)")


# --------------------------------------------------------------------------------------------- moving and casting


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to(torch.float16),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.eval().train(),
        lambda m: m.share_memory(),
    ],
)
def test_casts_leave_packed_weights_alone(move):
    layer, x = native(make_conv(PLAIN)), make_images((1, 8, 4, 4))
    before, expected = canonical(layer), run(layer, x)
    moved = move(nn.Sequential(layer))
    assert_same(canonical(moved[0]), before)
    assert torch.equal(run(moved, x), expected)


def test_other_devices_are_refused_with_the_way_out():
    with pytest.raises(RuntimeError, match=r"on the CPU, not on meta; dense_\(model\) makes it nn.Conv2d again"):
        nn.Sequential(native(make_conv(PLAIN))).to("meta")
