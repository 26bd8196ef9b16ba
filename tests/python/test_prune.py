"""prune_: what it leaves alone and why, that it does all or nothing, and its report."""

import json
import re
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from small_models import BLOCK_LAYERS, LanguageModel, OwnForward, assert_untouched, snapshot
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from edgekern import ConvertError, Int8, PerLayer, Prune, PruneError, convert_, prune_


class OwnConvolution(nn.Conv2d):
    def forward(self, input):
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight * 2, bias)


class NaNAfter(nn.Module):
    """Passes its input on a number of times, then fails as told."""

    def __init__(self, calls, failure):
        super().__init__()
        self.calls, self.failure = calls, failure

    def forward(self, x):
        self.calls -= 1
        if self.calls >= 0:
            return x
        if self.failure is None:
            return x * float("nan")
        raise self.failure


def reasons(model, config, **options):
    return {row.name: row.reason for row in prune_(model, config, **options).skipped}


# ------------------------------------------------------------------------------------------------ what is left alone


def test_every_linear_and_convolution_is_pruned_in_place():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 8, dtype=torch.bfloat16), nn.Embedding(4, 4))
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    report = prune_(model, Prune(0.25))
    assert [(row.name, row.kind, row.shape) for row in report] == [
        ("0", "Conv2d", (8, 3, 3, 3)),
        ("2", "Linear", (8, 8)),
    ]
    for name, parameter in model.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity
        kept = parameter != 0 if name in ("0.weight", "2.weight") else torch.ones_like(parameter, dtype=torch.bool)
        assert torch.equal(parameter[kept], old[kept])
        assert parameter.requires_grad
    assert [row.zeros for row in report] == [54, 16]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnForward(4, 4), "OwnForward has a forward of its own"),
        (lambda: OwnConvolution(4, 4, 1), "OwnConvolution has a forward of its own"),
        (lambda: OwnConvForward(4, 4, 1), "OwnConvForward has a forward of its own"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "parametrised"),
        (lambda: torch_prune.l1_unstructured(nn.Conv2d(4, 4, 1), "weight", 0.5), "recomputed at every call"),
        (lambda: nn.LazyLinear(4), "lazy"),
        (lambda: nn.Linear(4, 4, device="meta"), "on the meta device"),
        (lambda: nn.Conv2d(4, 4, 1, device="meta"), "on the meta device"),
        (lambda: nn.Linear(4, 4, dtype=torch.float64), "its weight is torch.float64; float32, bfloat16 and float16"),
        (lambda: nn.Linear(4, 3), "its 3 x 4 weights are smaller than one 4x4 block"),
        (lambda: nn.Conv2d(3, 4, 1), "its 4 x 3 weights are smaller than one 4x4 block"),
    ],
)
def test_layers_left_alone_have_a_reason(make, reason):
    odd = make()
    model = nn.ModuleDict({"odd": odd, "plain": nn.Linear(8, 8)})
    before = {name: p.detach().clone() for name, p in odd.named_parameters() if not nn.parameter.is_lazy(p)}
    assert reason in reasons(model, Prune(0.5, "4x4"))["odd"]
    after = {name: p for name, p in odd.named_parameters() if not nn.parameter.is_lazy(p)}
    assert all(before[name].is_meta or torch.equal(before[name], p) for name, p in after.items())
    with pytest.raises(PruneError, match="'odd' is named but cannot be pruned"):
        prune_(model, PerLayer({"odd": Prune(0.5, "4x4")}))


def test_a_weight_of_inference_mode_is_left_alone():
    with torch.inference_mode():
        made = nn.Linear(4, 4)
    assert "inference_mode" in reasons(nn.ModuleList([made, nn.Linear(4, 4)]), Prune(0.5))["0"]


def test_native_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    convert_(model, PerLayer({"0": Int8()}))
    assert reasons(model, Prune(0.5)) == {"0": "int8 already; prune before converting"}


