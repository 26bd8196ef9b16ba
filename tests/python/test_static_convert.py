"""Static ranges of activations from calibration data: found, kept, saved, and the same wherever a layer goes."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from small_models import LanguageModel, assert_same, assert_untouched, canonical, pretend_times, snapshot
from torch import nn

import edgekern as ek
from edgekern import AWQ, GPTQ, Int4, Int8, PerLayer, SmoothQuant, ops
from edgekern.calibration.errors import UNREACHED, DataError
from edgekern.calibration.ranges import NOTHING_BUT_ZEROS, InputRange
from edgekern.config import read_config
from edgekern.nn import Int8Linear, share_inputs_

STATIC = Int8(activations="static")
PERCENTILE = Int8(activations="static", ranges="percentile")
NARROW = Int8(activations="static", ranges="percentile", percentile=95.0)
MSE = Int8(activations="static", ranges="mse")
SCHEMES = [STATIC, PERCENTILE, MSE]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def range_of(scheme, *tensors):
    seen = InputRange(scheme)
    for tensor in tensors:
        seen(tensor)
    return seen.found("a layer")


def width(found):
    return 255 * found[0]


def rounded(x, found):
    """The values that ``x`` is rounded to by a range."""
    scale, zero = found
    return ((x * (1 / torch.tensor(scale))).round() + zero).clamp(0, 255).sub(zero) * scale


def mlp(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 40, dtype=dtype), nn.ReLU(), nn.Linear(40, 10, dtype=dtype)).eval()


def batches(count=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 24, generator=generator).to(dtype) for _ in range(count)]


def converted(scheme=STATIC, dtype=torch.float32):
    """A float model, what became of it, and the inputs of its linear layers on the data."""
    model = mlp(dtype=dtype)
    x = torch.cat(batches(dtype=dtype))
    with torch.no_grad():
        inputs = {"0": x, "2": model[1](model[0](x))}
    native = copy.deepcopy(model)
    report = ek.convert_(native, scheme, data=batches(dtype=dtype), progress=False)
    return model, native, inputs, report


# ------------------------------------------------------------------------------------------------ which range it is


@pytest.mark.parametrize("dtype", DTYPES)
def test_minmax_is_the_range_of_one_row_of_all_values(dtype):
    x = torch.randn(7, 30).mul(3).add(1).to(dtype)
    _, scale, zero = ops.int8_quantize_rows(x.reshape(1, -1))
    expected = (float(scale), int(zero))
    assert range_of(STATIC, x) == range_of(STATIC, x[4:], x[:4]) == expected
    assert range_of(STATIC, x[None, :, ::2], x[:, 1::2].t()) == expected


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_the_order_of_the_data_is_of_no_matter(scheme):
    x = torch.randn(60, 50).pow(3)
    assert range_of(scheme, x) == range_of(scheme, x[40:], x[:40].flip(0).t())


@pytest.mark.parametrize("percentile", [90, 99, 99.99, 100])
@pytest.mark.parametrize("outlier", [1, 1e6])
def test_percentiles_leave_out_as_many_at_either_end(percentile, outlier):
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    x[0] *= outlier
    scheme = Int8(activations="static", ranges="percentile", percentile=percentile)
    out = (1 - percentile / 100) / 2
    ordered = x.sort().values
    low, high = (float(ordered[round(share * (len(x) - 1))]) for share in (out, 1 - out))
    assert width(range_of(scheme, x.float())) == pytest.approx(high - low, rel=0.035)
    if percentile == 100:
        assert range_of(scheme, x.float()) == range_of(STATIC, x.float())


DATA = {
    "normal": lambda g: torch.randn(50_000, generator=g),
    "long tails": lambda g: torch.randn(50_000, generator=g).pow(5),
    "one outlier": lambda g: torch.cat([torch.randn(50_000, generator=g), torch.tensor([300.0])]),
    "after relu": lambda g: torch.randn(50_000, generator=g).pow(3).relu(),
    "negative": lambda g: -torch.randn(50_000, generator=g).pow(2),
}


@pytest.mark.parametrize("name", DATA)
def test_mse_is_the_range_that_rounds_best(name):
    """Of a grid much finer than the one that is searched, no range rounds the very values more than 5 % better."""
    x = DATA[name](torch.Generator().manual_seed(0))
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))

    def error(found):
        return float((rounded(x, found) - x).square().sum())

    def whole(a, b):
        return range_of(STATIC, torch.tensor([a, b]))

    parts = torch.logspace(-3, 0, 60).tolist()
    both = [whole(low * a, high * a) for a in parts]
    one = [whole(low, high * a) for a in parts] + [whole(low * a, high) for a in parts]
    best = min(error(found) for found in both + one)
    assert error(range_of(MSE, x)) <= 1.05 * best
    assert error(range_of(MSE, x)) <= error(range_of(STATIC, x))


def test_mse_of_evenly_spread_values_is_all_of_them():
    x = torch.linspace(-1, 3, 10_000)
    assert range_of(MSE, x) == range_of(STATIC, x)


def test_what_has_no_range():
    for scheme in SCHEMES:
        assert range_of(scheme) == range_of(scheme, torch.empty(0, 4)) == UNREACHED
        assert range_of(scheme, torch.zeros(3, 4), -torch.zeros(2, 4)) == NOTHING_BUT_ZEROS
        for bad in (math.nan, math.inf, -math.inf):
            with pytest.raises(DataError, match="give 'a layer' inputs with NaN or infinity"):
                range_of(scheme, torch.ones(2), torch.tensor([1.0, bad]), torch.ones(2))
        with pytest.raises(DataError, match="inputs from -3e\\+38 to 0, too large to round"):
            range_of(STATIC, torch.tensor([-3e38]))
        rare = torch.zeros(100_000)
        rare[7] = 2.0
        assert range_of(scheme, rare) == range_of(STATIC, rare)  # rather than none


# ------------------------------------------------------------------------------------------------ converting


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_layers_round_by_the_range_of_what_the_float_model_gives_them(scheme, dtype):
    model, native, inputs, report = converted(scheme, dtype)
    assert len(report.converted) == 2
    for name, x in inputs.items():
        layer, linear = native.get_submodule(name), model.get_submodule(name)
        assert layer.input_range == range_of(scheme, x)
        further = 2 * x.float()  # beyond the range
        weight = layer.state_dict()["weight"].float() * layer.state_dict()["weight_scale"]
        expected = rounded(further, layer.input_range) @ weight.T + linear.bias.float()
        with torch.inference_mode():
            assert torch.allclose(layer(further), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_errors_are_those_of_rounding(scheme):
    model, native, inputs, _ = converted(scheme)
    with torch.inference_mode():
        expected = model(inputs["0"])
        assert (native(inputs["0"]) - expected).norm() < 0.03 * expected.norm()


def test_the_report_and_explain_say_so(tmp_path):
    _, native, _, report = converted(PerLayer({"0": STATIC, "2": Int4(32)}))
    assert [row.activations for row in report] == ["static", "dynamic"]
    assert [row.format for row in report] == ["int8", "int4"]
    assert "int8, static activations" in str(report)
    assert ek.explain(native) == report
    assert report.to_dict()["layers"][0]["activations"] == "static"


@pytest.mark.parametrize(
    "kind", [tuple, lambda x: {"input": x}, lambda x: x], ids=["positional", "by keyword", "the only one"]
)
def test_batches_of_every_kind_and_data_that_come_once(kind):
    model, expected = mlp(), converted()[1]
    given = (kind((x,)) if kind is tuple else kind(x) for x in batches())
    ek.convert_(model, STATIC, data=given, progress=False)
    assert_same(canonical(model), canonical(expected))


def test_data_are_looked_at_only_where_a_scheme_needs_them():
    def never():
        raise AssertionError("nobody should ask for a batch")
        yield

    ek.convert_(mlp(), Int8(), data=never())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ek.ConvertError, r"data: Int8\(activations='static'\) for '0' needs calibration data; .*data=batches"),
        ([], ek.ConvertError, "data: there is not one batch in it"),
        (torch.ones(2, 24), TypeError, "data: expected an iterable of batches, got Tensor"),
        ([torch.full((2, 24), math.nan)], ek.ConvertError, "the calibration data give '0' inputs with NaN"),
        ([torch.ones(2, 24), torch.ones(2, 23)], RuntimeError, "shapes"),
    ],
)
def test_without_data_that_serve_the_model_stays_as_it_was(data, error, message):
    model = mlp().train()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        ek.convert_(model, STATIC, data=data, progress=False)
    assert_untouched(model, before)


class Idle(nn.Module):
    """A layer that is called, one that is not, and one that is given zeros."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.zeros = nn.Linear(24, 8), nn.Linear(24, 8), nn.Linear(24, 8)

    def forward(self, x):
        return self.used(x) + self.zeros(0 * x)


