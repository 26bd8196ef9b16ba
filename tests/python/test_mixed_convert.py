"""Int8(activations="float") and Int4(activations="float"): options, layers, reports, files."""

from __future__ import annotations

import copy
import json

import pytest

torch = pytest.importorskip("torch")

from small_models import Block, LanguageModel, make_layer  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import Int4, Int8, PerLayer, config_from_dict, ops  # noqa: E402
from edgekern.config import read_config, write_config  # noqa: E402
from edgekern.kernels import default_isa  # noqa: E402
from edgekern.nn import Int4Linear, Int8Linear  # noqa: E402

SCHEMES = {
    "int8": Int8(activations="float"),
    "int4": Int4(group_size=32, activations="float"),
    "int4 symmetric": Int4(symmetric=True, activations="float"),
}
LAYERS = {"int8": Int8Linear, "int4": Int4Linear}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layer_of(kind, linear):
    return LAYERS[SCHEMES[kind].format].from_linear(linear, SCHEMES[kind])


# ------------------------------------------------------------------------------------------------- options


def test_the_option_is_checked_and_kept(tmp_path):
    for scheme, known in ((Int8, "dynamic, static, float"), (Int4, "dynamic, static, float")):
        name = scheme.__name__
        assert scheme().activations == "dynamic"
        assert scheme(activations="dynamic") == scheme()
        assert "activations" not in scheme().to_dict()
        floats = scheme(activations="float")
        assert repr(floats) == f"{name}(activations='float')"
        assert config_from_dict(json.loads(json.dumps(floats.to_dict()))) == floats
        with pytest.raises(ValueError, match=f"{name}: unknown activations 'f32'; this version knows {known}"):
            scheme(activations="f32")
        message = f"{name}: activations='float' needs the dense form, got form='bitmap'; leave form out"
        with pytest.raises(ValueError, match=message):
            scheme(form="bitmap", activations="float")
        assert scheme(form="dense", activations="float").form == "dense"
    with pytest.raises(ValueError, match="Int8: packings=2 is for activations that are rounded"):
        Int8(packings=2, activations="float")
    assert not Int8(activations="float").needs_data
    with pytest.raises(ValueError, match="Int8: ranges='mse' is of activations='static', not 'float'"):
        Int8(activations="float", ranges="mse")
    config = PerLayer({"lm_head": None, "_default": SCHEMES["int4"]})
    pytest.importorskip("tomli_w")
    pytest.importorskip("tomllib")
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


# ------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(70,), (1, 70), (3, 70), (2, 20, 70), (0, 70)])
def test_it_is_the_dense_layer_with_rounded_weights(kind, dtype, shape):
    linear, _ = make_layer(70, 33, dtype=dtype)
    native = layer_of(kind, linear)
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        y = native(x)
        exact = nn.functional.linear(x.double(), layer_weight(native), linear.bias.double())
    assert (y.dtype, y.shape) == (dtype, (*shape[:-1], 33))
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=1e-5)


def layer_weight(native):
    """Not rounded to the layer's dtype: what it multiplies."""
    twin = copy.deepcopy(native)
    twin.dtype = torch.float32
    return twin.weight.double()


@pytest.mark.parametrize("kind", SCHEMES)
def test_outliers_cost_nothing(kind):
    """What it is for: a feature a thousand times the others leaves int8 activations nothing for those."""
    linear, _ = make_layer(64, 64, bias=False)
    x = torch.randn(8, 64)
    x[:, 5] *= 1000
    with torch.no_grad():
        linear.weight[:, 5] = 0
        native, rounded = layer_of(kind, linear), LAYERS[SCHEMES[kind].format].from_linear(linear)
        exact = nn.functional.linear(x, native.weight)
        error = (native(x) - exact).norm() / exact.norm()
        error_of_int8 = (rounded(x) - nn.functional.linear(x, rounded.weight)).norm() / exact.norm()
    assert error < 1e-5
    assert error_of_int8 > 0.1


@pytest.mark.parametrize("kind", SCHEMES)
def test_packed_bytes_are_those_of_int8_activations(kind):
    linear, _ = make_layer()
    scheme = SCHEMES[kind]
    plain = config_from_dict({**scheme.to_dict(), "activations": "dynamic"})
    native, other = layer_of(kind, linear), LAYERS[scheme.format].from_linear(linear, plain)
    assert torch.equal(native.packed, other.packed)
    assert native.kernels == tuple(f"{scheme.format}_float_{name}_{default_isa()}" for name in ("gemm", "gemv"))
    twin = LAYERS[scheme.format](70, 33, scheme=scheme)
    twin.load_state_dict(other.state_dict())  # which of the two runs is the layer's, not the weights'
    x = torch.randn(3, 70)
    with torch.inference_mode():
        assert torch.equal(twin(x), native(x))
        assert not torch.equal(other(x), native(x))


