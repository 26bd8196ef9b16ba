"""quantize_ on whole models: which layers, in what order, all or nothing, and what it says."""

from __future__ import annotations

import copy
import json
import weakref

import pytest
import torch
from small_models import BLOCK_LAYERS, Block, LanguageModel, OwnForward, assert_untouched, snapshot
from test_prune_walk import CHAINS, NO_CHAINS, batches, made, name_of
from torch import nn

from edgekern import GPTQ, Int4, Int8, PerLayer, Prune, QuantizeError, config_from_dict, convert_, dense_, quantize_
from edgekern.quantize import apply

SCHEME = GPTQ(Int4(32))


def quantize(model, config=SCHEME, data=None, **options):
    return quantize_(model, config, [torch.randn(64, 16)] if data is None else data, progress=False, **options)


def tokens(count=2):
    return [torch.randint(40, (4, 8), generator=torch.Generator().manual_seed(i)) for i in range(count)]


# ------------------------------------------------------------------------------------------------ which layers


def test_tied_weights_and_the_output_head_need_a_rule():
    for tied, reason in ((True, "'embed.weight', which would be rounded with it"), (False, "the output head")):
        model = LanguageModel(tied)
        report = quantize(model, data=tokens())
        assert [row.name for row in report.quantized] == BLOCK_LAYERS
        assert reason in report.skipped[0].reason
        assert report.config == PerLayer(dict.fromkeys(BLOCK_LAYERS, Int4(32)))
    model = LanguageModel()
    report = quantize(model, PerLayer({"lm_head": SCHEME}), tokens())
    assert list(report.config.rules) == ["lm_head"]
    weight = model.embed.weight.detach().clone()
    convert_(model, report.config)  # the rule in it names the head, so that it is converted too
    assert torch.equal(model.lm_head.weight, weight)


def test_layers_left_alone_have_a_reason():
    model = nn.ModuleDict({"used": nn.Linear(16, 8), "unused": nn.Linear(16, 8), "own": OwnForward(16, 8)})
    model["declined"], model["conv"], model["native"] = nn.Linear(16, 8), nn.Conv2d(2, 2, 1, groups=2), nn.Linear(16, 8)
    convert_(model, PerLayer({"native": Int8()}))
    model.forward = lambda x: model["used"](x)
    report = quantize(model, filter_fn=lambda module, name: name != "declined")
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons["unused"] == "the calibration data never reached it"
    assert reasons["declined"] == "filter_fn declined it"
    assert reasons["native"] == "int8 already; quantise before converting"
    assert "forward of its own" in reasons["own"]
    assert "depthwise" in reasons["conv"]
    assert [row.name for row in report.quantized] == ["used"]


def test_a_weight_of_inference_mode_is_left_alone():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(16, 8))
    model.append(nn.Linear(8, 8))
    assert "clone it" in quantize(model).rows[0].reason


def test_a_layer_that_is_the_model_can_be_quantised():
    layer = nn.Linear(16, 8)
    report = quantize(layer)
    assert report.config == PerLayer({"_default": Int4(32)})
    weight = layer.weight.detach().clone()
    convert_(model := nn.Sequential(layer), report.config)
    assert torch.equal(model[0].weight, weight)


def test_parameters_keep_their_identity_and_modules_their_modes():
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8)).train()
    model[2].eval()
    weight, running = model[0].weight, model[1].running_mean.clone()
    quantize(model)
    assert model[0].weight is weight
    assert weight.requires_grad
    assert [module.training for module in model] == [True, True, False, True]
    assert torch.equal(model[1].running_mean, running)


# ------------------------------------------------------------------------------------------------ the walk


