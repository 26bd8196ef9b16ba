"""Models and layers for the tests, and what to compare them by."""

import torch
from torch import nn

from edgekern import Float16, Float32, Int4, Int8
from edgekern.nn import NATIVE_LINEARS, NativeLinear, forms
from edgekern.nn.forms import Timing

KINDS = ("int8", "int8 float", "int4", "int4 zero", "int4 float", "f32", "f32 plain", "f16")
"""Native layers by how they hold their weights: int4 without and with zero points; plain is what an F32Linear does
where packing does not pay. After int8 and int4, "float" is what their activations stay."""


class OwnForward(nn.Linear):
    def forward(self, input):
        return super().forward(input) + 1


class NoForward(nn.Linear):
    pass


class Block(nn.Module):
    def __init__(self, size=16):
        super().__init__()
        self.up = nn.Linear(size, 4 * size)
        self.down = nn.Linear(4 * size, size, bias=False)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class LanguageModel(nn.Module):
    def __init__(self, tied=True, size=16, words=40):
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(2))
        self.lm_head = nn.Linear(size, words, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(x)


BLOCK_LAYERS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


def snapshot(model):
    """Everything that must survive a failure: which modules there are, their flags, and every bit of every tensor."""
    modules = {name: (id(module), module.training) for name, module in model.named_modules(remove_duplicate=False)}
    tensors = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    return modules, tensors, set(vars(model))


def assert_untouched(model, before):
    modules, tensors, attributes = snapshot(model)
    assert modules == before[0]
    assert attributes == before[2]
    assert tensors.keys() == before[1].keys()
    for name, (identity, tensor) in tensors.items():
        assert identity == before[1][name][0]
        assert torch.equal(tensor.view(torch.uint8), before[1][name][1].view(torch.uint8))


def native_names(model):
    return [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, NativeLinear)]


def make_layer(in_features=70, out_features=33, bias=True, dtype=torch.float32, seed=0, kind="int8"):
    """A dense layer, and its native counterpart of a kind."""
    torch.manual_seed(seed)
    linear = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    if kind in ("f32", "f16"):
        with torch.no_grad():
            linear.weight *= torch.rand(linear.weight.shape) < 0.2
    return linear, layer_class(kind).from_linear(linear, make_scheme(kind))


def make_scheme(kind):
    return {
        "int8": Int8(),
        "int8 float": Int8(activations="float"),
        "int4": Int4(symmetric=True, clip="mse"),
        "int4 zero": Int4(group_size=32),
        "int4 float": Int4(group_size=32, activations="float"),
        "f32": Float32(channels=1),
        "f32 plain": Float32(),
        "f16": Float16(channels=1),
    }[kind]


def layer_class(kind):
    return NATIVE_LINEARS[make_scheme(kind).format]


def pretend_times(monkeypatch, times):
    """Choices are made by these times, in place of measured ones: {form: seconds at each of the rows}."""

    def measure(calls, inputs, rows):
        return tuple(Timing(form, m, times.get(form, [9] * len(rows))[i]) for i, m in enumerate(rows) for form in calls)

    monkeypatch.setattr(forms, "_measure", measure)
    monkeypatch.setattr(forms, "_measured", {})


def canonical(layer):
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name
