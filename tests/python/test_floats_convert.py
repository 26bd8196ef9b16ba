"""Float32 and Float16: pruned layers packed as floats where that gains, and left, with the reason, where not."""

from __future__ import annotations

import copy
import functools
import pickle
import re

import pytest
import torch
from small_models import LanguageModel, assert_untouched, native_names, pretend_times, snapshot
from torch import nn

import edgekern as ek
from edgekern import Float16, Float32, Int8, PerLayer, convert_, dense_, explain, kernels
from edgekern.nn import NATIVE_LINEARS, Int8Linear, float_layer, forms

FASTER = {"dense": [1, 1, 1], "blocks_1": [0.9, 0.5, 0.4], "blocks_4": [0.9, 0.4, 0.3]}
SLOWER_AT_ONE_ROW = {"dense": [1, 1, 1], "blocks_4": [1.1, 0.2, 0.1]}


@pytest.fixture
def measured(monkeypatch):
    return functools.partial(pretend_times, monkeypatch)


@pytest.fixture(params=[Float32, Float16], ids=lambda scheme: scheme.__name__)
def floats(request):
    """The scheme."""
    return request.param


def tolerance(floats, dtype=torch.float32):
    """How far results of sums of about 10 may be off."""
    small = {torch.float32: 1e-6 if floats is Float32 else 1e-2 if kernels.f16_halves() else 1e-3}
    return {"rtol": 0.02, "atol": small.get(dtype, 1e-2 if floats is Float16 else 2e-3)}


def pruned(sparsity: float = 0.8, pattern: str = "4x4", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 64, dtype=dtype), nn.ReLU(), nn.Linear(64, 32, bias=False, dtype=dtype)).eval()
    ek.prune_(model, ek.Prune(sparsity, pattern=pattern))
    return model


def run(model, x):
    with torch.inference_mode():
        return model(x)


# ------------------------------------------------------------------------------------------------- what is packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_pruned_model_gets_smaller_and_keeps_its_numbers(floats, measured, dtype):
    measured(FASTER)
    model, x = pruned(0.9, dtype=dtype), torch.randn(3, 5, 96).to(dtype)
    expected, weights = run(model, x), [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    report = convert_(model, floats())
    assert native_names(model) == ["0", "2"] == [row.name for row in report.converted]
    assert report.bytes_after < 0.7 * report.bytes_before
    assert report.bytes_after == model[0].packed.nbytes + model[2].packed.nbytes
    for layer, weight in zip((model[0], model[2]), weights, strict=True):
        torch.testing.assert_close(layer.weight, weight, rtol=0 if floats is Float32 else 2**-11, atol=0)
    y = run(model, x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, **tolerance(floats, dtype))


def test_explain_shows_the_choice(floats, measured):
    measured(FASTER)
    model = pruned()
    report = convert_(model, floats())
    row = report.rows[0]
    assert row.packing == "blocks_4 (1.1/2.5/3.3x dense at 1/16/128 rows)"
    assert (row.format, row.kernel) == (floats.format, f"{floats.format}_spmm_{kernels.default_isa()}")
    assert row.zeros == pytest.approx(0.8, abs=0.01)
    assert ("blocks_4", 128, 0.3) in row.timings
    assert explain(model) == report
    assert row.packing in str(report)


def test_layers_alike_are_measured_once(floats, measured, monkeypatch):
    measured(FASTER)
    calls, inner = [], forms._measure
    monkeypatch.setattr(forms, "_measure", lambda *given: calls.append(given) or inner(*given))
    for _ in range(2):
        convert_(pruned(), floats())
    convert_(pruned(dtype=torch.bfloat16), floats())
    assert [(inputs(3).shape, inputs(3).dtype, rows) for _, inputs, rows in calls] == [
        ((3, features), dtype, (1, 16, 128)) for dtype in (torch.float32, torch.bfloat16) for features in (96, 64)
    ]
    assert [set(found) for found, *_ in calls[:2]] == [{"dense", "blocks_1", "blocks_2", "blocks_4", "blocks_8"}] * 2


def test_measuring_for_real(floats):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024))
    ek.prune_(model, ek.Prune(0.95, "4x4"))
    row = convert_(model, floats(rows=(1, 64))).rows[0]
    times = {(form, rows): seconds for form, rows, seconds in row.timings}
    assert times.keys() == {(form, rows) for form in ("dense", *float_layer.CHANNELS) for rows in (1, 64)}
    assert all(seconds > 0 for seconds in times.values())