@pytest.mark.parametrize("make", [*CHAINS, *NO_CHAINS], ids=name_of)
def test_each_layer_sees_those_before_it_quantised(make, monkeypatch):
    """The bits are those of quantising the layers by themselves, one lot after the other."""
    model, lots = made(make), []
    apart, whole, walk = copy.deepcopy(model), copy.deepcopy(model), apply.Walk

    def watched(*args):
        found = walk(*args)
        lots.extend(found.stages)
        return found

    monkeypatch.setattr(apply, "Walk", watched)
    report = quantize(whole, PerLayer({"re:.*": SCHEME}), batches())
    names = {module: name for name, module in whole.named_modules()}
    monkeypatch.setattr(apply, "Walk", walk)
    reached = {row.name for row in report.quantized}
    for lot in lots:
        if rules := {names[layer]: SCHEME for layer in lot if names[layer] in reached}:
            quantize(apart, PerLayer(rules), batches())
    for (name, tensor), other in zip(whole.state_dict().items(), apart.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert any(not torch.equal(old, new) for old, new in zip(model.parameters(), whole.parameters(), strict=True))


class Counted(Block):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("depth", [4, 8])
def test_the_work_grows_with_the_depth_and_memory_does_not(depth, monkeypatch):
    living, most, moments = weakref.WeakSet(), [], apply.Moments

    def watched(module):
        living.add(made := moments(module))
        most.append(len(living))
        return made

    monkeypatch.setattr(apply, "Moments", watched)
    monkeypatch.setattr(Counted, "calls", 0)
    model = nn.Sequential(*(Counted(16) for _ in range(depth)), nn.Linear(16, 8))
    quantize(model, data=[torch.randn(8, 16)] * 2)
    # A survey of both batches and a trial; then in each block, for both: up, down, and on to the next; the way there.
    assert Counted.calls <= depth * (2 + 1 + 2 * 3) + 2
    assert len(most) == 2 * depth + 1
    assert max(most) <= 2  # a layer's, and the one before's that Python has not let go of


@pytest.mark.parametrize("make", [*CHAINS, *NO_CHAINS], ids=name_of)
def test_layers_that_share_an_input_share_what_is_known_of_it(make, monkeypatch):
    """The bits are those of watching each layer by itself."""
    alone, together = made(make), made(make)
    config, watched, moments = PerLayer({"re:.*": SCHEME}), [], apply.Moments
    monkeypatch.setattr(apply, "Moments", lambda module: watched.append(module) or moments(module))
    quantize(together, config, batches())
    count = len(watched)
    monkeypatch.setattr(apply.Walk, "sharing", lambda self, layers: [[layer] for layer in layers])
    quantize(alone, config, batches())
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), together.parameters(), strict=True))
    attends = any(name.endswith("query") for name, _ in alone.named_modules())  # which shares its input with the key
    assert (count < len(watched) - count) == attends


def test_data_that_come_once_are_kept():
    model, data = LanguageModel(tied=False), tokens()
    other = copy.deepcopy(model)
    quantize(model, data=iter(data))
    quantize(other, data=data)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------ all or nothing


@pytest.mark.parametrize(
    ("config", "data", "error", "message"),
    [
        (SCHEME, None, QuantizeError, "data: GPTQ needs calibration data; pass an iterable of batches"),
        (SCHEME, [], QuantizeError, "data: there is not one batch"),
        (SCHEME, iter([]), QuantizeError, "not one batch"),
        (SCHEME, torch.ones(2, 2), TypeError, r"data: .* one batch is \[batch\]"),
        (SCHEME, 3, TypeError, "data: .* got int"),
        (Int4(), tokens(), TypeError, r"config: .* write GPTQ\(Int4\(\)\)"),
        (Prune(0.5), tokens(), TypeError, "config: Prune is for prune_, not for quantize_"),
        (PerLayer({"blocks.0.upp": SCHEME}), tokens(), QuantizeError, "no layer is called"),
        (PerLayer({"embed": SCHEME}), tokens(), QuantizeError, "no layer is called"),
    ],
)
def test_refusals_leave_the_model_untouched(config, data, error, message):
    model = LanguageModel(tied=False)
    before = snapshot(model)
    with pytest.raises(error, match=message):
        quantize_(model, config, data, progress=False)
    assert_untouched(model, before)


def test_convert_refuses_what_is_for_quantize():
    with pytest.raises(TypeError, match="config: GPTQ is for quantize_, not for convert_"):
        convert_(LanguageModel(), SCHEME)


def test_other_arguments_are_checked():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module"):
        quantize("model")
    with pytest.raises(TypeError, match="filter_fn: expected a function"):
        quantize(nn.Linear(4, 4), filter_fn="fc")
    with pytest.raises(QuantizeError, match=r"TorchScript .* quantise it before"):
        quantize(torch.jit.trace(nn.Linear(4, 4), torch.ones(1, 4)))
    with pytest.raises(QuantizeError, match="the model has no linear or 2-d convolution layers"):
        quantize(nn.ReLU())
    model = nn.ModuleList([nn.Linear(4, 4)])
    model.forward = lambda x: x
    with pytest.raises(QuantizeError, match=r"nothing to quantise: .* the calibration data never reached it"):
        quantize(model)


