"""allocate: never above the budget, as good as trying everything, and more room is never worse."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import quick
from small_models import BLOCK_LAYERS, LanguageModel, assert_untouched, snapshot
from test_sensitivity import batches, make, scan
from torch import nn

from edgekern import GPTQ, Int4, Int8, PerLayer, Prune, Sensitivity, allocate, convert_, prune_, quantize_, sensitivity
from edgekern.config import read_config, write_config
from edgekern.nn import NativeLinear
from edgekern.sensitivity import SensitivityRow, knapsack
from edgekern.sensitivity.budget import parse_budget
from edgekern.sensitivity.knapsack import Option, best_choice, least_cost

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMES = [Int4(128), Int4(64), Int4(32), Int8()]


# ------------------------------------------------------------------------------------------------ what a budget says


@pytest.mark.parametrize(
    ("text", "amount", "kind", "shown"),
    [
        ("4.5 bpw", 4.5, "bits a weight", "4.5 bpw"),
        ("120MB", 120e6, "bytes", "120 MB"),
        (" 1.5 gib ", 1.5 * 2**30, "bytes", "1.5 GiB"),
        ("512 KB", 512e3, "bytes", "512 kB"),
        ("100 B", 100, "bytes", "100 B"),
        ("8 ms", 8, "milliseconds", "8 ms"),
        (".25 s", 250, "milliseconds", "0.25 s"),
        ("20 µs", 0.02, "milliseconds", "20 us"),
        ("60% zeros", 0.6, "zeros", "60% zeros"),
        ("1e2 %ZEROS", 1, "zeros", "100% zeros"),
    ],
)
def test_budgets_are_read(text, amount, kind, shown):
    budget = parse_budget(text)
    assert budget.amount == pytest.approx(amount)
    assert (budget.kind, str(budget)) == (kind, shown)


@pytest.mark.parametrize(
    "text", ["", "bpw", "4.5", "-1 MB", "4,5 bpw", "4.5 bits", "nan MB", "inf MB", "1e999 MB", "101% zeros", "60%"]
)
def test_budgets_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=r"budget: expected .*; got"):
        parse_budget(text)


# ------------------------------------------------------------------------------------------------ the choice

options = st.lists(
    st.lists(st.builds(Option, st.floats(0, 1000), st.floats(0, 10)), min_size=1, max_size=5), min_size=1, max_size=5
)


def total(each, chosen):
    pairs = [some[i] for some, i in zip(each, chosen, strict=True)]
    return sum(option.cost for option in pairs), sum(option.loss for option in pairs)


@quick
@given(options, st.floats(0, 1))
def test_it_is_never_above_the_limit_and_as_good_as_trying_everything(each, share):
    least, most = (sum(f(option.cost for option in some) for some in each) for f in (min, max))
    limit = least + share * (most - least)
    if limit < least_cost(each):
        return  # the sum was rounded
    cost, loss = total(each, best_choice(each, limit))
    assert cost <= limit
    every = [total(each, chosen) for chosen in itertools.product(*(range(len(some)) for some in each))]
    assert loss == pytest.approx(min(one[1] for one in every if one[0] <= limit))


@quick
@given(options, st.floats(0, 1))
def test_thinned_out_it_is_within_a_step_for_each_layer(each, share):
    least, most = (sum(f(option.cost for option in some) for some in each) for f in (min, max))
    limit, steps = least + share * (most - least), 20
    if limit < least_cost(each):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "STEPS", steps)
        cost, loss = total(each, best_choice(each, limit))
    assert cost <= limit
    tighter = limit - len(each) * (most - least) / steps
    every = [total(each, chosen) for chosen in itertools.product(*(range(len(some)) for some in each))]
    assert loss <= min((one[1] for one in every if one[0] <= tighter), default=float("inf")) + 1e-9


@quick
@given(options, st.lists(st.floats(0, 1.2), min_size=2, max_size=5))
def test_more_room_is_never_worse(each, given_shares):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "STEPS", 20)
        _never_worse(each, given_shares)


def _never_worse(each, given_shares):
    least, most = (sum(f(option.cost for option in some) for some in each) for f in (min, max))
    limits = [least + share * (most - least) for share in sorted(given_shares)]
    found = [total(each, best_choice(each, limit))[1] for limit in limits if limit >= least_cost(each)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))


def test_of_equal_losses_the_cheaper_is_taken():
    each = [[Option(3, 1.0), Option(1, 1.0), Option(2, 0.5), Option(4, 0.5)]] * 2
    assert best_choice(each, 8) == [2, 2]
    assert best_choice(each, 5) == [2, 2]
    assert best_choice(each, 2) == [1, 1]
    with pytest.raises(ValueError, match=r"limit: 1\.5 is below the least that the options cost, 2"):
        best_choice(each, 1.5)


def test_many_layers_are_within_a_step_each_of_the_bound():
    """No choice is better than the best mixture of options, which the hulls of the layers give."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(200, 5, 2, generator=generator).tolist()
    each = [[Option(cost, loss) for cost, loss in some] for some in values]
    most = sum(max(option.cost for option in some) for some in each)
    for share in (0.02, 0.1, 0.5):
        limit = least_cost(each) + share * (most - least_cost(each))
        cost, loss = total(each, best_choice(each, limit))
        assert cost <= limit
        prices = torch.logspace(-3, 3, 2000).tolist()  # Lagrange: the bound for each price of a unit of cost
        bound = max(
            sum(min(option.loss + price * option.cost for option in some) for some in each) - price * limit
            for price in prices
        )
        assert bound <= loss <= 1.01 * bound + 0.01


