"""Checkpoints of compressed-tensors, both ways, against the package itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")
theirs = pytest.importorskip("compressed_tensors", reason="needs pip install 'edgekern[test]'")

from compressed_tensors.compressors import BaseCompressor, ModelCompressor, compress_module  # noqa: E402
from compressed_tensors.compressors.pack_quantized import pack_to_int32  # noqa: E402
from compressed_tensors.quantization import (  # noqa: E402
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import fake_quantize  # noqa: E402
from compressed_tensors.quantization.utils import calculate_qparams  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_llama import greedy, logits, tiny  # noqa: E402
from transformers import AutoModelForCausalLM, CompressedTensorsConfig  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.integrations.compressed_tensors import ScalesRoundedWarning, load_compressed, save_compressed  # noqa: E402
from edgekern.loading import records_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True}
GROUP = {"num_bits": 4, "strategy": "group"}
CHANNEL = {"num_bits": 8, "strategy": "channel"}
STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
FOUR_CHANNEL = {"num_bits": 4, "strategy": "channel"}
# What is stored, and what multiplies it here.
SCHEMES = {
    "int4 32": ({**GROUP, "group_size": 32}, None, ek.Int4(32, symmetric=True, activations="float")),
    "int4 64": ({**GROUP, "group_size": 64, "symmetric": False}, None, ek.Int4(64, activations="float")),
    "int4 128": ({**GROUP, "group_size": 128, "symmetric": False}, None, ek.Int4(128, activations="float")),
    "int4 96": ({**GROUP, "group_size": 96}, None, ek.Int4(32, symmetric=True, activations="float")),
    "int4 channel": (FOUR_CHANNEL, None, ek.Int4(128, symmetric=True, activations="float")),
    "int4 channel asymmetric": ({**FOUR_CHANNEL, "symmetric": False}, None, ek.Int4(128, activations="float")),
    "int4 tensor": ({"num_bits": 4, "strategy": "tensor"}, None, ek.Int4(128, symmetric=True, activations="float")),
    "w4a8": ({**GROUP, "group_size": 32}, TOKEN, ek.Int4(32, symmetric=True)),
    "w4a8 asymmetric": ({**GROUP, "group_size": 32, "symmetric": False}, TOKEN, ek.Int4(32)),
    "int8": (CHANNEL, TOKEN, ek.Int8()),
    "int8 tensor": ({"num_bits": 8, "strategy": "tensor"}, {**TOKEN, "symmetric": False}, ek.Int8()),
    "int8 by tensor of activations": (CHANNEL, {**TOKEN, "strategy": "tensor"}, ek.Int8()),
    "w8a16": (CHANNEL, None, ek.Int8(activations="float")),
    "int8 static": (CHANNEL, STATIC, ek.Int8(activations="static")),
    "int8 static asymmetric": (CHANNEL, {**STATIC, "symmetric": False}, ek.Int8(activations="static")),
}
DEQUANTIZE = CompressedTensorsConfig(dequantize=True)
SIZES = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 2, "tied": False}


def parameters(module, weights):
    """Scales and zero points of a layer, from its smallest and largest weights."""
    weight = module.weight.detach()
    if weights.strategy == "tensor":
        low, high = weight.aminmax()
        low, high = low[None], high[None]
    else:
        size = weights.group_size if weights.strategy == "group" else weight.shape[1]
        low, high = weight.unflatten(1, (-1, size)).aminmax(dim=2)
    return calculate_qparams(low, high, weights)


def input_ends(model):
    """The smallest and the largest input of each linear layer, by module."""
    ends = {}

    def hook(module, args):
        ends[module] = args[0].float().aminmax()

    handles = [each.register_forward_pre_hook(hook) for each in model.modules() if isinstance(each, torch.nn.Linear)]
    logits(model)
    for handle in handles:
        handle.remove()
    return ends


def written_by_them(model, folder, config):
    """Has the package quantise, pack and save a model."""
    ends = input_ends(model)
    apply_quantization_config(model, config)
    for module in model.modules():
        if scheme := getattr(module, "quantization_scheme", None):
            scale, zero = parameters(module, scheme.weights)
            module.weight_scale.data.copy_(scale)
            module.weight_zero_point.data.copy_(zero)
            if scheme.input_activations is not None and not scheme.input_activations.dynamic:
                low, high = ends[module]
                scale, zero = calculate_qparams(low[None], high[None], scheme.input_activations)
                module.input_scale.data.copy_(scale)
                module.input_zero_point.data.copy_(zero)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return folder


def config_of(*groups, ignore=("lm_head",)):
    schemes = {
        f"group_{i}": QuantizationScheme(targets=targets, weights=weights, input_activations=inputs)
        for i, (targets, weights, inputs) in enumerate(groups)
    }
    return QuantizationConfig(config_groups=schemes, ignore=list(ignore))


def their_weights(folder):
    """Every compressed layer's weight as the package decompresses it."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    schemes = QuantizationConfig.model_validate(config).config_groups.values()
    layers = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        name, _, part = key.rpartition(".")
        layers.setdefault(name, {})[part] = tensor
    weights = {}
    for name, parts in layers.items():
        if "weight_scale" in parts:
            scheme = next(each for each in schemes if "Linear" in each.targets or name in each.targets)
            compressor = BaseCompressor.get_value_from_registry(scheme.format or config["format"])
            weights[name] = compressor.decompress(parts, scheme)["weight"]
    return weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_what_they_write_has_the_same_values_here(name, dtype, tmp_path):
    weights, inputs, scheme = SCHEMES[name]
    config = config_of((["Linear"], weights, inputs))
    folder = written_by_them(tiny(**SIZES).to(dtype), tmp_path / "theirs", config)
    expected = their_weights(folder)
    assert len(expected) == 14
    rounds = dtype == torch.float32 and scheme.format == "int4"
    if rounds:
        with pytest.warns(ScalesRoundedWarning, match="scales of 14 layers were rounded to float16, by up to"):
            model = load_compressed(folder)
    else:
        model = load_compressed(folder)
    assert {name: record.scheme for name, record in records_of(model).items()} == dict.fromkeys(expected, scheme)
    for layer, weight in expected.items():
        own = model.get_submodule(layer)
        assert own.dtype == weight.dtype == dtype
        if rounds:
            torch.testing.assert_close(own.weight, weight, rtol=2**-11, atol=0)
        else:
            assert torch.equal(own.weight, weight)
    # And the model computes what theirs does, but for activations of 8 bits.
    dense = AutoModelForCausalLM.from_pretrained(folder, quantization_config=DEQUANTIZE)
    close = torch.nn.functional.cosine_similarity(logits(model).float(), logits(dense).float(), dim=-1)
    assert close.mean() > (0.99 if inputs or dtype != torch.float32 else 1 - 1e-5)
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(logits(again), logits(model))
    assert again.config.quantization_config.config == scheme


