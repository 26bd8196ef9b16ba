"""convert_, dense_ and explain: which layers change, which do not and why, and that failures change nothing."""

import json
import re
import signal
import threading
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode

import edgekern as ek
from edgekern import ConvertError, Int8, PerLayer, convert, convert_, dense_, explain
from edgekern.nn import Int8Linear


class OwnForward(nn.Linear):
    def forward(self, input):
        return super().forward(input) + 1


class NoForward(nn.Linear):
    pass


class Block(nn.Module):
    def __init__(self, size=16):
        super().__init__()
        self.up = nn.Linear(size, 4 * size)
        self.down = nn.Linear(4 * size, size, bias=False)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class LanguageModel(nn.Module):
    def __init__(self, tied=True, size=16, words=40):
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(2))
        self.lm_head = nn.Linear(size, words, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(x)


BLOCK_LAYERS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


def snapshot(model):
    """Everything that must survive a failure: which modules there are, their flags, and every bit of every tensor."""
    modules = {name: (id(module), module.training) for name, module in model.named_modules(remove_duplicate=False)}
    tensors = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    return modules, tensors, set(vars(model))


def assert_untouched(model, before):
    modules, tensors, attributes = snapshot(model)
    assert modules == before[0]
    assert attributes == before[2]
    assert tensors.keys() == before[1].keys()
    for name, (identity, tensor) in tensors.items():
        assert identity == before[1][name][0]
        assert torch.equal(tensor.view(torch.uint8), before[1][name][1].view(torch.uint8))


def native_names(model):
    return [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Int8Linear)]


def reason_for(module, rule=None):
    """Why convert_ leaves `module` alone beside a layer that it converts."""
    model = nn.ModuleDict({"odd": module, "plain": nn.Linear(4, 4)})
    config = Int8() if rule is None else PerLayer({"odd": rule, "_default": Int8()})
    report = convert_(model, config)
    assert model["odd"] is module
    assert isinstance(model["plain"], Int8Linear)
    rows = {row.name: row for row in report.skipped}
    assert rows["odd"].format == "dense"
    assert rows["odd"].bytes_before == rows["odd"].bytes_after
    assert {row.name: row.reason for row in explain(model).skipped}["odd"] == rows["odd"].reason
    return rows["odd"].reason


# ---------------------------------------------------------------------------------------------- what is converted


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
    model = nn.Sequential(nn.Linear(64, 32), nn.Conv2d(3, 4, 2))
    report = convert_(model, Int8())
    isa = ek.kernels.default_isa()
    linear, conv = report.rows
    assert (linear.name, linear.kind, linear.shape, linear.format, linear.isa) == ("0", "Linear", (32, 64), "int8", isa)
    assert linear.kernel == f"int8_gemm_{isa} / int8_gemv_{isa}"
    assert linear.bytes_before == (32 * 64 + 32) * 4
    assert linear.bytes_after == model[0].packed.nbytes
    assert linear.reason == ""
    assert (conv.name, conv.kind, conv.shape, conv.format, conv.kernel) == ("1", "Conv2d", (4, 3, 2, 2), "dense", "")
    assert "no int8 convolution" in conv.reason
    assert conv.bytes_before == conv.bytes_after == (4 * 3 * 4 + 4) * 4
    assert explain(model) == report
    assert len(report) == 2
    assert list(report) == [linear, conv]


def test_report_prints_and_serialises():
    report = convert_(nn.Sequential(nn.Linear(64, 32), nn.Conv2d(3, 4, 2)), Int8())
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
    assert {row.name: row.reason for row in report.skipped} == {
        "blocks.0.up": "the rule 'blocks.0.up' is None",
        "lm_head": "the rule 're:.*head' is None",
    }
    assert explain(model) == report


def test_no_default_leaves_the_rest_alone():
    model = LanguageModel()
    report = convert_(model, PerLayer({"blocks.0.up": Int8()}))
    assert native_names(model) == ["blocks.0.up"]
    assert {row.reason for row in report.skipped} == {"no rule speaks for it, and there is no '_default'"}