# ------------------------------------------------------------------------------------------------ bits and bytes


def bits_of(model, config):
    """Bits a weight that a converted model really has, over the layers that the configuration names."""
    model = copy.deepcopy(model)
    report = convert_(model, config) if any(config.rules.values()) else None
    rows = {row.name: row.bytes_after for row in report.converted} if report else {}
    layers = {name: model.get_submodule(name) for name in config.rules}
    dense = sum(p.nbytes for name, layer in layers.items() if name not in rows for p in layer.parameters())
    weights = sum(layer.in_features * layer.out_features for layer in layers.values())
    return 8 * (sum(rows.values()) + dense) / weights


@pytest.mark.parametrize("bits", [14, 15.5, 18, 25, 50])
def test_the_converted_model_is_within_bits_a_weight(bits):
    model, data = make(), batches()
    config = allocate(model, f"{bits} bpw", data, progress=False)
    assert set(config.rules) == {"0", "2", "4"}
    assert bits_of(model, config) <= bits


def test_more_bits_are_spent_where_they_are_worth_most():
    torch.manual_seed(0)
    model, data = nn.Sequential(*(nn.Linear(128, 128) for _ in range(4))), [torch.randn(256, 128)]
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(1.7)
        model[1].weight[:, 0] *= 30  # one column that leaves few steps to the others of its group, and of its row
    config = allocate(model, "6 bpw", data, progress=False)
    assert config.rules["1"] is None or config.rules["1"] == Int8()
    assert bits_of(model, config) <= 6

    def error(config):
        converted = copy.deepcopy(model)
        convert_(converted, config)
        with torch.no_grad():
            return (converted(data[0]) - model(data[0])).square().sum().item()

    least = allocate(
        model, f"{bits_of(model, PerLayer(dict.fromkeys('0123', Int4(32)))):.6f} bpw", data, progress=False
    )
    assert error(config) < error(Int4(32))
    assert error(least) < error(Int4(32))


def test_floats_are_kept_where_there_is_room():
    model, data = make(), batches()
    assert set(allocate(model, "64 bpw", data, progress=False).rules.values()) == {None}


def test_bytes_count_the_whole_model():
    model = LanguageModel()
    data = [{"ids": torch.randint(0, 40, (4, 8))}]
    result = scan(model, "kl", data, SCHEMES)
    dense = sum(p.nbytes for p in model.parameters())
    head = 40 * 16 * 4
    for budget in (dense, 0.8 * dense, 0.6 * dense):
        config = allocate(result, f"{budget} B")
        converted = copy.deepcopy(model)
        if any(config.rules.values()):
            convert_(converted, config)
        packed = sum(m.packed_bytes for m in converted.modules() if hasattr(m, "packed_bytes"))
        assert packed + sum(p.nbytes for p in converted.parameters()) <= budget
    assert list(config.rules) == BLOCK_LAYERS
    with pytest.raises(ValueError, match=r"2000 B cannot be met; the least .* is \d+ B") as error:
        allocate(result, "2000 B")
    assert int(str(error.value).split()[-2]) > head