@pytest.mark.parametrize("name", ["int8 static", "int8 static asymmetric"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_static_activations_are_rounded_as_they_round_them(name, dtype, tmp_path):
    weights, inputs, _ = SCHEMES[name]
    config = config_of((["Linear"], weights, inputs))
    model = tiny(**SIZES).to(dtype)
    folder = written_by_them(model, tmp_path / "theirs", config)
    layer = load_compressed(folder).model.layers[0].mlp.up_proj
    args = QuantizationArgs(**inputs)
    tensors = load_file(folder / "model.safetensors")
    prefix = "model.layers.0.mlp.up_proj.input_"
    zero = tensors.get(f"{prefix}zero_point", torch.zeros(1, dtype=torch.int8))
    x = torch.linspace(-2, 2, 384 * 30).view(30, 384) * 255 * tensors[f"{prefix}scale"].float()  # and beyond the range
    theirs = fake_quantize(x, tensors[f"{prefix}scale"].float(), zero, args)
    scale, own_zero = layer.input_range
    assert (scale, own_zero) == (float(tensors[f"{prefix}scale"]), int(zero) + 128)
    q, _, _ = ek.ops.int8_quantize_rows(x, layer.input_range)
    apart = ((q.float() - own_zero) * scale - theirs).abs()
    assert apart.max() <= 1.001 * scale  # where x / scale is a tie, either neighbour will do
    assert (apart > 0.001 * scale).float().mean() < 0.01
    assert x.amin() < theirs.amin() < 0 < theirs.amax() < x.amax()


def test_schemes_and_floats_side_by_side(tmp_path):
    config = config_of(
        (["re:.*self_attn.*"], {**GROUP, "group_size": 64, "symmetric": False}, None),
        (["Linear"], CHANNEL, TOKEN),
        ignore=("lm_head", "re:.*layers.1.mlp.*"),
    )
    folder = written_by_them(tiny(kind="Qwen2", **SIZES), tmp_path, config)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["format"] == "mixed-precision"
    with pytest.warns(ScalesRoundedWarning):
        model = load_compressed(folder)
    assert isinstance(model.model.layers[1].self_attn.q_proj, ek.nn.Int4Linear)
    assert model.model.layers[1].self_attn.q_proj.bias is not None
    assert isinstance(model.model.layers[0].mlp.up_proj, ek.nn.Int8Linear)
    assert type(model.model.layers[1].mlp.up_proj) is type(model.lm_head) is torch.nn.Linear
    assert len(greedy(model)) == 27


ASKED = [
    *(("int4 32", "dynamic"), ("w8a16", "dynamic"), ("w4a8", "float")),
    *(("int8 static", "dynamic"), ("int8 static asymmetric", "float")),
]


@pytest.mark.parametrize(("name", "activations"), ASKED)
def test_activations_are_as_asked_for(name, activations, tmp_path):
    weights, inputs, scheme = SCHEMES[name]
    folder = written_by_them(tiny(**SIZES).half(), tmp_path, config_of((["Linear"], weights, inputs)))
    stored, model = load_compressed(folder), load_compressed(folder, activations=activations)
    assert {record.scheme for record in records_of(stored).values()} == {scheme}
    assert {record.scheme for record in records_of(model).values()} == {replace(scheme, activations=activations)}
    for layer in records_of(model):
        assert torch.equal(model.get_submodule(layer).weight, stored.get_submodule(layer).weight)
    assert not torch.equal(logits(model), logits(stored))
    with pytest.raises(ValueError, match="unknown activations 'int4'; this version knows dynamic, float"):
        load_compressed(folder, activations="int4")


@pytest.mark.parametrize("kind", ["packed", "an int8 each"])
def test_zero_points_of_either_version(kind, tmp_path):
    """Before they were packed, they were stored an int8 each."""
    weights, inputs, _ = SCHEMES["int4 64"]
    folder = written_by_them(tiny(**SIZES).half(), tmp_path, config_of((["Linear"], weights, inputs)))
    expected = their_weights(folder)
    if kind != "packed":
        tensors = load_file(folder / "model.safetensors")
        for name in [name for name in tensors if name.endswith("weight_zero_point")]:
            n, _ = tensors[name.replace("zero_point", "shape")].tolist()
            columns = tensors[name].t().contiguous().view(torch.uint8)
            values = torch.stack((columns & 15, columns >> 4), -1).flatten(1)[:, :n].t()
            tensors[name] = (values.to(torch.int8) - 8).contiguous()
        from safetensors.torch import save_file

        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = load_compressed(folder)
    assert all(torch.equal(model.get_submodule(name).weight, weight) for name, weight in expected.items())


@pytest.mark.parametrize("ordered", ["as they are", "never", "by activations"])
def test_groups_of_columns_in_another_order_are_refused(ordered, tmp_path):
    weights, inputs, _ = SCHEMES["int4 32"]
    folder = written_by_them(tiny(**SIZES).half(), tmp_path, config_of((["Linear"], weights, inputs)))
    tensors = load_file(folder / "model.safetensors")
    groups = torch.arange(384, dtype=torch.int32) // 32
    name = "model.layers.1.self_attn.q_proj"
    order = {"as they are": groups, "never": torch.full_like(groups, -1), "by activations": groups.flip(0)}[ordered]
    from safetensors.torch import save_file

    save_file({**tensors, f"{name}.weight_g_idx": order}, folder / "model.safetensors", {"format": "pt"})
    if ordered == "by activations":
        with pytest.raises(ek.CheckpointError, match=rf"'{name}' has columns in the order of activations .*dequantize"):
            load_compressed(folder)
    else:
        assert torch.equal(load_compressed(folder).get_submodule(name).weight, their_weights_of(tensors, name, folder))


def their_weights_of(tensors, name, folder):
    scheme = QuantizationScheme(targets=["Linear"], weights=SCHEMES["int4 32"][0])
    parts = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    return BaseCompressor.get_value_from_registry("pack-quantized").decompress(parts, scheme)["weight"]


# ------------------------------------------------------------------------------------------------------------ writing

CONFIGS = {
    "int8": ek.Int8(),
    "int4": ek.Int4(32),
    "int4 symmetric": ek.Int4(128, symmetric=True),
    "head too": ek.PerLayer({"lm_head": ek.Int8(), "_default": ek.Int8()}),
    "int8 by floats": ek.Int8(activations="float"),
    "int4 by floats": ek.Int4(32, activations="float"),
    "both": ek.PerLayer({"re:.*mlp.*": ek.Int4(64), "re:.*layers.0.*": None, "re:.*self_attn.*": ek.Int8()}),
    "static": ek.Int8(activations="static"),
    "some static": ek.PerLayer({"re:.*mlp.*": ek.Int8(activations="static"), "re:.*self_attn.*": ek.Int8()}),
    "all": ek.PerLayer(
        {
            "re:.*mlp.*": ek.Int4(64, activations="float"),
            "re:.*layers.0.*": ek.Int8(activations="float"),
            "re:.*self_attn.*": ek.Int8(),
        }
    ),
}
ROUNDED = ("int4", "int4 symmetric", "both")
"""Those with int4 layers by 8-bit activations, which are written as any int4 layer is."""


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_we_write_they_read_and_so_do_we(name, dtype, tied, tmp_path):
    tiny(**{**SIZES, "tied": tied}).to(dtype).save_pretrained(tmp_path / "floats")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "floats", dtype="auto")
    ek.convert_(model, CONFIGS[name], data=[{"input_ids": torch.arange(24)[None] * 3 % 96}], progress=False)
    ek.fuse_blocks_(model)
    settings = vars(model.config).copy()
    save_compressed(model, tmp_path)
    assert vars(model.config) == settings
    weights = their_weights(tmp_path)
    linears = {name: record for name, record in records_of(model).items() if record.tied_to is None}
    assert weights.keys() == linears.keys()
    for layer, weight in weights.items():
        own = model.get_submodule(layer)
        own.dtype = torch.float32  # its values before they are rounded to the model's dtype
        assert torch.equal(weight, own.weight.to(weight.dtype))
        own.dtype = dtype

    again = load_compressed(tmp_path, activations="dynamic" if name in ROUNDED else None)
    assert torch.equal(logits(again), logits(model))
    forms = {name: replace(record, scheme=replace(record.scheme, form="dense")) for name, record in linears.items()}
    read = {
        name: replace(record, scheme=replace(record.scheme, form="dense")) for name, record in records_of(again).items()
    }
    assert read == forms  # the table of a tied head is floats there
    if name not in ("both", "all", "some static"):  # transformers takes one scheme for all
        dense = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=DEQUANTIZE)
        close = torch.nn.functional.cosine_similarity(logits(model).float(), logits(dense).float(), dim=-1)
        assert close.mean() > 0.99


