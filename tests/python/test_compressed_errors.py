"""Checkpoints of compressed-tensors that are not read, each with its reason. Needs no such package."""

from __future__ import annotations

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import tiny  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.checkpoint import (  # noqa: E402
    CheckpointCorruptError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointUnsupportedError,
)
from edgekern.integrations.compressed_tensors import load_compressed, save_compressed  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = "model.safetensors"
LAYER = "model.layers.1.mlp.up_proj"
UP = f"layer '{LAYER}'"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for scheme in (ek.Int4(32), ek.Int8()):
        made[scheme.format] = tmp_path_factory.mktemp("compressed") / scheme.format
        model = tiny(hidden_size=64, intermediate_size=128, num_hidden_layers=2)
        ek.convert_(model, scheme)
        save_compressed(model, made[scheme.format])
    return made


@pytest.fixture
def int4(folders, tmp_path):
    return shutil.copytree(folders["int4"], tmp_path / "int4")


@pytest.fixture
def int8(folders, tmp_path):
    return shutil.copytree(folders["int8"], tmp_path / "int8")


def change_config(folder, change):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config["quantization_config"])
    file.write_text(json.dumps(config))


def change_tensors(folder, change):
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE, {"format": "pt"})


def group(config):
    return config["config_groups"]["group_0"]


def weights(**options):
    return lambda config: group(config)["weights"].update(options)


def inputs(**options):
    given = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True, **options}
    return lambda config: group(config).update(input_activations=given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            weights(type="float", num_bits=8, strategy="channel", group_size=None),
            "weights of 8 bits of the type 'float'",
        ),
        (weights(num_bits=3), "weights of 3 bits of the type 'int'; int of 4 or 8 bits"),
        (weights(group_size=16), "int4 weights by groups of 16; groups of 32, 64, 128 and other multiples of 32"),
        (weights(group_size=48), "int4 weights by groups of 48"),
        (weights(strategy="block", group_size=None, block_structure=[128, 128]), "a scale for each block"),
        (weights(strategy="tensor_group"), "a scale for each tensor_group"),
        (weights(num_bits=8), "int8 weights by groups of 32"),
        (weights(num_bits=8, strategy="channel", group_size=-1, symmetric=False), "asymmetric int8 weights"),
        (weights(dynamic=True), "weights that are quantised while it runs"),
        (inputs(type="float"), "activations of 8 bits of the type 'float'"),
        (inputs(num_bits=4), "activations of 4 bits of the type 'int'"),
        (inputs(dynamic=False, strategy="tensor"), "static scales for its activations, and int4 weights"),
        (inputs(dynamic="local", strategy="group", group_size=32), "that are found in the way 'local'"),
        (inputs(strategy="group", group_size=32), "a scale for each group of its activations"),
        (lambda config: group(config).update(weights=None), "quantised activations, but weights that are not"),
        (lambda config: group(config).update(output_activations={"num_bits": 8}), "quantised outputs"),
        (lambda config: config.update(format="marlin-24"), "weights of the format 'marlin-24'"),
        (lambda config: config.pop("format"), "weights of the format None"),
        (lambda config: group(config).update(format="nvfp4-pack-quantized"), "of the format 'nvfp4-pack-quantized'"),
    ],
)
def test_what_no_kernel_multiplies(int4, change, message):
    change_config(int4, change)
    with pytest.raises(CheckpointUnsupportedError, match=rf"layer '.*' has .*{message}.*dequantize=True"):
        load_compressed(int4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kv_cache_scheme", {"num_bits": 8, "type": "float"}),
        ("sparsity_config", {"format": "sparse-24-bitmask"}),
        ("transform_config", {"config_groups": {"R1": {}}}),
        ("moe_sparsity_config", {"method": "prune"}),
        ("run_this", "os.system"),
    ],
)
def test_what_is_about_more_than_weights(int4, key, value):
    change_config(int4, lambda config: config.update({key: value}))
    with pytest.raises(CheckpointUnsupportedError, match=f"edgekern carries out no {key}; .*dequantize=True"):
        load_compressed(int4)


def test_what_changes_nothing_is_read(int4):
    said = {"sparsity_config": {"format": "dense"}, "transform_config": {}, "version": "0.9.1", "kv_cache_scheme": None}
    said["quantization_status"] = "frozen"  # as older versions said of integers
    change_config(int4, lambda config: config.update(said))
    change_config(
        int4, weights(observer="mse", observer_kwargs={}, actorder="weight", block_structure=None, other=None)
    )
    assert isinstance(load_compressed(int4).get_submodule(LAYER), ek.nn.Int4Linear)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(quant_method="awq"), "expected the method 'compressed-tensors', got 'awq'"),
        (lambda config: config.update(config_groups=[]), "config_groups must be a mapping that is not empty"),
        (lambda config: config.update(config_groups={"W4A16": ["Linear"]}), "W4A16: expected a mapping"),
        (lambda config: group(config).update(hook="os.system"), "group_0: expected format, .*; got hook"),
        (lambda config: group(config).update(targets="Linear"), "group_0: targets must be a list of names"),
        (lambda config: group(config).update(targets=["re:("]), r"group_0: targets: 're:\(' is no regular expression"),
        (lambda config: config.update(ignore=[3]), r"ignore must be a list of names, got \[3\]"),
        (weights(loader="os.system"), "weights: no such option as 'loader'; known are num_bits, type"),
        (weights(num_bits="4"), "weights: num_bits must be int, got '4'"),
        (weights(num_bits=True), "weights: num_bits must be int, got True"),
        (weights(symmetric=0), "weights: symmetric must be bool, got 0"),
        (lambda config: group(config).update(weights="os.system"), "weights: expected a mapping, got str"),
        (lambda config: group(config).update(format=["x"]), "format must be a name"),
    ],
)
def test_what_config_json_may_not_say(int4, change, message):
    change_config(int4, change)
    with pytest.raises(CheckpointFormatError, match=message):
        load_compressed(int4)


