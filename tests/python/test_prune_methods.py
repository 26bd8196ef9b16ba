"""The methods against independent oracles: least squares, brute force, and what the papers promise."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LanguageModel
from torch import nn
from torch.nn import functional as F

from edgekern import Int8, PerLayer, Prune, convert_, ops, prune_
from edgekern.calibration.matrix import to_matrix
from edgekern.nn import FusedConv2d
from edgekern.prune.allocate import outlier_ratio


def correlated(samples=256, features=32, seed=0):
    """Inputs whose features share a few causes, with uneven strengths."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(samples, features // 4, generator=generator) @ torch.randn(
        features // 4, features, generator=generator
    )
    noise = 0.1 * torch.randn(samples, features, generator=generator)
    return (causes + noise) * torch.logspace(-1, 1, features)


def linear(rows=24, columns=32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(columns, rows))


def pruned(model, config, data=None, **options):
    model = copy.deepcopy(model)
    prune_(model, config, data, progress=False, **options)
    return model


def error(model, dense, x):
    with torch.no_grad():
        return ((model(x) - dense(x)).norm() / dense(x).norm()).item()


# ------------------------------------------------------------------------------------------------ wanda


@given(st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_wanda_with_equal_norms_is_magnitude_by_row(seed, sparsity):
    model = linear(seed=seed)
    got = pruned(model, Prune(sparsity, method="wanda"), [torch.eye(32)])[0].weight
    for row, dense in zip(got, model[0].weight, strict=True):
        count = int((row == 0).sum())
        assert count == int(sparsity * 32 + 0.5)
        assert set((row == 0).nonzero().flatten().tolist()) == set(dense.abs().argsort()[:count].tolist())


def test_wanda_weighs_by_the_norm_over_all_batches():
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 2.0, 1.0]])
    batches = [torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[0.0, 1.0, 4.0]])]  # norms 1, 1, 5: scores 3, 2, 5
    assert pruned(model, Prune(1 / 3, method="wanda"), batches)[0].weight.tolist() == [[3.0, 0.0, 1.0]]
    assert pruned(model, Prune(2 / 3, method="wanda"), batches)[0].weight.tolist() == [[0.0, 0.0, 1.0]]


# ------------------------------------------------------------------------------------------------ sparsegpt


def test_sparsegpt_beats_magnitude_and_wanda_on_correlated_inputs():
    model, x = linear(), correlated()
    for pattern in ("unstructured", "2:4", "1x4", "4x4"):
        errors = {
            method: error(pruned(model, Prune(0.5, pattern, method), [x]), model, x)
            for method in ("random", "magnitude", "wanda", "sparsegpt")
        }
        assert errors["sparsegpt"] < 0.8 * min(errors["magnitude"], errors["wanda"]), (pattern, errors)
        assert errors["wanda"] < errors["random"], (pattern, errors)


def test_sparsegpt_on_two_columns_is_least_squares():
    """With two columns, taking the first leaves one free weight, whose best value has a closed form."""
    x = torch.tensor([[1.0, 2.0], [2.0, 3.0], [1.0, -1.0]])
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[0.1, 5.0]])
    got = pruned(model, Prune(0.5, method="sparsegpt", damping=0.0), [x])[0].weight
    best = torch.linalg.lstsq(x[:, 1:], x @ model[0].weight.detach().T).solution
    assert got[0, 0] == 0
    assert got[0, 1].item() == pytest.approx(best.item(), rel=1e-5)


def test_sparsegpt_makes_the_best_of_a_mask_that_takes_the_first_columns():
    """When exactly a leading block of columns goes, the updates solve the least-squares problem of the rest."""
    x = correlated(features=16)
    x[:, :8] *= 1e-3  # cheap to remove
    model = linear(columns=16, rows=5)
    got = pruned(model, Prune(0.5, method="sparsegpt", damping=1e-9), [x])[0]
    assert (got.weight[:, :8] == 0).all()
    best = torch.linalg.lstsq(x[:, 8:].double(), (x @ model[0].weight.detach().T).double()).solution.T
    assert torch.allclose(got.weight[:, 8:].double(), best, rtol=2e-2, atol=2e-3)


@given(
    st.integers(0, 99), st.floats(0, 1), st.sampled_from(["unstructured", "4x4", "1x4"]), st.sampled_from([4, 8, 128])
)
@settings(max_examples=25, deadline=None)
def test_sparsegpt_removes_exactly_what_was_asked(seed, sparsity, pattern, block_size):
    model = linear(rows=12, columns=40, seed=seed)
    config = Prune(sparsity, pattern, "sparsegpt", block_size=block_size)
    weight = pruned(model, config, [correlated(features=40, seed=seed)])[0].weight
    size = {"unstructured": 1, "4x4": 16, "1x4": 4}[pattern]
    assert int((weight == 0).sum()) == int(sparsity * 480 / size + 0.5) * size


