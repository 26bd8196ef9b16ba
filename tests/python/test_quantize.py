"""GPTQ: what it rounds to, that converting finds the very integers, and that it beats rounding to nearest."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import Block
from torch import nn

from edgekern import GPTQ, Int4, Int8, PerLayer, Prune, convert_, dense_, ops, prune_, quantize_
from edgekern.quantize.gptq import gptq

INT4 = [Int4(), Int4(32), Int4(64, symmetric=True), Int4(32, symmetric=True, clip="mse"), Int4(clip="mse")]
TARGETS = [Int8(), *INT4]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
COLUMNS = 200
"""Of groups of 32, 64 or 128, the last is a ragged one."""


def correlated(samples=1024, features=COLUMNS, seed=0):
    """Inputs that share causes, some of them strong."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(features) + 1.2 * torch.randn(features, features, generator=generator) / features**0.5
    strengths = torch.logspace(-0.7, 0.7, features)[torch.randperm(features, generator=generator)]
    return torch.randn(samples, features, generator=generator) @ mix * strengths


def linear(rows=24, columns=COLUMNS, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(columns, rows))


def deep(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(COLUMNS, 80), nn.Tanh(), Block(80), Block(80), nn.Linear(80, 40))


def quantized(model, scheme, *batches):
    model = copy.deepcopy(model)
    return model, quantize_(model, scheme, batches, progress=False)


def error(model, like, x):
    with torch.no_grad():
        return float((model(x) - like(x)).square().sum() / (like(x) - like(torch.zeros_like(x))).square().sum())


def to_nearest(model, to):
    """The model with the weights that converting alone rounds to, as floats."""
    model = copy.deepcopy(model)
    convert_(model, to)
    dense_(model)
    return model


# ------------------------------------------------------------------------------------------------ better than nearest


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_every_layer_is_better_than_rounded_to_nearest(to, act_order):
    _, report = quantized(deep(), GPTQ(to, act_order), correlated())
    assert len(report.quantized) == 6
    for row in report:
        assert 0 < row.error < 0.95 * row.nearest, row
    # So is the model's own error.
    model, apart, x = deep(), to_nearest(deep(), to), correlated()
    assert error(quantized(model, GPTQ(to, act_order), x)[0], model, x) < 0.8 * error(apart, model, x)


@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_the_report_says_what_a_look_at_the_outputs_does(to):
    model, x = linear(), correlated()
    got, report = quantized(model, GPTQ(to), x)
    assert report.rows[0].error == pytest.approx(error(got, model, x), rel=1e-3)
    assert report.rows[0].nearest == pytest.approx(error(to_nearest(model, to), model, x), rel=1e-3)


@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_the_order_of_activations_helps_where_some_are_strong(to):
    in_order = by_strength = 0.0
    for seed in range(3):
        model, x = linear(seed=seed), correlated(seed=seed)
        in_order += quantized(model, GPTQ(to, act_order=False), x)[1].rows[0].error
        by_strength += quantized(model, GPTQ(to), x)[1].rows[0].error
    assert by_strength < 0.9 * in_order


