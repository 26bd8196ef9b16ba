"""AWQ and SmoothQuant: by what channels are scaled, what that brings, and that converting rounds nothing again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from migrating_models import WIDTH, PreNorm, converted, error, migrated, model_of, outputs, quantized, tokens
from torch import nn

from edgekern import AWQ, GPTQ, Int4, Int8, PerLayer, SmoothQuant, config_from_dict, convert_, dense_
from edgekern.calibration.observe import Inputs
from edgekern.quantize import scales

INT4 = Int4(32, symmetric=True)
SCHEMES = [AWQ(INT4), SmoothQuant(Int8()), AWQ(GPTQ(INT4)), SmoothQuant(GPTQ(Int8()))]

# ------------------------------------------------------------------------------------------------ by what


def test_the_scale_of_smoothquant_is_that_of_the_paper(monkeypatch):
    model, data = model_of(PreNorm, depth=1, outliers=8.0), tokens()
    seen = []
    hook = model[1].mlp.gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    outputs(model, data)
    hook.remove()
    inputs = torch.cat(seen).abs().amax(0)
    both = torch.cat([model[1].mlp.gate.weight, model[1].mlp.up.weight]).detach().abs().amax(0)
    got, _ = migrated(model, PerLayer({"re:.*(gate|up)": SmoothQuant(alpha=0.7)}), data, monkeypatch)
    scale = inputs**0.7 / both**0.3
    for name, factor in (("mlp.gate", scale), ("mlp.up", scale), ("norm2", 1 / scale)):
        old, new = (m[1].get_parameter(f"{name}.weight").detach() for m in (model, got))
        assert torch.allclose(new, old * factor, rtol=1e-5)


@pytest.mark.parametrize("to", [INT4, replace(INT4, activations="float")], ids=repr)
def test_awq_takes_the_best_of_its_scales(to):
    """By the outputs that the converted layers really have."""
    torch.manual_seed(0)
    rows = torch.randn(200, WIDTH)
    rows[:, [3, 17]] *= 20
    layer, watcher = nn.Linear(WIDTH, 24, bias=False), Inputs(nn.Linear(WIDTH, 24))
    watcher(rows)
    weight = layer.weight.detach()

    def cost(scale):
        scaled = nn.Sequential(nn.Linear(WIDTH, 24, bias=False))
        scaled[0].weight.data = weight * scale
        convert_(scaled, to)
        with torch.no_grad():
            return float((scaled(watcher.rows / scale) - watcher.rows @ weight.T).square().sum())

    tried = [scales.strength_scale(watcher.mean_size(), i / 10) for i in range(10)]
    best = scales.find_scale(AWQ(to, steps=10), [(weight, to)], watcher)
    costs = [cost(scale) for scale in tried]
    assert torch.equal(best, tried[costs.index(min(costs))])
    assert min(costs) < 0.5 * costs[0]
    assert torch.allclose(tried[0], torch.ones(WIDTH))
    assert scales.find_scale(AWQ(to, steps=1), [(weight, to)], watcher) is None


def test_silent_channels_keep_their_scale():
    sizes = torch.tensor([0.0, 1.0, 4.0, 1e9, 2.0])
    for scale in (scales.strength_scale(sizes, 0.9), scales.smooth_scale(sizes, torch.ones(5), 0.9)):
        assert scale[0] == 1
        assert scale.isfinite().all()
        assert (scale > 0).all()
    assert scales.smooth_scale(torch.ones(2), torch.tensor([0.0, 1.0]), 0.5)[0] == 1
    assert torch.equal(scales.strength_scale(torch.zeros(3), 0.5), torch.ones(3))


def test_inputs_are_drawn_from_all_of_the_data():
    watcher, layer = None, nn.Linear(2, 2)
    watcher = Inputs(layer)
    for i in range(40):
        watcher(torch.stack([torch.full((100,), float(i)), torch.arange(100.0)], 1).view(10, 10, 2))
    assert watcher.rows.shape == (Inputs.ROWS, 2)
    assert len(set(map(tuple, watcher.rows.tolist()))) == Inputs.ROWS
    assert abs(float(watcher.rows[:, 0].mean()) - 19.5) < 2
    assert torch.equal(watcher.largest, torch.tensor([39.0, 99.0]))
    assert torch.allclose(watcher.mean_size(), torch.tensor([19.5, 49.5]))


# ------------------------------------------------------------------------------------------------ what it brings


@pytest.mark.parametrize(
    ("scheme", "plain", "factor"),
    [
        (SmoothQuant(Int8()), Int8(), 0.5),
        (AWQ(Int8()), Int8(), 0.5),
        (AWQ(INT4), INT4, 0.5),
        (AWQ(GPTQ(INT4)), GPTQ(INT4), 0.7),
    ],
    ids=repr,
)
def test_channels_that_stick_out_cost_less(scheme, plain, factor):
    """Of the model's own error when converted, activations rounded too."""
    model, data = model_of(PreNorm, outliers=40.0), tokens(6)
    if isinstance(plain, GPTQ):
        apart, report = quantized(model, plain, data)
        apart = converted(apart, report.config)
    else:
        apart = converted(model, plain)
    got, report = quantized(model, scheme, data)
    assert error(converted(got, report.config), model, data) < factor * error(apart, model, data)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_converting_rounds_nothing_again(scheme, dtype):
    model = model_of(PreNorm, outliers=8.0).to(dtype)
    got, report = quantized(model, scheme)
    weights = {row.name: got.get_parameter(f"{row.name}.weight").detach().clone() for row in report}
    again = converted(got, report.config)
    dense_(again)
    for name, weight in weights.items():
        back = again.get_parameter(f"{name}.weight")
        assert torch.allclose(back.float(), weight.float(), rtol=2 * torch.finfo(dtype).eps, atol=0)
        if isinstance(scheme.target, Int4):
            assert torch.equal(back, weight)