def test_layers_without_a_range_are_left_alone():
    model = Idle()
    report = ek.convert_(model, PerLayer({"unused": STATIC, "_default": STATIC}), data=batches(), progress=False)
    assert [row.name for row in report.converted] == ["used"]
    assert [row.reason for row in report.skipped] == [UNREACHED, NOTHING_BUT_ZEROS]
    assert ek.explain(model) == report
    model = Idle()
    before = snapshot(model)
    with pytest.raises(
        ek.ConvertError, match=f"nothing to convert: 2 layers are left alone, 'unused' since {UNREACHED}"
    ):
        ek.convert_(model, PerLayer({"unused": STATIC, "zeros": STATIC}), data=batches(), progress=False)
    assert_untouched(model, before)


@pytest.mark.parametrize("form", ["bitmap", "bitmap_4", "blocks_4", "csr"])
def test_pruned_layers_of_every_form(form):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 96))
    ek.prune_(dense, ek.Prune(0.8, "4x4"), progress=False)
    data = [torch.randn(40, 64)]
    results = []
    for chosen in ("dense", form):
        model = copy.deepcopy(dense)
        scheme = Int8(form=chosen, activations="static", ranges="percentile", percentile=99.0)
        ek.convert_(model, scheme, data=data, progress=False)
        with torch.inference_mode():
            results.append(model(data[0]))
    assert torch.equal(*results)