def test_a_tied_head_and_its_table_cost_one_copy():
    model = LanguageModel()
    data = [torch.randint(0, 40, (4, 8))]
    result = scan(model, "kl", data, PerLayer({"lm_head": Int8(), "_default": Int8()}))
    packed = {row.name: row.nbytes for row in result}
    everything = sum(packed.values())
    assert list(allocate(result, f"{everything} B").rules.values()) == [Int8()] * 5
    converted = copy.deepcopy(model)
    convert_(converted, allocate(result, f"{everything} B"))
    assert sum(m.packed_bytes for m in converted.modules() if isinstance(m, NativeLinear)) <= everything
    assert not list(converted.parameters())


def test_a_budget_below_the_least_says_what_that_is():
    result = scan(make(), "mse", batches(), SCHEMES)
    with pytest.raises(ValueError, match=r"3 bpw cannot be met; the least that the schemes come to is 13\.\d+"):
        allocate(result, "3 bpw")


def test_the_result_is_for_quantize_where_the_schemes_are():
    model, data = make(), batches()
    config = allocate(model, "14 bpw", data, [GPTQ(Int4(32)), GPTQ(Int8())], progress=False)
    report = quantize_(model, config, data, progress=False)
    assert [row.to for row in report.quantized] == [rule.to for rule in config.rules.values() if rule]
    assert convert_(model, report.config).converted


def test_the_result_is_kept_as_toml(tmp_path):
    pytest.importorskip("tomli_w")
    config = allocate(make(), "18 bpw", batches(), progress=False)
    write_config(config, tmp_path / "edgekern.toml")
    assert read_config(tmp_path / "edgekern.toml") == config


def test_the_usual_metric_is_that_of_the_output(monkeypatch):
    seen = []

    def watched(model, metric, *args, **options):
        seen.append((metric, options["estimate"], options["latency"]))
        return sensitivity(model, metric, *args, **options)

    monkeypatch.setitem(allocate.__wrapped__.__globals__, "sensitivity", watched)
    model, data = make(), batches()
    allocate(model, "20 bpw", data, progress=False)
    model.register_forward_hook(lambda module, args, y: {"logits": y})
    allocate(model, "20 bpw", iter(data), progress=False)
    allocate(model, "20 bpw", None, metric=lambda model: 1.0, progress=False)
    allocate(model, "9 s", data, metric="mse", rows=1, progress=False)
    assert [one[1:] for one in seen] == [(True, False), (True, False), (False, False), (True, True)]
    assert (seen[0][0], seen[1][0], seen[3][0]) == ("mse", "kl", "mse")


def test_a_model_is_as_it_was():
    model = make()
    before = snapshot(model)
    allocate(model, "20 bpw", batches(), progress=False)
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------------------ milliseconds


def timed(name, *options, scheme_of=lambda i: Int4(32) if i == 0 else Int8()):
    """Rows of a layer that takes 10 ms in floats, by (ms, loss)."""
    return [
        SensitivityRow(name, (name,), scheme_of(i), 0, 100, 1, loss, loss, 400, nbytes=50 + i, float_ms=10.0, ms=ms)
        for i, (ms, loss) in enumerate(options)
    ]


def test_time_is_that_of_the_layers_added_up():
    result = made(timed("a", (1.0, 5.0), (2.0, 1.0)), timed("b", (1.0, 0.3), (2.0, 0.1)))
    assert allocate(result, "2 ms").rules == {"a": Int4(32), "b": Int4(32)}
    assert allocate(result, "3 ms").rules == {"a": Int8(), "b": Int4(32)}
    assert allocate(result, "4000 us").rules == {"a": Int8(), "b": Int8()}
    assert allocate(result, "12 ms").rules == {"a": None, "b": Int8()}
    assert allocate(result, "20 ms").rules == {"a": None, "b": None}
    with pytest.raises(ValueError, match=r"1.5 ms cannot be met; the least that the schemes come to is 2 ms"):
        allocate(result, "1.5 ms")


