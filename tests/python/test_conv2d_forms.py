"""Pruned convolutions: which form is chosen, on which images, and that it computes what the dense one does."""

import copy
import functools
import pickle

import pytest
import torch
from conv_oracle import convolutions, make_conv, make_images, native
from hypothesis import given
from hypothesis import strategies as st
from oracle import quick
from small_models import pretend_times
from torch import nn

import edgekern as ek
from edgekern import kernels
from edgekern.nn import Int8Conv2d, forms
from edgekern.nn.conv_forms import Images, guess_images
from edgekern.nn.convolution import options_of

SPARSE = [form for form in kernels.FORMS if form != "dense"]
FASTER = {"dense": [1], "blocks_4": [0.4], "csr": [0.8]}


@pytest.fixture
def measured(monkeypatch):
    return functools.partial(pretend_times, monkeypatch)


def run(layer, x):
    with torch.inference_mode():
        return layer(x)


def pruned(sparsity=0.8, pattern="4x4"):
    """Two convolutions that are pruned, and a depthwise one between them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 24, 1),
    ).eval()
    ek.prune_(model, ek.Prune(sparsity, pattern=pattern), filter_fn=lambda module, _: module.groups == 1)
    with torch.no_grad():
        model[2].weight[: 24 if sparsity else 0] = 0
    return model


@quick
@given(drawn=convolutions(), density=st.floats(0, 1), form=st.sampled_from(SPARSE), seed=st.integers(0, 1000))
def test_every_form_gives_the_bits_of_the_dense_one(drawn, density, form, seed):
    options, shape = drawn
    conv = make_conv(options, seed)
    conv.weight.mul_(torch.rand(conv.weight.shape) < density)
    if 1 < options["groups"] == options["in_channels"] == options["out_channels"]:
        return
    x, layer = make_images(shape, seed=seed), native(conv, ek.Int8(form=form))
    assert torch.equal(run(layer, x), run(native(conv), x))
    assert torch.equal(layer.state_dict()["weight"], native(conv).state_dict()["weight"])


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("activation", ["none", "relu6", "silu"])
def test_every_form_hands_on_uint8(form, activation):
    torch.manual_seed(0)
    first, second = (nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(20, 9, 1))
    model = nn.Sequential(
        first, nn.ReLU6() if activation == "relu6" else nn.SiLU() if activation == "silu" else nn.Identity(), second
    )
    with torch.no_grad():
        for conv in (first, second):
            conv.weight.mul_(torch.rand(conv.weight.shape) < 0.3)
    ek.fuse_(model.eval())
    x, dense = torch.randn(2, 12, 6, 5), copy.deepcopy(model)
    for each, how in ((model, form), (dense, "dense")):
        ek.convert_(each, ek.Int8(form=how, activations="static"), data=[x])
        ek.link_(each, x)
    assert model[0].output_range is not None
    assert run(model[0], x).dtype == torch.uint8
    assert torch.equal(run(model, x), run(dense, x))


def test_the_faster_form_is_taken_and_explained(measured):
    measured(FASTER)
    model = pruned()
    report = ek.convert_(model, ek.Int8(), data=[make_images((2, 8, 20, 12))])
    first, depthwise, last = report.rows
    assert first.packing == "blocks_4 (2.5x dense at images of 20x12)"
    assert last.packing == "blocks_4 (2.5x dense at images of 10x6)"
    assert depthwise.packing == "dense (zeros are multiplied: a depthwise layer has a kernel of its own)"
    assert first.kernel == f"int8_spmm_{kernels.default_isa()}"
    assert ("blocks_4", 240, 0.4) in first.timings
    assert ek.explain(model) == report


def test_without_data_the_size_is_a_guess(measured):
    measured(FASTER)
    model = pruned()
    row = ek.convert_(model, ek.Int8()).rows[0]
    assert row.packing == "blocks_4 (2.5x dense at images of 27x27, a guess without data)"


@pytest.mark.parametrize("gain", [1.0, 0.95])
def test_dense_stays_unless_there_is_a_gain(measured, gain):
    measured({"dense": [1], "blocks_4": [gain]})
    row = ek.convert_(pruned(), ek.Int8()).rows[0]
    assert row.packing.startswith("dense (blocks_4 is 1.")


def test_dense_weights_are_not_measured(monkeypatch):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    calls = []
    model = pruned(0.0, "1x1")
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    report = ek.convert_(model, ek.Int8(), data=[make_images((1, 8, 9, 9))])
    assert [row.packing for row in report] == ["dense"] * 3
    assert not calls, "data are looked at only for those"


def test_measuring_for_real():
    model = nn.Sequential(nn.Conv2d(256, 256, 1))
    ek.prune_(model, ek.Prune(0.95, "4x4"))
    row = ek.convert_(model, ek.Int8(), data=[make_images((1, 256, 14, 14), layout="channels_last")]).rows[0]
    times = {form: seconds for form, pixels, seconds in row.timings if pixels == 196}
    assert times.keys() == kernels.FORMS.keys()
    assert all(seconds > 0 for seconds in times.values())
    assert row.packing.endswith("images of 14x14)")


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_data_serve_for_sizes_and_for_ranges(measured, once, activations):
    measured(FASTER)
    batches = [make_images((1, 8, 9, 9), seed=seed) * 2.0**seed for seed in range(3)]
    model, other = pruned(), pruned()
    scheme = ek.Int8(activations=activations)
    ek.convert_(model, scheme, data=iter(batches) if once else batches)
    ek.convert_(
        other, ek.Int8(form="blocks_4", activations=activations), lambda module, _: module.groups == 1, data=batches
    )
    assert model[0].choice.where == "images of 9x9"
    assert model[0].input_range == other[0].input_range


def test_layers_that_the_batch_does_not_reach_are_guessed(measured):
    measured(FASTER)
    model = pruned()
    model.spare = nn.Conv2d(8, 16, 1)
    with torch.no_grad():
        model.spare.weight[4:] = 0
    model.forward = lambda x: nn.Sequential.forward(model[:4], x)
    ek.convert_(model, ek.Int8(), data=[make_images((1, 8, 9, 9))])
    assert model.spare.choice.where == "images of 14x14, a guess without data"


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 1}, (14, 14)),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (27, 27)),
        ({"kernel_size": (5, 3), "dilation": (2, 1)}, (22, 16)),
        ({"kernel_size": 3, "padding": 40}, (41, 41)),
        ({"kernel_size": 3, "padding": "same"}, (14, 14)),
        ({"kernel_size": 3, "padding": "valid"}, (16, 16)),
        ({"kernel_size": 3, "stride": 2, "same_padding": True}, (28, 28)),
        ({"kernel_size": 3, "pads": (0, 1, 0, 2)}, (14, 15)),
    ],
)
def test_the_guess_is_an_image_that_gives_14x14(options, size):
    layer = Int8Conv2d(4, 4, **options)
    images = guess_images(options_of(layer))
    assert (images.height, images.width) == size
    if options.get("padding") != 40:
        conv = make_conv({"in_channels": 4, "out_channels": 4, **options})
        assert run(native(conv), torch.randn(1, 4, *size)).shape[2:] == (14, 14)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_guessed_images_are_large_enough_to_pad(measured, mode):
    conv = nn.Conv2d(4, 8, 3, padding=9, padding_mode=mode)
    with torch.no_grad():
        conv.weight[2:] = 0
    layer = native(conv, ek.Int8())
    assert layer.choice.timings
    measured(FASTER)


def test_images_know_their_order():
    x = torch.randn(2, 8, 5, 6)
    assert Images.of(x) == Images(5, 6, False)
    assert Images.of(x.contiguous(memory_format=torch.channels_last)) == Images(5, 6, True)
    assert Images.of(x[0]) == Images(5, 6, False)


def test_copies_know_their_images_and_choose_by_them(measured):
    measured(FASTER)
    model = pruned()
    ek.convert_(model, ek.Int8(), data=[make_images((2, 8, 20, 12))])
    x = make_images((2, 8, 20, 12))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[0].choice == model[0].choice
        assert torch.equal(run(twin, x), run(model, x))


def test_save_and_load(tmp_path, measured):
    measured(FASTER)
    model = pruned()
    ek.convert_(model, ek.Int8(), data=[make_images((2, 8, 20, 12))])
    ek.save(model, tmp_path)
    loaded = ek.load(pruned(0.0, "1x1"), tmp_path)
    x = make_images((2, 8, 20, 12))
    assert loaded[0].choice.form == "blocks_4"
    assert torch.equal(run(loaded, x), run(model, x))
    dense = pruned()
    ek.convert_(dense, ek.Int8(form="dense"))
    assert torch.equal(run(dense, x), run(model, x))