@pytest.mark.parametrize("name", ["int4 32", "int4 64", "int8", "w8a16", "int8 static asymmetric"])
def test_their_checkpoint_comes_back_byte_for_byte(name, tmp_path):
    weights, inputs, _ = SCHEMES[name]
    folder = written_by_them(tiny(**SIZES).bfloat16(), tmp_path / "theirs", config_of((["Linear"], weights, inputs)))
    save_compressed(load_compressed(folder), tmp_path / "ours")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for part, tensor in before.items():
        assert tensor.dtype == after[part].dtype, part
        assert torch.equal(tensor, after[part]), part
    one, other = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours"))
    one, other = one["quantization_config"], other["quantization_config"]
    assert one["format"] == other["format"]
    assert one["quantization_status"] == other["quantization_status"] == "compressed"
    assert QuantizationConfig.model_validate(other).ignore == one["ignore"] == ["lm_head"]
    (group,), (own,) = one["config_groups"].values(), other["config_groups"].values()
    for side in ("weights", "input_activations"):
        read = own[side] and QuantizationArgs.model_validate(own[side]).model_dump()
        assert read == (group[side] and QuantizationArgs.model_validate(group[side]).model_dump())


@pytest.mark.parametrize("in_features", [32, 96])  # of one group, and of several
def test_odd_sizes_are_packed_as_they_pack_them(in_features):
    torch.manual_seed(0)
    for out_features in (1, 5, 8, 13):
        layer = ek.nn.Int4Linear.from_linear(torch.nn.Linear(in_features, out_features), ek.Int4(32))
        from edgekern.checkpoint.compressed import parts_of

        parts, own = parts_of(layer), layer.state_dict()
        values = ek.ops.int4_unpair(own["weight"], in_features).to(torch.int8) - 8
        assert torch.equal(parts["weight_packed"], pack_to_int32(values, 4))
        zero = own["weight_zero"].to(torch.int8) - 8
        assert torch.equal(parts["weight_zero_point"], pack_to_int32(zero, 4, packed_dim=0))
        assert parts["weight_shape"].tolist() == [out_features, in_features]


