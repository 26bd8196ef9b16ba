"""SparseGPT that rounds to int4 on the way: what converting then finds, and that it beats rounding afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgekern import Int4, Int8, Prune, PruneError, convert_, ops, prune_

SCHEMES = [Int4(), Int4(32), Int4(32, symmetric=True, clip="mse"), Int4(64, symmetric=True), Int4(clip="mse")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def correlated(samples: int = 512, features: int = 200, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(features) + 0.4 * torch.randn(features, features, generator=generator) / features**0.5 * 3
    return torch.randn(samples, features, generator=generator) @ mix


def linear(rows: int = 24, columns: int = 200, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(columns, rows))


def pruned(model: nn.Module, config: Prune, x: torch.Tensor) -> nn.Module:
    result = copy.deepcopy(model)
    prune_(result, config, [x], progress=False)
    return result


def joint(scheme: Int4 | None, sparsity: float = 0.5, pattern: str = "unstructured", **options) -> Prune:
    return Prune(sparsity, pattern, "sparsegpt", joint=scheme, **options)


def error(model: nn.Module, like: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model[0](x) - like[0](x)).square().sum())


def rounded(model: nn.Sequential, scheme: Int4) -> nn.Sequential:
    """The model with the weights that converting rounds to, as floats."""
    layer = copy.deepcopy(model)
    convert_(layer, scheme)
    result = copy.deepcopy(model)
    result[0].weight.data = layer[0].weight.to(model[0].weight.dtype)
    return result


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x4"])
def test_converting_rounds_nothing_that_was_rounded_jointly(pattern, dtype, scheme):
    x, model = correlated(), linear().to(dtype)
    model[0].weight.data[3] *= 0.01
    model[0].weight.data[5] = 0
    got = pruned(model, joint(scheme, pattern=pattern), x.to(dtype))
    weight = got[0].weight.detach()
    assert (weight == 0).float().mean() >= 0.5
    reloaded = nn.Sequential(nn.Linear(200, 24, dtype=dtype))  # as a state dict on its way through a file
    reloaded.load_state_dict(got.state_dict())
    for model in (got, reloaded):
        convert_(model, scheme)
        assert torch.equal(model[0].weight, weight)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_converting_finds_the_very_integers(scheme, monkeypatch):
    """Those on the levels that the sweep settled on, group by group."""
    settled = []
    inner = ops.int4_quantize

    def watched(weight, *args, **options):
        found = inner(weight, *args, **options)
        settled.append(found[1])
        return found

    monkeypatch.setattr(ops, "int4_quantize", watched)
    got = pruned(linear(columns=256), joint(scheme), correlated(features=256))
    scale = torch.cat(settled, 1).float().repeat_interleave(scheme.group_size, 1)
    wanted = got[0].weight.detach() / scale
    assert torch.equal(wanted, wanted.round())
    convert_(got, scheme)
    state = got[0].state_dict()
    found = ops.int4_integers(state["weight"], state.get("weight_zero"), k=256, group_size=scheme.group_size)
    assert torch.equal(found, wanted.to(torch.int8))
    assert torch.equal(state["weight_scale"].float().repeat_interleave(scheme.group_size, 1), scale)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_joint_rounding_is_better_than_pruning_then_rounding(sparsity, scheme):
    floats, together, apart = 0.0, 0.0, 0.0
    for seed in range(3):
        x, model = correlated(2048, seed=seed), linear(seed=seed)
        after = pruned(model, joint(None, sparsity), x)
        floats += error(after, model, x)
        apart += error(rounded(after, scheme), model, x)
        together += error(rounded(pruned(model, joint(scheme, sparsity), x), scheme), model, x)
    assert floats < together < apart
    assert together - floats < 0.9 * (apart - floats)


def test_joint_rounding_keeps_the_mask_of_sparsegpt():
    x, model = correlated(), linear()
    floats = pruned(model, joint(None, pattern="4x4"), x)[0].weight
    both = pruned(model, joint(Int4(32), pattern="4x4"), x)[0].weight
    assert (both[floats == 0] == 0).all()


@pytest.mark.parametrize("block_size", [4, 40, 96, 128])
def test_groups_need_not_be_runs(block_size):
    x, model = correlated(), linear()
    got = pruned(model, joint(Int4(64), block_size=block_size), x)
    assert error(rounded(got, Int4(64)), got, x) == 0


def test_everything_gone_nothing_to_round_and_convolutions():
    x = correlated()
    assert not pruned(linear(), joint(Int4(), 1.0), x)[0].weight.any()
    conv = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    got = pruned(conv, joint(Int4(32, symmetric=True)), torch.randn(2, 4, 9, 9))[0].weight.detach()
    matrix = got.permute(0, 2, 3, 1).flatten(1).contiguous()
    w, scale, _ = ops.int4_quantize(matrix, 32)
    assert torch.equal(ops.int4_integers(w, k=18, group_size=32) * scale.float(), matrix)


def test_weights_too_large_are_refused_and_put_back():
    model = linear()
    with torch.no_grad():
        model[0].weight[2, 3] = 1e7
    before = model[0].weight.detach().clone()
    with pytest.raises(
        PruneError, match=r"'0' cannot be rounded to Int4\(\) on the way: weight must be finite and below"
    ):
        prune_(model, joint(Int4()), [correlated()], progress=False)
    assert torch.equal(model[0].weight, before)
    prune_(model, joint(Int8()), [correlated()], progress=False)
