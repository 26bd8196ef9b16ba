"""save and load: what comes back, and what the files hold."""

import copy
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from small_models import BLOCK_LAYERS, Block, LanguageModel, native_names
from torch import nn

from edgekern import Int8, PerLayer, convert_, dense_, explain, kernels, load, save
from edgekern.checkpoint import CheckpointError, CheckpointExistsError, CheckpointMismatchError
from edgekern.checkpoint import write as writing
from edgekern.nn import FusedLinear, Int8Linear

FILES = ["edgekern.json", "model.safetensors"]


class WithBuffers(nn.Module):
    """Buffers in the state dict and out of it, a bool, a scalar, and a parameter of another dtype."""

    def __init__(self):
        super().__init__()
        self.model = LanguageModel()
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("frequencies", torch.arange(4.0), persistent=False)
        self.gain = nn.Parameter(torch.ones(16, dtype=torch.bfloat16))

    def forward(self, ids):
        return self.model(ids) * self.frequencies[1]


def converted(make=LanguageModel, config=None, seed=0):
    torch.manual_seed(seed)
    model = make().eval()
    convert_(model, config or Int8())
    return model


def ids():
    return torch.arange(12).reshape(2, 6)


def run(model, *args):
    with torch.inference_mode():
        return model(*args)


def assert_same_state(model, other):
    left, right = model.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name


def fresh(make, device):
    torch.manual_seed(99)
    with torch.device(device):
        return make()


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("make", [LanguageModel, lambda: LanguageModel(tied=False), WithBuffers])
def test_round_trip(tmp_path, make, device):
    model = converted(make)
    save(model, tmp_path / "new" / "folder")
    other = load(fresh(make, device), str(tmp_path / "new" / "folder"))
    assert native_names(other) == native_names(model) != []
    assert_same_state(other, model)
    assert torch.equal(run(other, ids()), run(model, ids()))
    assert explain(other).to_dict()["bytes_before"] == explain(model).to_dict()["bytes_before"]
    assert not any(tensor.is_meta for tensor in [*other.parameters(), *other.buffers()])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ties_survive(tmp_path, device):
    save(converted(), tmp_path)
    other = load(fresh(LanguageModel, device), tmp_path)
    assert other.lm_head.weight is other.embed.weight
    assert list(safetensors.torch.load_file(tmp_path / FILES[1])).count("lm_head.weight") == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_come_from_the_checkpoint_for_native_layers(tmp_path, dtype):
    model = converted(lambda: LanguageModel().to(dtype))
    save(model, tmp_path)
    other = load(fresh(lambda: LanguageModel().to(dtype), "cpu"), tmp_path)
    dense_(model)
    dense_(other)
    assert_same_state(model, other)
    assert {parameter.dtype for parameter in other.parameters()} == {dtype}


def test_loading_copies_into_the_models_own_memory(tmp_path):
    model = converted()
    save(model, tmp_path)
    other = fresh(LanguageModel, "cpu")
    parameter = other.embed.weight
    load(other, tmp_path)
    assert other.embed.weight is parameter
    meta = load(fresh(LanguageModel, "meta"), tmp_path)
    with open(tmp_path / FILES[1], "r+b") as file:
        file.truncate(0)  # a tensor still backed by the file would crash the process now
    assert torch.equal(run(meta, ids()), run(model, ids()))
    assert torch.equal(run(other, ids()), run(model, ids()))


def test_loading_where_meta_is_the_default_device(tmp_path):
    model = converted()
    save(model, tmp_path)
    with torch.device("meta"):
        other = load(LanguageModel(), tmp_path)
    assert_same_state(other, model)


def test_loading_over_a_converted_model(tmp_path):
    model = converted()
    save(model, tmp_path)
    other = load(converted(seed=7), tmp_path)
    assert_same_state(other, model)
    empty = LanguageModel()
    empty.blocks[0].up = Int8Linear(16, 64)
    assert_same_state(load(empty, tmp_path), model)


def test_dense_and_partly_converted_models(tmp_path):
    dense = LanguageModel()
    save(dense, tmp_path / "dense")
    assert_same_state(load(fresh(LanguageModel, "cpu"), tmp_path / "dense"), dense)
    partly = converted(config=PerLayer({"blocks.1.up": Int8()}))
    save(partly, tmp_path / "partly")
    other = load(fresh(LanguageModel, "meta"), tmp_path / "partly")
    assert native_names(other) == ["blocks.1.up"]
    assert_same_state(other, partly)


def test_a_converted_head_leaves_its_embedding(tmp_path):
    config = PerLayer({"lm_head": Int8(), "_default": Int8()})
    model = converted(config=config)
    save(model, tmp_path)
    other = load(fresh(LanguageModel, "cpu"), tmp_path)
    assert native_names(other) == [*BLOCK_LAYERS, "lm_head"]
    assert torch.equal(run(other, ids()), run(model, ids()))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shared_modules_stay_shared(tmp_path, device):
    def make():
        block = Block()
        return nn.Sequential(block, nn.LayerNorm(16), block)

    model = converted(make)
    save(model, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / FILES[1])
    assert not any(name.startswith("2.") for name in stored)
    other = load(fresh(make, device), tmp_path)
    assert other[0] is other[2]
    assert_same_state(other, model)


