"""Ranks that read their own layers from a Hugging Face folder, as floats or converted when they are read."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

from parallel_outcome import NEEDS, failed, succeeded  # noqa: E402
from parallel_scenarios import BATCH, CONFIGS, PROMPT, empty, model_of  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import folder_of, tiny  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import parallel  # noqa: E402
from edgekern.checkpoint import errors  # noqa: E402
from edgekern.loading import load_part_of_folder  # noqa: E402
from edgekern.parallel.causal import KINDS  # noqa: E402

pytestmark = NEEDS


def logits(model):
    with torch.inference_mode():
        return model(BATCH).logits


def read(model, folder, config=None, keep=lambda name: True):
    load_part_of_folder(model, folder, keep, config)
    return model.eval()


@pytest.mark.parametrize("scheme", CONFIGS)
def test_a_pipeline_writes_what_one_process_does(ranks, tmp_path, scheme):
    found = succeeded(ranks("pipeline", 2, {"checkpoint": str(folder_of(tiny(), tmp_path / "f")), "scheme": scheme}))
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        expected = model_of(scheme).generate(PROMPT, **options).tolist()
    assert [each["one"] for each in found] == [expected] * 2
    if scheme is None:
        whole = sum(parameter.nbytes for parameter in tiny().parameters())
        assert max(each["held"] for each in found) < 0.8 * whole


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_parts_of_layers_are_those_of_one_process(ranks, tmp_path, scheme):
    folder = folder_of(tiny(), tmp_path / "f")
    found = succeeded(ranks("tensor", 2, {"checkpoint": str(folder), "scheme": scheme}))
    torch.testing.assert_close(torch.tensor(found[0]["False"]), logits(model_of(scheme)), rtol=1e-4, atol=1e-4)
    assert found[0]["q"] == 16
    assert len(found[0]["names"]) == 3 * 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_is_read(tmp_path, kind, tied):
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    model = tiny(kind=name, tied=tied)
    folder = folder_of(model, tmp_path)
    with torch.device("meta"):
        fresh, other = tiny(kind=name, tied=tied), tiny(kind=name, tied=tied)
    assert torch.equal(logits(read(fresh, folder)), logits(model))
    assert (fresh.lm_head.weight is fresh.model.embed_tokens.weight) == tied
    ek.convert_(model, ek.Int8())
    assert torch.equal(logits(read(other, folder, ek.Int8())), logits(model))


def test_values_are_cast_and_positions_made(tmp_path):
    scaled = {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}
    model = tiny(**scaled).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        fresh = tiny(**scaled)
    read(fresh, tmp_path)
    assert fresh.dtype == torch.float32
    assert torch.equal(fresh.lm_head.weight, model.lm_head.weight.float())
    assert torch.equal(fresh.model.rotary_emb.inv_freq, tiny(**scaled).model.rotary_emb.inv_freq)


def test_only_the_part_is_read(tmp_path):
    model = empty()
    read(model, folder_of(tiny(), tmp_path), keep=lambda name: name.startswith("model.layers.1."))
    assert {n for n, p in model.named_parameters() if not p.is_meta} == {
        name for name, _ in tiny().named_parameters() if name.startswith("model.layers.1.")
    }


def test_a_plan_counts_converted_layers_and_the_floats_they_come_from(tmp_path):
    folder = folder_of(tiny(), tmp_path)
    costs = parallel.measure(empty(), PROMPT, checkpoint=folder, scheme=ek.Int8())
    assert [cost.nbytes for cost in costs] == [cost.nbytes for cost in parallel.measure(model_of("int8"), PROMPT)]
    assert [cost.reading for cost in costs] == [96 * 32 * 4, *[64 * 32 * 4] * 3, 96 * 32 * 4]
    assert {cost.reading for cost in parallel.measure(empty(), PROMPT, checkpoint=folder)} == {0}


# ------------------------------------------------------------------------------------------ what is wrong


def rewritten(folder, name, change):
    """A shard with its tensors changed."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    folder = folder_of(tiny(), tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = "model.layers.2.mlp.up_proj.weight"
    shard = index["weight_map"][name]
    with torch.device("meta"):
        smaller, wider, untied = tiny(num_hidden_layers=2), tiny(intermediate_size=80), tiny(tied=False)
    with pytest.raises(errors.CheckpointMismatchError, match=r"'model.layers.2.input_layernorm.weight' is unknown to"):
        read(smaller, folder)
    message = r"up_proj.weight' is float32 \[80, 32\] in the model, float32 \[64, 32\] in the checkpoint"
    with pytest.raises(errors.CheckpointMismatchError, match=message):
        read(wider, folder)
    with pytest.raises(errors.CheckpointMismatchError, match=r"has values already; build the model on the meta"):
        read(tiny(), folder)
    with pytest.raises(errors.CheckpointMismatchError, match=r"'lm_head.weight' is missing from the checkpoint"):
        read(untied, folder)
    rewritten(folder, shard, lambda tensors: tensors.pop(name))
    with pytest.raises(errors.CheckpointCorruptError, match=rf"{shard} lacks '{name}', which model.safetensors.index"):
        read(empty(), folder)
    (folder / shard).unlink()
    with pytest.raises(errors.CheckpointNotFoundError, match=rf"lacks {shard}, which model.safetensors.index.json"):
        read(empty(), folder)
    model = empty()
    with pytest.raises(errors.CheckpointError):
        read(model, folder)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_weights_that_cannot_be_converted_are_named(tmp_path):
    folder = folder_of(tiny(), tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    shard = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    rewritten(folder, shard, lambda tensors: tensors[name].view(-1)[3:4].fill_(float("nan")))
    with pytest.raises(ek.ConvertError, match=r"model.layers.1.mlp.down_proj"):
        read(empty(), folder, ek.Int8())
    with pytest.raises(ek.ConvertError, match=r"needs calibration data"):
        read(empty(), folder, ek.Int8(activations="static"))


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(errors.CheckpointNotFoundError, match=r"is not a directory"):
        read(empty(), tmp_path / "absent")
    with pytest.raises(errors.CheckpointNotFoundError, match=r"holds neither model.safetensors nor model.safetensors"):
        read(empty(), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for text, message in {
        "{": "is not JSON",
        "[]": "must hold an object, got list",
        '{"weight_map": {}}': "weight_map must name a file",
        '{"weight_map": {"a": "../x"}}': r"must be in the same folder, got '../x'",
    }.items():
        index.write_text(text)
        with pytest.raises(errors.CheckpointFormatError, match=message):
            read(empty(), tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(errors.CheckpointUnsupportedError, match=r"saved converted, by 'gptq'"):
        read(empty(), tmp_path)


def test_a_buffer_that_nobody_stores_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = nn.Sequential(nn.Linear(2, 2)).to("meta")
    assert torch.equal(read(fresh, tmp_path)[0].weight, model[0].weight)
    fresh = nn.Sequential(nn.Linear(2, 2)).to("meta")
    fresh[0].register_buffer("steps", torch.empty(1, device="meta"), persistent=False)
    with pytest.raises(errors.CheckpointMismatchError, match=r"'0' has buffers without values .* no config to make"):
        read(fresh, tmp_path)


def test_a_scheme_needs_floats_to_convert(tmp_path):
    model = model_of("int8")
    ek.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"scheme: it is for what is read from checkpoint="):
        parallel.plan(model, 2, PROMPT, scheme=ek.Int8())
    with pytest.raises(ValueError, match=r"scheme: .* was written by edgekern.save"):
        parallel.plan(empty(), 2, PROMPT, checkpoint=tmp_path, scheme=ek.Int8())
    with pytest.raises(TypeError, match=r"config"):
        parallel.plan(empty(), 2, PROMPT, checkpoint=tmp_path, scheme="int8")


def test_ranks_that_read_different_things_are_refused(ranks, tmp_path):
    folders = [str(folder_of(tiny(seed=seed), tmp_path / str(seed))) for seed in (0, 1)]
    failed(ranks("other_checkpoint", 2, {"checkpoints": folders}), "the checkpoint must be the same on all ranks")
    given = {"checkpoints": folders[:1] * 2, "schemes": ["int8", None]}
    failed(ranks("other_checkpoint", 2, given), "the scheme must be the same on all ranks")