def test_code_in_a_checkpoint_is_not_run(int4, tmp_path, monkeypatch):
    (int4 / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((int4 / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (int4 / "config.json").write_text(json.dumps(config))
    load_compressed(int4)  # transformers knows the model itself
    config["model_type"] = "evil"
    (int4 / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run it"))
    with pytest.raises(ValueError, match="contains custom code"):
        load_compressed(int4)
    assert not (tmp_path / "ran").exists()


def replaced(part, make):
    def change(tensors):
        tensors[f"{LAYER}.{part}"] = make(tensors[f"{LAYER}.{part}"])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{LAYER}.weight_packed"), "has no weight_packed of it; it has weight_scale"),
        (lambda tensors: tensors.pop(f"{LAYER}.weight_shape"), "has no weight_shape of it"),
        (lambda tensors: tensors.pop(f"{LAYER}.weight_zero_point"), "has no weight_zero_point of it"),
        (replaced("weight_packed", lambda tensor: tensor[:, :7]), r"int32 \[128, 7\] .* expected int32 \[128, 8\]"),
        (replaced("weight_packed", lambda tensor: tensor[:127]), r"its weight_packed is int32 \[127, 8\]"),
        (replaced("weight_packed", lambda tensor: tensor.to(torch.int64)), "its weight_packed is int64"),
        (replaced("weight_scale", lambda tensor: tensor.double()), "float64 .*expected float32/bfloat16/float16"),
        (replaced("weight_scale", lambda tensor: tensor[:, :1]), r"float32 \[128, 1\] .* expected .* \[128, 2\]"),
        (replaced("weight_zero_point", lambda tensor: tensor.T), r"expected int32 \[16, 2\] or int8 \[128, 2\]"),
        (
            lambda tensors: tensors.update({f"{LAYER}.input_scale": torch.ones(1)}),
            "has a input_scale of it; expected weight_packed, .* and no more",
        ),
        (
            lambda tensors: tensors.update({f"{LAYER}.bias": torch.ones(128)}),
            "has a bias of it; expected weight_packed",
        ),
    ],
)
def test_headers_that_are_not_the_models(int4, change, message):
    change_tensors(int4, change)
    with pytest.raises(CheckpointMismatchError, match=f"{UP}: .*{message}"):
        load_compressed(int4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replaced("weight_shape", lambda tensor: tensor.flip(0)),
            r"its weight_shape says \[64, 128\], expected \[128, 64\]",
        ),
        (replaced("weight_scale", lambda tensor: tensor * torch.nan), "its weight_scale holds NaN or infinity"),
        (
            lambda tensors: tensors.update(
                {f"{LAYER}.weight_zero_point": torch.full((128, 2), 9, dtype=torch.int8)},
            ),
            "its weight_zero_point reaches from 9 to 9, and 4 bits from -8 to 7",
        ),
    ],
)
def test_values_that_cannot_be(int4, change, message):
    change_tensors(int4, change)
    with pytest.raises(CheckpointCorruptError, match=f"{UP}: {message}"):
        load_compressed(int4)


@pytest.mark.parametrize(("low", "fits"), [(1e-9, True), (2.0**-24 * 1.5, False), (1e5, False)])
def test_scales_that_float16_does_not_hold(int4, low, fits):
    """Tiny beside others of their channel they change nothing that counts; alone they would."""

    def change(tensors):
        scale = tensors[f"{LAYER}.weight_scale"]
        scale[3] = torch.tensor([low, 2**-7]) if fits else low

    change_tensors(int4, change)
    if fits:
        with pytest.warns(UserWarning, match=r"scales of 1 layers were rounded .*by up to 1.3e-07 .*up_proj"):
            model = load_compressed(int4)
        assert model.get_submodule(LAYER).weight[3, :32].abs().max() == 0
    else:
        with pytest.raises(
            CheckpointUnsupportedError, match=f"{UP} has an output channel with scales from .*tolerated"
        ):
            load_compressed(int4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.7.mlp.up_proj.weight_packed", "but the model has no linear layer 'model.layers.7.mlp.up_proj'"),
        ("model.embed_tokens.weight_scale", "but the model has no linear layer 'model.embed_tokens' among the targets"),
        ("lm_head.weight_scale", "no linear layer 'lm_head' among the targets"),
        ("model.layers.7.mlp.up_proj.weight", "'model.layers.7.mlp.up_proj.weight', which the model has no place for"),
        ("../../escape", "'../../escape', which the model has no place for"),
    ],
)
def test_tensors_of_another_model(int4, name, message):
    change_tensors(int4, lambda tensors: tensors.update({name: torch.ones(1)}))
    with pytest.raises(CheckpointMismatchError, match=message):
        load_compressed(int4)


