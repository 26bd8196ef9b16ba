"""sensitivity: the rows are those of pruning, converting and rounding by hand, and the model survives."""

import copy
import html
import json

import pytest
import torch
from rich.console import Console
from small_models import BLOCK_LAYERS, LanguageModel, assert_untouched, snapshot
from torch import nn

from edgekern import (
    GPTQ,
    ConvertError,
    Float32,
    Int4,
    Int8,
    PerLayer,
    Prune,
    PruneError,
    Sensitivity,
    Shrink,
    convert_,
    explain,
    kernels,
    prune_,
    quantize_,
    sensitivity,
)
from edgekern.bench import BenchResult
from edgekern.nn import memory
from edgekern.sensitivity import latency

pytestmark = pytest.mark.usefixtures("one_thread")

TIME = BenchResult(1.0, 1.0, 1.0, 1.0, 1, 1)


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))


def batches(count=2, features=16):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, features, generator=generator) for _ in range(count)]


def scan(model, *args, **options):
    return sensitivity(model, *args, **{"latency": False, "progress": False, **options})


# ------------------------------------------------------------------------------------------------ quality


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_each_layer_is_pruned_alone_and_put_back(method):
    model, data = make(), batches()
    before = snapshot(model)
    result = scan(model, "mse", data, Prune(0.5, "1x4", method), sparsities=[0.8, 0.4])
    assert_untouched(model, before)
    assert [(row.name, row.scheme.sparsity) for row in result] == [(n, s) for n in "024" for s in (0.4, 0.8)]
    dense = torch.cat([model(x) for x in data])
    for row in result:
        alone = copy.deepcopy(model)
        rule = PerLayer({row.name: Prune(row.scheme.sparsity, "1x4", method)})
        report = prune_(alone, rule, data, sequential=False, progress=False)
        output = torch.cat([alone(x) for x in data])
        expected = (output - dense).square().sum() / dense.square().sum()
        assert row.loss == row.quality == pytest.approx(expected.item(), rel=1e-4)
        assert (row.zeros, row.weights) == (report.pruned[0].zeros, report.pruned[0].weights)


def test_kl_is_that_of_the_softmax():
    model, data = LanguageModel(tied=False), [{"ids": torch.randint(0, 40, (2, 5))} for _ in range(2)]
    result = scan(model, "kl", data, sparsities=[0.9])
    assert [row.name for row in result] == BLOCK_LAYERS
    assert "output head" in result.left_alone["lm_head"]
    assert result.left_alone["lm_head"] in str(result)
    pruned = copy.deepcopy(model)
    prune_(pruned, PerLayer({"blocks.0.up": Prune(0.9)}))
    divergence = nn.KLDivLoss(reduction="none", log_target=True)
    terms = [divergence(pruned(**x).log_softmax(-1), model(**x).log_softmax(-1)).sum(-1) for x in data]
    assert result.rows[0].loss == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    "wrap", [lambda y: (y, y[:0]), lambda y: {"first": y}, lambda y: {"states": y[:0], "logits": y}]
)
def test_the_main_output_of_several_is_judged(wrap):
    model = make()
    expected = scan(model, "mse", batches())
    model.register_forward_hook(lambda module, args, y: wrap(y))
    assert [row.loss for row in scan(model, "mse", batches())] == [row.loss for row in expected]


def test_a_model_that_returns_no_tensor_needs_a_metric_of_the_users():
    model = make()
    model.register_forward_hook(lambda module, args, y: "text")
    with pytest.raises(TypeError, match="the model returns str without a tensor; pass a function as metric"):
        scan(model, "mse", batches())


def test_a_layer_that_is_the_model():
    layer, data = nn.Linear(16, 8), batches()
    assert {row.name for row in scan(layer, "mse", data)} == {""}
    with pytest.raises(ConvertError, match="a single Linear has no parent to be replaced in; wrap it"):
        scan(layer, "mse", data, Int8())