@pytest.mark.parametrize(
    ("to", "value", "message"),
    [
        (Int4(), float("nan"), "the weight of '1' holds NaN"),
        (Int8(), float("inf"), "the weight of '1' holds infinity"),
        (Int4(), 1e7, r"'1' cannot be rounded to Int4\(\): weight must be finite and below"),
    ],
)
def test_weights_that_cannot_be_held_are_refused(to, value, message):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    model[1].weight.data[0, 0] = value
    before = snapshot(model)
    with pytest.raises(QuantizeError, match=message):
        quantize(model, GPTQ(to))
    assert_untouched(model, before)


class NaNAfter(nn.Module):
    """NaN, or a failure, after some calls."""

    def __init__(self, calls, failure):
        super().__init__()
        self.left, self.failure = calls, failure

    def forward(self, x):
        self.left -= 1
        if self.left >= 0:
            return x
        if self.failure is not None:
            raise self.failure
        return x * float("nan")


@pytest.mark.parametrize("calls", [0, 2, 3, 4])
@pytest.mark.parametrize("failure", [None, RuntimeError("out of luck"), KeyboardInterrupt()])
def test_failure_during_calibration_puts_everything_back(calls, failure):
    """After `calls` batches; by then the first layer has been quantised in some of the cases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), NaNAfter(calls, failure), nn.Dropout(), nn.Linear(8, 8)).train()
    before = snapshot(model)
    with pytest.raises((QuantizeError, RuntimeError, KeyboardInterrupt)) as error:
        quantize(model, data=[torch.randn(8, 16)] * 2)
    assert "the calibration data give '3' inputs with NaN" in str(error.value) if failure is None else True
    assert failure is None or error.value is failure
    assert_untouched(model, before)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_inputs_too_alike_are_an_error_with_a_way_out():
    model = nn.Sequential(nn.Linear(16, 8))
    before = snapshot(model)
    with pytest.raises(QuantizeError, match=r"'0' are too few or too alike for GPTQ with damping 0.0; use more data"):
        quantize(model, GPTQ(damping=0.0), [torch.ones(1, 16)])
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------------------ what it says


def test_the_report_prints_and_becomes_json():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    report = quantize(model, PerLayer({"0": GPTQ(Int4(64)), "1": None}))
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "1", "2"]
    assert "Int4(group_size=64)" in lines[1]
    assert f"{report.rows[0].error:.2e}" in lines[1]
    assert "2 layers: 1 quantised, 1 left alone; their errors are" in lines[-1]
    assert "<table>" in report._repr_html_()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["layers"][0]["to"] == {"format": "int4", "group_size": 64}
    assert data["layers"][1]["to"] is None
    assert (data["quantized"], data["skipped"], len(report)) == (1, 1, 2)
    untouched = quantize(model, PerLayer({"0": None, "1": None}))
    assert str(untouched).endswith("2 layers: 0 quantised, 2 left alone")
    with pytest.raises(ValueError, match="no layer was quantised"):
        _ = untouched.config


def test_errors_of_outputs_that_are_all_zero():
    model = nn.Sequential(nn.Linear(16, 8))
    row = quantize(model, data=[torch.zeros(4, 16)]).rows[0]
    assert (row.nearest, row.error, row.reason) == (0.0, 0.0, "")


def test_what_was_quantised_survives_the_way_back():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    report = quantize(model, GPTQ(Int4(32)), [torch.randn(256, 64)])
    weights = [layer.weight.detach().clone() for layer in model]
    for _ in range(2):
        convert_(model, report.config)
        dense_(model)
        assert all(torch.equal(layer.weight, weight) for layer, weight in zip(model, weights, strict=True))


@pytest.mark.parametrize(
    "scheme", [GPTQ(), GPTQ(Int8(), act_order=False), GPTQ(Int4(64, symmetric=True, clip="mse"), damping=0.1)], ids=repr
)
def test_schemes_become_data_and_back(scheme):
    assert config_from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    assert eval(repr(scheme)) == scheme


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": Int4}, TypeError, "GPTQ: to must be .* got the class Int4"),
        ({"to": Prune(0.5)}, TypeError, "GPTQ: to must be .* got Prune"),
        ({"act_order": 1}, TypeError, "GPTQ: act_order must be a bool, got int"),
        ({"damping": -1}, ValueError, "GPTQ: damping must be 0 or more"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        GPTQ(**options)