def test_no_layer_is_a_target(int4):
    change_config(int4, lambda config: group(config).update(targets=["re:nothing"]))
    with pytest.raises(CheckpointMismatchError, match=r"no linear layer .* among the targets"):
        load_compressed(int4)


def test_a_missing_float(int4):
    change_tensors(int4, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ek.ConvertError, match=r"no values for 'model.norm.weight'"):
        load_compressed(int4)


def test_int8_layers(int8):
    name = f"{LAYER}.weight"
    change_tensors(int8, lambda tensors: tensors.update({name: tensors[name].float()}))
    with pytest.raises(CheckpointMismatchError, match=rf"{UP}: its weight is float32 .* expected int8 \[128, 64\]"):
        load_compressed(int8)


@pytest.mark.parametrize("zero", [0, 1])
def test_zero_points_of_symmetric_layers(int8, zero):
    name = f"{LAYER}.weight_zero_point"
    change_tensors(int8, lambda tensors: tensors.update({name: torch.full((128, 1), zero, dtype=torch.int8)}))
    if zero:
        with pytest.raises(CheckpointCorruptError, match=f"{UP} has zero points that are not 0"):
            load_compressed(int8)
    else:
        assert isinstance(load_compressed(int8).get_submodule(LAYER), ek.nn.Int8Linear)


# -------------------------------------------------------------------------------------------------------------- files


def header_of(folder):
    data = (folder / FILE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_header(folder, header, data):
    text = json.dumps(header).encode()
    (folder / FILE).write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(data_offsets=[0, 10**12]),
        lambda entry: entry.update(data_offsets=[entry["data_offsets"][0] - 4, entry["data_offsets"][1] - 4]),
        lambda entry: entry.update(shape=[10**9, 10**9]),
        lambda entry: entry.update(dtype="os.system"),
    ],
    ids=["beyond the end", "overlapping", "shape", "dtype"],
)
def test_a_header_that_lies(int4, change):
    header, data = header_of(int4)
    change(header[f"{LAYER}.weight_packed"])
    write_header(int4, header, data)
    with pytest.raises(CheckpointCorruptError, match=r"model.safetensors is not a safetensors file"):
        load_compressed(int4)


def test_a_truncated_file(int4):
    data = (int4 / FILE).read_bytes()
    (int4 / FILE).write_bytes(data[:-100])
    with pytest.raises(CheckpointCorruptError, match="is not a safetensors file"):
        load_compressed(int4)
    (int4 / FILE).unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"holds neither model.safetensors nor model.safetensors.index"):
        load_compressed(int4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda places: places.update(x="../other.safetensors"),
            CheckpointCorruptError,
            "expected a .safetensors file",
        ),
        (lambda places: places.update(x="evil.pkl"), CheckpointCorruptError, "expected a .safetensors file beside it"),
        (lambda places: places.update(x="a.safetensors"), CheckpointNotFoundError, "holds no a.safetensors"),
        (lambda places: places.update(x=next(iter(places.values()))), CheckpointCorruptError, "holds no 'x'"),
        (lambda places: places.pop(f"{LAYER}.weight_packed"), CheckpointCorruptError, "places in no file"),
        (lambda places: places.update(x=3), CheckpointCorruptError, "a mapping of names to files"),
    ],
)
def test_an_index_that_lies(folders, tmp_path, change, error, message):
    folder = tmp_path / "parts"
    save_compressed(load_compressed(folders["int4"]), folder, most_bytes=50_000)
    assert isinstance(load_compressed(folder).get_submodule(LAYER), ek.nn.Int4Linear)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        load_compressed(folder)
    file.write_text("{")
    with pytest.raises(CheckpointCorruptError, match="is no index of a checkpoint"):
        load_compressed(folder)


# ------------------------------------------------------------------------------------------------------------ writing


def test_what_their_format_has_no_room_for(tmp_path):
    model = tiny(hidden_size=96, intermediate_size=128)
    with pytest.raises(CheckpointUnsupportedError, match="no layer of the model is converted"):
        save_compressed(model, tmp_path / "out")
    ek.convert_(model, ek.Int4(64))
    with pytest.raises(
        CheckpointUnsupportedError, match=r"of 96 .* less than 64, .*convert it with Int4\(group_size=32"
    ):
        save_compressed(model, tmp_path / "out")
    model = tiny(hidden_size=96, intermediate_size=128)
    ek.prune_(model, ek.Prune(0.9, pattern="4x4"))
    ek.convert_(model, ek.Float32(channels=4))
    with pytest.raises(CheckpointUnsupportedError, match=r"is f32, which compressed-tensors has no format for"):
        save_compressed(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