@pytest.mark.parametrize("kind", SCHEMES)
def test_activations_autograd_and_opcheck(kind):
    linear, _ = make_layer()
    cls = LAYERS[SCHEMES[kind].format]
    native = layer_of(kind, linear)
    gelu = cls(70, 33, activation="gelu", scheme=SCHEMES[kind])
    gelu.load_state_dict(native.state_dict())
    x = torch.randn(5, 70)
    with torch.inference_mode():
        torch.testing.assert_close(gelu(x), nn.functional.gelu(native(x)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="float_linear has no backward, and x requires grad"):
        native(x.requires_grad_())
    op = getattr(torch.ops.edgekern, f"{SCHEMES[kind].format}_float_linear").default
    torch.library.opcheck(op, (torch.randn(3, 70), native.packed, 33, ops.ACTIVATIONS["silu"]))


# ------------------------------------------------------------------------------------------------- models


def test_pruned_layers_run_dense_and_the_report_says_so():
    model = LanguageModel(tied=False)
    ek.prune_(model, ek.Prune(0.9))
    report = ek.convert_(model, Int8(activations="float"))
    rows = [row for row in report if row.format == "int8"]
    assert len(rows) == 4
    for row in rows:
        assert row.packing == "dense (zeros are multiplied: activations stay floats)"
        assert row.zeros > 0.85
        assert row.timings == ()
        assert "_float_gemm_" in row.kernel


def test_rules_mix_both_kinds():
    model = LanguageModel(tied=False)
    rules = {"re:.*down": Int8(activations="float"), "blocks.0.up": SCHEMES["int4"], "_default": Int8()}
    rows = {row.name: row for row in ek.convert_(model, PerLayer(rules))}
    isa = default_isa()
    assert rows["blocks.1.down"].kernel == f"int8_float_gemm_{isa} / int8_float_gemv_{isa}"
    assert rows["blocks.0.up"].kernel == f"int4_float_gemm_{isa} / int4_float_gemv_{isa}"
    assert rows["blocks.1.up"].kernel == f"int8_gemm_{isa} / int8_gemv_{isa}"
    assert all(row.packing == "dense" for row in rows.values() if row.kernel)
    assert {row.activations for row in rows.values() if row.kernel} == {"dynamic", "float"}
    shown = str(ek.explain(model))
    assert "int8, float activations" in shown
    assert "int4, float activations" in shown


@pytest.mark.parametrize("kind", SCHEMES)
def test_quantize_rounds_for_them(kind):
    model, data = nn.Sequential(Block(), Block()), [torch.randn(64, 16)]
    report = ek.quantize_(model, ek.GPTQ(SCHEMES[kind]), data, progress=False)
    weight = model[0].up.weight.detach().clone()
    ek.convert_(model, report.config)
    assert model[0].up.scheme == SCHEMES[kind]
    torch.testing.assert_close(model[0].up.weight, weight, rtol=1e-6, atol=0)


def test_a_static_range_is_not_for_layers_whose_activations_stay_floats():
    linear, _ = make_layer()
    floats = Int8Linear.from_linear(linear, SCHEMES["int8"])
    model = nn.Sequential(linear)
    ek.convert_(model, Int8(activations="static"), data=[torch.randn(4, 70)], progress=False)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*input_scale"):
        floats.load_state_dict(model[0].state_dict())
    assert floats.input_range is None
    fresh = Int8Linear(70, 33, scheme=SCHEMES["int8"])
    fresh.input_range = model[0].input_range
    with pytest.raises(ValueError, match=r"with Int8\(activations='float'\) input_range must not be given"):
        fresh.take_(model[0].weight, None)


@pytest.mark.parametrize("kind", SCHEMES)
def test_a_table_has_no_activations(kind):
    plain = config_from_dict({**SCHEMES[kind].to_dict(), "activations": "dynamic"})
    tables, ids = [], torch.arange(12).view(2, 6)
    for scheme in (SCHEMES[kind], plain):
        torch.manual_seed(0)
        model = LanguageModel(tied=False)
        ek.convert_(model, PerLayer({"embed": scheme}))
        tables.append(model.embed)
    table, other = tables
    assert torch.equal(table.table.packed, other.table.packed)
    assert torch.equal(table(ids), other(ids))
    assert table.kernels == other.kernels


@pytest.mark.parametrize("kind", SCHEMES)
def test_saved_and_loaded_with_a_tied_table(tmp_path, kind):
    model, ids = LanguageModel(), torch.arange(12).view(2, 6)
    rows = {row.name: row for row in ek.convert_(model, PerLayer({"embed": SCHEMES[kind], "_default": SCHEMES[kind]}))}
    assert model.embed.table is model.lm_head
    assert (rows["embed"].bytes_after, rows["lm_head"].bytes_after) == (0, model.lm_head.packed_bytes)
    assert "_float_gemm_" in rows["lm_head"].kernel
    assert torch.equal(model.embed(ids), model.lm_head.weight[ids])
    assert model.lm_head.scheme.activations == "float"
    ek.save(model, tmp_path)
    schemes = [layer["scheme"] for layer in json.loads((tmp_path / "edgekern.json").read_text())["layers"]]
    assert [scheme["activations"] for scheme in schemes] == ["float"] * 5
    loaded = ek.load(LanguageModel(), tmp_path)
    assert torch.equal(loaded(ids), model(ids))
    assert ek.explain(loaded) == ek.explain(model)
    dense = copy.deepcopy(model)
    ek.dense_(dense)
    torch.testing.assert_close(dense(ids), model(ids), rtol=1e-4, atol=1e-5)


def test_from_pretrained_and_back(tmp_path):
    pytest.importorskip("transformers")
    from tiny_llama import folder_of, logits, tiny
    from transformers import AutoModelForCausalLM

    from edgekern.integrations.transformers import EdgekernConfig

    folder, config = folder_of(tiny(), tmp_path / "float"), EdgekernConfig(Int4(group_size=32, activations="float"))
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    ek.convert_(expected, Int4(group_size=32, activations="float"))
    ek.fuse_blocks_(expected)
    assert torch.equal(logits(model), logits(expected))
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(model))
    assert again.model.layers[0].mlp.up_proj.scheme.activations == "float"
