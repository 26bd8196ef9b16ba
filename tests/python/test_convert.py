"""convert_: what is converted, and that it stays in its place."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    BLOCK_LAYERS,
    Block,
    LanguageModel,
    NoForward,
    OwnForward,
    assert_untouched,
    native_names,
    snapshot,
)
from torch import nn

import edgekern as ek
from edgekern import ConvertError, Int8, PerLayer, convert_, dense_, explain
from edgekern.nn import Int8Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_linear_of_a_model(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.LayerNorm(16), Block()).to(dtype)
    x = torch.randn(3, 5, 16, dtype=dtype)
    with torch.inference_mode():
        expected = model(x)
        report = convert_(model, Int8())
        y = model(x)
    assert native_names(model) == ["0.up", "0.down", "2.up", "2.down"] == [row.name for row in report.converted]
    assert not report.skipped
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected.float(), atol=0.06, rtol=0.03)


def test_report_rows():
    model = nn.Sequential(nn.Linear(64, 32), nn.Conv2d(3, 4, 2).double())
    report = convert_(model, Int8())
    isa = ek.kernels.default_isa()
    linear, conv = report.rows
    assert (linear.name, linear.kind, linear.shape, linear.format, linear.isa) == ("0", "Linear", (32, 64), "int8", isa)
    assert linear.kernel == f"int8_gemm_{isa} / int8_gemv_{isa}"
    assert linear.bytes_before == (32 * 64 + 32) * 4
    assert linear.bytes_after == model[0].packed.nbytes
    assert linear.reason == ""
    assert (conv.name, conv.kind, conv.shape, conv.format, conv.kernel) == ("1", "Conv2d", (4, 3, 2, 2), "dense", "")
    assert "its weight is torch.float64" in conv.reason
    assert conv.bytes_before == conv.bytes_after == (4 * 3 * 4 + 4) * 8
    assert explain(model) == report
    assert len(report) == 2
    assert list(report) == [linear, conv]


def test_report_prints_and_serialises():
    report = convert_(nn.Sequential(nn.Linear(64, 32), nn.Conv2d(3, 4, 2).double()), Int8())
    data = json.loads(json.dumps(report.to_dict()))
    assert data["converted"] == data["skipped"] == 1
    assert data["bytes_before"] == sum(row["bytes_before"] for row in data["layers"])
    assert data["layers"][0]["shape"] == [32, 64]
    table = str(report)
    assert [line.split()[0] for line in table.splitlines()] == ["layer", "0", "1", "2"]
    assert "2 layers: 1 converted, 1 left alone" in table
    assert "smaller)" in table


def test_notebook_table_is_escaped():
    class Angle(nn.Linear):
        def forward(self, x):
            return x

    Angle.__name__ = "<b>&"
    page = convert_(nn.Sequential(Angle(4, 4), nn.Linear(4, 4)), Int8())._repr_html_()
    assert "&lt;b&gt;&amp; has a forward" in page
    assert page.count("<tr>") == 3


def test_a_subclass_without_a_forward_of_its_own_is_converted():
    model = nn.Sequential(NoForward(4, 4))
    convert_(model, Int8())
    assert native_names(model) == ["0"]


def test_per_layer_rules_and_their_reasons():
    model = LanguageModel(tied=False)
    report = convert_(
        model, PerLayer({"blocks.0.up": None, r"re:.*\.down": Int8(), "re:.*head": None, "_default": Int8()})
    )
    assert native_names(model) == ["blocks.0.down", "blocks.1.up", "blocks.1.down"]
    assert {row.name: row.reason for row in report.skipped if row.kind == "Linear"} == {
        "blocks.0.up": "the rule 'blocks.0.up' is None",
        "lm_head": "the rule 're:.*head' is None",
    }
    assert explain(model) == report


def test_no_default_leaves_the_rest_alone():
    model = LanguageModel()
    report = convert_(model, PerLayer({"blocks.0.up": Int8()}))
    assert native_names(model) == ["blocks.0.up"]
    assert {row.reason for row in report.skipped} == {"no rule speaks for it, and there is no '_default'"}


def test_filter_fn_sees_each_linear_and_convolution_and_its_name():
    model, seen = nn.Sequential(Block(), nn.Conv2d(1, 1, 1), OwnForward(4, 4)), []

    def only_up(module, name):
        seen.append((name, type(module)))
        return name.endswith("up")

    report = convert_(model, Int8(), only_up)
    assert seen == [("0.up", nn.Linear), ("0.down", nn.Linear), ("1", nn.Conv2d), ("2", OwnForward)]
    assert native_names(model) == ["0.up"]
    assert {row.name: row.reason for row in report.skipped}["0.down"] == "filter_fn declined it"


def test_converting_in_steps_and_again():
    model = LanguageModel()
    convert_(model, PerLayer({"blocks.0.up": Int8()}))
    first = model.blocks[0].up
    report = convert_(model, Int8())
    assert native_names(model) == BLOCK_LAYERS
    assert model.blocks[0].up is first
    assert {row.name: (row.format, row.reason) for row in report.rows}["blocks.0.up"] == ("int8", "int8 already")
    assert [row.name for row in convert_(model, Int8()).converted] == []


def test_training_flag_forward_hooks_and_attributes_move_along():
    model, calls = nn.Sequential(nn.Linear(4, 4)), []
    model[0].eval().note = "mine"
    handle = model[0].register_forward_hook(lambda module, args, y: calls.append(type(module)))
    model[0].register_forward_pre_hook(lambda module, args, kwargs: calls.append("pre"), with_kwargs=True)
    model.training = True
    convert_(model, Int8())
    assert model.training
    assert not model[0].training
    assert model[0].note == "mine"
    with torch.inference_mode():
        model(torch.randn(1, 4))
        assert calls == ["pre", Int8Linear]
        handle.remove()
        model(torch.randn(1, 4))
    assert calls == ["pre", Int8Linear, "pre"]
    dense_(model)
    assert model[0].note == "mine"
    model(torch.randn(1, 4))
    assert calls[3:] == ["pre"]


def test_state_dict_hooks_move_along():
    model = nn.Sequential(nn.Linear(4, 4, bias=False))

    def rename(state, prefix, *rest):
        state[f"{prefix}weight"] = state.pop(f"{prefix}old_name")

    model[0]._register_load_state_dict_pre_hook(rename)  # as torch's own weight_norm leaves one behind
    model[0].register_state_dict_post_hook(lambda module, state, prefix, meta: state.update({f"{prefix}more": 1}))
    convert_(model, Int8())
    state = model.state_dict()
    assert state.keys() == {"0.weight", "0.weight_scale", "0.more"}
    q = torch.ones(4, 4, dtype=torch.int8)
    model.load_state_dict({"0.old_name": q, "0.weight_scale": state["0.weight_scale"]})
    assert torch.equal(model[0].state_dict()["weight"], q)


# --------------------------------------------------------------------------------------------------- shared things


def test_a_tied_head_is_left_alone_unless_a_rule_asks():
    model = LanguageModel()
    row = convert_(model, Int8()).rows[-1]
    assert (row.name, row.format) == ("lm_head", "dense")
    assert "also 'embed.weight'" in row.reason
    assert "PerLayer({'lm_head': Int8(), '_default': Int8()})" in row.reason
    assert model.lm_head.weight is model.embed.weight
    for rule in ("lm_head", "re:.*head"):
        model = LanguageModel()
        convert_(model, PerLayer({rule: Int8(), "_default": Int8()}))
        assert native_names(model) == [*BLOCK_LAYERS, "lm_head"]


def test_an_untied_head_is_left_alone_unless_a_rule_asks():
    model = LanguageModel(tied=False)
    assert "logits" in convert_(model, Int8()).rows[-1].reason
    convert_(model, PerLayer({"lm_head": Int8()}))
    assert isinstance(model.lm_head, Int8Linear)


def test_two_layers_on_one_parameter():
    def make():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    model = make()
    reasons = {row.name: row.reason for row in convert_(model, Int8()).skipped}
    assert reasons.keys() == {"0", "1"}
    assert "also '1.weight'" in reasons["0"]
    assert "also '0.weight'" in reasons["1"]
    model = make()
    convert_(model, PerLayer({"re:[01]": Int8()}))
    assert torch.equal(model[0].weight, model[1].weight)


def test_a_tie_by_memory_counts_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.detach())
    assert {row.name for row in convert_(model, Int8()).skipped} == {"0", "1"}


def test_one_module_under_two_names_stays_one():
    block = Block()
    model = nn.ModuleDict({"a": block, "b": block})
    x = torch.randn(2, 16)
    report = convert_(model, Int8())
    assert native_names(model) == ["a.up", "a.down", "b.up", "b.down"]
    assert model["a"].up is model["b"].up
    assert [row.name for row in report.converted] == ["a.up", "a.down"]
    alias = next(row for row in report.rows if row.name == "b.up")
    assert (alias.format, alias.bytes_before, alias.bytes_after) == ("int8", 0, 0)
    assert alias.reason == "the same module as 'a.up'"
    model = nn.Sequential(linear := nn.Linear(4, 4), linear)
    convert_(model, Int8())
    assert model[0] is model[1]
    with torch.inference_mode():
        assert model(x[:, :4]).shape == (2, 4)
    dense_(model)
    assert type(model[0]) is nn.Linear
    assert model[0] is model[1]


def test_rules_for_a_shared_module():
    def make():
        return nn.Sequential(linear := nn.Linear(4, 4), linear)

    convert_(model := make(), PerLayer({"1": Int8(), "_default": None}))
    assert native_names(model) == ["0", "1"]
    before = snapshot(model := make())
    with pytest.raises(ConvertError, match="'0' and '1' are one shared weight, but the rules say"):
        convert_(model, PerLayer({"0": Int8(), "1": None}))
    assert_untouched(model, before)


# ---------------------------------------------------------------------------------------------------- any model


@st.composite
def models(draw):
    """A chain of layers, some nested, some shared, and a scheme for each."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=6))
    layers = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after, bias=draw(st.booleans()))
        layers.append(nn.Sequential(linear, nn.ReLU()) if draw(st.booleans()) else linear)
    return nn.Sequential(*layers), draw(st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(models(), st.data())
def test_any_rules_on_any_model(drawn, data):
    model, rows = drawn
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    wanted = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from([None, Int8()])))
    default = data.draw(st.sampled_from([None, Int8()]))
    expected = [name for name in names if wanted.get(name, default) is not None]
    x = torch.randn(rows, next(module for module in model.modules() if isinstance(module, nn.Linear)).in_features)
    with torch.inference_mode():
        dense_result = model(x)
        report = convert_(model, PerLayer({**wanted, "_default": default}))
        result = model(x)
    assert native_names(model) == [row.name for row in report.converted] == expected
    assert [row.name for row in report] == names
    scale = dense_result.abs().max() + 0.1
    assert (result - dense_result).abs().max() <= 0.1 * scale
    dense_(model)
    with torch.inference_mode():
        assert (model(x) - dense_result).abs().max() <= 0.1 * scale