@pytest.mark.parametrize("columns", [32, 30])
def test_sparsegpt_keeps_n_of_m(columns):
    weight = pruned(linear(columns=columns), Prune(pattern="2:4", method="sparsegpt"), [correlated()[:, :columns]])[
        0
    ].weight
    for left in range(0, columns, 4):
        assert ((weight[:, left : left + 4] != 0).sum(1) == 2).all()


def test_lazy_updates_are_the_same_updates():
    """N:M chooses by groups, so the size of the runs is a matter of speed alone."""
    model, x = linear(), [correlated()]
    results = [
        pruned(model, Prune(pattern="2:4", method="sparsegpt", block_size=size), x)[0].weight for size in (4, 12, 128)
    ]
    for result in results[:2]:
        assert torch.equal(result == 0, results[2] == 0)
        assert torch.allclose(result, results[2], atol=1e-4)


def test_sparsegpt_leaves_a_layer_at_sparsity_0_alone():
    model = linear()
    assert torch.equal(pruned(model, Prune(0.0, method="sparsegpt"), [correlated()])[0].weight, model[0].weight)


def test_inputs_that_are_always_zero_go_first():
    x = correlated()
    x[:, 5:21] = 0
    weight = pruned(linear(), Prune(0.5, method="sparsegpt"), [x])[0].weight
    assert int((weight == 0).sum()) == weight.numel() // 2
    assert (weight[:, 5:21] == 0).all()


# ------------------------------------------------------------------------------------------------ sparsegpt and int8


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x4"])
def test_converting_finds_the_very_integers_of_joint_rounding(dtype, pattern):
    for seed in range(4):
        x, model = correlated(seed=seed), linear(seed=seed).to(dtype)
        model[0].weight.data[3] *= 0.3
        model[0].weight.data[5] = 0
        got = pruned(model, Prune(0.5, pattern, "sparsegpt", joint=Int8()), [x.to(dtype)])
        weight = got[0].weight.detach()
        q, scale = ops.int8_quantize(weight)
        # The weights are the integers times the scale, to within the dtype: nothing was rounded again.
        assert torch.allclose(q * scale[:, None], weight.float(), rtol=torch.finfo(dtype).eps, atol=0)
        assert q.abs().amax(1).tolist() == [0 if row == 5 else 127 for row in range(24)]
        assert (weight == 0).float().mean() >= 0.5
        convert_(got, Int8())
        assert torch.equal(got[0].state_dict()["weight"], q)


def rounded(model):
    q, scale = ops.int8_quantize(model[0].weight.detach())
    model = copy.deepcopy(model)
    model[0].weight.data = q * scale[:, None]
    return model


@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.0), ("unstructured", 0.5), ("4x4", 0.5)])
def test_joint_rounding_is_better_than_pruning_then_rounding(pattern, sparsity):
    joint, apart, floats = [], [], []
    for seed in range(8):
        x, model = correlated(512, 64, seed), linear(48, 64, seed)
        after = pruned(model, Prune(sparsity, pattern, "sparsegpt"), [x])
        both = pruned(model, Prune(sparsity, pattern, "sparsegpt", joint=Int8()), [x])
        assert torch.equal(rounded(both)[0].weight, both[0].weight) or error(rounded(both), both, x) < 1e-6
        joint.append(error(both, model, x))
        apart.append(error(rounded(after), model, x))
        floats.append(error(after, model, x))
    added_jointly = sum(joint) - sum(floats)
    assert 0 < added_jointly < 0.9 * (sum(apart) - sum(floats))


def test_joint_rounding_keeps_the_mask_of_sparsegpt():
    x, model = correlated(), linear()
    floats = pruned(model, Prune(0.5, "4x4", "sparsegpt"), [x])[0].weight
    both = pruned(model, Prune(0.5, "4x4", "sparsegpt", joint=Int8()), [x])[0].weight
    assert (both[floats == 0] == 0).all()


def test_joint_rounding_of_everything_gone_and_of_convolutions():
    x = correlated()
    assert not pruned(linear(), Prune(1.0, method="sparsegpt", joint=Int8()), [x])[0].weight.any()
    conv = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    config = Prune(0.5, method="sparsegpt", joint=Int8())
    weight = to_matrix(pruned(conv, config, [torch.randn(2, 4, 9, 9)])[0].weight.detach())
    steps = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-3)