def test_progress_is_for_terminals(capsys, monkeypatch):
    scan(make(), "mse", batches(), progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    scan(make(), "mse", batches(), progress=True)
    assert "Scanning" in capsys.readouterr().err


def test_a_metric_of_the_users_in_either_direction():
    model = make()

    def energy(model):
        return sum(p.detach().square().sum() for p in model.parameters())

    higher = scan(model, energy)
    lower = scan(model, energy, higher_is_better=False)
    assert higher.baseline == pytest.approx(float(energy(model)))
    assert higher.metric == "energy"
    for up, down in zip(higher, lower, strict=True):
        assert up.loss == pytest.approx(higher.baseline - up.quality) == pytest.approx(-down.loss)
        assert up.loss > 0


def test_groups_are_pruned_together():
    model = LanguageModel(tied=False)
    data = [torch.randint(0, 40, (2, 5))]
    result = scan(model, "kl", data, sparsities=[0.5], groups=[r"re:blocks\.0\..*"])
    assert [(row.name, row.layers) for row in result] == [
        (r"re:blocks\.0\..*", ("blocks.0.up", "blocks.0.down")),
        ("blocks.1.up", ("blocks.1.up",)),
        ("blocks.1.down", ("blocks.1.down",)),
    ]
    assert (result.rows[0].zeros, result.rows[0].weights) == (1024, 2048)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("no"), float("nan")])
def test_whatever_ends_it_the_model_is_as_it_was(failure):
    model, calls = make(), []
    before = snapshot(model)

    def metric(model):
        calls.append(1)
        if len(calls) < 4:
            return 1.0
        if isinstance(failure, float):
            return failure
        raise failure

    with pytest.raises((KeyboardInterrupt, RuntimeError, ValueError)) as error:
        scan(model, metric)
    if isinstance(failure, float):
        assert "metric gives nan for '0' with Prune(sparsity=0.7)" in str(error.value)
    assert_untouched(model, before)


def test_n_of_m_has_its_own_sparsity():
    assert [row.scheme.share for row in scan(make(), "mse", batches(), Prune(pattern="2:4"))] == [0.5] * 3
    with pytest.raises(ValueError, match="does not go with pattern '2:4'"):
        scan(make(), "mse", batches(), Prune(pattern="2:4"), sparsities=[0.7])


def test_what_the_data_never_reach_is_left_alone():
    model = nn.ModuleDict({"used": nn.Linear(16, 8), "unused": nn.Linear(8, 8)})
    model.forward = lambda x: model["used"](x)
    result = scan(model, "mse", (x for x in batches()))
    assert {row.name for row in result} == {"used"}
    assert result.left_alone == {"unused": "the data never reached it"}


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (("mse",), {}, ValueError, "a metric by name compares outputs on data"),
        ((lambda model: 1.0, None, Prune(0.5, method="wanda")), {}, ValueError, "'wanda'.* needs calibration data"),
        ((lambda model: 1.0, None, GPTQ()), {}, ValueError, r"GPTQ\(\) needs calibration data"),
        ((lambda model: 1.0,), {"latency": True}, ValueError, "or rows=..., or latency=False"),
        ((lambda model: 1.0, batches()), {"estimate": True}, ValueError, "only metrics by name"),
        (("mse", []), {}, ValueError, "there is not one batch in it"),
        (("mse", batches()), {"rows": 0}, ValueError, "rows: expected a number of rows from 1, got 0"),
        (("accuracy", batches()), {}, ValueError, "unknown name 'accuracy'; known are mse, kl"),
        ((3, batches()), {}, TypeError, r"expected a function \(model\) -> float or a name, got int"),
        (("mse", batches(), Prune(0.5, scope="global")), {}, ValueError, "scope 'global' compares layers"),
        (("mse", batches(), Prune(0.5, method="movement")), {}, PruneError, "train with GradualPruner"),
        (("mse", batches(), Shrink(0.5)), {}, TypeError, r"expected schemes for prune_, .*got one for shrink_"),
        (("mse", batches(), [Int8]), {}, TypeError, r"got the class Int8; write Int8\(...\)"),
        (
            ("mse", batches(), PerLayer({"0": Int8(), "2": Prune(0.5)})),
            {},
            TypeError,
            "convert_ and prune_; give a list",
        ),
        (("mse", batches(), PerLayer({"0": None})), {}, ValueError, "nothing to scan: all 3 layers"),
        (("mse", batches(), [Int8(), PerLayer({"5": Int4()})]), {}, ConvertError, "no layer is called '5'"),
        (("mse", batches()), {"sparsities": [0.5, 1.5]}, ValueError, "at most 1"),
        (("mse", batches()), {"sparsities": []}, ValueError, "above 0"),
        (("mse", batches()), {"groups": ["re:x.*"]}, ValueError, "groups: 're:x.*' matches no layer"),
        (("mse", batches()), {"groups": "re:.*"}, TypeError, r"write \['re:"),
        (
            ("mse", batches(), PerLayer({"0": Prune(0.5), "_default": Prune(0.5, "4x4")})),
            {"groups": ["re:.*"]},
            ValueError,
            "changed together but have 2 lists of schemes",
        ),
        (("mse", batches()[0]), {}, TypeError, r"data: expected an iterable of batches, got Tensor"),
        (("mse", [{"input": batches()[0]}, 3]), {}, TypeError, "linear"),
    ],
)
def test_refusals_leave_the_model_untouched(args, options, error, message):
    model = make()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        scan(model, *args, **options)
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize(
    "scheme", [Int8(), Int4(32), Int4(symmetric=True, clip="mse"), GPTQ(Int4(32)), GPTQ(Int8())], ids=repr
)
def test_each_layer_is_really_converted(scheme):
    """The loss is that of the kernels, activation rounding included, to the last digit."""
    model, data = make(), batches()
    before = snapshot(model)
    result = scan(model, "mse", data, scheme)
    assert_untouched(model, before)
    dense = torch.cat([model(x) for x in data])
    for row in result:
        alone, rule = copy.deepcopy(model), PerLayer({row.name: scheme})
        if isinstance(scheme, GPTQ):
            rule = quantize_(alone, rule, data, progress=False).config
        packed = convert_(alone, rule).converted[0].bytes_after
        with torch.no_grad():
            output = torch.cat([alone(x) for x in data])
        assert row.loss == pytest.approx(((output - dense).square().sum() / dense.square().sum()).item(), rel=1e-5)
        assert row.loss > 0
        assert (row.nbytes, row.bits) == (packed, 8 * packed / row.weights)
        assert row.runs_as == getattr(scheme, "to", scheme)
        assert row.float_bytes == 4 * (row.weights + model[int(row.name)].out_features)


