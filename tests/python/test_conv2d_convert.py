"""convert_, dense_ and explain on models with convolutions."""

import copy
import json

import pytest
import torch
from conv_oracle import DTYPES, LAYOUTS, make_images
from shrink_models import Inverted, ResNet
from small_models import assert_same, assert_untouched, snapshot
from torch import nn
from torch.nn.utils import parametrizations, prune

import edgekern as ek
from edgekern import ConvertError, Float16, Int4, Int8, PerLayer, Prune, bench, convert_, dense_, explain
from edgekern.nn import Int8Conv2d, Int8Linear, QATLinear
from edgekern.nn.fused import FusedConv2d, FusedLinear

IMAGES = (2, 3, 4, 4)


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) + 1


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, *arguments):
        return super()._conv_forward(*arguments) + 1


class NoForward(nn.Conv2d):
    pass


def kinds(model):
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, Int8Conv2d | Int8Linear)}


def run(model, x):
    with torch.inference_mode():
        return model(x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [ResNet, Inverted])
def test_every_layer_of_a_network(make, dtype, layout):
    torch.manual_seed(0)
    model = make().eval().to(dtype)
    x = make_images(IMAGES, dtype, layout=layout)
    expected = run(model, x).float()
    report = convert_(model, Int8())
    y = run(model, x)
    layers = [name for name, module in make().named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert list(kinds(model)) == layers == [row.name for row in report.converted]
    assert not report.skipped
    assert y.dtype == dtype
    assert (y.float() - expected).abs().max() <= 0.1 * expected.abs().max()


def test_rows_of_the_report():
    model = nn.Sequential(nn.Conv2d(8, 16, (3, 2), bias=False), nn.Conv2d(16, 16, 3, groups=16))
    report = convert_(model, Int8())
    first, second = report
    isa = ek.kernels.default_isa()
    assert (first.name, first.kind, first.shape, first.format) == ("0", "Conv2d", (16, 8, 3, 2), "int8")
    assert (first.isa, first.packing, first.reason, first.timings) == (isa, "dense", "", ())
    assert first.kernel.startswith("int8_")
    assert first.kernel.endswith(isa)
    assert "depthwise" in second.kernel
    assert first.bytes_before == 16 * 8 * 6 * 4
    assert second.bytes_before == (16 * 9 + 16) * 4
    assert [row.bytes_after for row in report] == [layer.packed.nbytes for layer in model]
    assert explain(model) == report
    assert "Conv2d" in str(report)
    json.dumps(report.to_dict())


def test_zeros_are_told_and_stay_and_what_was_measured_is_told_too():
    model = nn.Sequential(nn.Conv2d(32, 32, 3))
    ek.prune_(model, Prune(0.8, "4x4"), progress=False)
    zeros = model[0].weight == 0
    row = convert_(model, Int8()).rows[0]
    assert row.zeros == pytest.approx(0.8, abs=0.01)
    assert {pixels for _, pixels, _ in row.timings} == {16 * 16}
    assert not model[0].weight[zeros].any()


def test_the_way_there_and_back():
    torch.manual_seed(0)
    model = ResNet().eval()
    original = copy.deepcopy(model)
    convert_(model, Int8())
    weights = {name: module.weight for name, module in model.named_modules() if isinstance(module, Int8Conv2d)}
    report = dense_(model)
    assert [row.format for row in report] == ["dense"] * len(report)
    assert repr(model) == repr(original)
    for name, weight in weights.items():
        assert type(model.get_submodule(name)) is nn.Conv2d
        assert torch.equal(model.get_submodule(name).weight, weight)
    assert {row.reason for row in explain(model)} == {"not converted"}
    model(torch.randn(IMAGES)).sum().backward()
    assert model.stem.weight.grad is not None


def test_fused_layers_keep_their_activation_both_ways():
    torch.manual_seed(0)
    conv = FusedConv2d(3, 8, 3, stride=2, activation="relu6", same_padding=True)
    model = nn.Sequential(conv, nn.Flatten(), FusedLinear(32, 6, activation="hardswish"))
    model.requires_grad_(False)
    x = make_images(IMAGES)
    expected, shown = model(x), repr(model)
    report = convert_(model, Int8())
    assert not report.skipped
    assert kinds(model) == {"0": Int8Conv2d, "2": Int8Linear}
    assert (model[0].activation, model[0].same_padding, model[2].activation) == ("relu6", True, "hardswish")
    assert (run(model, x) - expected).abs().max() <= 0.05 * expected.abs().max()
    dense_(model)
    assert [type(model[0]), type(model[2])] == [FusedConv2d, FusedLinear]
    assert repr(model) == shown
    assert (run(model, x) - expected).abs().max() <= 0.05 * expected.abs().max()


def test_rules_patterns_and_filter():
    names = ["blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.down.0"]
    model, seen = ResNet(), []

    def not_down(module, name):
        seen.append(name)
        return "down" not in name

    rules = {"stem": None, "blocks.0.conv1": Float16(), r"re:blocks\..*": Int8()}
    with pytest.raises(
        ConvertError, match=r"'blocks.0.conv1' is named but cannot be converted: Float16\(\) is for linear"
    ):
        convert_(model, PerLayer(rules))
    report = convert_(model, PerLayer({**rules, "blocks.0.conv1": Int8(form="bitmap")}), not_down)
    assert seen == names
    assert list(kinds(model)) == names[:-1]
    assert model.blocks[0].conv1.choice.form == "bitmap"
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons["stem"] == "the rule 'stem' is None"
    assert reasons["blocks.1.down.0"] == "filter_fn declined it"
    assert explain(model) == report


def test_hooks_attributes_and_the_training_flag_move_along():
    model, calls = nn.Sequential(nn.Conv2d(3, 4, 1)), []
    model[0].eval().note = "mine"
    model[0].register_forward_hook(lambda module, args, y: calls.append(type(module)))
    convert_(model, Int8())
    assert not model[0].training
    assert model[0].note == "mine"
    run(model, torch.randn(IMAGES))
    dense_(model)
    run(model, torch.randn(IMAGES))
    assert calls == [Int8Conv2d, nn.Conv2d]
    assert model[0].note == "mine"
    assert not {"scheme", "packed", "_pads", "same_padding"} & vars(model[0]).keys()


# ----------------------------------------------------------------------------------------------------- left alone


def changed(conv, **attributes):
    for name, value in attributes.items():
        setattr(conv, name, value)
    return conv


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnForward(4, 4, 1), "OwnForward has a forward of its own"),
        (lambda: OwnConvForward(4, 4, 1), "OwnConvForward has a forward of its own"),
        (lambda: changed(nn.Conv2d(4, 4, 1), forward=lambda x: x), "its forward was replaced"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "parametrised; parametrize.remove"),
        (lambda: prune.l1_unstructured(nn.Conv2d(4, 4, 1), "weight", 0.5), "recomputed at every call"),
        (lambda: nn.LazyConv2d(4, 1), "lazy: its shape is not known"),
        (lambda: nn.Conv2d(4, 4, 1, device="meta"), "its weight is on the meta device"),
        (lambda: nn.Conv2d(4, 4, 1, dtype=torch.float64), "its weight is torch.float64"),
        (lambda: nn.Conv2d(4, 4, 1, dtype=torch.complex64), "its weight is torch.complex64"),
        (
            lambda: changed(nn.Conv2d(4, 4, 1), bias=nn.Parameter(torch.full((4,), torch.inf))),
            "its bias holds NaN or inf",
        ),
        (lambda: changed(nn.Conv2d(4, 4, 1), stride=(0, 1)), "stride must be one or two whole numbers from 1"),
        (lambda: changed(nn.Conv2d(4, 4, 1), groups=2), r"is not the \[4, 2, 1, 1\] of its channels and kernel"),
        (
            lambda: changed(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), padding=2),
            "its padding was changed after it was made, which padding_mode='reflect' never notices",
        ),
    ],
)
def test_convolutions_that_cannot_be_converted(make, reason):
    model = nn.ModuleDict({"odd": make(), "plain": nn.Conv2d(4, 4, 1)})
    report = convert_(model, Int8())
    assert list(kinds(model)) == ["plain"]
    (row,) = report.skipped
    assert row.name == "odd"
    assert reason.replace("\\", "") in row.reason
    assert explain(model) == report
    if "its bias holds" not in reason:  # found with the memory set aside, as for other layers
        with pytest.raises(ConvertError, match=f"'odd' is named but cannot be converted: .*{reason}"):
            convert_(nn.ModuleDict({"odd": make(), "plain": nn.Conv2d(4, 4, 1)}), PerLayer({"odd": Int8()}))


