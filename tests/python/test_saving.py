"""Converted models saved layer by layer, and safetensors files written tensor by tensor."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_llama import folder_of, logits, tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.checkpoint import CheckpointUnsupportedError  # noqa: E402
from edgekern.checkpoint.stream import CODES, write_tensors  # noqa: E402
from edgekern.integrations.compressed_tensors import save_compressed  # noqa: E402
from edgekern.integrations.saving import save_converted  # noqa: E402
from edgekern.integrations.transformers import EdgekernConfig, adopt_  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYTHING = ek.PerLayer({"lm_head": ek.Int8(), "_default": ek.Int4(32)})


def values(dtype):
    tensor = torch.arange(15).reshape(5, 3)
    return tensor % 2 == 0 if dtype == torch.bool else tensor.to(dtype)


def like(tensors):
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


@pytest.mark.parametrize("most_bytes", [10**9, 100, 1])
def test_what_is_written_is_what_safetensors_reads(tmp_path, most_bytes):
    tensors = {str(dtype): values(dtype) for dtype in CODES} | {"scalar": torch.tensor(7.0), "empty": torch.ones(0, 3)}
    backwards = reversed(tensors.items())
    write_tensors(tmp_path, like(tensors), backwards, most_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    if most_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
        with safe_open(files[0], "pt") as file:
            assert file.metadata() == {"format": "pt"}
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        for name, file in index["weight_map"].items():
            assert name in load_file(tmp_path / file)
        assert len(files) == {1: len(tensors), 100: 6}[most_bytes]


def test_tensors_that_do_not_come_as_announced(tmp_path):
    announced = {"a": torch.ones(2), "b": torch.ones(3)}
    for tensors, message in (
        ([("a", torch.ones(2))], "'b' was announced and never came"),
        ([("c", torch.ones(2))], "'c' was not announced"),
        ([("a", torch.ones(3))], r"'a' was not announced as torch.float32 \[3\]"),
        ([("a", torch.ones(2).double())], "'a' was not announced as torch.float64"),
        ([("a", torch.ones(2))] * 2, "'a' was not announced .* or comes twice"),
    ):
        with pytest.raises(ValueError, match=message):
            write_tensors(tmp_path, like(announced), tensors, 10**9)


@pytest.mark.parametrize("config", [ek.Int8(), ek.Int4(64), EVERYTHING], ids=["int8", "int4", "head too"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_it_is_what_save_pretrained_writes(tmp_path, config, kind, tied):
    source = folder_of(tiny(kind=kind, tied=tied), tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=EdgekernConfig(config))
    model.save_pretrained(tmp_path / "theirs")
    save_converted(model, tmp_path / "ours")
    for name in ("config.json", "generation_config.json"):
        theirs, ours = (json.loads((tmp_path / side / name).read_text()) for side in ("theirs", "ours"))
        assert ours == theirs
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(logits(again), logits(model))
    save_converted(model, tmp_path / "parts", most_bytes=10_000)
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "parts")), logits(model))


def test_what_is_not_converted_or_is_rearranged(tmp_path):
    with pytest.raises(CheckpointUnsupportedError, match="was not loaded converted; call adopt_ first"):
        save_converted(tiny(), tmp_path / "out")
    source = folder_of(tiny(), tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=EdgekernConfig(ek.Int8()))
    model._weight_conversions = [transformers.core_model_loading.WeightRenaming("up_proj", "up_projection")]
    with pytest.raises(CheckpointUnsupportedError, match="transformers rearranges the tensors of LlamaForCausalLM"):
        save_compressed(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model._weight_conversions = [transformers.core_model_loading.WeightRenaming("never", "seen")]
    save_converted(model, tmp_path / "out")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(model))


def test_a_model_converted_in_memory(tmp_path):
    model = tiny()
    ek.convert_(model, EVERYTHING)
    adopt_(model, EVERYTHING)
    save_converted(model, tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