@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_a_number_of_channels_is_not_measured(floats, monkeypatch, channels):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    model, x = pruned(), torch.randn(7, 96)
    expected = run(model, x)
    report = convert_(model, floats(channels=channels))
    assert [row.packing for row in report.converted] == [f"blocks_{channels}"] * 2
    torch.testing.assert_close(run(model, x), expected, **tolerance(floats))


# --------------------------------------------------------------------------------------------- what is left alone


def refused(model, scheme):
    """The rows of `model`, which `scheme` is to leave just as it is."""
    before = snapshot(model)
    report = convert_(model, scheme)
    assert_untouched(model, (*before[:2], before[2] | {"_edgekern_left_alone"}))
    assert not report.converted
    assert report.bytes_before == report.bytes_after
    assert explain(model) == report
    assert pickle.loads(pickle.dumps(model))._edgekern_left_alone == model._edgekern_left_alone
    return report.rows


def test_slower_anywhere_is_left_alone_with_the_times(floats, measured):
    measured(SLOWER_AT_ONE_ROW)
    for row in refused(pruned(), floats()):
        assert row.reason == "measured faster as it is: blocks_4 is 0.9/5.0/10.0x at 1/16/128 rows"
        assert ("blocks_4", 1, 1.1) in row.timings
        assert ("dense", 1, 1) in row.timings
        assert row.zeros == pytest.approx(0.8, abs=0.01)
        assert row.to_dict()["timings"]
        assert (row.format, row.kernel, row.packing) == ("dense", "", "")
    measured({form: times[1:] for form, times in SLOWER_AT_ONE_ROW.items()})
    assert len(convert_(pruned(), floats(rows=(16, 128))).converted) == 2


def test_a_small_gain_is_left_to_the_dense_layer(floats, measured):
    measured({"dense": [1, 1, 1], "blocks_4": [0.95, 0.95, 0.95]})
    refused(pruned(), floats())


@pytest.mark.parametrize(
    ("sparsity", "reason"),
    [
        (0.0, "none of its weights are zero, and packing pays from 30% on at best"),
        (0.2, "20% of its weights are zero, and packing pays from 30% on at best"),
    ],
)
def test_few_zeros_are_not_measured(floats, monkeypatch, sparsity, reason):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    model = nn.Sequential(nn.Linear(100, 20))
    with torch.no_grad():
        model[0].weight[:, : round(100 * sparsity)] = 0
    assert refused(model, floats())[0].reason == reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_are_not_packed_into_more_memory(monkeypatch, dtype):
    """Five bytes for a kept weight, where the dense layer has two for any."""
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    for row in refused(pruned(0.5, "unstructured", dtype), Float32()):
        assert re.fullmatch(r"packed it would be larger: \d+\.\d KiB, now \d+\.\d KiB", row.reason)


def test_a_number_of_channels_is_no_reason_to_get_larger(floats):
    dtype = {Float32: torch.float32, Float16: torch.float16}[floats]
    rows = refused(pruned(0.5, "unstructured", dtype), floats(channels=8))
    assert all(row.reason.startswith("packed it would be larger: ") for row in rows)


def test_a_bias_that_is_not_finite(floats):
    model = pruned()
    with torch.no_grad():
        model[0].bias[3] = -torch.inf
    report = convert_(model, floats(channels=4))
    assert {row.name: row.reason for row in report.skipped} == {"0": "its bias holds NaN or infinity"}
    assert native_names(model) == ["2"]


def test_a_layer_named_by_a_rule_is_left_alone_too(floats, measured):
    measured(SLOWER_AT_ONE_ROW)
    refused(pruned(), PerLayer({"0": floats(), "re:2": floats()}))


# ------------------------------------------------------------------------------------------------ rules and ways back


def test_mixed_with_int8(floats, measured):
    measured(FASTER)
    model = nn.Sequential(*pruned(), nn.Linear(32, 32), nn.Linear(32, 8))
    x = torch.randn(6, 96)
    expected = run(model, x)
    report = convert_(model, PerLayer({"0": floats(), "2": Int8(), "3": floats(), "4": None}))
    assert [type(layer) for layer in model] == [
        NATIVE_LINEARS[floats.format],
        nn.ReLU,
        Int8Linear,
        nn.Linear,
        nn.Linear,
    ]
    assert {row.name: row.format for row in report} == {"0": floats.format, "2": "int8", "3": "dense", "4": "dense"}
    torch.testing.assert_close(run(model, x), expected, rtol=0.05, atol=0.02)
    again = convert_(model, Int8())
    assert {row.name: row.reason for row in again.skipped} == {"0": f"{floats.format} already", "2": "int8 already"}


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_head_is_packed_too_unless_it_is_tied(tied):
    """Nothing is rounded, so nothing else speaks against it."""
    model = LanguageModel(tied)
    with torch.no_grad():
        for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
            layer.weight[:, 1:] = 0
    report = convert_(model, Float32(channels=1))
    assert ("lm_head" in native_names(model)) is not tied
    assert len(native_names(model)) == 5 - tied
    way_out = "PerLayer({'lm_head': Float32(channels=1), '_default': Float32(channels=1)})"
    assert all(row.reason.endswith(way_out) for row in report.skipped if row.kind == "Linear")


