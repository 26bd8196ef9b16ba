"""Float32 on convolutions: packed where that gains on their images, and left, with the reason, where not."""

import copy
import functools

import pytest
import torch
from conv_oracle import make_images
from small_models import assert_untouched, pretend_times, snapshot
from torch import nn

import edgekern as ek
from edgekern import Float32, Int8, PerLayer, kernels
from edgekern.nn import F32Conv2d, F32Linear, Int8Conv2d, forms
from edgekern.nn.conv_forms import Images

FASTER = {"dense": [1], "blocks_1": [0.8], "blocks_4": [0.4]}
SLOWER = {"dense": [1], "blocks_4": [1.25]}


@pytest.fixture
def measured(monkeypatch):
    return functools.partial(pretend_times, monkeypatch)


def run(model, x):
    with torch.inference_mode():
        return model(x)


def network():
    """Two convolutions, and a depthwise one between them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 24, 1, bias=False),
    ).eval()


def pruned(sparsity=0.9, pattern="4x4", dtype=torch.float32):
    """The network with all but its depthwise convolution pruned."""
    model = network().to(dtype)
    ek.prune_(model, ek.Prune(sparsity, pattern=pattern), filter_fn=lambda module, _: module.groups == 1)
    return model


def kinds(model):
    return [type(module) for module in model]


DEPTHWISE = "a depthwise convolution has too few weights a channel for their zeros to be worth leaving out"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pruned_model_gets_smaller_and_keeps_its_numbers(measured, dtype):
    measured(FASTER)
    model, x = pruned(0.95, dtype=dtype), make_images((2, 8, 20, 12)).to(dtype)
    expected, weights = run(model, x), [model[i].weight.detach().clone() for i in (0, 3)]
    report = ek.convert_(model, Float32(), data=[x])
    assert kinds(model) == [F32Conv2d, nn.ReLU, nn.Conv2d, F32Conv2d]
    first, depthwise, last = report.rows
    assert first.packing == "blocks_4 (2.5x dense at images of 20x12)"
    assert last.packing == "blocks_4 (2.5x dense at images of 10x6)"
    assert depthwise.reason == DEPTHWISE
    assert (first.format, first.kernel) == ("f32", f"f32_spmm_{kernels.default_isa()}")
    assert ("blocks_4", 240, 0.4) in first.timings
    assert ek.explain(model) == report
    assert sum(row.bytes_after for row in report.converted) < sum(row.bytes_before for row in report.converted)
    assert [torch.equal(model[i].weight, weight) for i, weight in zip((0, 3), weights, strict=True)] == [True, True]
    small = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.01}
    torch.testing.assert_close(run(model, x), expected, **small)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_measured_as_they_come(measured, monkeypatch, layout):
    measured(FASTER)
    calls, inner = [], forms._measure
    monkeypatch.setattr(forms, "_measure", lambda *given: calls.append(given) or inner(*given))
    model = pruned()
    ek.convert_(model, Float32(), data=[make_images((2, 8, 20, 12)).contiguous(memory_format=layout)])
    last = layout == torch.channels_last
    assert [model[i].images for i in (0, 3)] == [Images(20, 12, last), Images(10, 6, last)]
    x = calls[0][1](240)
    assert x.shape == (1, 8, 20, 12)
    assert x.is_contiguous(memory_format=layout)
    assert set(calls[0][0]) == {"dense", "blocks_1", "blocks_2", "blocks_4", "blocks_8"}


def test_without_data_the_size_is_a_guess(measured):
    measured(FASTER)
    row = ek.convert_(pruned(), Float32()).rows[0]
    assert row.packing == "blocks_4 (2.5x dense at images of 27x27, a guess without data)"


def test_measuring_for_real():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), nn.Conv2d(64, 64, 1))
    ek.prune_(model, ek.Prune(0.95, "4x4"))
    report = ek.convert_(model, Float32(), data=[torch.randn(1, 64, 14, 14)])
    for row in report.rows:
        times = {form: seconds for form, _, seconds in row.timings}
        assert times.keys() == {"dense", "blocks_1", "blocks_2", "blocks_4", "blocks_8"}
        assert all(seconds > 0 for seconds in times.values())


# --------------------------------------------------------------------------------------------- what is left alone


def refused(model, scheme, **data):
    """The rows of `model`, which `scheme` is to leave just as it is."""
    before = snapshot(model)
    report = ek.convert_(model, scheme, **data)
    assert_untouched(model, (*before[:2], before[2] | {"_edgekern_left_alone"}))
    assert not report.converted
    assert ek.explain(model) == report
    return report.rows


def test_slower_is_left_alone_with_the_times(measured):
    measured(SLOWER)
    rows = refused(pruned(), Float32(), data=[make_images((1, 8, 20, 12))])
    assert rows[0].reason == "measured faster as it is: blocks_4 is 0.8x at images of 20x12"
    assert ("blocks_4", 240, 1.25) in rows[0].timings


def test_few_zeros_are_not_measured(monkeypatch):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(10, 10, 3))
    with torch.no_grad():
        model[1].weight[:, :2] = 0
    first, second = refused(model, Float32())
    assert first.reason == "none of its weights are zero, and packing pays from 30% on at best"
    assert second.reason == "20% of its weights are zero, and packing pays from 30% on at best"


def test_a_number_of_channels_is_taken_without_measuring_unless_it_is_larger(monkeypatch):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    model = pruned(0.9)
    report = ek.convert_(model, Float32(channels=4), data=[make_images((1, 8, 20, 12))])
    assert [row.packing for row in report.converted] == ["blocks_4", "blocks_4"]
    rows = refused(pruned(0.5, "unstructured"), Float32(channels=8))
    assert all(row.reason.startswith("packed it would be larger: ") for row in rows if row.name != "2")


def test_a_bias_that_is_not_finite():
    model = pruned()
    with torch.no_grad():
        model[0].bias[3] = torch.inf
    report = ek.convert_(model, Float32(channels=4))
    assert {row.name: row.reason for row in report.skipped} == {"0": "its bias holds NaN or infinity", "2": DEPTHWISE}


def test_grouped_fused_and_padded_layers_go_all_the_way():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1, groups=2, padding_mode="circular"),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.Conv2d(32, 16, 3, padding="same", dilation=2),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(16 * 42, 16),
    ).eval()
    ek.prune_(model, ek.Prune(0.9))
    ek.fuse_(model)
    x = make_images((3, 16, 6, 7))
    expected = run(model, x)
    report = ek.convert_(model, Float32(channels=1))
    assert [type(model[i]) for i in (0, 3, 6)] == [F32Conv2d, F32Conv2d, F32Linear]
    assert [model[i].activation for i in (0, 3)] == ["hardswish", "relu6"]
    assert len(report.converted) == 3
    torch.testing.assert_close(run(model, x), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ ways back, files


def test_dense_gives_back_every_bit_and_nothing_else(measured):
    measured(FASTER)
    model = pruned()
    original, attributes = copy.deepcopy(model.state_dict()), vars(model[0]).keys()
    ek.convert_(model, Float32(), data=[make_images((2, 8, 20, 12))])
    ek.dense_(model)
    assert kinds(model) == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.Conv2d]
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())
    assert vars(model[0]).keys() == attributes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_save_and_load(measured, tmp_path, device):
    measured(FASTER)
    model, x = pruned(), make_images((2, 8, 20, 12))
    ek.convert_(model, PerLayer({"0": Float32(), "2": Int8(), "3": Float32(channels=4)}))
    ek.save(model, tmp_path / "a")
    with torch.device(device):
        fresh = network()
    loaded = ek.load(fresh, tmp_path / "a")
    assert kinds(loaded) == [F32Conv2d, nn.ReLU, Int8Conv2d, F32Conv2d]
    assert [loaded[i].scheme for i in (0, 3)] == [Float32(), Float32(channels=4)]
    assert loaded[0].choice == model[0].choice
    assert torch.equal(run(loaded, x), run(model, x))
    ek.save(loaded, tmp_path / "b")
    for name in ("edgekern.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_machine_where_packing_does_not_pay_loads_it_plain(measured, tmp_path):
    measured(FASTER)
    model, x = pruned(), make_images((2, 8, 20, 12))
    expected = run(model, x)
    ek.convert_(model, Float32())
    ek.save(model, tmp_path / "a")
    measured(SLOWER)
    loaded = ek.load(network(), tmp_path / "a")
    assert torch.equal(run(loaded, x), expected)
    row = ek.explain(loaded).rows[0]
    assert (row.format, row.kernel, row.bytes_after) == ("f32", "", row.bytes_before)
    assert row.packing == "dense (blocks_4 is 0.8x at images of 27x27, a guess without data)"
    ek.save(loaded, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_linking_and_freezing_leave_it_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)).eval()
    ek.prune_(model, ek.Prune(0.95), filter_fn=lambda _, name: name == "0")
    x = make_images((2, 8, 6, 6))
    static = Int8(activations="static")
    ek.convert_(model, PerLayer({"0": Float32(channels=1), "1": static, "2": static}), data=[x])
    assert kinds(model) == [F32Conv2d, Int8Conv2d, Int8Conv2d]
    expected = run(model, x)
    report = ek.link_(model, x)
    assert [(row.name, row.linked) for row in report.rows] == [("1", True), ("2", False)]
    torch.testing.assert_close(run(model, x), expected, rtol=0.05, atol=0.05)
    frozen = ek.freeze(model, x)
    assert any(isinstance(module, F32Conv2d) for module in frozen.modules())
    assert torch.equal(run(frozen, x), run(model, x))