def test_filter_fn_sees_each_linear_and_its_name():
    model, seen = nn.Sequential(Block(), nn.Conv2d(1, 1, 1), OwnForward(4, 4)), []

    def only_up(module, name):
        seen.append((name, type(module)))
        return name.endswith("up")

    report = convert_(model, Int8(), only_up)
    assert seen == [("0.up", nn.Linear), ("0.down", nn.Linear), ("2", OwnForward)]
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
    row = convert_(model, Int8()).skipped[0]
    assert row.name == "lm_head"
    assert "also 'embed.weight'" in row.reason
    assert "PerLayer({'lm_head': Int8(), '_default': Int8()})" in row.reason
    assert model.lm_head.weight is model.embed.weight
    for rule in ("lm_head", "re:.*head"):
        model = LanguageModel()
        convert_(model, PerLayer({rule: Int8(), "_default": Int8()}))
        assert native_names(model) == [*BLOCK_LAYERS, "lm_head"]


def test_an_untied_head_is_left_alone_unless_a_rule_asks():
    model = LanguageModel(tied=False)
    assert "logits" in convert_(model, Int8()).skipped[0].reason
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
    with pytest.raises(ConvertError, match="'0' and '1' are one shared module, but the rules say"):
        convert_(model, PerLayer({"0": Int8(), "1": None}))
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------- what is left alone, and why


@pytest.fixture(scope="module")
def dynamically_quantised():
    with pytest.warns(DeprecationWarning):
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})[0]


def changed(linear, change):
    change(linear)
    return linear


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OwnForward(4, 4), "OwnForward has a forward of its own"),
        (lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "forward", lambda x: x)), "its forward was replaced"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "parametrised; parametrize.remove_parametrizations"),
        (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), "parametrised"),
        (lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "recomputed at every call; prune.remove"),
        (lambda: nn.LazyLinear(4), "lazy: its shape is not known"),
        (lambda: nn.Linear(4, 4, device="meta"), "its weight is on the meta device"),
        (lambda: nn.Linear(4, 4, dtype=torch.float64), "its weight is torch.float64; float32, bfloat16 and float16"),
        (lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "bias", nn.Parameter(m.bias.double()))), "its bias is"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_parameter("lora", nn.Parameter(m.bias))), "more.*lora"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_buffer("mask", m.bias)), "more than.*: mask"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.add_module("child", nn.ReLU())), "more than.*: child"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.compile(backend="eager")), "compiled by itself"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_full_backward_hook(print)), "backward hooks"),
        (lambda: changed(nn.Linear(4, 4), lambda m: m.register_load_state_dict_pre_hook(print)), "hook bound to it"),
        (lambda: nn.Conv2d(1, 1, 1), "no int8 convolution"),
    ],
)
def test_layers_that_cannot_be_converted(make, reason):
    assert_reason_and_exact_rule(make, reason)


@pytest.mark.filterwarnings("ignore:.*(deprecated|zero-element|Sparse CSR).*")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), "recomputed at every call"),
        (lambda: nn.Linear(0, 4), r"its weight of shape \[4, 0\] is empty"),
        (lambda: nn.Linear(4, 0), r"its weight of shape \[0, 4\] is empty"),
        (
            lambda: changed(nn.Linear(4, 4), lambda m: setattr(m, "weight", nn.Parameter(m.weight.to_sparse_csr()))),
            "layout torch.sparse_csr",
        ),
    ],
)
def test_layers_that_cannot_be_converted_and_warn(make, reason):
    assert_reason_and_exact_rule(make, reason)


def assert_reason_and_exact_rule(make, reason):
    assert re.search(reason, reason_for(make()))
    model = nn.ModuleDict({"odd": make(), "plain": nn.Linear(4, 4)})
    with pytest.raises(ConvertError, match=f"'odd' is named but cannot be converted: .*({reason})"):
        convert_(model, PerLayer({"odd": Int8(), "_default": Int8()}))
    assert native_names(model) == []


def test_a_tensor_subclass_is_left_alone():
    class Odd(torch.Tensor):
        pass

    linear = nn.Linear(4, 4)
    linear._parameters["weight"] = torch.Tensor._make_subclass(Odd, linear.weight.detach())
    assert "its weight is a Odd, not a plain tensor" in reason_for(linear)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_layers_of_torch_ao_are_left_alone(dynamically_quantised):
    reason = reason_for(dynamically_quantised)
    assert reason.startswith("quantised already, as torch.ao.nn.quantized.dynamic")


