"""fuse_ does all or nothing, and leaves alone what it could get wrong, with the reason."""

from functools import partial

import pytest
import torch
from fuse_models import Inverted, Net, Residual, differ, image, reasons, run, settled, unit
from small_models import assert_untouched, snapshot
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import edgekern as ek
from edgekern.fuse import apply
from edgekern.nn import FusedConv2d

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def test_training_mode_is_refused():
    model = Net(Inverted()).eval()
    model.blocks.train()
    before = snapshot(model)
    with pytest.raises(
        ek.FuseError,
        match=r"eval mode, but 'blocks.0.bn0' and 2 more would .*; call model.eval\(\)",
    ):
        ek.fuse_(model)
    assert_untouched(model, before)
    one = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with pytest.raises(ek.FuseError, match=r"^model: expected normalisations in eval mode, but '1' would"):
        ek.fuse_(one)
    without = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).train()
    ek.fuse_(without)
    assert without[0].training
    assert without[1].training


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
        ek.fuse_(3)
    with pytest.raises(ek.FuseError, match="TorchScript"):
        ek.fuse_(torch.jit.script(nn.Sequential(nn.Linear(3, 3))))


def test_inputs_that_the_model_does_not_take():
    model = settled(Net(Inverted()))
    before = snapshot(model)
    with pytest.raises(ek.FuseError, match=r"^example_inputs: the model does not run on them: .*channels"):
        ek.fuse_(model, image(2, 5, 8, 8))
    assert_untouched(model, before)