def test_activations_and_views(tmp_path):
    def make():
        fused = FusedLinear(4, 8, activation="gelu")
        return nn.Sequential(fused, nn.Linear(8, 8, bias=False), nn.Linear(8, 4), nn.Linear(8, 8))

    model = make()
    model[0] = Int8Linear.from_linear(model[0])
    base = torch.randn(8, 8)
    model[1].weight = nn.Parameter(base)
    model[2].weight = nn.Parameter(base[:4])  # in the other's memory, but another tensor
    model[3].weight = nn.Parameter(base.t())
    save(model, tmp_path)
    other = load(make(), tmp_path)
    assert other[0].activation == "gelu"
    assert_same_state(other, model)
    unfused = make()
    unfused[0] = nn.Linear(4, 8)  # with the activation behind it, it would be applied twice
    with pytest.raises(CheckpointMismatchError, match=r"'0': .*activation='gelu', the model's 'none'; fuse the model"):
        load(unfused, tmp_path)


# -------------------------------------------------------------------------------------------------- what is written


def test_files_hold_canonical_tensors_and_nothing_of_this_machine(tmp_path):
    model = converted()
    save(model, tmp_path)
    assert sorted(os.listdir(tmp_path)) == FILES
    stored = safetensors.torch.load_file(tmp_path / FILES[1])
    up = model.state_dict()
    for name in ("blocks.0.up.weight", "blocks.0.up.weight_scale", "blocks.0.up.bias", "embed.weight"):
        assert torch.equal(stored[name], up[name])
    text = (tmp_path / FILES[0]).read_text()
    data = json.loads(text)
    assert (data["format"], data["format_version"]) == ("edgekern", 1)
    assert data["layers"][0] == {
        "names": ["blocks.0.up"],
        "scheme": {"format": "int8"},
        "in_features": 16,
        "out_features": 64,
        "activation": "none",
        "dtype": "float32",
        "bias_dtype": "float32",
    }
    assert data["tensors"]["blocks.0.up.weight"] == {"dtype": "int8", "shape": [64, 16]}
    assert data["aliases"] == {"lm_head.weight": "embed.weight"}
    for word in ("thread", *(f'"{isa["name"]}"' for isa in kernels.isas())):
        assert word not in text


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = converted()
    save(model, tmp_path / "a")
    save(load(fresh(LanguageModel, "meta"), tmp_path / "a"), tmp_path / "b")
    save(copy.deepcopy(model), tmp_path / "c")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


ON_ANOTHER_ISA = """
import sys, torch
from edgekern import kernels, load, save
from small_models import LanguageModel
with torch.device("meta"):
    model = LanguageModel()
load(model, sys.argv[1])
save(model, sys.argv[2])
with torch.inference_mode():
    torch.save(model(torch.arange(12).reshape(2, 6)), sys.argv[3])
print(kernels.default_isa())
"""


@pytest.mark.parametrize("isa", [row["name"] for row in kernels.isas() if row["supported"]])
def test_a_checkpoint_means_the_same_on_every_isa(tmp_path, isa):
    model = converted()
    save(model, tmp_path / "here")
    command = [sys.executable, "-c", ON_ANOTHER_ISA, tmp_path / "here", tmp_path / "there", tmp_path / "y.pt"]
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    environment = {**os.environ, "EDGEKERN_ISA": isa, "PYTHONPATH": paths}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == isa
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), run(model, ids()), atol=1e-4, rtol=1e-4)


def test_other_files_stay_and_ours_are_replaced_only_on_demand(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save(converted(seed=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointExistsError, match=r"holds model\.safetensors and edgekern\.json already; overwrite"):
        save(converted(seed=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    model = converted(seed=2)
    save(model, tmp_path, overwrite=True)
    assert_same_state(load(LanguageModel(), tmp_path), model)
    assert sorted(os.listdir(tmp_path)) == ["config.json", *FILES]


def test_a_foreign_model_file_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"somebody else's")
    with pytest.raises(CheckpointExistsError, match=r"holds model.safetensors already"):
        save(converted(), tmp_path)
    with pytest.raises(CheckpointExistsError, match="is a file"):
        save(converted(), tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    model = converted(seed=1)
    save(model, tmp_path)

    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "sha256_of", fail)
    with pytest.raises(OSError, match="disk full"):
        save(converted(seed=2), tmp_path, overwrite=True)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == FILES
    assert_same_state(load(LanguageModel(), tmp_path), model)


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ExtraState(4, 4), "'_extra_state' in the state dict is a dict; only tensors"),
        (nn.Linear(4, 4, device="meta"), "'weight' is on the meta device"),
        (nn.Sequential(Int8Linear(4, 4)), "'0.weight' is on the meta device"),
        (Int8Linear(4, 4), r"a single Int8Linear.*Sequential\(layer\)"),
    ],
)
def test_models_that_cannot_be_saved(tmp_path, model, message):
    with pytest.raises(CheckpointError, match=message):
        save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_not_a_module(tmp_path):
    for call in (save, load):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got dict"):
            call({}, tmp_path)