def test_pruning_for_time_counts_what_the_zeros_bring():
    rows = [
        SensitivityRow("a", ("a",), Prune(share), 50, 100, 100, loss, loss, 400, runs_as=Int8(), nbytes=nbytes,
                       unpruned_bytes=100, float_ms=9.0, ms=ms, unpruned_ms=4.0)
        for share, loss, nbytes, ms in ((0.5, 1.0, 60, 3.0), (0.9, 5.0, 30, 1.0))
    ]  # fmt: skip
    conv = [SensitivityRow("c", ("c",), Prune(0.5), 50, 100, 100, 1.0, 1.0, 400)]
    result = made(rows, conv)
    assert allocate(result, "4 ms").rules == {"a": None, "c": None}
    assert allocate(result, "3 ms").rules == {"a": Prune(0.5), "c": None}
    assert allocate(result, "1 ms").rules == {"a": Prune(0.9), "c": None}
    assert allocate(result, "459 B").rules == {"a": Prune(0.9), "c": None}  # the convolution's 400 come on top
    assert allocate(result, "460 B").rules == {"a": Prune(0.5), "c": None}
    assert allocate(result, "8 bpw").rules == {"a": None, "c": None}


def test_a_model_within_milliseconds():
    model, data = make(), batches()
    result = sensitivity(model, "mse", data, SCHEMES, rows=1, progress=False)
    fastest = sum(min(row.ms for row in curve) for curve in result.curves().values())
    config = allocate(result, f"{1.001 * fastest} ms")
    taken = {row.name: row.ms for row in result if config.rules[row.name] == row.scheme}
    assert sum(taken.get(name, curve[0].float_ms) for name, curve in result.curves().items()) <= 1.001 * fastest


# ------------------------------------------------------------------------------------------------ zeros


def curve(name, losses, weights=100, scheme=None, steps=None):
    scheme = scheme or Prune(0.5)
    shares = [(i + 1) / len(losses) for i in range(len(losses))]
    return [
        SensitivityRow(
            name, (name,), Prune(s, scheme.pattern, scheme.method), 0, weights, steps or weights, loss, loss, 0
        )
        for s, loss in zip(shares, losses, strict=True)
    ]


def made(*curves):
    return Sensitivity(tuple(row for each in curves for row in each), "mse", 0.0, False, 1, {})


def shares(config):
    return {name: scheme.share if scheme else 0.0 for name, scheme in config.rules.items()}


def zeros(share):
    return f"{100 * share!r}% zeros"


def test_steps_go_where_they_cost_the_least():
    result = made(curve("cheap", [1, 2, 3, 4]), curve("dear", [5, 10, 15, 20]), curve("late", [0, 0, 30, 60]))
    assert shares(allocate(result, "50% zeros")) == {"cheap": 1.0, "dear": 0.0, "late": 0.5}
    assert shares(allocate(result, "10% zeros")) == {"cheap": 0.0, "dear": 0.0, "late": 0.3}
    assert shares(allocate(result, "60% zeros")) == {"cheap": 1.0, "dear": 0.3, "late": 0.5}
    assert shares(allocate(result, "100% zeros")) == {"cheap": 1.0, "dear": 1.0, "late": 1.0}


def test_cost_is_counted_by_the_weight():
    result = made(curve("large", [2], weights=1000), curve("small", [1], weights=100))
    assert shares(allocate(result, zeros(1000 / 1100))) == {"large": 1.0, "small": 0.0}


def test_losses_that_wobble_are_made_convex():
    result = made(curve("bumpy", [9, 8, 9, 10]), curve("straight", [4, 8, 12, 16]), curve("better", [-3, -1, 3, 4.5]))
    assert shares(allocate(result, zeros(0.5 / 3))) == {"bumpy": 0.0, "straight": 0.0, "better": 0.5}
    assert shares(allocate(result, "50% zeros")) == {"bumpy": 0.5, "straight": 0.0, "better": 1.0}


