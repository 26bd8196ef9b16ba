"""sensitivity: the curves are those of pruning by hand, the model survives, and budgets add up."""

import copy
import json

import pytest
import torch
from rich.console import Console
from small_models import BLOCK_LAYERS, LanguageModel, assert_untouched, snapshot
from torch import nn

from edgekern import Int8, PerLayer, Prune, PruneError, Sensitivity, allocate, kernels, prune_, sensitivity
from edgekern.sensitivity import SensitivityRow

pytestmark = pytest.mark.usefixtures("one_thread")


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
    result = scan(layer, "mse", data)
    assert {row.name for row in result} == {""}
    assert prune_(layer, allocate(result, 0.75)).sparsity == 0.75


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
        assert "metric gives nan for '0' at 70%" in str(error.value)
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
        (("mse",), {}, PruneError, "a metric by name compares outputs on data"),
        ((lambda model: 1.0, None, Prune(0.5, method="wanda")), {}, PruneError, "'wanda' needs calibration data"),
        ((lambda model: 1.0,), {"latency": True}, PruneError, "or latency=False"),
        (("accuracy", batches()), {}, ValueError, "unknown name 'accuracy'; known are mse, kl"),
        ((3, batches()), {}, TypeError, r"expected a function \(model\) -> float or a name, got int"),
        (("mse", batches(), Prune(0.5, scope="global")), {}, ValueError, "scope 'global' compares layers"),
        (("mse", batches(), Prune(0.5, method="movement")), {}, PruneError, "train with GradualPruner"),
        (("mse", batches(), Int8()), {}, TypeError, "Int8 is for convert_"),
        (("mse", batches()), {"sparsities": [0.5, 1.5]}, ValueError, "at most 1"),
        (("mse", batches()), {"sparsities": []}, ValueError, "above 0"),
        (("mse", batches()), {"groups": ["re:x.*"]}, ValueError, "groups: 're:x.*' matches no layer"),
        (("mse", batches()), {"groups": "re:.*"}, TypeError, r"write \['re:"),
        (
            ("mse", batches(), PerLayer({"0": Prune(0.5), "_default": Prune(0.5, "4x4")})),
            {"groups": ["re:.*"]},
            ValueError,
            "pruned together but have 2 different schemes",
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


def test_a_saved_scan_of_something_else_is_refused():
    data = scan(make(), "mse", batches()).to_dict()
    data["rows"][0]["scheme"] = Int8().to_dict()
    with pytest.raises(ValueError, match="a row is of format 'prune', got 'int8'"):
        Sensitivity.from_dict(data)


# ------------------------------------------------------------------------------------------------ latency and output


@pytest.fixture(scope="module")
def timed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 512))
    data = [torch.randn(64, 1, 4, 4)]
    return sensitivity(model, "mse", data, Prune(0.5, "4x4"), sparsities=[0.5, 0.9], progress=False)


def test_linear_layers_are_timed_in_float_int8_and_pruned(timed):
    linear = [row for row in timed if row.name == "2"]
    assert len(linear) == 2
    assert linear[0].float_ms == linear[1].float_ms > 0
    assert linear[0].int8_ms == linear[1].int8_ms > 0
    assert all(row.speedup == row.int8_ms / row.pruned_ms > 0 for row in linear)
    assert timed.threads == kernels.get_num_threads()


def test_convolutions_have_no_latency(timed):
    assert timed.left_alone == {}
    assert all(row.float_ms is row.pruned_ms is row.speedup is None for row in timed if row.name == "0")


def test_the_result_prints_plots_and_survives_json(timed, tmp_path):
    assert Sensitivity.from_dict(json.loads(json.dumps(timed.to_dict()))) == timed
    console = Console(width=200)
    with console.capture() as capture:
        console.print(timed)
    shown, text = capture.get(), str(timed)
    for piece in ("4x4", "90.00%", f"{timed.rows[-1].pruned_ms:.4f}", "2 layers or groups scanned", "lower is better"):
        assert piece in text
        assert piece in shown
        assert piece in timed._repr_html_()


def test_columns_without_latencies_are_not_shown():
    result = scan(make(), "mse", batches())
    assert "float ms" not in str(result)
    assert str(result).splitlines()[0].split() == ["layer", "pattern", "method", "asked", "zero", "quality", "loss"]