# ------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_converting_rounds_nothing_again(to, dtype, act_order):
    model = linear().to(dtype)
    model[0].weight.data[3] *= 0.01
    model[0].weight.data[5] = 0
    got, report = quantized(model, GPTQ(to, act_order), correlated().to(dtype))
    weight = got[0].weight.detach()
    assert not torch.equal(weight, model[0].weight)
    reloaded = nn.Sequential(nn.Linear(COLUMNS, 24, dtype=dtype))  # as a state dict on its way through a file
    reloaded.load_state_dict(got.state_dict())
    for model in (got, reloaded):
        convert_(model, report.config)
        if isinstance(to, Int4):
            assert torch.equal(model[0].weight, weight)
        else:  # eight bits are more than bfloat16 has, but the integers behind its values are found
            assert torch.allclose(model[0].weight.float(), weight.float(), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("to", INT4, ids=repr)
def test_converting_finds_the_very_int4_integers(to, act_order, monkeypatch):
    """Those on the levels that the sweep settled on: of all groups at once, or of one after the other."""
    x, model, settled = correlated(features=256), linear(columns=256), []
    inner = ops.int4_quantize

    def watched(weight, *args, **options):
        settled.append(inner(weight, *args, **options)[1])
        return inner(weight, *args, **options)

    monkeypatch.setattr(ops, "int4_quantize", watched)
    weight = gptq(model[0].weight.detach(), x.T @ x, GPTQ(to, act_order), torch.float32)
    monkeypatch.setattr(ops, "int4_quantize", inner)
    assert len(settled) == (1 if act_order else 256 // to.group_size)
    scale = torch.cat(settled, 1).float().repeat_interleave(to.group_size, 1)
    integers = weight / scale
    assert torch.equal(integers, integers.round())
    model[0].weight.data = weight
    convert_(model, to)
    state = model[0].state_dict()
    zero = state.get("weight_zero")
    assert torch.equal(ops.int4_integers(state["weight"], zero, k=256, group_size=to.group_size), integers.char())
    assert torch.equal(state["weight_scale"].float().repeat_interleave(to.group_size, 1), scale)


@pytest.mark.parametrize("act_order", [True, False])
def test_converting_finds_the_very_int8_integers(act_order):
    got, report = quantized(linear(), GPTQ(Int8(), act_order), correlated())
    weight = got[0].weight.detach()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(weight / step, (weight / step).round(), atol=1e-4)
    convert_(got, report.config)
    assert torch.equal(got[0].state_dict()["weight"], (weight / step).round().char())


@pytest.mark.parametrize("to", [Int8(), Int4(), Int4(symmetric=True)], ids=repr)
@pytest.mark.parametrize("act_order", [True, False])
def test_the_last_of_two_columns_makes_up_for_the_first(act_order, to):
    """The first goes to the nearest value; what is then best for the second has a closed form."""
    x = torch.tensor([[1.0, 2.0], [2.0, 3.0], [1.0, -1.0]])
    some = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    weight = torch.cat([some, torch.tensor([[2.0, -2.0]]).expand(32, 2)], 1)
    silent = torch.nn.functional.pad(x, (0, 2))  # the last two see nothing, and keep the range wide enough
    got = gptq(weight, silent.T @ silent, GPTQ(to, act_order, damping=0.0), torch.float32)
    step = 2 / 127 if isinstance(to, Int8) else ops.int4_quantize(weight, symmetric=to.symmetric)[1][0].float()
    first, second = (1, 0) if act_order else (0, 1)  # the second column is the stronger
    assert torch.allclose(got[:, first], (weight[:, first] / step).round() * step, rtol=1e-6)
    left = x @ weight[:, :2].T - x[:, [first]] * got[:, first]
    best = torch.linalg.lstsq(x[:, [second]], left).solution[0]
    assert torch.allclose(got[:, second], (best / step).round() * step, rtol=1e-6)
    assert not torch.equal((best / step).round(), (weight[:, second] / step).round())


def test_the_first_column_in_either_order_goes_to_the_nearest_value():
    model, x, to = linear(), correlated(), Int4(64)
    nearest = to_nearest(model, to)[0].weight
    strongest = int(x.square().sum(0).argmax())
    by_strength, in_order = (quantized(model, GPTQ(to, order), x)[0][0].weight for order in (True, False))
    assert torch.equal(by_strength[:, strongest], nearest[:, strongest])
    assert torch.equal(in_order[:, 0], nearest[:, 0])
    assert not torch.equal(in_order, nearest)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_silent_inputs_and_uncorrelated_ones_go_to_the_nearest_value(to, act_order):
    """Nothing can make up for them, and they make up for nothing."""
    x = correlated()
    x[:, 5:37] = 0
    model = linear()
    got = quantized(model, GPTQ(to, act_order), x)[0][0].weight.detach()
    assert got.isfinite().all()
    nearest = to_nearest(model, to)[0].weight.detach()
    if act_order or isinstance(to, Int8):  # else the levels of their group have moved
        assert torch.allclose(got[:, 5:37], nearest[:, 5:37], rtol=1e-6)
    alone = quantized(model, GPTQ(to, act_order, damping=0.0), torch.eye(COLUMNS))[0][0].weight
    assert torch.allclose(alone, nearest, rtol=1e-6)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("to", TARGETS, ids=repr)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_pruned_weights_stay_zero(pattern, to, act_order):
    x, model = correlated(), linear()
    prune_(model, Prune(0.5, pattern, "sparsegpt"), [x], progress=False)
    zeros = model[0].weight == 0
    got, report = quantized(model, GPTQ(to, act_order), x)
    assert (got[0].weight[zeros] == 0).all()
    assert report.rows[0].error < 0.9 * report.rows[0].nearest
    convert_(got, report.config)
    assert (got[0].weight[zeros] == 0).all()


def test_layers_may_differ():
    model, x = deep(), correlated()
    rules = {"0": GPTQ(Int8()), "re:2.*": GPTQ(Int4(32)), "4": None, "_default": GPTQ(Int4(64), act_order=False)}
    got, report = quantized(model, PerLayer(rules), x)
    expected = {"0": Int8(), "2.up": Int4(32), "2.down": Int4(32), "3.up": Int4(64), "3.down": Int4(64)}
    assert report.config == PerLayer(expected)
    assert torch.equal(got[4].weight, model[4].weight)
    converted = convert_(got, report.config)
    assert {row.name: row.format for row in converted.converted} == {name: to.format for name, to in expected.items()}


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("to", [Int8(), Int4(32)], ids=repr)
def test_groups_of_rows_with_inputs_of_their_own_are_as_each_alone(to, act_order):
    """As those of a grouped convolution; by strength only where that is the same in all of them."""
    inputs = [correlated(seed=seed) for seed in range(3)]
    if act_order:
        inputs = [x / x.norm(dim=0) * torch.logspace(1, -1, COLUMNS) for x in inputs]
    hessians = torch.stack([x.T @ x for x in inputs])
    weight = torch.randn(12, COLUMNS, generator=torch.Generator().manual_seed(0))
    scheme = GPTQ(to, act_order)
    together = gptq(weight, hessians, scheme, torch.float32)
    alone = [gptq(rows, each, scheme, torch.float32) for rows, each in zip(weight.chunk(3), hessians, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)
