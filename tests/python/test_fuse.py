"""fuse_: what is folded and fused, that it computes the same, and what stays as it was."""

import copy
import io
import json
import pickle

import pytest
import torch
from fuse_models import Inverted, Net, Residual, differ, image, reasons, run, settled, unit
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import edgekern as ek
from edgekern.nn import FusedConv2d, FusedLinear

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}
CONVOLUTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "pointwise": {"kernel_size": 1},
    "strided": {"stride": (2, 3), "padding": (1, 2)},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 6, "out_channels": 12},
    "same": {"padding": "same", "kernel_size": (4, 3)},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
}


def convolution(**options):
    return nn.Conv2d(**{"in_channels": 6, "out_channels": 8, "kernel_size": 3, "bias": False, **options})


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not affine"])
def test_a_norm_is_folded_to_the_last_digit(options, affine):
    conv = convolution(**options)
    norm = nn.BatchNorm2d(conv.out_channels, affine=affine)
    model = settled(nn.Sequential(conv, norm))
    x = image(2, 6, 11, 13)
    scale = 1 / (norm.running_var.double() + norm.eps).sqrt() * (norm.weight.double() if affine else 1)
    weight = (conv.weight.double() * scale[:, None, None, None]).float()
    before = 0 if conv.bias is None else conv.bias.double()
    bias = ((before - norm.running_mean.double()) * scale + (norm.bias.double() if affine else 0)).float()
    expected = run(model, x)
    report = ek.fuse_(model)
    assert model[0] is conv
    assert type(conv) is nn.Conv2d
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(conv.weight, weight, rtol=2e-7, atol=0)
    torch.testing.assert_close(conv.bias, bias, rtol=2e-7, atol=1e-7)
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
    assert differ(run(model, x), expected) < 2e-6
    assert [(row.name, row.norm, row.into) for row in report] == [("0", "1", ()), ("1", "", ("0",))]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_an_activation_becomes_part_of_a_convolution(name, options):
    model = nn.Sequential(convolution(**options), ACTIVATIONS[name]()).eval()
    keys = set(model.state_dict())
    conv, weight, x = model[0], model[0].weight, image(2, 6, 11, 13)
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert model[0] is conv
    assert conv.weight is weight
    assert (type(conv), conv.activation, conv.same_padding, conv.pads) == (FusedConv2d, name, False, None)
    assert set(model.state_dict()) == keys
    assert torch.equal(run(model, x), expected)
    assert report.difference == 0
    assert f"activation={name!r}" in repr(conv)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(name, bias):
    model = settled(nn.Sequential(nn.Linear(7, 5, bias=bias), nn.BatchNorm1d(5), ACTIVATIONS[name](), nn.Linear(5, 2)))
    x = image(9, 7)
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert (type(model[0]), model[0].activation) == (FusedLinear, name)
    assert type(model[3]) is nn.Linear
    assert differ(run(model, x), expected) < 2e-6
    assert report.difference < 2e-6
    assert reasons(report) == {"3": "no activation: its result goes to the model's result"}


def test_a_whole_network():
    model = settled(Net(Inverted(), Residual(), Inverted(activation=nn.SiLU)))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert not [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)] == ["blocks.1.relu"]
    fused = {name: module for name, module in model.named_modules() if isinstance(module, FusedConv2d | FusedLinear)}
    assert {name: module.activation for name, module in fused.items()} == {
        "stem.0": "hardswish",
        "blocks.0.expand": "relu6",
        "blocks.0.depthwise": "relu6",
        "blocks.2.expand": "silu",
        "blocks.2.depthwise": "silu",
        "head.0": "relu",
    }
    assert differ(run(model, x), expected) < 1e-5
    assert report.difference < 1e-5
    assert len(report.fused) == 10
    assert {row.found for row in report} == {"torch.fx"}
    again = ek.fuse_(model, x)
    assert not again.fused
    assert not again.removed
    assert again.difference == 0


