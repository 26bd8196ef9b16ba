"""Models whose convolutions become int4: converted, saved, linked, frozen, and calibrated before."""

import copy
import json

import pytest
import torch
from conv_oracle import LAYOUTS, make_images
from shrink_models import Inverted, ResNet
from small_models import assert_same, assert_untouched, snapshot
from torch import nn

import edgekern as ek
from edgekern import GPTQ, ConvertError, Int4, Int8, PerLayer, QuantizeError, convert_, dense_, explain, quantize_
from edgekern.nn import Int4Conv2d, Int4Linear, Int8Conv2d, Int8Linear
from edgekern.nn.int8_program import Int8Program

IMAGES = (2, 3, 4, 4)
STATIC = Int4(32, activations="static")


def run(model, x):
    with torch.inference_mode():
        return model(x)


def natives(model):
    kinds = (Int4Conv2d, Int4Linear, Int8Conv2d, Int8Linear)
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, kinds)}


def mobile():
    """Expand, filter, project, twice: fused, and far from random in what it passes on."""
    torch.manual_seed(0)

    def block(channels, wide, out):
        return [
            nn.Conv2d(channels, wide, 1),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.ReLU6(),
            nn.Conv2d(wide, out, 1),
        ]

    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), *block(8, 48, 16), *block(16, 64, 16)).eval()
    ek.fuse_(model, torch.zeros(1, 3, 12, 12))
    return model


# ---------------------------------------------------------------------------------------------------- converting


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_of_a_network(layout):
    torch.manual_seed(0)
    model, x = ResNet().eval(), make_images(IMAGES, layout=layout)
    expected = run(model, x)
    report = convert_(model, Int4(32))
    assert set(natives(model).values()) == {Int4Conv2d, Int4Linear}
    assert len(report.converted) == 7
    assert not report.skipped
    assert (run(model, x) - expected).abs().max() <= 0.3 * expected.abs().max()
    row = report.rows[0]
    assert (row.format, row.packing, row.kernel) == ("int4", "dense", f"int4_gemm_{ek.kernels.default_isa()}")
    assert row.bytes_after == model.stem.packed.nbytes
    assert explain(model) == report
    json.dumps(report.to_dict())


def test_depthwise_layers_stay_what_they_are_or_become_int8():
    model = Inverted().eval()
    report = convert_(copy.deepcopy(model), Int4())
    assert {row.name for row in report.skipped} == {"depth"}
    assert report.skipped[0].reason.startswith("a depthwise convolution has too few weights for 4 bits to gain")
    with pytest.raises(ConvertError, match="'depth' is named but cannot be converted: a depthwise convolution"):
        convert_(copy.deepcopy(model), PerLayer({"depth": Int4()}))
    report = convert_(model, PerLayer({"depth": Int8(), "head": None, "_default": Int4()}))
    assert natives(model) == dict.fromkeys(["stem", "expand", "project"], Int4Conv2d) | {"depth": Int8Conv2d}
    assert [row.name for row in report.skipped] == ["head"]


def test_the_way_there_and_back():
    torch.manual_seed(0)
    model = ResNet().eval()
    original = copy.deepcopy(model)
    convert_(model, Int4(32))
    converted = copy.deepcopy(model)
    dense_(model)
    assert repr(model) == repr(original)
    assert not torch.equal(model.stem.weight, original.stem.weight)
    assert torch.equal(model.stem.weight, converted.stem.weight)
    convert_(model, Int4(32))
    x = make_images(IMAGES)
    torch.testing.assert_close(run(model, x), run(converted, x), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.stem.weight, converted.stem.weight)


def test_convolutions_whose_activations_would_stay_floats_are_left_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 8))
    report = convert_(model, Int4(activations="float"))
    assert report.skipped[0].reason.startswith("activations='float' is for linear layers; weight-only convolutions")
    assert type(model[2]) is Int4Linear


def test_static_ranges_are_for_convolutions():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 8))
    report = convert_(model, STATIC, data=[torch.randn(2, 4, 2, 2)], progress=False)
    assert report.skipped[0].reason.startswith("static ranges of int4 are for convolutions; give linear layers Int4()")
    assert report.rows[0].activations == "static"
    assert type(model[2]) is nn.Linear
    with pytest.raises(ConvertError, match=r"data: .*needs calibration data"):
        convert_(nn.Sequential(nn.Conv2d(4, 4, 1)), STATIC)
    with pytest.raises(ValueError, match="static ranges of int4 are for convolutions"):
        Int4Linear(4, 4, scheme=STATIC)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e6])