def test_schemes_of_all_kinds_in_one_scan():
    model, data = make(), batches()
    schemes = [Int8(), Prune(0.5), Int4(), Prune(pattern="2:4"), Prune(0.5)]
    result = scan(model, "mse", data, schemes)
    assert [row.scheme for row in result.curves()["2"]] == [Int8(), Prune(0.5), Int4(), Prune(pattern="2:4")]
    assert [row.zeros for row in result.curves()["2"]] == [0, 288, 0, 288]
    assert [row.scheme for row in scan(model, "mse", data, [Prune(0.5), Int8()], sparsities=[0.3, 0.2])][:3] == [
        Prune(0.2),
        Prune(0.3),
        Int8(),
    ]


def test_rules_say_which_layer_is_tried_with_what():
    model = make()
    config = [PerLayer({"0": Int4(), "_default": None}), PerLayer({"4": Int4(32), "0": Int8()})]
    result = scan(model, "mse", batches(), config)
    assert [(row.name, row.scheme) for row in result] == [("0", Int4()), ("0", Int8()), ("4", Int4(32))]
    assert result.left_alone == {"2": "the rule '_default' is None"}


def test_a_layer_that_its_scheme_leaves_alone_is_listed():
    result = scan(make(), "mse", batches(), [Float32(), Int8()])
    assert {row.scheme for row in result} == {Int8()}
    assert result.left_alone["0"] == "Float32(): none of its weights are zero, and packing pays from 30% on at best"


def test_zeros_make_bits_fewer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256))
    prune_(model, Prune(0.9))
    data = [torch.randn(1, 256)]
    (few,) = scan(model, "mse", data, Int4(form="bitmap"))
    (all_,) = scan(model, "mse", data, Int4(form="dense"))
    assert few.loss == all_.loss
    assert few.zeros == all_.zeros == round(0.9 * 256 * 256)
    assert few.bits < 2.5 < 4.3 < all_.bits


def test_a_tied_head_that_a_rule_names_takes_its_table_along():
    model = LanguageModel()
    data = [torch.randint(0, 40, (2, 5))]
    before = snapshot(model)
    result = scan(model, "kl", data, [Int8(), PerLayer({"lm_head": Int8()})])
    assert_untouched(model, before)
    rows = {row.name: row for row in result}
    assert rows["lm_head"].float_bytes == 40 * 16 * 4
    assert {row.kept_bytes for row in rows.values()} == {0}
    assert result.other_bytes == 0  # all the model's weights are scanned; the embedding's are the head's
    assert scan(model, "kl", data, Int8()).other_bytes == 40 * 16 * 4