def test_one_relu_for_two_places_stays_where_a_sum_comes_before_it():
    model = settled(Net(Residual()))
    report = ek.fuse_(model)
    assert isinstance(model.blocks[0].relu, nn.ReLU)
    assert type(model.blocks[0].conv1) is nn.Conv2d
    rows = {row.name: row for row in report}
    assert rows["blocks.0.relu"].reason == "follows no linear or 2-d convolution layer"
    assert rows["blocks.0.conv1"].norm == "blocks.0.bn1"
    assert rows["blocks.0.conv1"].reason == "no activation: its result goes to 'blocks.0.relu'"
    assert rows["blocks.0.conv2"].reason == "no activation: its result goes to add"


class Calls(nn.Module):
    """Calls its modules in the order of a text; brackets hold a sum with the model's input."""

    def __init__(self, order, **modules):
        super().__init__()
        self.order = order.split()
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        for name in self.order:
            x = x + 1 if name == "add" else getattr(self, name)(x)
        return x


def layers():
    torch.manual_seed(3)
    a, b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    return {"a": a, "b": b, "bn": nn.BatchNorm2d(3), "other": nn.BatchNorm2d(3), "relu": nn.ReLU(), "tanh": nn.Tanh()}


@pytest.mark.parametrize(
    ("order", "folded", "activated"),
    [
        ("a bn a bn", "a", ""),
        ("a bn relu a bn relu", "a", "a"),
        ("a bn b bn", "a b", ""),
        ("a relu b relu", "", "a b"),
        ("a bn b", "a", ""),
        ("a bn a", "", ""),
        ("a bn a other", "", ""),
        ("a bn b bn bn", "", ""),
        ("a bn add bn", "", ""),
        ("a relu add relu", "", ""),
        ("a relu b tanh", "", "a"),
        ("a relu bn", "", "a"),
        ("a bn relu add b relu", "a", "a b"),
        ("add relu a bn", "a", ""),
        ("a bn relu a bn", "a", ""),
        ("a add bn", "", ""),
        ("a tanh bn relu", "", ""),
    ],
)
def test_modules_that_are_called_several_times(order, folded, activated):
    model = settled(Calls(order, **layers()))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    rows = {row.name: row for row in report}
    assert " ".join(name for name in "ab" if rows[name].norm) == folded
    assert " ".join(name for name in "ab" if rows[name].activation) == activated
    assert differ(run(model, x), expected) < 1e-5
    assert (type(model.bn) is nn.Identity) == bool(folded)
    assert (type(model.relu) is nn.Identity) == bool(activated)


class Twice(nn.Module):
    """Reads what a convolution, or the norm behind it, gives in two places."""

    def __init__(self, inner, between):
        super().__init__()
        self.conv, self.bn, self.relu = inner
        self.between = between

    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        return self.relu(z) + (y if self.between == "conv" else z)


def test_a_result_with_two_readers():
    for between, folded in [("conv", False), ("bn", True)]:
        model = settled(Twice(unit(), between))
        x = image()
        expected = run(model, x)
        why = reasons(ek.fuse_(model))
        assert differ(run(model, x), expected) < 1e-6
        assert isinstance(model.bn, nn.BatchNorm2d) == (not folded)
        assert type(model.relu) is nn.ReLU
        assert why["relu" if folded else "bn"] == "what 'conv' gives is read by add as well"


class ByFunction(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.conv, self.bn, self.call = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), call

    def forward(self, x):
        return self.call(self.bn(self.conv(x)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (F.relu, "relu is called inside a forward, where it cannot be taken out; as a module, nn.ReLU, it could be"),
        (torch.relu, "relu is called inside a forward"),
        (lambda y: y.relu_(), "relu_ is called inside a forward"),
        (F.relu6, "as a module, nn.ReLU6,"),
        (F.hardswish, "as a module, nn.Hardswish,"),
        (F.silu, "as a module, nn.SiLU,"),
        (F.gelu, "as a module, nn.GELU,"),
        (torch.tanh, "its result goes to tanh"),
    ],
)
def test_functions_stay_and_the_report_says_so(call, said):
    model = settled(ByFunction(call))
    x = image()
    expected = run(model, x)
    row = next(row for row in ek.fuse_(model, x) if row.name == "conv")
    assert row.norm == "bn"
    assert row.reason.startswith("no activation: ")
    assert said in row.reason
    assert differ(run(model, x), expected) < 1e-6