def test_both_packings_have_the_range(monkeypatch):
    pretend_times(monkeypatch, {"dense": [3, 3, 3], "bitmap": [1, 9, 9], "blocks_4": [9, 1, 1]})
    model = nn.Sequential(nn.Linear(300, 200))
    ek.prune_(model, ek.Prune(0.9, "4x4"), progress=False)
    x = torch.randn(40, 300)
    ek.convert_(model, Int8(packings=2, activations="static"), data=[x[:20] / 2], progress=False)
    assert model[0].packed_few is not None
    with torch.inference_mode():
        assert torch.equal(torch.cat([model(row) for row in x.split(1)]), model(x))


def test_a_layer_by_itself_needs_its_range():
    linear = nn.Linear(24, 8)
    with pytest.raises(ValueError, match=r"with Int8\(activations='static'\) input_range must be given"):
        Int8Linear.from_linear(linear, STATIC)
    layer = Int8Linear.like(linear)
    layer.input_range = (0.1, 3)
    with pytest.raises(ValueError, match=r"with Int8\(\) input_range must not be given"):
        layer.take_(linear.weight, linear.bias)


# ------------------------------------------------------------------------------------------------ in and out


def test_the_state_dict_has_the_range_as_compressed_tensors_would():
    layer = converted()[1][0]
    state = layer.state_dict()
    assert list(state) == ["weight", "weight_scale", "input_scale", "input_zero_point", "bias"]
    assert (state["input_scale"].dtype, state["input_scale"].shape) == (torch.float32, (1,))
    assert (state["input_zero_point"].dtype, state["input_zero_point"].shape) == (torch.int8, (1,))
    assert layer.input_range == (float(state["input_scale"]), int(state["input_zero_point"]) + 128)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_state_dicts_pickles_copies_and_files_are_exact(scheme, tmp_path):
    _, native, inputs, _ = converted(scheme)
    ek.save(native, tmp_path)
    loaded, fresh = ek.load(mlp(1), tmp_path), mlp(2)
    ek.convert_(fresh, scheme, data=batches(seed=5), progress=False)
    assert fresh[0].input_range != native[0].input_range
    fresh.load_state_dict(canonical(native))
    with torch.inference_mode():
        expected = native(inputs["0"])
        for other in (loaded, fresh, copy.deepcopy(native), pickle.loads(pickle.dumps(native))):
            assert_same(canonical(other), canonical(native))
            assert torch.equal(other(inputs["0"]), expected)
            assert other[0].scheme == scheme
            assert ek.explain(other).to_dict()["layers"][0]["activations"] == "static"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_scale": torch.tensor([math.nan])}, "range must be a scale from"),
        ({"input_scale": torch.tensor([0.0])}, "range must be a scale from"),
        ({"input_scale": torch.tensor([0.5]).half()}, "dtype mismatch for input_scale: expected torch.float32"),
        ({"input_zero_point": torch.tensor([0.5])}, "dtype mismatch for input_zero_point"),
        ({"input_zero_point": torch.zeros(2, dtype=torch.int8)}, "size mismatch for input_zero_point"),
        ({"input_scale": None}, "int8 tensors are loaded together; without input_scale none was"),
    ],
)
def test_other_ranges_are_not_loaded(change, message):
    layer = converted()[1][0]
    before, found = canonical(layer), layer.input_range
    state = {name: tensor for name, tensor in {**before, **change}.items() if tensor is not None}
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state)
    assert layer.input_range == found
    assert_same(canonical(layer), before)