def test_layers_that_a_fused_path_would_skip_are_seen():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = nn.TransformerEncoder(layer, 1)
    result = scan(model, "mse", [torch.randn(2, 5, 16)], Int4())
    assert all(row.loss > 0 for row in result)
    assert [row.name for row in result] == ["layers.0.linear1", "layers.0.linear2"]
    assert model.use_nested_tensor
    assert not hasattr(explain(model), "_edgekern_fused_path")


def test_hooks_of_the_users_go_on_working():
    model, calls = make(), []
    handle = model[2].register_forward_hook(lambda *_: calls.append(1))
    scan(model, "mse", batches(), [Int8(), Prune(0.5)])
    seen = len(calls)
    assert seen > 4
    handle.remove()
    model(batches()[0])
    assert len(calls) == seen


# ------------------------------------------------------------------------------------------------ estimated


@pytest.mark.parametrize("metric", ["mse", "kl"])
def test_an_estimate_is_close_to_what_is_measured(metric):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Linear(64, 16))
    data = [torch.randn(256, 32) for _ in range(4)]
    schemes = [Int8(), Int4(32), Prune(0.2)]
    before = snapshot(model)
    estimated = scan(model, metric, data, schemes, estimate=True)
    assert_untouched(model, before)
    measured = scan(model, metric, data, schemes)
    assert estimated.metric == f"estimated {metric}"
    assert len(estimated) == len(measured) == 9
    for guess, truth in zip(estimated, measured, strict=True):
        assert guess.loss == pytest.approx(truth.loss, rel=0.33)


def test_an_estimate_needs_no_weight_to_be_trained():
    model, data = LanguageModel(tied=False).requires_grad_(False), [torch.randint(0, 40, (8, 5)) for _ in range(2)]
    result = scan(model, "kl", data, Int4(), estimate=True)
    assert [row.name for row in result] == BLOCK_LAYERS
    assert all(row.loss > 0 for row in result)
    assert all(weight.grad is None for weight in model.parameters())


def test_an_estimate_of_convolutions_and_of_layers_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.unread = nn.Conv2d(1, 4, 3), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            x = self.conv(x).flatten(1)
            self.unread(x)
            return self.linear(torch.relu(self.linear(x)))

    torch.manual_seed(0)
    model, data = Twice(), [torch.randn(64, 1, 4, 4) for _ in range(4)]
    options = {"sparsities": [0.1, 0.2]}
    estimated = scan(model, "mse", data, Prune(0.1), estimate=True, **options)
    measured = scan(model, "mse", data, Prune(0.1), **options)
    assert list(estimated.curves()) == ["conv", "linear", "unread"]
    assert {row.loss for row in (*estimated.curves()["unread"], *measured.curves()["unread"])} == {0}
    for guess, truth in zip(estimated.rows[:4], measured.rows[:4], strict=True):
        assert guess.loss == pytest.approx(truth.loss, rel=0.33)
    assert estimated.rows[0].loss == measured.rows[0].loss


# ------------------------------------------------------------------------------------------------ latency and output


@pytest.fixture(scope="module")
def timed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 512))
    data = [torch.randn(64, 1, 4, 4)]
    return sensitivity(model, "mse", data, Prune(0.5, "4x4"), sparsities=[0.5, 0.9], progress=False)


def test_pruned_layers_are_timed_as_int8_and_beside_unpruned_ones(timed):
    linear = [row for row in timed if row.name == "2"]
    assert len(linear) == 2
    assert linear[0].float_ms == linear[1].float_ms > 0
    assert linear[0].unpruned_ms == linear[1].unpruned_ms > 0
    assert linear[0].unpruned_bytes == linear[1].unpruned_bytes >= linear[0].nbytes
    assert {row.runs_as for row in linear} == {Int8(rows=64)}
    assert all(row.speedup_by_zeros == row.unpruned_ms / row.ms > 0 for row in linear)
    assert all(row.speedup == row.float_ms / row.ms > 0 for row in linear)
    assert timed.threads == kernels.get_num_threads()


