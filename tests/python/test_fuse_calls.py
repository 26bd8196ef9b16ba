"""How fuse_ finds who reads whose results: by tracing, and where that is not possible by what sequences say."""

import pytest
import torch
from fuse_models import BySize, ByValue, Inverted, Net, differ, image, reasons, run, settled, unit
from torch import nn
from torch.nn import functional as F

import edgekern as ek
from edgekern.nn import FusedConv2d

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def found(report):
    return {row.found for row in report if row.changed}


def test_what_cannot_be_traced_is_exported():
    model = settled(BySize(Net(Inverted(), Inverted(activation=nn.SiLU))))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert found(report) == {"torch.export"}
    assert len(report.fused) == 8
    assert differ(run(model, x), expected) < 1e-5


def test_without_inputs_sequences_are_what_is_left():
    model = settled(BySize(Net(Inverted())))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    assert found(report) == {"nn.Sequential"}
    assert [row.name for row in report.fused] == ["inner.stem.0", "inner.head.0"]
    assert differ(run(model, x), expected) < 1e-5
    why = reasons(report)["inner.blocks.0.bn1"]
    assert why.startswith("torch.fx cannot trace the model (")
    assert "), torch.export could try, given example_inputs; " in why
    assert why.endswith("; and as 'inner.blocks.0.bn1' it is in no nn.Sequential")


def test_nor_can_it_be_exported():
    model = settled(ByValue(Net(Inverted())))
    x = image()
    report = ek.fuse_(model, x)
    assert found(report) == {"nn.Sequential"}
    assert "nor can torch.export (" in reasons(report)["inner.blocks.0.bn1"]


def test_only_the_module_that_cannot_be_traced_is_closed():
    model = settled(Net(Inverted(), ByValue(Inverted()), ByValue(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    rows = {row.name: row for row in report}
    assert (rows["blocks.0.expand"].found, rows["blocks.0.expand"].activation) == ("torch.fx", "relu6")
    assert (rows["blocks.2.inner.0"].found, rows["blocks.2.inner.0"].activation) == ("nn.Sequential", "relu")
    assert not rows["blocks.1.inner.expand"].changed
    assert "torch.fx cannot trace 'blocks.1' (float() argument" in rows["blocks.1.inner.expand"].reason
    assert differ(run(model, x), expected) < 1e-5


class InTurn(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + self[0](x)


def test_sequences_in_sequences_and_such_as_are_none():
    relu = nn.ReLU()
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4), relu), nn.Conv2d(4, 4, 1), relu)
    own = InTurn(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model = settled(ByValue(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), inner, own)))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    assert [row.name for row in report.fused] == ["inner.0", "inner.2.0", "inner.2.2"]
    assert type(relu) is nn.Identity
    assert "as 'inner.3.0' it is in no nn.Sequential" in reasons(report)["inner.3.0"]
    assert differ(run(model, x), expected) < 1e-5


class Option(nn.Module):
    """Gives what lies between a convolution and its norm, to those who ask for it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = unit()

    def forward(self, x, early=False, bias=None):
        y = self.conv(x)
        z = self.relu(self.bn(y if bias is None else y + bias))
        return (z, y) if early else z


class Added(Option):
    def forward(self, x, bias=None):
        return super().forward(x, bias=bias)


def test_options():
    """What is done is right for all values that tracing knows of, or for those of the example."""
    x = image()
    said = "what 'conv' gives is read by the model's result as well"
    for inputs, fused in [(None, False), ({"x": x, "early": True}, False), ({"x": x, "early": False}, True), (x, True)]:
        model = Option().eval()
        expected = run(model, x)
        report = ek.fuse_(model, inputs)
        assert len(report.removed) == (2 if fused else 0)
        assert reasons(report).get("bn") == (None if fused else said)
        assert differ(run(model, x), expected) < 1e-6
    model = Added().eval()
    with_bias = run(model, x, torch.ones(4, 1, 1))
    report = ek.fuse_(model)
    assert reasons(report)["bn"] == "follows no linear or 2-d convolution layer"
    assert torch.equal(run(model, x, torch.ones(4, 1, 1)), with_bias)


class Keeps(nn.Module):
    """Keeps a result in an attribute or a list, for others to look at."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.bn, self.relu = unit()
        self.how, self.kept, self.list = how, None, ["mine"]

    def forward(self, x):
        y = self.conv(x)
        if self.how == "attribute":
            self.kept = y
        elif self.how == "list":
            self.list.append(y)
        return self.relu(self.bn(y))


@pytest.mark.parametrize("how", ["attribute", "list", "not"])
def test_results_that_are_kept_and_attributes_that_are_put_back(how):
    model = Keeps(how).eval()
    report = ek.fuse_(model)
    assert model.kept is None
    assert model.list == ["mine"]
    assert (type(model.bn) is nn.Identity) == (how == "not")
    if how != "not":
        assert reasons(report)["bn"] == "what 'conv' gives is read by an attribute that keeps it as well"