@pytest.mark.parametrize("with_times", [True, False])
def test_a_plot_is_written(timed, with_times, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "scan.png"
    (timed if with_times else scan(make(), "mse", batches())).plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------ budgets


def curve(name, losses, weights=100, scheme=None, steps=None):
    scheme = scheme or Prune(0.5)
    shares = [(i + 1) / len(losses) for i in range(len(losses))]
    return [
        SensitivityRow(name, (name,), Prune(s, scheme.pattern, scheme.method), 0, weights, steps or weights, loss, loss)
        for s, loss in zip(shares, losses, strict=True)
    ]


def made(*curves):
    return Sensitivity(tuple(row for each in curves for row in each), "mse", 0.0, False, 1, {})


def shares(config):
    return {name: scheme.share if scheme else 0.0 for name, scheme in config.rules.items()}


def test_steps_go_where_they_cost_the_least():
    result = made(curve("cheap", [1, 2, 3, 4]), curve("dear", [5, 10, 15, 20]), curve("late", [0, 0, 30, 60]))
    assert shares(allocate(result, 0.5)) == {"cheap": 1.0, "dear": 0.0, "late": 0.5}
    assert shares(allocate(result, 0.1)) == {"cheap": 0.0, "dear": 0.0, "late": 0.3}
    assert shares(allocate(result, 0.6)) == {"cheap": 1.0, "dear": 0.3, "late": 0.5}
    assert shares(allocate(result, 1)) == {"cheap": 1.0, "dear": 1.0, "late": 1.0}


def test_cost_is_counted_by_the_weight():
    result = made(curve("large", [2], weights=1000), curve("small", [1], weights=100))
    assert shares(allocate(result, 1000 / 1100)) == {"large": 1.0, "small": 0.0}


def test_losses_that_wobble_are_made_convex():
    result = made(curve("bumpy", [9, 8, 9, 10]), curve("straight", [4, 8, 12, 16]), curve("better", [-3, -1, 3, 4.5]))
    assert shares(allocate(result, 0.5 / 3)) == {"bumpy": 0.0, "straight": 0.0, "better": 0.5}
    assert shares(allocate(result, 1.5 / 3)) == {"bumpy": 0.5, "straight": 0.0, "better": 1.0}


def test_it_is_as_good_as_trying_everything():
    """On convex curves the greedy choice is the best of all that reach the total."""
    generator = torch.Generator().manual_seed(3)
    curves = [torch.rand(4, generator=generator).sort().values.cumsum(0).tolist() for _ in range(3)]
    result = made(*(curve(str(i), losses, weights=4) for i, losses in enumerate(curves)))
    for removed in range(13):
        chosen = shares(allocate(result, removed / 12))
        counts = [round(4 * chosen[str(i)]) for i in range(3)]
        assert sum(counts) == removed

        def loss(counts):
            return sum(([0.0, *losses])[count] for losses, count in zip(curves, counts, strict=True))

        every = [(a, b, removed - a - b) for a in range(5) for b in range(5) if 0 <= removed - a - b <= 4]
        assert loss(counts) == pytest.approx(min(map(loss, every)))


@pytest.mark.parametrize(
    ("scheme", "slack"),
    [(Prune(0.5), 0), (Prune(0.5, "4x4"), 8), (Prune(0.5, "1x4", "sparsegpt"), 2), (Prune(0.5, method="wanda"), 12)],
)
@pytest.mark.parametrize("sparsity", [0.37, 0.613])
def test_the_pruned_model_has_the_total_that_was_asked_for(scheme, slack, sparsity):
    model, data = make(), batches()
    config = allocate(scan(model, "mse", data, scheme), sparsity)
    assert len({rule.share for rule in config.rules.values() if rule}) > 1
    prune_(model, config, data, progress=False)
    layers = [model[0], model[2], model[4]]
    zeros, weights = (sum(int(f(layer.weight)) for layer in layers) for f in (lambda w: (w == 0).sum(), torch.numel))
    assert abs(zeros - sparsity * weights) <= slack + 0.5


def test_a_budget_is_better_than_the_same_for_all():
    torch.manual_seed(0)
    model, data = make(), batches(8)
    with torch.no_grad():
        model[2].weight[:, 4:] *= 0.01  # a layer with much to spare
    result = scan(model, "mse", data, sparsities=[0.2, 0.4, 0.6, 0.8, 0.9])

    def error(config):
        pruned = copy.deepcopy(model)
        prune_(pruned, config)
        return sum((pruned(x) - model(x)).square().sum().item() for x in data)

    assert error(allocate(result, 0.5)) < 0.7 * error(Prune(0.5))


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((made(curve("a", [1])), 1.2), ValueError, "expected 0 to 1.0000, the highest that was scanned, got 1.2"),
        ((made(curve("a", [1])), "0.5"), TypeError, "expected a number, got str"),
        ((Prune(0.5), 0.5), TypeError, r"expected what sensitivity\(\) returns, got Prune"),
    ],
)
def test_budgets_check_their_arguments(args, error, message):
    with pytest.raises(error, match=message):
        allocate(*args)


def test_n_of_m_has_nothing_to_allocate():
    with pytest.raises(ValueError, match="has one sparsity, nothing to allocate"):
        allocate(scan(make(), "mse", batches(), Prune(pattern="2:4")), 0.4)