def test_a_dynamic_layer_takes_no_range_and_a_static_one_not_none():
    static, dynamic = converted()[1], converted(Int8())[1]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*input_scale"):
        dynamic.load_state_dict(static.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*input_scale"):
        static.load_state_dict(dynamic.state_dict())


def test_dense_gives_the_weights_back():
    _, static, _, _ = converted()
    _, dynamic, _, _ = converted(Int8())
    ek.dense_(static)
    ek.dense_(dynamic)
    assert_same(static.state_dict(), dynamic.state_dict())


# ------------------------------------------------------------------------------------------------ beside others


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(24, 24), nn.Linear(24, 8), nn.Linear(24, 8)

    def forward(self, x):
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)


def attention(config):
    torch.manual_seed(0)
    model = Attention().eval()
    ek.convert_(model, config, data=batches(), progress=False)
    return model


def test_layers_of_one_range_share_their_input():
    alone, shared = attention(STATIC), attention(STATIC)
    assert share_inputs_(shared) == (("q_proj", "k_proj", "v_proj"),)
    x = torch.randn(20, 24)
    with torch.inference_mode():
        assert torch.equal(shared(x), alone(x))
        other = attention(PerLayer({"k_proj": NARROW, "_default": STATIC}))
        assert share_inputs_(other) == (("q_proj", "v_proj"),)
        assert torch.equal(other.k_proj(x), attention(NARROW).k_proj(x))
        mixed = attention(PerLayer({"q_proj": Int8(), "_default": STATIC}))
        assert share_inputs_(mixed) == (("k_proj", "v_proj"),)


def test_a_range_that_is_loaded_parts_them():
    shared, other = attention(STATIC), attention(MSE)
    share_inputs_(shared)
    state = other.k_proj.state_dict()
    shared.k_proj.load_state_dict({**state, "input_scale": 2 * state["input_scale"]})
    x = torch.randn(20, 24)
    with torch.inference_mode():
        results = shared(x)
        assert shared.q_proj.shared is None
        assert torch.equal(results[:, :24], attention(STATIC).q_proj(x))
        assert torch.equal(results[:, 24:32], shared.k_proj.alone(x))