def test_int8_comes_back_with_the_very_integers():
    got, report = quantized(model_of(PreNorm, outliers=8.0), SmoothQuant())
    for row in report:
        weight = got.get_parameter(f"{row.name}.weight").detach()
        step = weight.abs().amax(1, keepdim=True) / 127
        assert torch.allclose(weight / step, (weight / step).round(), atol=1e-4)
        assert torch.equal(
            converted(got, report.config).get_submodule(row.name).state_dict()["weight"], (weight / step).round().char()
        )


@pytest.mark.parametrize("scheme", [AWQ(INT4), AWQ(GPTQ(INT4))], ids=repr)
def test_the_report_says_what_it_would_have_been(scheme):
    model = model_of(PreNorm, outliers=8.0)
    _, report = quantized(model, scheme)
    _, apart = quantized(model, scheme if isinstance(scheme.to, Int4) else scheme.to)
    scaled = [row for row in report if row.source]
    assert len(scaled) == 14
    first = {row.name: row for row in apart}["1.attention.q"]
    row = next(row for row in scaled if row.name == "1.attention.q")
    assert row.nearest == pytest.approx(first.nearest, rel=1e-3)
    assert row.error < 0.7 * row.nearest
    text = str(report)
    assert "scaled against" in text
    assert "1.attention.v" in text
    assert report.to_dict()["layers"][0]["source"] == "1.norm1"


# ------------------------------------------------------------------------------------------------ schemes


@pytest.mark.parametrize(
    "scheme",
    [
        AWQ(),
        SmoothQuant(),
        AWQ(GPTQ(Int4(64, clip="hqq"), damping=0.1, bias_correction=True), steps=5, bias_correction=True),
        SmoothQuant(GPTQ(Int8()), alpha=0.75, bias_correction=True),
    ],
    ids=repr,
)
def test_schemes_become_data_and_back(scheme):
    assert config_from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    assert eval(repr(scheme)) == scheme
    assert config_from_dict(PerLayer({"a": scheme, "b": None}).to_dict()) == PerLayer({"a": scheme, "b": None})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: AWQ(SmoothQuant()),
            TypeError,
            r"AWQ: to must be Int4\(...\), Int8\(\) or GPTQ\(...\), got SmoothQuant",
        ),
        (lambda: SmoothQuant(Int8), TypeError, "SmoothQuant: to must be .* got the class Int8"),
        (lambda: AWQ(steps=0), ValueError, "AWQ: steps must be 1 or more, got 0"),
        (
            lambda: SmoothQuant(Int8(activations="float")),
            ValueError,
            r"SmoothQuant: activations must be rounded, got to=Int8\(activations='float'\); use AWQ or GPTQ",
        ),
        (lambda: SmoothQuant(GPTQ(Int4(activations="float"))), ValueError, "SmoothQuant: activations must be rounded"),
        (lambda: SmoothQuant(alpha=1.5), ValueError, "SmoothQuant: alpha must be 0 to 1, got 1.5"),
        (lambda: SmoothQuant(bias_correction=1), TypeError, "SmoothQuant: bias_correction must be a bool, got int"),
    ],
)
def test_options_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