def test_convolutions_are_timed_on_the_images_of_the_data(timed):
    assert timed.left_alone == {}
    convs = [row for row in timed if row.name == "0"]
    assert len(convs) == 2
    assert {row.runs_as for row in convs} == {Int8()}
    assert all(min(row.float_ms, row.ms, row.unpruned_ms, row.nbytes) > 0 for row in convs)


@pytest.mark.parametrize("options", [{"config": Prune(0.5, method="sparsegpt", joint=Int4())}, {"rows": 4}])
def test_convolutions_without_images_or_kernels_have_no_latency(options):
    # Depthwise, of which there is no int4.
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 8))
    data = [torch.randn(64, 4, 4, 4)] if "config" in options else None
    metric = "mse" if data else lambda model: float(model[2].weight.sum())
    result = sensitivity(model, metric, data, **{"config": Int8(), **options}, progress=False)
    conv, linear = (next(row for row in result if row.name == name) for name in "02")
    assert conv.float_ms is conv.ms is conv.speedup is None
    assert linear.ms > 0


def test_layers_that_are_alike_share_a_measurement(monkeypatch):
    measured, interleave = [], latency.interleave

    def watched(calls, *args):
        measured.append(len(calls))
        return interleave(calls, 1, 1e-4)

    monkeypatch.setattr(latency, "interleave", watched)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 8))
    result = scan(model, "mse", batches(), [Int8(), Int4()], latency=True, rows=2)
    assert measured == [3, 3]  # floats and two schemes; one shape and the other
    assert len({(row.float_ms, row.ms) for row in result if row.scheme == Int8()}) == 2
    assert all(row.ms > 0 and row.unpruned_ms is None for row in result)


def test_weights_of_a_large_model_come_from_memory(monkeypatch):
    calls, held = {}, 1 << 16
    monkeypatch.setattr(latency, "interleave", lambda named, *_: calls.update(named) or dict.fromkeys(named, TIME))
    monkeypatch.setattr(memory, "last_level_cache", lambda: held)
    monkeypatch.setattr(latency, "_next_of", lambda made: len(made))
    small, large = nn.Sequential(nn.Linear(64, 64)), nn.Sequential(*(nn.Linear(64, 64) for _ in range(16)))
    scan(small, "mse", batches(features=64), Int8(), latency=True)
    assert calls == {"float": 1, "0": 1}
    scan(large, "mse", batches(features=64), Int8(), latency=True)
    assert calls["float"] * 64 * 64 * 4 >= 2 * held
    assert calls["0"] * 64 * 64 >= held  # int8's weights fit twice the cache but not once


def test_latency_for_a_number_of_rows_needs_no_data():
    result = scan(make(), lambda model: 1.0, None, Int8(), latency=True, rows=1)
    assert all(row.float_ms > 0 and row.ms > 0 for row in result)


def test_the_result_prints_plots_and_survives_json(timed, tmp_path):
    assert Sensitivity.from_dict(json.loads(json.dumps(timed.to_dict()))) == timed
    console = Console(width=200)
    with console.capture() as capture:
        console.print(timed)
    shown, text = capture.get(), str(timed)
    pieces = [
        "sparsity=0.9, pattern='4x4'",
        f"{timed.rows[-1].ms:.4f}",
        "2 layers or groups scanned",
        "lower is better",
    ]
    for piece in [*pieces, "unpruned ms", "Int8(rows=(64,))"]:
        assert piece in text
        assert piece in shown
        assert html.escape(piece) in timed._repr_html_()


def test_columns_without_latencies_are_not_shown():
    result = scan(make(), "mse", batches())
    assert "float ms" not in str(result)
    assert str(result).splitlines()[0].split() == ["layer", "scheme", "zero", "quality", "loss"]
    header = str(scan(make(), "mse", batches(), Int8())).splitlines()[0]
    assert header.split("  ")[-1].strip() == "bits a weight"
    assert "zero" not in header


def test_scans_of_bits_survive_json():
    result = scan(make(), "mse", batches(), [Int4(32), GPTQ(Int8())], latency=True, rows=1)
    assert Sensitivity.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("kind", ["pruned and timed", "pruned", "bits", "both"])
def test_a_plot_is_written(timed, kind, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "scan.png"
    schemes = {"pruned": None, "bits": [Int8(), Int4()], "both": [Int8(), Prune(0.5)]}
    (timed if kind == "pruned and timed" else scan(make(), "mse", batches(), schemes[kind])).plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