# ------------------------------------------------------------------------------------------------ convolutions


CONVS = [
    lambda: nn.Conv2d(4, 6, 3),
    lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, dilation=2),
    lambda: nn.Conv2d(4, 8, 3, groups=2, padding="same"),
    lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1, padding_mode="reflect"),
    lambda: FusedConv2d(4, 6, 3, pads=(0, 1, 2, 0), activation="relu"),
    lambda: FusedConv2d(4, 6, 4, stride=2, same_padding=True),
]


@pytest.mark.parametrize("make", CONVS)
def test_a_convolution_sees_its_patches(make):
    """SparseGPT and Wanda on a convolution are what they are on the linear layers that it consists of."""
    torch.manual_seed(0)
    conv = make()
    x = torch.randn(2, conv.in_channels, 9, 9)
    rows, kernel = conv.out_channels // conv.groups, conv.weight[0, 0].numel()
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padding = {"same": (1, 1), 1: (1, 1)}.get(conv.padding, conv.padding)
    pads = (padding[1], padding[1], padding[0], padding[0])
    if isinstance(conv, FusedConv2d):
        pads = conv.pads or (1, 2, 1, 2)  # "SAME": 5 steps of 2 with 4 taps meet 12 pixels, of 9
    padded = F.pad(x, pads, mode)
    patches = F.unfold(padded, conv.kernel_size, conv.dilation, 0, conv.stride)
    for method in ("wanda", "sparsegpt"):
        got = to_matrix(pruned(nn.Sequential(conv), Prune(0.5, method=method), [x])[0].weight.detach())
        for group, part in enumerate(patches.chunk(conv.groups, dim=1)):
            columns = part.unflatten(1, (-1, kernel)).permute(0, 3, 2, 1).flatten(2).flatten(0, 1)
            layer = nn.Linear(columns.shape[1], rows, bias=False)
            layer.weight.data = to_matrix(conv.weight.detach())[group * rows :][:rows].clone()
            expected = pruned(nn.Sequential(layer), Prune(0.5, method=method), [columns])[0].weight
            assert torch.allclose(got[group * rows :][:rows], expected, atol=1e-4)


def test_blocks_do_not_straddle_the_groups_that_sparsegpt_solves():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
    report = prune_(model, Prune(0.5, "4x4", "sparsegpt"), [torch.randn(1, 8, 5, 5)], progress=False)
    assert "groups of 1 rows alone, and blocks of 4 rows would straddle them" in report.rows[0].reason
    assert report.rows[1].achieved == 0.5


# ------------------------------------------------------------------------------------------------ global, random, owl


def test_global_compares_all_layers():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[0].weight.data *= 0.1
    everything = torch.cat([layer.weight.detach().abs().flatten() for layer in model])
    report = prune_(model, Prune(0.5, scope="global"))
    assert sum(row.zeros for row in report) == 256
    assert report.rows[0].achieved > 0.85
    assert min(layer.weight[layer.weight != 0].abs().min() for layer in model) == everything.sort().values[256]


@given(st.integers(0, 99), st.floats(0, 1), st.sampled_from(["unstructured", "2x2"]))
@settings(max_examples=30, deadline=None)
def test_global_is_brute_force_over_all_blocks(seed, sparsity, pattern):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 6, bias=False))
    weights = [layer.weight.detach().clone() for layer in model]
    prune_(model, Prune(sparsity, pattern, scope="global"))
    step = 2 if pattern == "2x2" else 1
    blocks = [
        (w[i : i + step, j : j + step].abs().mean().item(), layer, i, j)
        for layer, w in enumerate(weights)
        for i, j in itertools.product(range(0, w.shape[0], step), range(0, w.shape[1], step))
    ]
    for _, layer, i, j in sorted(blocks)[: int(sparsity * len(blocks) + 0.5)]:
        weights[layer][i : i + step, j : j + step] = 0
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(model, weights, strict=True))


def test_floor_and_ceiling_hold_and_the_total_is_exact():
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(4)))
    for scale, layer in zip((0.01, 1, 1, 100), model, strict=True):
        layer.weight.data *= scale
    report = prune_(model, Prune(0.5, scope="global", min_sparsity=0.3, max_sparsity=0.8))
    assert [report.rows[0].achieved, report.rows[3].achieved] == [0.8, 0.3]
    assert report.sparsity == 0.5