def test_zeros_are_as_good_as_trying_everything():
    """On convex curves the greedy choice is the best of all that reach the total."""
    generator = torch.Generator().manual_seed(3)
    curves = [torch.rand(4, generator=generator).sort().values.cumsum(0).tolist() for _ in range(3)]
    result = made(*(curve(str(i), losses, weights=4) for i, losses in enumerate(curves)))
    for removed in range(13):
        chosen = shares(allocate(result, zeros(removed / 12)))
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
    config = allocate(scan(model, "mse", data, scheme, sparsities=[0.5, 0.6, 0.7, 0.8, 0.9]), zeros(sparsity))
    assert len({rule.share for rule in config.rules.values() if rule}) > 1
    prune_(model, config, data, progress=False)
    layers = [model[0], model[2], model[4]]
    found, weights = (sum(int(f(layer.weight)) for layer in layers) for f in (lambda w: (w == 0).sum(), torch.numel))
    assert abs(found - sparsity * weights) <= slack + 0.5


def test_a_budget_is_better_than_the_same_for_all():
    torch.manual_seed(0)
    model, data = make(), batches(8)
    with torch.no_grad():
        model[2].weight[:, 4:] *= 0.01  # a layer with much to spare

    def error(config):
        pruned = copy.deepcopy(model)
        prune_(pruned, config)
        return sum((pruned(x) - model(x)).square().sum().item() for x in data)

    schemes = [Prune(share) for share in (0.2, 0.4, 0.6, 0.8, 0.9)]
    assert error(allocate(model, "50% zeros", data, schemes, progress=False)) < 0.7 * error(Prune(0.5))
    assert allocate(model, "50% zeros", data, progress=False).rules["2"].share > 0.5  # at the usual sparsities


def test_a_layer_that_is_the_model_can_be_pruned_to_a_budget():
    layer = nn.Linear(16, 8)
    config = allocate(layer, "75% zeros", batches(), progress=False)
    assert prune_(layer, config).sparsity == 0.75


# ------------------------------------------------------------------------------------------------ what goes wrong

BITS = made(timed("a", (1.0, 5.0), (2.0, 1.0)))
UNTIMED = made([SensitivityRow("a", ("a",), Int8(), 0, 100, 1, 1.0, 1.0, 400, nbytes=110)])
BOTH = Sensitivity((*BITS.rows, *curve("a", [1])), "mse", 0.0, False, 1, {})


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((Int8(), "5 bpw"), TypeError, r"model: expected a module, or what sensitivity\(\) returns; got Int8"),
        ((BITS, 4.5), TypeError, "budget: expected a string of an amount and a unit, as '4.5 bpw'.*; got float"),
        ((BITS, "5 bits"), ValueError, "of the units bpw, B, kB"),
        ((BITS, "5 bpw", batches()), TypeError, "data: a scan was given as model, which settles that"),
        ((BITS, "50% zeros"), ValueError, r"50% zeros come of pruning, and Int4\(group_size=32\) makes none"),
        ((UNTIMED, "5 ms"), ValueError, "5 ms needs a scan with latency=True"),
        ((BOTH, "5 bpw"), ValueError, "the schemes are for convert_ and prune_"),
        ((made(curve("a", [1, 2, 3])[:2]), "70% zeros"), ValueError, "the most that was scanned is 66.67% zeros"),
        ((make(), "5 bpw"), ValueError, "data: what a layer loses is measured on data"),
        ((make(), "5 bpw", []), ValueError, "there is not one batch in it"),
        ((make(), "5 bpw", batches()[0]), TypeError, "expected an iterable of batches, got Tensor"),
    ],
)
def test_mistakes_are_explained(args, error, message):
    with pytest.raises(error, match=message):
        allocate(*args)


def test_n_of_m_has_nothing_to_allocate():
    with pytest.raises(ValueError, match="has one sparsity, nothing to allocate"):
        allocate(scan(make(), "mse", batches(), Prune(pattern="2:4")), "40% zeros")