def test_pruned_weights_stay_zero():
    model = settled(Net(Inverted()))
    ek.prune_(model, ek.PerLayer({"stem.0": ek.Prune(0.5), "re:blocks.*project": ek.Prune(0.5, "2x4")}))
    masks = ek.MaskLock(model).masks
    zeros = {name: tensor == 0 for name, tensor in model.state_dict().items() if name in masks}
    ek.fuse_(model)
    for name, zero in zeros.items():
        assert torch.equal(model.state_dict()[name] == 0, zero)
    assert ek.MaskLock(model).masks.keys() == masks.keys()


def test_zero_statistics_and_scales():
    model = unit()
    with torch.no_grad():
        model[1].weight[0], model[1].running_var[1] = 0, 0
    x = image()
    expected = run(model, x)
    ek.fuse_(model)
    assert differ(run(model, x), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = settled(Net(Inverted(activation=nn.Hardswish))).to(dtype)
    x = image(dtype=dtype)
    exact = run(copy.deepcopy(model).float(), x.float())
    error = differ(run(model, x), exact)
    report = ek.fuse_(model, x)
    assert len(report.fused) == 5
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert differ(run(model, x), exact) < 2 * error + 4 * torch.finfo(dtype).eps


def test_parameters_modules_hooks_and_attributes_stay():
    model = unit(nn.ReLU6).requires_grad_(False)
    conv, weight, seen = model[0], model[0].weight, []
    conv.register_forward_pre_hook(lambda module, args: seen.append(module))
    conv.note = "mine"
    ek.fuse_(model)
    assert model[0] is conv
    assert conv.weight is weight
    assert conv.note == "mine"
    assert not conv.bias.requires_grad
    assert not model.training
    run(model, image())
    assert seen == [conv]


class Aliases(nn.Module):
    """Calls its modules by a list of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = unit()
        self.steps = [self.conv, self.bn, self.relu]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


def test_modules_that_are_held_elsewhere_too():
    model = Aliases().eval()
    x = image()
    expected = run(model, x)
    ek.fuse_(model)
    assert type(model.conv) is FusedConv2d
    assert differ(run(model, x), expected) < 1e-6


def test_a_fused_model_goes_on():
    model = settled(Net(Inverted(), Residual()))
    x = image()
    ek.fuse_(model, x)
    expected = run(model, x)
    assert torch.equal(run(copy.deepcopy(model), x), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), x), expected)
    fresh = settled(Net(Inverted(), Residual()), seed=5)
    ek.fuse_(fresh)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(run(fresh, x), expected)
    assert torch.equal(run(torch.export.export(model, (x,)).module(), x), expected)
    model.train()
    model(x).square().mean().backward()
    assert model.stem[0].weight.grad.abs().sum() > 0
    assert model.stem[0].bias.grad.abs().sum() > 0


def test_the_report_prints():
    model = settled(Net(Residual()))
    report = ek.fuse_(model, image())
    text = str(report)
    assert "blocks.0.bn1" in text
    assert "fused: 5 of 5 layers" not in text
    assert "fused: 4 of 5 layers, with 4 of 4 norms and 2 of 3 activations; results differ by" in text
    assert "<table>" in report._repr_html_()
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    assert "stem.0" in console.file.getvalue()
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["fused"], data["removed"], data["skipped"]) == (4, 6, 2)
    assert len(report) == len(list(report)) == 12
    assert "results differ" not in str(ek.fuse_(unit()))
    assert str(ek.fuse_(nn.Sequential())).endswith("fused: 0 of 0 layers, with 0 of 0 norms and 0 of 0 activations")