def test_weights_that_cannot_be_stop_everything(value):
    model = ResNet()
    with torch.no_grad():
        model.blocks[1].conv2.weight[3, 2, 1, 0] = value
    before = snapshot(model)
    with pytest.raises(ConvertError, match=r"'blocks\.1\.conv2'"):
        convert_(model, Int4())
    assert_untouched(model, before)


# --------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("scheme", [Int4(32), Int4(64, symmetric=True, form="bitmap_2"), STATIC], ids=repr)
def test_save_and_load(tmp_path, scheme, device):
    torch.manual_seed(0)
    model, x = ResNet().eval(), torch.randn(IMAGES)
    convert_(model, PerLayer({"head": None, "_default": scheme}), data=[x], progress=False)
    ek.save(model, tmp_path)
    assert json.loads((tmp_path / "edgekern.json").read_text())["format_version"] == 5
    with torch.device(device):
        other = ResNet().eval()
    ek.load(other, tmp_path)
    assert torch.equal(run(other, x), run(model, x))
    assert explain(other).converted == explain(model).converted
    assert_same(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_with_many_zeros_are_stored_as_mask_and_values(tmp_path, symmetric):
    def make():
        return nn.Sequential(nn.Conv2d(40, 32, 3, groups=2))

    torch.manual_seed(0)
    model = make()
    ek.prune_(model, ek.Prune(0.8), progress=False)
    zeros = model[0].weight == 0
    convert_(model, Int4(32, symmetric))
    assert not model[0].weight[zeros].any()
    ek.save(model, tmp_path)
    assert json.loads((tmp_path / "edgekern.json").read_text())["sparse"] == ["0.weight"]
    assert_same(ek.load(make(), tmp_path).state_dict(), model.state_dict())


# ------------------------------------------------------------------------------------------- linked and frozen


def static_mobile():
    model = mobile()
    rules = {"re:4|9": Int8(activations="static"), "_default": STATIC}
    convert_(model, PerLayer(rules), data=[make_images((4, 3, 12, 12))], progress=False)
    return model


def test_int4_and_int8_layers_hand_on_8_bit_numbers():
    model, x = static_mobile(), make_images((2, 3, 12, 12))
    assert sorted(map(str, set(natives(model).values()))) == sorted(map(str, {Int4Conv2d, Int8Conv2d}))
    expected = run(model, x)
    report = ek.link_(model)
    assert len(report.linked) == len(report.rows) - 1
    assert (run(model, x) - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frozen_network_of_both_gives_the_same_bits(layout):
    model, x = static_mobile(), make_images((2, 3, 12, 12), layout=layout)
    unlinked = ek.freeze(model, x)
    assert torch.equal(run(unlinked, x), run(model, x))
    ek.link_(model)
    frozen = ek.freeze(model, x)
    assert len(frozen.report.frozen) == len(frozen.report.rows) == 7
    assert sum(isinstance(module, Int8Program) for module in frozen.modules()) == 1
    for images in (x, make_images((1, 3, 17, 9), layout=layout), x[:0]):
        assert torch.equal(run(frozen, images), run(model, images))


def test_int4_layers_that_find_their_ranges_are_not_frozen_and_say_so():
    model, x = mobile(), make_images((2, 3, 12, 12))
    rules = {"re:4|9": Int8(activations="static"), "_default": Int4()}
    convert_(model, PerLayer(rules), data=[x], progress=False)
    frozen = ek.freeze(model, x)
    reasons = {row.reason for row in frozen.report.rows if not row.region}
    assert reasons == {"it finds the range of each image, having no static one"}
    assert torch.equal(run(frozen, x), run(model, x))


# ---------------------------------------------------------------------------------------------------- calibrated


def batches(count=4):
    """Images in which neighbouring pixels and channels have much in common, as in photographs."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.randn(8, 3, 5, 5, generator=generator).cumsum(1) + 0.5 for _ in range(count)]
    return [nn.functional.interpolate(each, (16, 16), mode="bilinear") for each in coarse]


def error(model, like, x):
    expected = run(like, x)
    return float((run(model, x) - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize("to", [Int4(32), Int4(64, symmetric=True, clip="mse"), Int8()], ids=repr)
def test_gptq_of_convolutions_beats_rounding_to_nearest(to):
    torch.manual_seed(0)
    model, data = ResNet().eval(), batches()
    model.blocks[1].conv2 = nn.Conv2d(16, 16, 3, 1, 1, groups=2)
    got = copy.deepcopy(model)
    report = quantize_(got, GPTQ(to), data, progress=False)
    assert [row.name for row in report.quantized] == [row.name for row in report]
    for row in report:
        assert 0 < row.error < 0.9 * row.nearest, row
    weights = {name: module.weight.clone() for name, module in got.named_modules() if isinstance(module, nn.Conv2d)}
    assert all(not torch.equal(weights[name], model.get_submodule(name).weight) for name in weights)
    convert_(got, report.config)
    for name, weight in weights.items():
        torch.testing.assert_close(got.get_submodule(name).weight, weight, rtol=1e-6, atol=1e-9)
    apart = copy.deepcopy(model)
    convert_(apart, to)
    x = torch.cat(data)
    assert error(got, model, x) < error(apart, model, x)


def test_the_error_of_a_grouped_convolution_is_what_its_outputs_say():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, 2, groups=2, padding=1, padding_mode="reflect", bias=False)
    model, x = nn.Sequential(conv), torch.cat(batches())
    x = torch.cat([x, x.flip(2)], 1)
    got = copy.deepcopy(model)
    row = quantize_(got, GPTQ(Int4(32)), [x], progress=False).rows[0]
    apart = copy.deepcopy(model)
    convert_(apart, Int4(32))
    dense_(apart)
    assert row.kind == "Conv2d"
    assert row.error == pytest.approx(error(got, model, x), rel=1e-3)
    assert row.nearest == pytest.approx(error(apart, model, x), rel=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_correction_takes_the_mean_error_of_a_convolution_off(groups):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=groups)), torch.rand(4, 4, 8, 8) + 0.5
    means = {}
    for correct in (False, True):
        got = copy.deepcopy(model)
        quantize_(got, GPTQ(Int4(32), bias_correction=correct), [x], progress=False)
        means[correct] = (run(got, x) - run(model, x)).mean((0, 2, 3)).abs().max()
    assert means[True] < 1e-5 < 10 * means[False]


def test_a_fused_convolution_sees_its_own_padding():
    torch.manual_seed(0)
    conv = ek.nn.FusedConv2d(3, 8, 3, stride=2, same_padding=True, activation="relu6")
    model, data = nn.Sequential(conv), batches()
    got = copy.deepcopy(model)
    row = quantize_(got, GPTQ(Int4(32)), data, progress=False).rows[0]
    x = nn.functional.pad(torch.cat(data), (0, 1, 0, 1))  # what TensorFlow's rule makes of 16 pixels
    windows = nn.functional.unfold(x, 3, stride=2).transpose(1, 2).flatten(0, 1)
    weight, rounded = (each[0].weight.detach().flatten(1) for each in (model, got))
    expected = (windows @ (weight - rounded).T).square().sum() / (windows @ weight.T).square().sum()
    assert row.error == pytest.approx(float(expected), rel=1e-3)
    assert row.error < row.nearest


def test_depthwise_layers_are_calibrated_for_int8_beside_int4():
    torch.manual_seed(0)
    model, data = Inverted().eval(), [batch[..., :4, :4] for batch in batches()]
    rules = {"depth": GPTQ(Int8()), "_default": GPTQ(Int4(32))}
    report = quantize_(model, PerLayer(rules), data, progress=False)
    assert {row.name: type(row.to) for row in report.quantized} == {
        "stem": Int4,
        "expand": Int4,
        "depth": Int8,
        "project": Int4,
        "head": Int4,
    }
    convert_(model, report.config)
    assert natives(model)["depth"] is Int8Conv2d
    with pytest.raises(QuantizeError, match="'depth' is named but cannot be quantised: a depthwise convolution"):
        quantize_(Inverted(), PerLayer({"depth": GPTQ(Int4())}), data, progress=False)