def test_rules_have_budgets_of_their_own():
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(4)))
    rules = {"re:[01]": Prune(0.8, scope="global"), "3": None, "_default": Prune(0.25)}
    rows = prune_(model, PerLayer(rules)).rows
    assert rows[0].zeros + rows[1].zeros == 160
    assert (rows[2].zeros, rows[3].zeros) == (25, 0)


def test_random_depends_on_seed_and_name_alone():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    both = pruned(model, Prune(0.5, method="random", seed=1))
    torch.rand(5)
    one = pruned(model, PerLayer({"1": Prune(0.5, method="random", seed=1)}))
    other = pruned(model, Prune(0.5, method="random", seed=2))
    assert torch.equal(both[1].weight, one[1].weight)
    assert not torch.equal(both[1].weight, other[1].weight)
    assert not torch.equal(both[0].weight == 0, both[1].weight == 0)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "random"])
def test_pruning_further_keeps_what_was_pruned(method):
    model, x = linear(), [correlated()]
    once = pruned(model, Prune(0.3, method=method), x)
    twice = pruned(once, Prune(0.6, method=method), x)
    assert (twice[0].weight[once[0].weight == 0] == 0).all()
    expected = 24 * 19 if method == "wanda" else 461  # of 24 rows of 32: by row, or in all
    assert int((twice[0].weight == 0).sum()) == expected


def test_owl_spares_the_layer_with_outliers():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    x = torch.randn(64, 64)
    model[1].weight.data[:, :2] *= 30
    report = prune_(model, Prune(0.6, method="wanda", scope="owl", spread=0.1), [x], progress=False)
    asked = [row.asked for row in report]
    assert asked[1] == min(asked)
    assert max(asked) - asked[1] == pytest.approx(0.2, abs=1e-6)
    assert sum(asked) / 3 == pytest.approx(0.6, abs=1e-6)
    assert [row.achieved for row in report] == pytest.approx(asked, abs=0.5 / 64 + 1e-6)


def test_owl_keeps_to_floor_and_ceiling_and_to_the_mean():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 16))
    model[0].weight.data[:, :2] *= 30
    config = Prune(0.6, scope="owl", spread=0.3, min_sparsity=0.5, max_sparsity=0.7)
    report = prune_(model, config, [torch.randn(64, 64)], progress=False)
    assert all(0.5 - 1e-6 <= row.asked <= 0.7 + 1e-6 for row in report)
    assert report.sparsity == pytest.approx(0.6, abs=1e-3)


def test_outlier_ratio_counts():
    assert outlier_ratio(torch.tensor([[1.0, 1.0, 1.0, 97.0]]), 3.0) == 0.25


# ------------------------------------------------------------------------------------------------ calibration


def test_sequential_layers_see_what_pruned_layers_pass_on():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    x = correlated()
    config = Prune(0.6, method="sparsegpt")
    whole = pruned(model, config, [x])
    # By hand: the first layer alone, then the second by the output of the pruned first.
    first = pruned(model[:1], config, [x])
    with torch.no_grad():
        hidden = torch.relu(first(x))
    second = pruned(nn.Sequential(model[2]), config, [hidden])
    assert torch.equal(whole[0].weight, first[0].weight)
    assert torch.equal(whole[2].weight, second[0].weight)
    at_once = pruned(model, config, [x], sequential=False)
    assert torch.equal(at_once[0].weight, first[0].weight)
    assert not torch.equal(at_once[2].weight, second[0].weight)


@pytest.mark.parametrize("sequential", [True, False])
def test_data_may_be_any_iterable(sequential):
    ids = [torch.randint(0, 40, (2, 5)) for _ in range(3)]
    torch.manual_seed(0)
    model = LanguageModel()
    config = Prune(0.5, method="wanda")
    expected = pruned(model, config, ids, sequential=sequential)
    for data in (iter(ids), ((x,) for x in ids), [[x] for x in ids], [{"ids": x} for x in ids]):
        got = pruned(model, config, data, sequential=sequential)
        assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), got.parameters(), strict=True))


def test_layers_that_share_an_input_share_a_pass():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.o(self.q(x) * self.k(input=x))

    model = Attention()
    prune_(model, Prune(0.5, method="wanda"), [torch.randn(2, 8)] * 2, progress=False)
    assert model.calls == 2 + 2 * 2  # two batches to find the order, and again for each of two inputs


def test_models_that_skip_their_layers_in_eval_mode_are_watched_too():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    report = prune_(
        nn.TransformerEncoder(layer, 1).eval(), Prune(0.5, method="wanda"), [torch.randn(2, 5, 16)], progress=False
    )
    assert {row.name: row.achieved for row in report.pruned} == {"layers.0.linear1": 0.5, "layers.0.linear2": 0.5}