def test_parametrised_layers_convert_once_made_plain():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    parametrize.remove_parametrizations(model[0], "weight")
    convert_(model, Int8())
    assert native_names(model) == ["0"]


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def calls(model, *args, **kwargs):
    with torch.inference_mode(), Calls() as mode:
        y = model(*args, **kwargs)
    return y, mode.seen


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
def test_transformer_encoder_runs_native_layers_not_the_fused_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    fused = "aten::_transformer_encoder_layer_fwd"
    expected, seen = calls(model, x)
    assert seen[fused] == 2
    report = convert_(model, Int8())
    assert {row.name.rpartition(".")[2] for row in report.converted} == {"linear1", "linear2"}
    assert {row.reason for row in report.skipped} == {"nn.MultiheadAttention reads its weight and never calls it"}
    y, seen = calls(model, x)
    assert (seen[fused], seen["edgekern::int8_linear"]) == (0, 4)
    torch.testing.assert_close(y, expected, atol=0.05, rtol=0.05)
    padded, seen = calls(model, x, src_key_padding_mask=padding)
    assert (seen[fused], seen["edgekern::int8_linear"]) == (0, 4)
    torch.testing.assert_close(padded[0], y[0], atol=1e-4, rtol=1e-4)
    dense_(model)
    assert calls(model, x)[1][fused] == 2
    assert model.use_nested_tensor
    assert calls(model, x, src_key_padding_mask=padding)[1][fused] == 2


# ------------------------------------------------------------------------------------------------ all or nothing


def spoiled(value):
    model = LanguageModel(tied=False)
    with torch.no_grad():
        model.blocks[1].down.weight[3, 5] = value
    return model


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "NaN"), (float("inf"), "inf"), (-float("inf"), "inf")])
def test_a_weight_that_is_not_finite_stops_everything(value, text):
    model = spoiled(value)
    before = snapshot(model)
    with pytest.raises(ConvertError, match=f"the weight of 'blocks.1.down' holds {text}.*PerLayer"):
        convert_(model, Int8())
    assert_untouched(model, before)
    convert_(model, PerLayer({"blocks.1.down": None, "_default": Int8()}))
    assert len(native_names(model)) == 3


def fail(*args):
    raise RuntimeError("on purpose")


def fail_late(module, name):
    return True if name != "lm_head" else fail()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Int8,), TypeError, r"write Int8\(\.\.\.\)"),
        (({"_default": Int8()},), TypeError, "wrap it: PerLayer"),
        ((Int8(), "lm_head"), TypeError, "filter_fn: expected a function"),
        ((Int8(), fail_late), RuntimeError, "on purpose"),
        ((PerLayer({"lm_hed": None}),), ConvertError, "config: no layer is called 'lm_hed'; close to it: 'lm_head'"),
        ((PerLayer({"re:decoder.*": None}),), ConvertError, "config: 're:decoder.*' matches no layer"),
        ((PerLayer({"blocks.0": None}),), ConvertError, "not a layer but holds 2"),
        ((PerLayer({"lm_head": Int8()}), lambda m, n: False), ConvertError, "nothing to convert"),
    ],
)
def test_wrong_arguments_change_nothing(arguments, error, message):
    model = LanguageModel(tied=False).train()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        convert_(model, *arguments)
    assert_untouched(model, before)


def test_running_out_of_memory_changes_nothing(monkeypatch):
    model = LanguageModel()
    before, reserve, count = snapshot(model), convert._reserve, []

    def limited(*args):
        count.append(args)
        return reserve(*args) if len(count) < 4 else fail()

    monkeypatch.setattr(convert, "_reserve", limited)
    with pytest.raises(RuntimeError, match="on purpose"):
        convert_(model, Int8())
    assert len(count) == 4
    assert_untouched(model, before)


