"""Convolutions of transformers' vision models: converted on loading, saved, and loaded again."""

import json

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

from safetensors.torch import load_file  # noqa: E402
from transformers import SiglipVisionConfig, SiglipVisionModel  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.checkpoint import CheckpointMismatchError, CheckpointUnsupportedError  # noqa: E402
from edgekern.integrations.compressed_tensors import load_compressed, save_compressed  # noqa: E402
from edgekern.integrations.transformers import EdgekernConfig, adopt_  # noqa: E402
from edgekern.nn import F32Conv2d, FusedConv2d, Int8Conv2d, Int8Linear  # noqa: E402

CONV = "embeddings.patch_embedding"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("siglip")
    SiglipVisionModel(SiglipVisionConfig(**SIZES)).save_pretrained(made)
    return made


def load(folder, config=None):
    given = {} if config is None else {"quantization_config": EdgekernConfig(config)}
    return SiglipVisionModel.from_pretrained(folder, **given)


def states(model):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images).last_hidden_state


def test_loading_is_convert_and_what_is_saved_loads_the_same(folder, tmp_path):
    expected = load(folder)
    report = ek.convert_(expected, ek.Int8())
    model = load(folder, ek.Int8())
    assert type(model.get_submodule(CONV)) is Int8Conv2d
    assert ek.explain(model) == report
    assert torch.equal(states(model), states(expected))
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")[f"{CONV}.weight"].dtype == torch.int8
    again = load(tmp_path)
    assert ek.explain(again) == report
    assert torch.equal(states(again), states(expected))


def test_a_rule_leaves_it_float(folder):
    model = load(folder, ek.PerLayer({CONV: None, "_default": ek.Int8()}))
    assert type(model.get_submodule(CONV)) is torch.nn.Conv2d
    assert not model.get_submodule(CONV).weight.is_meta


def test_a_convolution_of_another_scheme_is_refused(folder, tmp_path):
    load(folder, ek.Int8()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for entry in config["quantization_config"]["layers"]:
        entry["scheme"] = {"format": "f16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatchError, match=r"is a convolution, and there are none in Float16\(\)"):
        load(tmp_path)


def test_a_pruned_one_that_stays_float(folder, tmp_path):
    model = load(folder)
    with torch.no_grad():
        model.get_submodule(CONV).weight[:, 1:] = 0
    expected = states(model)
    model.save_pretrained(tmp_path / "pruned")
    rules = ek.PerLayer({CONV: ek.Float32(channels=8)})
    model = load(tmp_path / "pruned", rules)
    conv = model.get_submodule(CONV)
    assert type(conv) is F32Conv2d
    assert conv.choice.form == "blocks_8"
    torch.testing.assert_close(states(model), expected)
    model.save_pretrained(tmp_path / "packed")
    again = load(tmp_path / "packed")
    assert ek.explain(again).converted == ek.explain(model).converted
    assert torch.equal(states(again), states(model))


def test_compressed_tensors_get_it_as_floats(folder, tmp_path):
    model = load(folder, ek.Int8())
    conv = model.get_submodule(CONV)
    save_compressed(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored[f"{CONV}.weight"], conv.weight)
    assert torch.equal(stored[f"{CONV}.bias"], conv.bias)
    assert f"{CONV}.weight_scale" not in stored
    again = load_compressed(tmp_path, model_class=SiglipVisionModel)
    assert type(again.get_submodule(CONV)) is torch.nn.Conv2d
    assert sum(isinstance(module, Int8Linear) for module in again.modules()) > 0


def test_compressed_tensors_have_no_word_for_a_fused_activation(folder, tmp_path):
    model = load(folder)
    model.embeddings.patch_embedding = FusedConv2d.of(model.get_submodule(CONV), "relu")
    ek.convert_(model, ek.Int8())
    adopt_(model, ek.Int8())
    with pytest.raises(CheckpointUnsupportedError, match=f"layer '{CONV}' applies relu itself"):
        save_compressed(model, tmp_path)