def test_pruned_layers_convert_and_keep_their_zeros():
    model = nn.Sequential(nn.Linear(8, 8))
    prune_(model, Prune(0.5))
    zero = model[0].weight == 0
    convert_(model, Int8())
    assert (model[0].state_dict()["weight"][zero] == 0).all()


def test_tied_weights_and_the_output_head_need_a_rule():
    model = LanguageModel(tied=True)
    assert (
        "its weight is also 'embed.weight', which would lose the same values" in reasons(model, Prune(0.5))["lm_head"]
    )
    assert "output head" in reasons(LanguageModel(tied=False), Prune(0.5))["lm_head"]
    report = prune_(model, PerLayer({"lm_head": Prune(0.75), "_default": None}))
    assert [row.name for row in report.pruned] == ["lm_head"]
    assert int((model.embed.weight == 0).sum()) == 480


def test_rules_choose_as_they_do_for_conversion():
    model = LanguageModel(tied=False)
    rules = {r"re:blocks\.0\..*": None, "blocks.0.up": Prune(0.25), "_default": Prune(0.5)}
    report = prune_(model, PerLayer(rules), filter_fn=lambda module, name: name != "blocks.1.down")
    asked = {row.name: row.achieved for row in report.pruned}
    assert asked == {"blocks.0.up": 0.25, "blocks.1.up": 0.5}
    skipped = {row.name: row.reason for row in report.skipped}
    assert r"the rule 're:blocks" in skipped["blocks.0.down"]
    assert skipped["blocks.1.down"] == "filter_fn declined it"
    assert skipped.keys() == {*BLOCK_LAYERS, "lm_head"} - asked.keys()


def test_a_layer_that_is_the_model_can_be_pruned():
    layer = nn.Linear(8, 8)
    assert prune_(layer, Prune(0.5)).sparsity == 0.5


def test_what_the_data_never_reach_is_left_alone():
    model = nn.ModuleDict({"used": nn.Linear(8, 8), "unused": nn.Linear(8, 8)})
    model.forward = lambda x: model["used"](x)
    for config in (Prune(0.5, method="wanda"), Prune(0.5, method="sparsegpt"), Prune(0.5, scope="owl")):
        for sequential in (True, False):
            report = prune_(model, config, [torch.randn(4, 8)], sequential=sequential, progress=False)
            assert {row.name: row.reason for row in report.skipped} == {
                "unused": "the calibration data never reached it"
            }
            assert report.rows[0].achieved == 0.5


# ------------------------------------------------------------------------------------------------ all or nothing


@pytest.mark.parametrize(
    ("config", "data", "error", "message"),
    [
        (Prune(0.5, method="wanda"), None, PruneError, "method='wanda' needs calibration data"),
        (Prune(0.5, scope="owl"), None, PruneError, "scope='owl' needs calibration data"),
        (Prune(0.5, method="wanda"), [], PruneError, "not one batch"),
        (Prune(0.5, method="wanda"), iter([]), PruneError, "not one batch"),
        (Prune(0.5, method="wanda"), torch.ones(2, 2), TypeError, r"one batch is \[batch\]"),
        (Prune(0.5, method="wanda"), 3, TypeError, "got int"),
        (PerLayer({"block.0.upp": Prune(0.5)}), None, PruneError, "no layer is called"),
        (
            PerLayer({"_default": Prune(0.5, "64x64")}),
            None,
            PruneError,
            "nothing to prune: all 5 layers are left alone",
        ),
    ],
)
def test_refusals_leave_the_model_untouched(config, data, error, message):
    model = LanguageModel(tied=False)
    before = snapshot(model)
    with pytest.raises(error, match=message):
        prune_(model, config, data, progress=False)
    assert_untouched(model, before)


def test_a_weight_with_nan_is_refused_before_anything_changes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data[0, 0] = float("nan")
    before = snapshot(model)
    with pytest.raises(PruneError, match=re.escape("the weight of '1' holds NaN")) as error:
        prune_(model, Prune(0.5))
    assert_untouched(model, before)
    assert "PerLayer({'1': None, '_default': Prune(sparsity=0.5)})" in str(error.value)


