"""Pruned weights on disk: mask and values."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import edgekern as ek
from edgekern.checkpoint import CheckpointCorruptError, CheckpointFormatError
from edgekern.checkpoint.bitmask import join, split


def pruned(sparsity: float = 0.8, pattern: str = "unstructured") -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(203, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
    ek.prune_(model, ek.Prune(sparsity, pattern=pattern))
    return model


def fresh() -> nn.Sequential:
    return nn.Sequential(nn.Linear(203, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    density=st.floats(0, 0.8),
    dtype=st.sampled_from([torch.int8, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_split_and_join_are_inverse(shape, density, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(1, 100, shape, generator=generator).to(dtype)
    weight[torch.rand(shape, generator=generator) >= density] = 0
    parts = split(weight)
    if parts is None:
        return
    joined = join(parts, "weight")
    assert joined.dtype == dtype
    assert torch.equal(joined, weight)
    assert sum(part.nbytes for part in parts.values()) < weight.nbytes + 8 * len(shape)


def test_the_layout_is_the_documented_one():
    weight = torch.zeros(32, 64, dtype=torch.int8)
    weight[0, 9], weight[1, 0], weight[1, 63] = 5, -6, 7
    parts = split(weight)
    assert parts["shape"].tolist() == [32, 64]
    assert parts["bitmask"].shape == (32, 8)
    assert parts["bitmask"][0].tolist() == [0, 0b10, 0, 0, 0, 0, 0, 0]
    assert parts["bitmask"][1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0b10000000]
    assert parts["compressed"].tolist() == [5, -6, 7]
    assert parts["row_offsets"].flatten().tolist() == [0, 1] + [3] * 30


@pytest.mark.parametrize("default_device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "scheme",
    [
        None,
        ek.Int8(rows=16),
        ek.Int8(form="blocks_1"),
        ek.Float32(channels=1),
        ek.Float32(rows=16),
        ek.Float16(channels=1),
    ],
    ids=str,
)
def test_round_trip_of_a_pruned_model(tmp_path, scheme, default_device):
    model = pruned()
    if scheme:
        ek.convert_(model, scheme)
    ek.save(model, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert "0.bitmask" in stored
    assert "0.weight" not in stored
    header = json.loads((tmp_path / "edgekern.json").read_text())
    assert header["format_version"] == 2
    assert header["sparse"] == ["0.weight", "2.weight", "4.weight"]
    with torch.device(default_device):
        loaded = ek.load(fresh(), tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    with torch.inference_mode():
        x = torch.randn(9, 203)
        assert torch.equal(loaded(x), model(x))


def test_the_file_is_smaller_by_what_was_pruned(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 512, bias=False))
    ek.prune_(model, ek.Prune(0.8))
    ek.convert_(model, ek.Int8())
    ek.save(model, tmp_path)
    weights = 1024 * 512
    wanted = weights / 8 + 0.2 * weights + 512 * (8 + 4)  # mask, values, row offsets and scales
    kept = int((model.state_dict()["0.weight"] != 0).sum()) - round(0.2 * weights)  # rounding to int8 makes zeros too
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(wanted + kept, rel=0.03)


def test_a_dense_model_is_stored_as_before(tmp_path):
    ek.save(fresh(), tmp_path)
    header = json.loads((tmp_path / "edgekern.json").read_text())
    assert header["format_version"] == 1
    assert "sparse" not in header


def test_a_convolution_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(16, 32, 3))
    ek.prune_(model, ek.Prune(0.9))
    ek.save(model, tmp_path)
    assert json.loads((tmp_path / "edgekern.json").read_text())["sparse"] == ["0.weight"]
    loaded = ek.load(nn.Sequential(nn.Conv2d(16, 32, 3)), tmp_path)
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_tied_weights_stay_tied(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        model[1].weight = model[0].weight
        return model

    model = tied()
    with torch.no_grad():
        model[0].weight[:, :50] = 0
    ek.save(model, tmp_path)
    loaded = ek.load(tied(), tmp_path)
    assert torch.equal(loaded[1].weight, model[0].weight)
    assert loaded[0].weight is loaded[1].weight


DAMAGES = {
    "value dropped": ("compressed", lambda part: part[:-1], "its mask keeps .* weights, but"),
    "mask cut": ("bitmask", lambda part: part[:, :-1], "does not fit its shape"),
    "mask of another dtype": ("bitmask", lambda part: part.to(torch.int16), "does not fit its shape"),
    "shape of one size": ("shape", lambda part: part[:1], "does not fit its shape"),
    "shape negative": ("shape", lambda part: -part, "does not fit its shape"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_parts_that_do_not_belong_together_are_refused(damage):
    part, change, message = DAMAGES[damage]
    parts = split(pruned()[0].weight.detach())
    parts[part] = change(parts[part])
    with pytest.raises(CheckpointCorruptError, match=message):
        join(parts, "0.weight")


def test_a_description_that_names_parts_which_are_not_there(tmp_path):
    ek.save(pruned(), tmp_path)
    path = tmp_path / "edgekern.json"
    header = json.loads(path.read_text())
    header["sparse"].append("1.weight")
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointFormatError, match=r"sparse names '1.weight'"):
        ek.load(fresh(), tmp_path)