def test_odd_columns_of_int8_are_packed_as_they_pack_them():
    from edgekern.checkpoint.compressed import parts_of

    torch.manual_seed(0)
    for in_features in (1, 4, 29, 98):
        layer = ek.nn.Int8Linear.from_linear(torch.nn.Linear(in_features, 5), ek.Int8(activations="float"))
        parts = parts_of(layer)
        assert torch.equal(parts["weight_packed"], pack_to_int32(layer.state_dict()["weight"], 8))
        assert parts["weight_shape"].tolist() == [5, in_features]


def test_compress_module_is_what_fills_a_layer():
    """One layer, quantised by the package alone, without a model around it."""
    from edgekern.checkpoint.compressed import StoredAs, canonical

    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 11)
    args = QuantizationArgs(**GROUP, group_size=32, symmetric=False)
    linear.quantization_scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale, zero = parameters(linear, args)
    linear.weight_scale, linear.weight_zero_point = (
        torch.nn.Parameter(tensor, requires_grad=False) for tensor in (scale.half(), zero.to(torch.int8))
    )
    linear = linear.half()
    compress_module(linear)
    parts = {name: tensor.detach() for name, tensor in linear.state_dict().items()}
    stored = StoredAs(4, True, "group", 32, False, "float")
    read = canonical(stored, parts, (11, 64), "layer")
    own = ek.nn.Int4Linear(64, 11, dtype=torch.float16, scheme=stored.scheme)
    own.load_state_dict(read.tensors)
    decompressed = BaseCompressor.get_value_from_registry("pack-quantized").decompress(
        parts, linear.quantization_scheme
    )
    assert read.rounded == 0
    assert torch.equal(own.weight, decompressed["weight"])