def test_formats_without_convolutions_leave_them_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(8, 8))
    row = convert_(model, Float16()).rows[0]
    assert row.reason == "Float16() is for linear layers; convolutions can be Int8(), Int4() or Float32()"
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("form", ["blocks_4", "csr", "bitmap"])
def test_sparse_forms_leave_depthwise_convolutions_alone(form):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2))
    row, grouped = convert_(model, Int8(form=form)).rows
    assert row.reason == f"the form {form!r} is not for depthwise convolutions, which have a kernel of their own"
    assert (grouped.reason, grouped.packing, model[1].choice.form) == ("", form, form)


def test_convolutions_whose_activations_would_stay_floats_are_left_alone():
    scheme = Int8(activations="float")
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(8, 8))
    conv, linear = convert_(model, scheme).rows
    reason = "activations='float' is for linear layers; weight-only convolutions are not there yet"
    assert (conv.reason, conv.activations) == (reason, "")
    assert (linear.reason, linear.activations) == ("", "float")
    assert (type(model[0]), type(model[1])) == (nn.Conv2d, Int8Linear)
    with pytest.raises(ConvertError, match=r"'0' is named but cannot be converted: .*weight-only convolutions"):
        convert_(nn.Sequential(nn.Conv2d(4, 4, 1)), PerLayer({"0": scheme}))