def test_ctrl_c_waits_until_the_model_is_whole(monkeypatch):
    model, quantize = LanguageModel(), Int8Linear.quantize_

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        quantize(*args)

    monkeypatch.setattr(Int8Linear, "quantize_", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        convert_(model, Int8())
    assert native_names(model) == BLOCK_LAYERS
    assert signal.getsignal(signal.SIGINT) is handler


def test_conversion_in_another_thread():
    model, errors = LanguageModel(), []

    def work():
        try:
            convert_(model, Int8())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert native_names(model) == BLOCK_LAYERS


@pytest.mark.parametrize("call", [lambda m: convert_(m, Int8()), dense_])
def test_what_is_no_model(call):
    with pytest.raises(ConvertError, match=r"a single Linear has no parent.*torch.nn.Sequential\(layer\)"):
        call(nn.Linear(4, 4))
    with pytest.raises(ConvertError, match="a single Int8Linear has no parent"):
        call(Int8Linear(4, 4))
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        call([nn.Linear(4, 4)])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_module_is_refused():
    with pytest.raises(ConvertError, match="TorchScript"):
        convert_(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), Int8())


def test_nothing_to_convert_is_an_error_with_the_reasons():
    with pytest.raises(ConvertError, match="nothing to convert: the model has no linear layers"):
        convert_(nn.Sequential(nn.ReLU()), Int8())
    model = nn.Sequential(*(OwnForward(4, 4) for _ in range(3)), nn.Conv2d(1, 1, 1))
    with pytest.raises(ConvertError, match="all 4 layers are left alone") as error:
        convert_(model, Int8())
    assert "'0' (3 such): OwnForward has a forward of its own" in str(error.value)
    assert "'3' (1 such): this version has no int8 convolution" in str(error.value)


def test_asking_for_nothing_is_no_error():
    model = LanguageModel()
    report = convert_(model, PerLayer({"_default": None}))
    assert len(report.skipped) == 5
    assert not report.converted


# --------------------------------------------------------------------------------------------- explain and dense_


def test_explain_before_conversion():
    model = nn.Sequential(nn.Linear(4, 4), OwnForward(4, 4))
    assert [row.reason for row in explain(model)][0] == "not converted"
    assert "forward of its own" in explain(model).rows[1].reason
    assert explain(nn.Linear(4, 4)).rows[0].shape == (4, 4)
    with pytest.raises(TypeError, match="model: expected"):
        explain("model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_gives_back_the_dtype_and_the_rounded_values(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.LayerNorm(16)).to(dtype).eval()
    biases = model[0].up.bias.clone()
    convert_(model, Int8())
    weights = [model[0].up.weight, model[0].down.weight]
    report = dense_(model)
    assert native_names(model) == []
    assert [type(layer) for layer in (model[0].up, model[0].down)] == [nn.Linear, nn.Linear]
    assert not model[0].up.training
    assert torch.equal(model[0].up.weight, weights[0])
    assert torch.equal(model[0].down.weight, weights[1])
    assert torch.equal(model[0].up.bias, biases)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model[0].down.bias is None
    assert [(row.name, row.format) for row in report.converted] == [("0.up", "dense"), ("0.down", "dense")]
    assert report.bytes_after == (2 * 16 * 64 + 64) * dtype.itemsize
    assert {row.reason for row in explain(model)} == {"not converted"}


def test_dense_can_be_trained_again():
    model = nn.Sequential(Block())
    convert_(model, Int8())
    dense_(model)
    model(torch.randn(2, 16)).sum().backward()
    assert model[0].up.weight.grad is not None


def test_dense_of_a_fused_activation_changes_nothing():
    model = nn.Sequential(Int8Linear.from_linear(nn.Linear(4, 4)), Int8Linear(4, 4, activation="relu"))
    before = snapshot(model)
    with pytest.raises(ValueError, match="activation='relu'"):
        dense_(model)
    assert_untouched(model, before)


def test_dense_of_a_dense_model_is_nothing():
    assert len(dense_(nn.Sequential(nn.Linear(4, 4)))) == 0


# ---------------------------------------------------------------------------------------------------- any model


@st.composite
def models(draw):
    """A chain of layers, some nested, some shared, and a scheme for each."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=6))
    layers = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
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