class Looks(nn.Module):
    """Does something with its modules that tracing cannot see."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        if type(self.body[2]) is nn.Identity:
            return self.after(x)
        return self.body(x)


class Fails(Looks):
    def after(self, x):
        raise RuntimeError("where is my ReLU?")


class Shrinks(Looks):
    def after(self, x):
        return self.body(x)[:1]


class Shifts(Looks):
    def after(self, x):
        return self.body(x) + 0.1


class Breaks(Looks):
    def after(self, x):
        return self.body(x) / 0


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        (Fails, "does not run on them once it is fused, so it was left as it was: where is my ReLU"),
        (Shrinks, r"would give results of shapes \[\[1, 4, 17, 14\]\], expected \[\[2, 4, 17, 14\]\]"),
        (Shifts, "results would differ by .* expected at most 1.0e-03"),
        (Breaks, "results would differ by inf"),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_another_result_is_undone(looks, message, bias):
    body = settled(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU()))
    model = looks(body).eval()
    x = image()
    expected, before, keys = run(model, x), snapshot(model), list(model.state_dict())
    types = [type(module) for module in model.modules()]
    with pytest.raises(ek.FuseError, match=message):
        ek.fuse_(model, x)
    assert_untouched(model, before)
    assert [type(module) for module in model.modules()] == types
    assert list(model.state_dict()) == keys
    assert torch.equal(run(model, x), expected)


def test_an_interruption_is_undone(monkeypatch):
    model = settled(Net(Inverted(), Residual()))
    before, count, give = snapshot(model), [], apply._become

    def interrupted(*args):
        count.append(args)
        if len(count) == 4:
            raise KeyboardInterrupt
        give(*args)

    monkeypatch.setattr(apply, "_become", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ek.fuse_(model)
    assert len(count) == 4
    assert_untouched(model, before)


def untouched(model, name, message, *inputs):
    """That one part stays for this reason, and the model computes what it did."""
    x = image() if not inputs else inputs[0]
    expected = run(model, x)
    report = ek.fuse_(model)
    assert message in reasons(report)[name]
    assert differ(run(model, x), expected) < 1e-6
    return report


def test_norms_that_stay():
    stays = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    untouched(stays, "1", "keeps no running statistics, so what it does depends on the batch")

    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    untouched(settled(nn.Sequential(nn.Conv2d(3, 4, 1), Own(4))), "1", "Own has a forward of its own")
    untouched(
        settled(nn.Sequential(nn.Linear(14, 17), nn.BatchNorm2d(3))), "1", "a Linear takes an nn.BatchNorm1d only"
    )
    apart = settled(nn.Sequential(nn.Linear(14, 6), nn.BatchNorm1d(17)))
    untouched(apart, "1", "it has 6 outputs, where 17 are normalised", image(3, 17, 14))
    untouched(settled(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))), "1", "follows '0', which is no linear")
    untouched(
        settled(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))), "0", "follows no linear or 2-d convolution"
    )
    lazy = nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d()).eval()
    assert "lazy" in reasons(ek.fuse_(lazy))["0"]
    meta = nn.Sequential(nn.Conv2d(3, 4, 1, device="meta"), nn.BatchNorm2d(4, device="meta")).eval()
    assert "no plain numbers" in reasons(ek.fuse_(meta))["1"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["0.weight", "1.running_mean", "1.running_var", "1.weight"])
def test_numbers_that_are_none(value, where):
    model = unit()
    with torch.no_grad():
        model.get_submodule(where[0]).state_dict()[where[2:]].view(-1)[1] = value
    if where == "1.running_var" and value == float("inf"):
        ek.fuse_(model)  # normalises to zero, which is a number
        assert type(model[1]) is nn.Identity
        return
    before = snapshot(model)
    assert "cannot be folded into '0': the " in reasons(ek.fuse_(model))["1"]
    assert_untouched(model, before)


def test_float16_overflows():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).half()
    with torch.no_grad():
        model[0].weight.fill_(60000)
        model[1].running_var.fill_(0.01)
        model[1].weight.fill_(1)
    assert "the weight would not be finite in torch.float16" in reasons(ek.fuse_(model))["1"]


def test_layers_that_stay():
    model = unit()
    parametrizations.spectral_norm(model[0])
    untouched(model.eval(), "0", "parametrised")
    model = unit()
    prune.l1_unstructured(model[0], "weight", 0.5)
    untouched(model, "0", "its weight is recomputed at every call")
    model = unit()
    model[0].register_full_backward_hook(lambda *args: None)
    untouched(model, "0", "has backward hooks")
    model = unit()
    model[0].forward = lambda x: nn.Conv2d.forward(model[0], x)
    untouched(model, "0", "its forward was replaced by another")
    untouched(unit().double(), "1", "its weight is torch.float64", image(dtype=torch.float64))
    with torch.inference_mode():
        made = unit()
    assert "under torch.inference_mode" in reasons(ek.fuse_(made))["1"]
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()).eval()
    ek.convert_(model, ek.PerLayer({"0": ek.Int8()}))
    ek.prepare_qat_(model, ek.PerLayer({"2": ek.Int8()}))
    why = reasons(ek.fuse_(model))
    assert why["0"] == "int8 already; fuse before converting"
    assert why["2"] == "prepared to train for Int8(); undo_qat_ makes it plain"
    assert why["1"] == "follows '0', which is left alone: int8 already; fuse before converting"


def test_shared_weights():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU())
    model[2].weight = model[0].weight
    model = settled(model)
    untouched(model, "1", "cannot be folded into '0': its weight is also '2.weight'")
    assert type(model[2]) is FusedConv2d
    assert model[2].weight is model[0].weight


@pytest.mark.parametrize("activation", [nn.Tanh, nn.LeakyReLU, nn.Hardtanh, nn.PReLU], ids=lambda cls: cls.__name__)
def test_activations_without_a_fused_form(activation):
    report = untouched(
        unit(activation), "2", "no fused layer applies it; they apply relu, relu6, hardswish, silu, gelu"
    )
    assert report.fused[0].norm == "1"


def test_activations_of_a_kind():
    class Own(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + 1

    class Named(nn.ReLU):
        pass

    untouched(unit(Own), "2", "no fused layer applies it")
    for same in (Named, lambda: nn.Hardtanh(0, 6)):
        model = unit(same)
        ek.fuse_(model, image())
        assert type(model[0]) is FusedConv2d


class Function(nn.Module):
    """An activation of other code, as models of transformers have them."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (partial(F.relu, inplace=True), "relu"),
        (F.relu6, "relu6"),
        (F.hardswish, "hardswish"),
        (F.silu, "silu"),
        (F.gelu, "gelu"),
        (partial(F.gelu, approximate="tanh"), "gelu_tanh"),
        (torch.tanh, ""),
        (lambda x: F.relu(x) + 1, ""),
        (lambda x: F.relu(x + 1), ""),
        (lambda x: F.relu(x) if x.sum() > 0 else x, ""),
        (lambda x: torch.relu(x.abs()), ""),
        (lambda x: (F.relu(x), x)[1], ""),
    ],
)
def test_modules_that_only_call_a_function(call, name):
    model = unit(lambda: Function(call))
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model, x)
    assert [row.activation for row in report.fused] == [name]
    assert [row.kind for row in report if row.role == "activation"] == (["Function"] if name else [])
    assert (type(model[2]) is nn.Identity) == bool(name)
    assert differ(run(model, x), expected) < 1e-6


def test_a_function_beside_a_state_is_no_activation():
    model = unit(lambda: Function(F.relu))
    model[2].register_buffer("calls", torch.zeros(1))
    ek.fuse_(model)
    assert type(model[2]) is Function
    assert not len(ek.fuse_(Function(F.relu)))  # the model itself is no part of it


def test_an_activation_is_fused_once():
    model = nn.Sequential(FusedConv2d(3, 4, 1, activation="relu"), nn.BatchNorm2d(4), nn.ReLU())
    untouched(settled(model), "1", "follows '0', which applies 'relu' already")
    model = nn.Sequential(FusedConv2d(3, 4, 1), nn.ReLU()).eval()
    ek.fuse_(model)
    assert model[0].activation == "relu"