class ReadsTensors(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.conv, self.bn, self.relu = unit()
        self.read = read

    def forward(self, x):
        owner, tensor = self.read.split(".")
        return self.relu(self.bn(self.conv(x))) + getattr(getattr(self, owner), tensor).sum()


@pytest.mark.parametrize("read", ["bn.weight", "bn.running_mean", "conv.weight"])
@pytest.mark.parametrize("way", [nn.Identity, BySize], ids=["traced", "exported"])
def test_tensors_that_other_code_reads(read, way):
    model = nn.Sequential(BySize(ReadsTensors(read)) if way is BySize else ReadsTensors(read)).eval()
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model, x)
    owner, tensor = read.split(".")
    name = f"0.inner.{owner}" if way is BySize else f"0.{owner}"
    assert reasons(report)[name] == f"other code of the model reads its {tensor}"
    assert not report.fused
    assert torch.equal(run(model, x), expected)


def test_hooks():
    """What hooks are given must not change: those on parts, and those on modules around them."""
    x = image()

    def hooked(where, register="register_forward_hook"):
        conv, bn, relu = unit()
        model = nn.Sequential(nn.Sequential(conv), nn.Sequential(bn, relu), nn.Identity()).eval()
        seen = []
        getattr(model.get_submodule(where), register)(lambda *args: seen.append(args[-1]))
        before = run(model, x)
        report = ek.fuse_(model)
        assert len(seen) == 1  # none by tracing
        assert differ(run(model, x), before) < 1e-6
        values = [each[0] if isinstance(each, tuple) else each for each in seen]
        assert differ(values[1], values[0]) < 1e-6
        return reasons(report)

    assert hooked("0.0")["0.0"] == "has forward hooks, which would be given another result"
    assert hooked("1.0")["1.0"] == "has hooks, which would be gone with it"
    assert hooked("1.1")["1.1"] == "has hooks, which would be gone with it"
    assert hooked("0")["1.0"] == "hooks of '0' see what is between '0.0' and it"
    assert hooked("1", "register_forward_pre_hook")["1.0"] == "hooks of '1' see what is between '0.0' and it"
    for where in ("", "2"):
        assert "1.0" not in hooked(where)
    assert "1.0" not in hooked("0.0", "register_forward_pre_hook")


def test_an_identity_with_hooks_is_not_passed():
    conv, _, relu = unit()
    model = nn.Sequential(conv, nn.Identity(), relu).eval()
    model[1].register_forward_hook(lambda module, args, y: y + 1)
    ek.fuse_(model)
    assert type(model[2]) is nn.ReLU
    model = nn.Sequential(conv, nn.Identity(), relu).eval()
    ek.fuse_(model)
    assert type(model[0]) is FusedConv2d


def test_parts_of_pytorchs_own_modules_stay():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU(), batch_first=True)
    model = nn.Sequential(layer, nn.Linear(8, 8), nn.GELU()).eval()
    x = image(2, 5, 8)
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert [row.name for row in report.fused] == ["1"]
    assert found(report) == {"torch.fx"}
    assert "it is inside of '0', which has code of its own for what it holds" in reasons(report)["0.linear1"]
    assert differ(run(model, x), expected) < 1e-6


def test_a_layer_that_is_never_called():
    model = unit()
    model.spare = nn.Linear(3, 3)
    model.forward = lambda x: model[:3](x)
    assert "its forward was replaced by another" in reasons(ek.fuse_(model))["spare"]
    other = Net().eval()
    other.spare = nn.Linear(3, 3)
    assert reasons(ek.fuse_(other))["spare"] == "the model never calls it"


class Slices(nn.Module):
    """Calls a sequence in two pieces, and may add something between them."""

    def __init__(self, at, more=0):
        super().__init__()
        self.body, self.at, self.more = unit(), at, more

    def forward(self, x):
        y = self.body[: self.at](x)
        return self.body[self.at :](y + self.more if self.more else y)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("more", [0, 1])
def test_slices_of_sequences(at, more):
    model = Slices(at, more).eval()
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    assert found(report) <= {"torch.fx"}
    assert len(report.removed) == (2 if not more else at - 1)
    assert differ(run(model, x), expected) < 1e-6


def test_a_relu_of_a_function_around_a_sequence():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = unit()

        def forward(self, x):
            return F.relu(self.body(x) - 1)

    model = Around().eval()
    report = ek.fuse_(model)
    assert [row.activation for row in report.fused] == ["relu"]


def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck")
    model = settled(transformers.ResNetForImageClassification(config))
    x = image(1, 3, 40, 32)
    expected = run(model, x).logits
    report = ek.fuse_(model, {"pixel_values": x})
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    # Of a bottleneck's three activations the last follows the sum.
    assert len([row for row in report if row.activation]) == 1 + 3 * 2
    assert {row.reason for row in report if row.role == "activation" and row.reason} == {
        "follows no linear or 2-d convolution layer"
    }
    assert differ(run(model, x).logits, expected) < 1e-5