def test_a_model_without_layers():
    with pytest.raises(PruneError, match="the model has no linear or 2-d convolution layers"):
        prune_(nn.ReLU(), Prune(0.5))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("calls", [0, 2, 3, 4])
@pytest.mark.parametrize("failure", [None, RuntimeError("out of luck"), KeyboardInterrupt()])
def test_failure_during_calibration_puts_everything_back(method, calls, failure):
    """After `calls` batches; by then the first layer has been pruned in some of the cases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), NaNAfter(calls, failure), nn.Dropout(), nn.Linear(8, 8)).train()
    model[2].eval()
    before = snapshot(model)
    with pytest.raises((PruneError, RuntimeError, KeyboardInterrupt)) as error:
        prune_(model, PerLayer({"_default": Prune(0.5, method=method)}), [torch.randn(8, 8)] * 2, progress=False)
    assert "NaN" in str(error.value) if failure is None else error.value is failure
    assert_untouched(model, before)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_inputs_too_alike_for_sparsegpt_are_an_error_with_a_way_out():
    model = nn.Sequential(nn.Linear(8, 8))
    before = snapshot(model)
    with pytest.raises(PruneError, match="too few or too alike for SparseGPT with damping 0"):
        prune_(model, Prune(0.5, method="sparsegpt", damping=0.0), [torch.ones(1, 8)], progress=False)
    assert_untouched(model, before)


def test_modes_and_statistics_survive_calibration():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8)).train()
    model[2].eval()
    running = model[1].running_mean.clone()
    prune_(model, Prune(0.5, method="wanda"), [torch.randn(16, 8)], progress=False)
    assert [module.training for module in model] == [True, True, False, True]
    assert torch.equal(model[1].running_mean, running)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module"):
        prune_("model", Prune(0.5))
    with pytest.raises(TypeError, match="filter_fn"):
        prune_(nn.Linear(4, 4), Prune(0.5), filter_fn="fc")
    with pytest.raises(PruneError, match="TorchScript"):
        prune_(torch.jit.trace(nn.Linear(4, 4), torch.ones(1, 4)), Prune(0.5))
    assert not issubclass(PruneError, ConvertError)


# ------------------------------------------------------------------------------------------------ the report


def test_the_report_counts_and_prints():
    model = nn.ModuleDict({"[a]": nn.Linear(10, 10), "b": nn.Linear(3, 3)})
    report = prune_(model, Prune(0.75, "1x4"))
    text = str(report)
    assert f"2 layers: 1 pruned, 1 left alone; {report.sparsity:.2%} of the pruned layers' weights are zero" in text
    # Three blocks a row of 10, cut to 4, 4 and 2: 30 blocks, of which 23 go.
    assert report.rows[0].asked == 0.75
    assert 0.6 < report.sparsity == report.rows[0].zeros / 100 < 0.9
    assert int((model["[a]"].weight == 0).sum()) == report.rows[0].zeros
    data = json.loads(json.dumps(report.to_dict()))
    assert data["pruned"] == data["skipped"] == 1
    assert data["layers"][0]["achieved"] == report.sparsity
    assert data["layers"][1]["reason"].startswith("its 3 x 3 weights are smaller")
    assert text.splitlines()[0].split()[:4] == ["layer", "kind", "shape", "method"]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    shown = capture.get()
    for piece in ("[a]", "10x10", "magnitude", "1x4", "75.00%", f"{report.sparsity:.2%}", "smaller than one 1x4"):
        assert piece in text
        assert piece in shown
        assert piece in report._repr_html_()


def test_progress_is_for_terminals(capsys, monkeypatch):
    model, config, data = nn.Sequential(nn.Linear(8, 8)), Prune(0.5, method="wanda"), [torch.randn(4, 8)]
    prune_(model, config, data)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    prune_(model, config, data)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Pruning" in captured.err


def test_rich_is_not_imported_before_it_is_needed():
    script = "import sys, edgekern; edgekern.prune_; assert 'rich' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
