"""Int4 convolutions by themselves: what they compute, what they keep, and what they refuse."""

import copy
import io
import pickle

import pytest
import torch
from conv_oracle import (
    ACTIVATIONS,
    DTYPES,
    LAYOUTS,
    assert_as_computed,
    convolutions,
    convolve,
    int4_weights,
    is_depthwise,
    make_conv,
    make_images,
    native,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import quick
from small_models import assert_same, canonical
from torch import nn

from edgekern import Int4, Int8
from edgekern.kernels import INT4_CLIPS, INT4_FORMS
from edgekern.nn import Int4Conv2d
from edgekern.nn.fused import FusedConv2d

PLAIN = {"in_channels": 8, "out_channels": 12, "kernel_size": (3, 3), "padding": (1, 1)}  # K = 72: a ragged last group
RANGE = (0.03, 90)

schemes = st.builds(
    Int4,
    group_size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    form=st.sampled_from(["measured", *INT4_FORMS]),
    clip=st.sampled_from(list(INT4_CLIPS)),
)


def run(layer, x):
    with torch.inference_mode():
        return layer(x)


def static(conv, given=RANGE, **options):
    """The layer of a convolution that rounds all images by one range."""
    layer = Int4Conv2d.like(conv, Int4(32, activations="static", **options))
    layer.input_range = given
    layer.take_(conv.weight, conv.bias)
    return layer


# ------------------------------------------------------------------------------------------------- computing


@quick
@given(
    drawn=convolutions(),
    scheme=schemes,
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    density=st.sampled_from([0, 0.3, 1, 1]),
    seed=st.integers(0, 1000),
)
def test_any_convolution(drawn, scheme, dtype, layout, density, seed):
    options, shape = drawn
    assume(not is_depthwise(options))
    conv = make_conv(options, seed)
    conv.weight.mul_(torch.rand(conv.weight.shape) < density)
    x = make_images(shape, dtype, seed, layout)
    layer = native(conv, scheme)
    y = run(layer, x)
    assert_as_computed(y, x, conv, scheme=scheme)
    assert y.shape == run(conv, x.float()).shape
    assert not layer.weight[conv.weight == 0].any()


@quick
@given(
    drawn=convolutions(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    given_range=st.tuples(st.sampled_from([0.004, 0.03, 0.5]), st.sampled_from([0, 90, 255])),
    seed=st.integers(0, 1000),
)
def test_static_ranges_from_and_to_uint8(drawn, dtype, layout, given_range, seed):
    options, shape = drawn
    assume(not is_depthwise(options))
    conv, x = make_conv(options, seed), make_images(shape, dtype, seed, layout)
    layer = static(conv, given_range)
    y = run(layer, x)
    assert_as_computed(y, x, conv, scheme=layer.scheme, given=given_range)
    if options["padding_mode"] != "zeros":
        return
    scale, zero = given_range
    rounded = (x.float() / scale).round().add(zero).clamp(0, 255).byte().contiguous(memory_format=torch.channels_last)
    expected, error, _ = convolve((rounded.float() - zero) * scale, conv, "none", layer.scheme, given_range)
    assert ((run(layer, rounded).double() - expected).abs() <= 2 * error).all()
    layer.set_output_range((0.25, 100))
    q = run(layer, rounded)
    exact = (expected / 0.25 + 100).clamp(0, 255)
    assert q.dtype == torch.uint8
    assert ((q.double() - exact).abs() <= 0.5 + 8 * error + 1e-4).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_format_is_that_of_the_images(layout):
    layer, x = native(make_conv(PLAIN), Int4()), make_images((2, 8, 6, 5), layout=layout)
    y = run(layer, x)
    last = layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert torch.equal(y, run(layer, x.contiguous()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    conv = make_conv({**PLAIN, "activation": activation})
    x, scheme = 3 * make_images((2, 8, 7, 7)), Int4(32)
    assert_as_computed(run(native(conv, scheme), x), x, conv, activation, scheme)


def test_images_of_a_batch_do_not_touch_each_other():
    layer, x = native(make_conv(PLAIN), Int4(32)), make_images((4, 8, 6, 6))
    x[1] *= 1e4
    x[2, 3, 4, 5] = float("nan")
    y = run(layer, x)
    for i in (0, 1, 3):
        assert torch.equal(y[i : i + 1], run(layer, x[i : i + 1]))
    assert y[2].isnan().all()
    assert torch.equal(run(layer, x[0]), y[0])
    assert run(layer, x[:0]).shape == (0, 12, 6, 6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_image_of_zeros_gives_the_bias(symmetric):
    conv = make_conv({**PLAIN, "in_channels": 40})
    y = run(native(conv, Int4(32, symmetric)), torch.zeros(1, 40, 4, 4))
    assert torch.equal(y, conv.bias[None, :, None, None].expand(1, 12, 4, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forms_give_the_same_bits(layout):
    conv, x = make_conv({**PLAIN, "in_channels": 64}), make_images((2, 64, 6, 6), layout=layout)
    conv.weight.mul_(torch.rand(conv.weight.shape) < 0.3)
    expected = run(native(conv, Int4()), x)
    for form in INT4_FORMS:
        layer = native(conv, Int4(form=form))
        assert layer.choice.form == form
        assert layer.choice.zeros == pytest.approx(0.7, abs=0.04)
        assert torch.equal(run(layer, x), expected)
    assert "form='bitmap'" in native(conv, Int4()).choice.describe()
    assert native(conv, Int4(form="bitmap")).packed_bytes < native(conv, Int4()).packed_bytes


def test_dynamo_and_export_see_one_operator():
    layer, x = native(make_conv(PLAIN), Int4()), make_images((4, 8, 6, 6))
    expected = run(layer, x)
    with torch.inference_mode():
        assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.edgekern.int4_conv2d.default]
    torch.testing.assert_close(program.module()(x[:3]), expected[:3])


def test_autograd_is_refused():
    with pytest.raises(ValueError, match="no backward"):
        native(make_conv(PLAIN), Int4())(make_images((1, 8, 4, 4)).requires_grad_())


# ---------------------------------------------------------------------------------------------- keeping weights


@quick
@given(
    drawn=convolutions(),
    scheme=schemes,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    assign=st.booleans(),
)
def test_state_dicts_pickles_and_copies_are_exact(drawn, scheme, dtype, seed, assign):
    options, shape = drawn
    assume(not is_depthwise(options))
    layer = native(make_conv(options, seed).to(dtype), scheme)
    state = canonical(layer)
    loaded = Int4Conv2d(**options, dtype=dtype, scheme=scheme)
    loaded.load_state_dict(state, assign=assign)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    x = make_images(shape, dtype, seed)
    expected = run(layer, x)
    for other in (loaded, copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer)), saved):
        assert_same(canonical(other), state)
        assert torch.equal(run(other, x), expected)
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_state_dict_is_canonical(symmetric):
    conv = make_conv({**PLAIN, "groups": 2}).bfloat16()
    layer = static(conv, symmetric=symmetric)
    zero = {} if symmetric else {"weight_zero": (torch.uint8, (12, 2))}
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in layer.state_dict().items()} == {
        "weight": (torch.uint8, (12, 18)),
        "weight_scale": (torch.float16, (12, 2)),
        **zero,
        "input_scale": (torch.float32, (1,)),
        "input_zero_point": (torch.int8, (1,)),
        "bias": (torch.bfloat16, (12,)),
    }
    assert torch.equal(layer.weight, int4_weights(conv, layer.scheme).bfloat16())
    again = pickle.loads(pickle.dumps(layer))
    assert again.input_range == pytest.approx(RANGE)
    assert_same(canonical(again), canonical(layer))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_gives_a_convolution_that_converts_to_the_same_integers(dtype):
    layer = native(make_conv({**PLAIN, "stride": 2, "groups": 4}).to(dtype), Int4(32))
    dense = layer.dense()
    assert type(dense) is nn.Conv2d
    assert torch.equal(dense.weight, layer.weight)
    assert torch.equal(native(dense, Int4(32)).weight, layer.weight)
    fused = make_conv({**PLAIN, "padding": 0, "pads": (0, 1, 0, 2), "activation": "silu"})
    assert type(native(fused, Int4()).dense()) is FusedConv2d


def test_a_channel_takes_little_more_than_half_a_byte_a_weight():
    layer = native(make_conv({"in_channels": 256, "out_channels": 64, "kernel_size": 1}), Int4(symmetric=True))
    assert layer.packed_bytes / (256 * 64) < 0.57
    assert Int4Conv2d.weight_bytes(256, 64, torch.float32) == 256 * 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "weight": s["weight"][:, :-1]}, "size mismatch for weight"),
        (lambda s: {**s, "weight": s["weight"].float()}, "dtype mismatch for weight: expected torch.uint8"),
        (lambda s: {**s, "weight_scale": s["weight_scale"].float()}, "dtype mismatch for weight_scale"),
        (lambda s: {**s, "weight_scale": s["weight_scale"] / 0}, "NaN or infinite scale"),
        (lambda s: {**s, "weight_zero": s["weight_zero"] + 16}, "zero at most 15"),
        (lambda s: make_conv(PLAIN).state_dict(), "Missing key.*weight_scale"),
    ],
)
def test_state_dicts_that_do_not_fit_change_nothing(change, message):
    layer = native(make_conv(PLAIN, seed=1), Int4())
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(native(make_conv(PLAIN, seed=2), Int4()))))
    assert_same(canonical(layer), before)