def test_a_subclass_without_a_forward_of_its_own_is_converted():
    convert_(model := nn.Sequential(NoForward(4, 4, 1)), Int8())
    assert type(model[0]) is Int8Conv2d


def test_a_shared_weight_is_left_alone_unless_a_rule_asks():
    def make():
        model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        model[1].weight = model[0].weight
        return model

    reasons = {row.name: row.reason for row in convert_(make(), Int8()).skipped}
    assert reasons.keys() == {"0", "1"}
    assert "its weight is also '1.weight', so a packed copy would come on top" in reasons["0"]
    convert_(model := make(), PerLayer({"re:[01]": Int8()}))
    assert torch.equal(model[0].weight, model[1].weight)


def test_one_convolution_in_two_places_stays_one():
    conv = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(conv, conv)
    report = convert_(model, Int8())
    assert model[0] is model[1]
    assert [row.reason for row in report] == ["", "the same module as '0'"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_stops_everything(value):
    model = ResNet()
    with torch.no_grad():
        model.blocks[1].conv2.weight[3, 2, 1, 0] = value
    before = snapshot(model)
    with pytest.raises(ConvertError, match=r"the weight of 'blocks\.1\.conv2' holds"):
        convert_(model, Int8())
    assert_untouched(model, before)


@pytest.mark.parametrize("call", [lambda m: convert_(m, Int8()), dense_])
def test_a_single_convolution_has_no_place_to_be_replaced_in(call):
    with pytest.raises(ConvertError, match=r"a single Conv2d has no parent.*torch.nn.Sequential\(layer\)"):
        call(nn.Conv2d(4, 4, 1))
    with pytest.raises(ConvertError, match="a single Int8Conv2d has no parent"):
        call(Int8Conv2d(4, 4, 1))


def test_converting_again_changes_nothing():
    model = ResNet()
    convert_(model, Int8())
    first = model.stem
    for scheme in (Int8(), Int4()):
        report = convert_(model, scheme)
        assert {row.reason for row in report} == {"int8 already"}
        assert not report.converted
    assert model.stem is first


# -------------------------------------------------------------------------------------------- beside other methods


def test_scaled_channels_of_linear_layers_go_with_convolutions_rounded_to_nearest():
    torch.manual_seed(0)
    model = ResNet().eval()
    data = [torch.randn(8, 3, 8, 8)]
    report = ek.quantize_(model, ek.AWQ(Int8()), data, progress=False)
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons["stem"].startswith("scaling input channels is for linear layers; GPTQ(to=Int8()) rounds")
    head = model.head.weight.detach().clone()
    convert_(model, PerLayer({**report.config.rules, "_default": Int8()}))
    assert len(kinds(model)) == 7
    torch.testing.assert_close(model.head.weight, head)
    with pytest.raises(ek.QuantizeError, match="'stem' is named but cannot be quantised: scaling input channels"):
        ek.quantize_(ResNet(), PerLayer({"stem": ek.AWQ(Int8())}), data, progress=False)


def test_linear_layers_train_with_rounding_beside_convolutions():
    model = ResNet()
    report = ek.prepare_qat_(model, Int8())
    assert [row.name for row in report.prepared] == ["head"]
    assert type(model.head) is QATLinear
    convert_(model, Int8())
    assert len(kinds(model)) == 7


def test_pruning_needs_floats():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Linear(8, 8))
    convert_(model, PerLayer({"0": Int8()}))
    report = ek.prune_(model, Prune(0.5), progress=False)
    assert {row.name: row.reason for row in report.skipped} == {"0": "int8 already; prune before converting"}


def test_sensitivity_and_a_budget_of_bytes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1))
    data = [make_images((4, 16, 8, 8))]
    before = snapshot(model)
    scan = ek.sensitivity(model, "mse", data, Int8(), progress=False)
    assert_untouched(model, before)
    assert [row.name for row in scan] == [row.name for row in explain(model)]
    assert all(row.loss > 0 and row.ms > 0 and row.float_ms > 0 and row.nbytes for row in scan)
    rules = ek.allocate(scan, f"{scan.other_bytes + sum(row.nbytes for row in scan)} B").rules
    assert rules == {"0": Int8(), "2": Int8(), "3": Int8()}
    convert_(model, PerLayer(rules))
    assert len(kinds(model)) == 3


def test_bench_takes_networks():
    model = ResNet()
    convert_(model, Int8())
    result = bench(model, make_images(IMAGES), warmup_seconds=0, max_repeats=3)
    assert 0 < result.min <= result.p50


def test_a_converted_network_can_be_copied():
    model = Inverted().eval()
    convert_(model, Int8())
    other, x = copy.deepcopy(model), make_images(IMAGES)
    assert torch.equal(run(other, x), run(model, x))
    assert_same(other.state_dict(), model.state_dict())
