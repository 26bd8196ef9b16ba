"""AWQ and SmoothQuant: which layers can be scaled, by what, that the function stays, and what it brings."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from migrating_models import WIDTH, Gated, Parallel, Plain, PostNorm, PreNorm, RMSNorm, model_of, tokens
from small_models import LanguageModel, assert_untouched, snapshot
from test_prune_walk import MODELS, Narrow, batches, made, name_of
from torch import nn
from torch.nn import functional as F

from edgekern import (
    AWQ,
    GPTQ,
    Int4,
    Int8,
    PerLayer,
    QuantizeError,
    SmoothQuant,
    config_from_dict,
    convert_,
    dense_,
    quantize_,
)
from edgekern.calibration.observe import Inputs
from edgekern.quantize import apply, scales

INT4 = Int4(32, symmetric=True)
SCHEMES = [AWQ(INT4), SmoothQuant(Int8()), AWQ(GPTQ(INT4)), SmoothQuant(GPTQ(Int8()))]


def quantized(model, scheme, data=None):
    model = copy.deepcopy(model)
    return model, quantize_(model, scheme, tokens() if data is None else data, progress=False)


def migrated(model, scheme, data, monkeypatch):
    """The model with its channels scaled and nothing rounded, and the report."""
    monkeypatch.setattr(apply, "_round", lambda job, watcher, replace: setattr(job, "reason", ""))
    found = quantized(model, scheme, data)
    monkeypatch.undo()
    return found


def outputs(model, data):
    with torch.no_grad():
        return [model(batch) for batch in data]


def error(model, like, data):
    pairs = list(zip(outputs(model, data), outputs(like, data), strict=True))
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs))


def converted(model, config):
    model = copy.deepcopy(model)
    convert_(model, config)
    return model


# ------------------------------------------------------------------------------------------------ the same function

BLOCKS = {
    "llama": PreNorm,
    "opt": lambda: PreNorm(Plain, lambda: nn.LayerNorm(WIDTH)),
    "gpt2": lambda: PreNorm(lambda: Plain(F.gelu), lambda: nn.LayerNorm(WIDTH)),
    "gemma": lambda: PreNorm(Gated, lambda: RMSNorm(offset=1.0)),
    "gptj": Parallel,
    "bert": PostNorm,
}
# What each layer's channels are scaled against, within a block.
SOURCES = {
    "llama": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "gate": "norm2", "up": "norm2"}
    | {"down": "mlp.up"},
    "opt": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "fc1": "norm2", "fc2": "mlp.fc1"},
    "gpt2": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "fc1": "norm2"},
    "gemma": {"o": "attention.v", "down": "mlp.up"},
    "gptj": {"q": "norm", "k": "norm", "v": "norm", "fc1": "norm", "o": "attention.v", "fc2": "mlp.fc1"},
    "bert": {"o": "attention.v"},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_can_take_the_division_is_found(name, monkeypatch):
    model = model_of(BLOCKS[name], outliers=8.0)
    got, report = migrated(model, SmoothQuant(), tokens(), monkeypatch)
    for row in report.rows[:-1]:
        block, layer = row.name.split(".")[0], row.name.rpartition(".")[2]
        expected = SOURCES[name].get(layer)
        assert row.source == (f"{block}.{expected}" if expected else ""), row.name
        assert bool(row.note) == (expected is None)
    assert report.rows[-1].source == ("2.norm2" if name == "bert" else "")  # the head reads the last norm alone
    assert error(got, model, tokens()) < 1e-9
    assert not any(torch.equal(got.get_parameter(f"{row.source}.weight"), model.get_parameter(f"{row.source}.weight"))
                   for row in report if row.source)  # fmt: skip


@pytest.mark.parametrize("scheme", [SmoothQuant(), AWQ(INT4)], ids=repr)
@pytest.mark.parametrize("make", MODELS, ids=name_of)
def test_the_float_model_computes_the_same(make, scheme, monkeypatch):
    """Whatever it is like: caches, layers called twice, hooks, blocks changed in place, experts."""
    model = made(make)
    got, _ = migrated(model, PerLayer({"re:.*": scheme}), batches(), monkeypatch)
    tolerance = 3e-2 if make is Narrow else 1e-4  # it computes in bfloat16

    def compute(model, batch):
        result = model(batch)
        return result[0] if isinstance(result, tuple) else result

    with torch.no_grad():
        for batch in batches(6):  # longer ones too, which it has not seen
            assert torch.allclose(compute(got, batch), compute(model, batch), rtol=1e-4, atol=tolerance)


class Routed(nn.Module):
    """Which of two layers reads the norm depends on the data."""

    def __init__(self):
        super().__init__()
        self.norm, self.experts = nn.LayerNorm(WIDTH), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        return self.experts[len(x) % 2](self.norm(x))


def test_layers_that_the_first_batch_misses_are_not_forgotten(monkeypatch):
    torch.manual_seed(0)
    data = [torch.randn(2, WIDTH), torch.randn(3, WIDTH)]
    model = Routed()
    got, report = migrated(model, SmoothQuant(), data, monkeypatch)
    assert "the first batch does not reach 'experts.1', which may read the same" in report.rows[0].note
    assert "the first batch does not reach it" in report.rows[1].note
    assert error(got, model, data) == 0


class Reads(nn.Module):
    """A norm, two layers that read it, and another way past them."""

    def __init__(self, past=0.0):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.past = past

    def forward(self, x):
        normed = self.norm(x)
        return self.a(normed) + self.b(normed) + self.past * normed


@pytest.mark.parametrize(
    ("rules", "note"),
    [
        ({"b": None}, "another linear layer reads the same input, and is left alone"),
        ({"b": GPTQ(INT4)}, "'b' reads the same input, and its rule is another"),
        ({"b": SmoothQuant(alpha=0.6)}, "'b' reads the same input, and its rule is another"),
    ],
)
def test_all_that_read_it_have_to_be_scaled(rules, note, monkeypatch):
    torch.manual_seed(0)
    data = [torch.randn(8, WIDTH)]
    _, report = migrated(Reads(), PerLayer({**rules, "_default": SmoothQuant()}), data, monkeypatch)
    assert note in report.rows[0].note
    _, report = migrated(Reads(), PerLayer({"b": SmoothQuant(INT4), "a": SmoothQuant()}), data, monkeypatch)
    assert [row.source for row in report] == ["norm", "norm"]


@pytest.mark.parametrize("past", [1.0, 1e-3])
def test_what_goes_past_the_layers_speaks_against_it(past, monkeypatch):
    torch.manual_seed(0)
    _, report = migrated(Reads(past), SmoothQuant(), [torch.randn(8, WIDTH)], monkeypatch)
    assert all("nothing before it can take the division" in row.note for row in report)


def test_weights_that_others_hold_are_not_scaled(monkeypatch):
    torch.manual_seed(0)
    model = Reads()
    model.c = nn.Linear(WIDTH, WIDTH)
    model.c.weight = model.b.weight
    _, report = migrated(model, PerLayer({"re:[ab]": SmoothQuant()}), [torch.randn(8, WIDTH)], monkeypatch)
    assert "its weight is also 'c.weight'" in report.rows[0].note
    model = Reads()
    model.other = nn.LayerNorm(WIDTH)
    model.other.weight = model.norm.weight
    _, report = migrated(model, SmoothQuant(), [torch.randn(8, WIDTH)], monkeypatch)
    assert [row.source for row in report] == ["", ""]


def test_a_layer_that_is_left_alone_is_not_divided_either(monkeypatch):
    model = model_of(PreNorm, outliers=8.0)
    got, report = migrated(model, PerLayer({"re:.*v": None, "re:.*o": SmoothQuant()}), tokens(), monkeypatch)
    assert {row.source for row in report} == {""}
    assert all(torch.equal(a, b) for a, b in zip(got.parameters(), model.parameters(), strict=True))


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


def test_awq_takes_the_best_of_its_scales():
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
        convert_(scaled, INT4)
        with torch.no_grad():
            return float((scaled(watcher.rows / scale) - watcher.rows @ weight.T).square().sum())

    tried = [scales.strength_scale(watcher.mean_size(), i / 10) for i in range(10)]
    best = scales.find_scale(AWQ(INT4, steps=10), [(weight, INT4)], watcher)
    costs = [cost(scale) for scale in tried]
    assert torch.equal(best, tried[costs.index(min(costs))])
    assert min(costs) < 0.5 * costs[0]
    assert torch.allclose(tried[0], torch.ones(WIDTH))
    assert scales.find_scale(AWQ(INT4, steps=1), [(weight, INT4)], watcher) is None


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


# ------------------------------------------------------------------------------------------------ all or nothing


class Fails(nn.Module):
    """After some calls."""

    def __init__(self, calls, failure):
        super().__init__()
        self.left, self.failure = calls, failure

    def forward(self, x):
        self.left -= 1
        if self.left >= 0:
            return x
        if self.failure is None:
            return x * float("nan")
        raise self.failure


@pytest.mark.parametrize("calls", [0, 2, 4, 7, 11, 15, 19, 21, 23])
@pytest.mark.parametrize("failure", [None, RuntimeError("out of luck"), KeyboardInterrupt()])
def test_failure_puts_norms_and_layers_back(calls, failure):
    """Wherever it comes: in a survey, in a trial while channels are scaled, or when layers have been rounded."""
    model = model_of(PreNorm, outliers=8.0)
    model.insert(2, Fails(calls, failure))
    before = snapshot(model)
    try:
        quantize_(model, AWQ(INT4, steps=2, bias_correction=True), tokens(2), progress=False)
    except (QuantizeError, RuntimeError, KeyboardInterrupt):
        assert_untouched(model, before)
    else:
        pytest.fail("it ran through")
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())


def test_float16_that_cannot_hold_it_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)).half()
    model[1].weight.data[:, 0] = 3e3
    before = snapshot(model)
    data = [torch.randn(8, WIDTH).half() * size for size in (0.01, 300)]
    with pytest.raises(QuantizeError, match=r"beyond torch.float16; use torch.bfloat16"):
        quantize_(model, SmoothQuant(alpha=1.0), data, progress=False)
    assert_untouched(model, before)


def test_data_are_needed():
    with pytest.raises(QuantizeError, match="data: AWQ needs calibration data"):
        quantize_(model_of(PreNorm), AWQ(INT4))


def test_tied_heads_are_left_alone():
    model = LanguageModel()
    got, report = quantized(model, AWQ(INT4), batches())
    assert "which would be rounded with it" in report.rows[-1].reason
    assert torch.equal(got.lm_head.weight, model.lm_head.weight)


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
        (lambda: SmoothQuant(alpha=1.5), ValueError, "SmoothQuant: alpha must be 0 to 1, got 1.5"),
        (lambda: SmoothQuant(bias_correction=1), TypeError, "SmoothQuant: bias_correction must be a bool, got int"),
    ],
)
def test_options_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
