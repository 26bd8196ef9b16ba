"""FusedConv2d and FusedLinear by themselves."""

import pytest
import torch
from fuse_models import image, run
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgekern.nn import FusedConv2d, FusedLinear
from edgekern.nn.fused import ACTIVATION_FUNCTIONS, same_pads

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.mark.parametrize("name", ["none", *ACTIVATION_FUNCTIONS])
def test_of_and_plain(name):
    conv, linear = nn.Conv2d(3, 4, (3, 2), (2, 1), 1, groups=1, bias=False), nn.Linear(14, 4)
    for layer, cls in ((conv, FusedConv2d), (linear, FusedLinear)):
        layer.eval()
        fused = cls.of(layer, name)
        x = image()
        expected = run(layer, x)
        expected = expected if name == "none" else ACTIVATION_FUNCTIONS[name](expected)
        assert torch.equal(run(fused, x), expected)
        assert fused.weight is layer.weight
        assert fused.bias is layer.bias
        assert not fused.training
        assert fused.state_dict().keys() == layer.state_dict().keys()
        plain = fused.plain()
        assert type(plain) is type(layer)
        assert plain.weight is layer.weight
        assert torch.equal(run(plain, x), run(layer, x))
        assert repr(plain) == repr(layer)


def test_the_table_is_what_modules_compute():
    x = torch.linspace(-9, 9, 301)
    modules = {
        "relu": nn.ReLU(),
        "relu6": nn.ReLU6(),
        "hardswish": nn.Hardswish(),
        "silu": nn.SiLU(),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
    }
    assert modules.keys() == ACTIVATION_FUNCTIONS.keys()
    for name, module in modules.items():
        assert torch.equal(ACTIVATION_FUNCTIONS[name](x), module(x))


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
def test_same_padding_gives_as_many_results_as_it_says(size, kernel, stride, dilation):
    before, after = same_pads(size, kernel, stride, dilation)
    padded = size + before + after
    assert (padded - dilation * (kernel - 1) - 1) // stride + 1 == -(-size // stride)
    assert 0 <= after - before <= 1
    # No zero too many: one less at the end would be a result less, unless there is none.
    assert before + after == 0 or (padded - 1 - dilation * (kernel - 1) - 1) // stride + 1 < -(-size // stride)


@pytest.mark.parametrize("padding", [0, 2, (1, 2), "same", "valid"])
def test_pads_of_plain_padding(padding):
    conv = FusedConv2d(3, 4, (4, 3), padding=padding, activation="relu")
    x = image()
    padded = F.pad(x, conv.pads_for(17, 14))
    expected = F.relu(F.conv2d(padded, conv.weight, conv.bias))
    torch.testing.assert_close(run(conv, x), expected)


def test_pads():
    x = image()
    conv = FusedConv2d(3, 4, 3, 2, pads=(0, 1, 2, 3), activation="silu")
    assert conv.pads_for(9, 9) == (0, 1, 2, 3)
    torch.testing.assert_close(
        run(conv, x), F.silu(F.conv2d(F.pad(x, (0, 1, 2, 3)), conv.weight, conv.bias, stride=2)), rtol=0, atol=0
    )
    same = FusedConv2d(3, 4, 3, 2, same_padding=True)
    assert run(same, x).shape == (2, 4, 9, 7)
    assert run(same, x[0]).shape == (4, 9, 7)
    assert FusedConv2d.of(same, "relu").same_padding
    assert FusedConv2d.of(
        conv.plain() if conv.pads is None else nn.Conv2d(3, 4, 3, padding=5), pads=(1, 1, 0, 0)
    ).padding == (0, 1)
    for layer in (conv, same):
        with pytest.raises(ValueError, match=r"nn\.Conv2d cannot pad as"):
            layer.plain()
    assert FusedConv2d(3, 4, 3, pads=(2, 2, 1, 1)).plain().padding == (1, 2)


def test_arguments():
    with pytest.raises(ValueError, match=r"activation: expected one of none, relu, .*; got 'tanh'"):
        FusedLinear(3, 3, activation="tanh")
    for options in (
        {"same_padding": True, "padding": 1},
        {"pads": (1, 1, 1, 1), "padding": "same"},
        {"pads": (1, 1, 1, 1), "same_padding": True},
        {"same_padding": True, "padding_mode": "reflect"},
    ):
        with pytest.raises(ValueError, match="FusedConv2d: expected one of padding, same_padding and pads"):
            FusedConv2d(3, 3, 3, **options)
    with pytest.raises(ValueError, match=r"the layer has 'relu' already.*plain\(\) is the layer without"):
        FusedLinear.of(FusedLinear(3, 3, activation="relu"), "gelu")
    assert FusedLinear.of(FusedLinear(3, 3, activation="relu").plain(), "gelu").activation == "gelu"