def test_float16_leaves_the_output_head_alone_unless_a_rule_asks():
    model = LanguageModel(False)
    with torch.no_grad():
        for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
            layer.weight[:, 1:] = 0
    report = convert_(model, Float16(channels=1))
    assert len(native_names(model)) == 4
    reasons = {row.name: row.reason.split(",")[0] for row in report.skipped if row.kind == "Linear"}
    assert reasons == {"lm_head": "the output head"}
    convert_(model, PerLayer({"lm_head": Float16(channels=1)}))
    assert "lm_head" in native_names(model)


def test_float16_halves_what_float32_takes():
    sizes = {}
    for scheme in (Float32, Float16):
        model = nn.Sequential(nn.Linear(512, 512))
        ek.prune_(model, ek.Prune(0.8))
        sizes[scheme] = convert_(model, scheme(channels=1)).bytes_after
    assert 0.59 < sizes[Float16] / sizes[Float32] < 0.65  # three bytes for five


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_float16_packs_halves_where_float32_would_grow(dtype):
    model = pruned(0.5, "unstructured", dtype)
    report = convert_(model, Float16(channels=1))
    assert [row.name for row in report.converted] == ["0", "2"]
    assert report.bytes_after < report.bytes_before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dense_gives_back_every_bit(measured, dtype):
    measured(FASTER)
    model = pruned(0.9, dtype=dtype)
    original = copy.deepcopy(model.state_dict())
    convert_(model, Float32())
    assert native_names(model) == ["0", "2"]
    dense_(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert model.state_dict().keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_dense_gives_back_what_float16_rounded_to(measured):
    measured(FASTER)
    model = pruned(0.9)
    original = model[0].weight.detach().clone()
    convert_(model, Float16())
    rounded, bias = model[0].weight, model[0].bias
    dense_(model)
    assert torch.equal(model[0].weight, rounded)
    assert torch.equal(model[0].bias, bias)
    assert torch.equal(rounded == 0, original == 0)
    assert not torch.equal(rounded, original)
    convert_(model, Float16())
    assert torch.equal(model[0].weight, rounded)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_save_and_load(floats, measured, tmp_path, device):
    measured(FASTER)
    model, x = pruned(), torch.randn(9, 96)
    scheme = floats(rows=(1, 16, 64))
    convert_(model, PerLayer({"0": scheme, "2": Int8()}))
    ek.save(model, tmp_path / "a")
    with torch.device(device):
        fresh = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32, bias=False))
        loaded = ek.load(fresh, tmp_path / "a")
    assert [type(layer) for layer in loaded] == [NATIVE_LINEARS[floats.format], nn.ReLU, Int8Linear]
    assert loaded[0].scheme == scheme
    assert loaded[0].choice == model[0].choice
    assert torch.equal(run(loaded, x), run(model, x))
    ek.save(loaded, tmp_path / "b")
    for name in ("edgekern.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_machine_where_packing_does_not_pay_loads_it_plain(floats, measured, tmp_path):
    """The layer stays one that other machines pack, and is nn.Linear's own kernel here."""
    measured(FASTER)
    model, x = pruned(), torch.randn(9, 96)
    convert_(model, floats())
    ek.save(model, tmp_path / "a")
    dense_(model)
    expected = run(model, x)
    measured(SLOWER_AT_ONE_ROW)
    loaded = ek.load(pruned(0.5, "unstructured"), tmp_path / "a")
    assert torch.equal(run(loaded, x), expected)
    row = explain(loaded).rows[0]
    assert (row.format, row.kernel, row.isa, row.reason) == (floats.format, "", "", "")
    assert row.packing == "dense (blocks_4 is 0.9/5.0/10.0x at 1/16/128 rows)"
    assert row.bytes_after == row.bytes_before
    ek.save(loaded, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_bench_runs_it(floats):
    model = pruned()
    convert_(model, floats(channels=4))
    result = ek.bench(model, torch.randn(4, 96), warmup_seconds=0, max_seconds=0.05)
    assert result.p50 > 0