def test_tables_have_no_activations(tmp_path):
    ids = [torch.arange(12).reshape(2, 6) * 3]
    tied = LanguageModel().eval()
    report = ek.convert_(tied, PerLayer({"lm_head": STATIC, "_default": MSE}), data=ids, progress=False)
    assert [row.activations for row in report] == ["", *["static"] * 5]
    apart = LanguageModel(tied=False).eval()
    report = ek.convert_(apart, PerLayer({"embed": STATIC, "_default": Int8()}), progress=False)  # and needs no data
    assert [row.activations for row in report] == ["", *["dynamic"] * 4, ""]
    assert apart.embed.scheme == Int8(form="dense")
    for i, (model, fresh) in enumerate(((tied, LanguageModel()), (apart, LanguageModel(tied=False)))):
        ek.save(model, tmp_path / str(i))
        with torch.inference_mode():
            assert torch.equal(ek.load(fresh.eval(), tmp_path / str(i))(ids[0]), model(ids[0]))


@pytest.mark.parametrize("scheme", [GPTQ(MSE), AWQ(STATIC, steps=4), SmoothQuant(GPTQ(PERCENTILE))], ids=repr)
def test_after_quantize_the_ranges_are_those_of_the_rounded_model(scheme):
    model = mlp()
    report = ek.quantize_(model, scheme, batches(), progress=False)
    assert {row.to for row in report.quantized} == {scheme.target}
    x = torch.cat(batches())
    with torch.no_grad():
        inputs, before = {"0": x, "2": model[1](model[0](x))}, model(x)
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in inputs}
    with pytest.raises(ek.ConvertError, match="needs calibration data"):
        ek.convert_(model, report.config)
    ek.convert_(model, report.config, data=batches(), progress=False)
    for name, given in inputs.items():
        layer = model.get_submodule(name)
        assert layer.input_range == range_of(scheme.target, given)
        assert torch.allclose(layer.weight, weights[name], rtol=1e-6, atol=1e-7)  # rounded once, not again
    with torch.inference_mode():
        assert (model(x) - before).norm() < 0.03 * before.norm()


def test_awq_judges_by_the_range_that_the_layer_will_have():
    from edgekern.quantize.scales import rounded_rows

    rows = torch.randn(64, 24)
    rows[:, 3] *= 40
    by_range = rounded_rows(rows, STATIC)
    scale, zero = range_of(STATIC, rows)
    assert torch.allclose(by_range, rounded(rows, (scale, zero)), atol=1e-5)
    assert (rounded_rows(rows, Int8()) - rows).norm() < (by_range - rows).norm()


def test_sensitivity_calibrates_what_it_tries():
    model = mlp()
    before = snapshot(model)
    schemes = [Int8(), STATIC, GPTQ(MSE)]
    found = ek.sensitivity(model, "mse", batches(), schemes, latency=False, progress=False)
    assert [row.scheme for row in found.rows] == 2 * schemes
    assert all(0 < row.loss < 1e-2 for row in found.rows)
    assert_untouched(model, before)
    with pytest.raises(ValueError, match=r"data: Int8\(activations='static'\) needs calibration data"):
        ek.sensitivity(model, lambda model: 1.0, None, STATIC, latency=False, progress=False)


def test_nobody_trains_for_a_range_that_is_found_once():
    model = mlp()
    before = snapshot(model)
    with pytest.raises(TypeError, match=r"prepare_qat_ takes Int8.*got .*static.*undo_qat_.*data=batches"):
        ek.prepare_qat_(model, PerLayer({"0": Int8(), "2": STATIC}))
    assert_untouched(model, before)
    ek.prepare_qat_(model, Int8())
    with pytest.raises(ek.ConvertError, match="'0' cannot be converted: it is prepared to train for Int8"):
        ek.convert_(model, STATIC, data=batches(), progress=False)
    ek.undo_qat_(model)
    assert len(ek.convert_(model, STATIC, data=batches(), progress=False).converted) == 2


def test_toml_files_have_them(tmp_path):
    file = tmp_path / "static.toml"
    file.write_text(
        'format = "per_layer"\n[rules]\n"2" = "int8"\n'
        '_default = { format = "int8", activations = "static", ranges = "percentile", percentile = 99.9 }\n'
    )
    percentile = Int8(activations="static", ranges="percentile", percentile=99.9)
    assert read_config(file) == PerLayer({"2": Int8(), "_default": percentile})
