"""Bias correction: the mean of the error that rounding makes is taken off."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgekern import AWQ, GPTQ, Int4, Int8, PerLayer, convert_, quantize_

TARGETS = [Int8(), Int4(32), Int4(64, symmetric=True)]


def model_and_data(bias=True):
    torch.manual_seed(0)
    # Inputs that are far from zero in the mean, as those after a ReLU are.
    return nn.Sequential(nn.Linear(64, 24, bias=bias)), [torch.rand(100, 64) + 0.5 for _ in range(3)]


@pytest.mark.parametrize(
    "scheme", [GPTQ, AWQ, lambda to, **options: AWQ(GPTQ(to, **options))], ids=["GPTQ", "AWQ", "both"]
)
@pytest.mark.parametrize("to", TARGETS, ids=repr)
def test_the_mean_of_the_error_is_none_after_it(to, scheme):
    model, data = model_and_data()
    x = torch.cat(data)
    means = {}
    for correct in (False, True):
        got = copy.deepcopy(model)
        report = quantize_(got, scheme(to, bias_correction=correct), data, progress=False)
        means[correct] = (got(x) - model(x)).mean(0).abs().max().item()
        assert report.rows[0].note.count("bias") == 0
    assert means[True] < 1e-6
    if scheme is AWQ:  # GPTQ leaves less of a mean by itself
        assert means[False] > 1e-4


def test_the_weights_are_those_without_it():
    model, data = model_and_data()
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    quantize_(one, AWQ(Int4(32)), data, progress=False)
    report = quantize_(other, AWQ(Int4(32), bias_correction=True), data, progress=False)
    assert torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[0].bias, other[0].bias)
    convert_(other, report.config)
    with torch.no_grad():
        x = torch.cat(data)
        assert float((other(x) - model(x)).mean(0).abs().max()) < 2e-3  # activations are rounded too


def test_layers_without_a_bias_are_named():
    model, data = model_and_data(bias=False)
    report = quantize_(model, GPTQ(Int4(32), bias_correction=True), data, progress=False)
    assert report.rows[0].note == "no bias to correct"
    assert "no bias to correct" in str(report)
    assert model[0].bias is None


def test_a_bias_that_others_hold_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].bias = model[0].bias
    bias = model[0].bias.detach().clone()
    rules = PerLayer({"re:.*": GPTQ(Int4(32), bias_correction=True)})
    report = quantize_(model, rules, [torch.rand(100, 64)], progress=False)
    assert torch.equal(model[0].bias, bias)
    assert "bias not corrected: another module has the same" in report.rows[0].note
