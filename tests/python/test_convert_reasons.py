"""Layers that convert_ leaves alone, each with its reason."""

import re
import warnings

import pytest
import torch
from small_models import OwnForward, native_names
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from edgekern import ConvertError, Int8, PerLayer, convert_, explain
from edgekern.nn import Int8Linear


def reason_for(module, rule=None):
    """Why convert_ leaves `module` alone beside a layer that it converts."""
    model = nn.ModuleDict({"odd": module, "plain": nn.Linear(4, 4)})
    config = Int8() if rule is None else PerLayer({"odd": rule, "_default": Int8()})
    report = convert_(model, config)
    assert model["odd"] is module
    assert isinstance(model["plain"], Int8Linear)
    rows = {row.name: row for row in report.skipped}
    assert rows["odd"].format == "dense"
    assert rows["odd"].bytes_before == rows["odd"].bytes_after
    assert {row.name: row.reason for row in explain(model).skipped}["odd"] == rows["odd"].reason
    return rows["odd"].reason


@pytest.fixture(scope="module")
def dynamically_quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})[0]


def changed(linear, change):
    change(linear)
    return linear


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnForward(4, 4), "OwnForward has a forward of its own"),
        (lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "forward", lambda x: x)), "its forward was replaced"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "parametrised; parametrize.remove_parametrizations"),
        (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), "parametrised"),
        (lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "recomputed at every call; prune.remove"),
        (lambda: nn.LazyLinear(4), "lazy: its shape is not known"),
        (lambda: nn.Linear(4, 4, device="meta"), "its weight is on the meta device"),
        (lambda: nn.Linear(4, 4, dtype=torch.float64), "its weight is torch.float64; float32, bfloat16 and float16"),
        (lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "bias", nn.Parameter(m.bias.double()))), "its bias is"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_parameter("lora", nn.Parameter(m.bias))), "more.*lora"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_buffer("mask", m.bias)), "more than.*: mask"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.add_module("child", nn.ReLU())), "more than.*: child"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.compile(backend="eager")), "compiled by itself"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_full_backward_hook(print)), "backward hooks"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_load_state_dict_pre_hook(print)), "hook bound to it"),
    ],
)
def test_layers_that_cannot_be_converted(make, reason):
    assert_reason_and_exact_rule(make, reason)


@pytest.mark.filterwarnings("ignore:.*(deprecated|zero-element|Sparse CSR).*")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), "recomputed at every call"),
        (lambda: nn.Linear(0, 4), r"its weight of shape \[4, 0\] is empty"),
        (lambda: nn.Linear(4, 0), r"its weight of shape \[0, 4\] is empty"),
        (
            lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "weight", nn.Parameter(m.weight.to_sparse_csr()))),
            "layout torch.sparse_csr",
        ),
    ],
)
def test_layers_that_cannot_be_converted_and_warn(make, reason):
    assert_reason_and_exact_rule(make, reason)


def assert_reason_and_exact_rule(make, reason):
    assert re.search(reason, reason_for(make()))
    model = nn.ModuleDict({"odd": make(), "plain": nn.Linear(4, 4)})
    with pytest.raises(ConvertError, match=f"'odd' is named but cannot be converted: .*({reason})"):
        convert_(model, PerLayer({"odd": Int8(), "_default": Int8()}))
    assert native_names(model) == []


def test_a_tensor_subclass_is_left_alone():
    class Odd(torch.Tensor):
        pass

    linear = nn.Linear(4, 4)
    linear._parameters["weight"] = torch.Tensor._make_subclass(Odd, linear.weight.detach())
    assert "its weight is a Odd, not a plain tensor" in reason_for(linear)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_layers_of_torch_ao_are_left_alone(dynamically_quantised):
    reason = reason_for(dynamically_quantised)
    assert reason.startswith("quantised already, as torch.ao.nn.quantized.dynamic")


def test_parametrised_layers_convert_once_made_plain():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    parametrize.remove_parametrizations(model[0], "weight")
    convert_(model, Int8())
    assert native_names(model) == ["0"]