# ------------------------------------------------------------------------------------------------------ refusing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 8, "out_channels": 8}, "a depthwise convolution has too few weights for 4 bits.*Int8"),
        ({"scheme": Int4(activations="float")}, "Int4Conv2d: activations='float' is for linear layers"),
        ({"in_channels": 1 << 40}, "too large to be packed"),
        ({"groups": 3}, "in_channels=8 does not divide into groups=3"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Int4Conv2d(**{**PLAIN, **arguments})


def test_a_scheme_of_the_other_kind_is_refused():
    with pytest.raises(TypeError, match=r"Int4Conv2d: scheme must be a Int4, got Int8\(\)"):
        Int4Conv2d(4, 4, 1, scheme=Int8())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e6])
def test_weights_that_no_scale_holds_are_refused(value):
    conv = make_conv(PLAIN)
    conv.weight[3, 2, 1, 0] = value
    with pytest.raises(ValueError, match="weight"):
        native(conv, Int4())


def test_a_static_layer_has_to_be_given_its_range():
    conv = make_conv(PLAIN)
    with pytest.raises(ValueError, match="input_range must be given"):
        native(conv, Int4(activations="static"))
    with pytest.raises(ValueError, match=r"\bx\b"):
        run(native(conv, Int4()), torch.zeros(1, 8, 4, 4, dtype=torch.uint8))
