"""Int4 through convert_: forms, rules, ways back, files, and what it refuses."""

from __future__ import annotations

import copy
import functools
import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LanguageModel, assert_untouched, native_names, pretend_times, snapshot
from torch import nn

import edgekern as ek
from edgekern import ConvertError, Float32, Int4, Int8, PerLayer, convert_, dense_, explain, kernels
from edgekern.checkpoint import CheckpointCorruptError, nibbles
from edgekern.nn import F32Linear, Int4Linear, Int8Linear, forms, memory

SPARSE = [form for form in kernels.INT4_FORMS if form != "dense"]
FASTER = {"dense": [1, 1, 1], "bitmap": [0.7, 0.9, 1], "bitmap_2": [0.8, 0.9, 1]}


@pytest.fixture
def measured(monkeypatch):
    return functools.partial(pretend_times, monkeypatch)


def chain(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Odd sizes, of which one leaves a last group of a few, and a layer without bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(203, 64), nn.ReLU(), nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 16)).to(
        dtype
    )


def pruned(sparsity: float = 0.7, pattern: str = "unstructured", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    model = chain(dtype)
    ek.prune_(model, ek.Prune(sparsity, pattern))
    return model


def run(model, x):
    with torch.inference_mode():
        return model(x)


# ------------------------------------------------------------------------------------------------------- converting


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", [Int4(), Int4(32, symmetric=True), Int4(64, clip="mse")], ids=repr)
def test_a_model_gets_eight_times_smaller_and_nearly_keeps_its_numbers(scheme, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 256), nn.GELU(), nn.Linear(256, 512)).to(dtype)
    x = torch.randn(2, 5, 512).to(dtype)
    expected = run(model, x)
    report = convert_(model, scheme)
    y = run(model, x)
    assert [row.name for row in report.converted] == ["0", "2"] == native_names(model)
    bits = 8 * report.bytes_after / (2 * 512 * 256)
    assert 4 + 16 / scheme.group_size < bits < 4.3 + 24 / scheme.group_size
    assert (y.dtype, y.shape) == (dtype, expected.shape)
    error = (y.float() - expected.float()).norm() / expected.float().norm()
    assert 0.005 < error < 0.2


def test_the_order_of_errors_is_that_of_the_options():
    torch.manual_seed(0)
    linear = nn.Linear(1024, 256)
    nn.init.normal_(linear.weight)

    def error(scheme):
        layer = {"int8": Int8Linear, "int4": Int4Linear}[scheme.format].from_linear(linear, scheme)
        return float((layer.weight - linear.weight).detach().norm())

    assert error(Int8()) < error(Int4(32)) < error(Int4(64)) < error(Int4(128))
    for size in (32, 64, 128):
        for symmetric in (True, False):
            assert error(Int4(size, symmetric=symmetric, clip="mse")) < error(Int4(size, symmetric=symmetric))
        assert error(Int4(size)) < error(Int4(size, symmetric=True))


def test_report_rows(measured):
    measured(FASTER)
    model = pruned()
    report = convert_(model, Int4())
    row, *_, last = report.rows
    isa = kernels.default_isa()
    assert (row.format, row.kernel, row.isa) == ("int4", f"int4_gemm_{isa} / int4_gemv_{isa}", isa)
    assert row.packing == "bitmap (1.4/1.1/1.0x dense at 1/16/128 rows)"
    assert row.zeros == pytest.approx(0.7, abs=0.05)
    assert ("bitmap_2", 1, 0.8) in row.timings
    assert row.bytes_after == model[0].packed.nbytes < model[0].dense_packed_size
    assert (last.format, last.reason) == ("int4", "")
    assert explain(model) == report
    assert row.packing in str(report)
    again = convert_(model, Int8())
    assert {row.reason for row in again.skipped} == {"int4 already"}


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(203,), (2, 203), (3, 5, 203), (0, 203), (40, 203)], ids=str)
def test_every_form_computes_what_the_dense_one_does(form, symmetric, shape):
    linear, x = pruned()[0], torch.randn(shape)
    packed, dense = (
        Int4Linear.from_linear(linear, Int4(32, symmetric=symmetric, form=name)) for name in (form, "dense")
    )
    assert packed.choice.form == form
    assert packed.packed_bytes < dense.packed_bytes
    assert torch.equal(packed.weight, dense.weight)
    assert torch.equal(run(packed, x), run(dense, x))


def test_pruned_weights_stay_zero():
    for scheme in (Int4(), Int4(32, symmetric=True, clip="mse")):
        model = pruned()
        kept = model[0].weight.detach() != 0
        convert_(model, scheme)
        assert not model[0].weight[~kept].any()


def test_a_sparse_form_that_is_slower_anywhere_or_without_zeros_is_not_taken(measured, monkeypatch):
    measured({"dense": [1, 1, 1], "bitmap": [0.5, 0.6, 1.01]})
    assert Int4Linear.from_linear(pruned()[0]).choice.describe() == "dense (bitmap is 2.0/1.7/1.0x at 1/16/128 rows)"
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    assert Int4Linear.from_linear(chain()[0]).choice.form == "dense"


def test_measuring_for_real():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512))
    ek.prune_(model, ek.Prune(0.8))
    row = convert_(model, Int4(rows=(1, 32))).rows[0]
    times = {(form, rows): seconds for form, rows, seconds in row.timings}
    assert times.keys() == {(form, rows) for form in kernels.INT4_FORMS for rows in (1, 32)}
    assert all(seconds > 0 for seconds in times.values())


def test_a_model_larger_than_the_cache_is_measured_from_memory(monkeypatch):
    addresses, inner = [], forms._time

    def timed(call, x):
        addresses.append(call.keywords["packed"].data_ptr())
        return inner(call, x)

    monkeypatch.setattr(forms, "_time", timed)
    for cache, several in ((16 << 10, True), (64 << 20, False)):
        monkeypatch.setattr(memory, "last_level_cache", lambda cache=cache: cache)
        monkeypatch.setattr(forms, "_measured", {})
        addresses.clear()
        model = nn.Sequential(*(pruned()[0] for _ in range(8)))
        report = convert_(model, Int4(rows=1))
        assert (len(set(addresses)) > len(report.rows[0].timings)) is several


# -------------------------------------------------------------------------------------------------- rules, ways back


def test_mixed_with_the_other_schemes():
    model = nn.Sequential(*pruned(), nn.Linear(16, 16), nn.Linear(16, 4))
    config = PerLayer({"0": Int4(64), "re:2": Int8(), "4": Float32(channels=1), "5": Int4(32), "_default": None})
    report = convert_(model, config)
    found = [type(layer) for layer in model if not isinstance(layer, nn.ReLU)]
    assert found == [Int4Linear, Int8Linear, F32Linear, Int4Linear, nn.Linear]
    assert [row.format for row in report] == ["int4", "int8", "f32", "int4", "dense"]
    assert model[0].scheme.group_size == 64
    assert run(model, torch.randn(3, 203)).shape == (3, 4)


def test_the_output_head_is_left_alone_unless_a_rule_asks():
    model = LanguageModel(tied=False)
    row = convert_(model, Int4(32)).rows[-1]
    assert row.reason.endswith("PerLayer({'lm_head': Int4(group_size=32), '_default': Int4(group_size=32)})")
    convert_(model, PerLayer({"lm_head": Int4()}))
    assert isinstance(model.lm_head, Int4Linear)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scheme=st.builds(
        Int4,
        group_size=st.sampled_from([32, 64, 128]),
        symmetric=st.booleans(),
        clip=st.sampled_from(["none", "mse"]),
        form=st.sampled_from(list(kernels.INT4_FORMS)),
    ),
    sparsity=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_dense_and_int4_again_give_back_every_bit(dtype, scheme, sparsity):
    model = pruned(sparsity, dtype=dtype)
    convert_(model, scheme)
    rounded = dense_(copy.deepcopy(model)) and [layer.weight for layer in model if hasattr(layer, "weight")]
    dense_(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU] * 2 + [nn.Linear]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for _ in range(2):
        assert all(map(torch.equal, (layer.weight for layer in model if hasattr(layer, "weight")), rounded))
        convert_(model, scheme)


# ----------------------------------------------------------------------------------------------------------- refused


def test_too_large_for_float16_scales_changes_nothing():
    model = chain()
    with torch.no_grad():
        model[4].weight[3, 5] = 5e5
    before = snapshot(model)
    with pytest.raises(ConvertError, match=r"layer '4' cannot be int4: its weights reach 5e\+05.*458,000.*Int8\(\)"):
        convert_(model, Int4(symmetric=True))
    assert_untouched(model, before)
    convert_(model, Int4())  # 5e5 / 15 is in range
    assert model[4].weight[3, 5] == pytest.approx(5e5, rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_change_nothing(value):
    model = chain()
    with torch.no_grad():
        model[2].weight[3, 5] = value
    before = snapshot(model)
    with pytest.raises(ConvertError, match=r"the weight of '2' holds (NaN|infinity)"):
        convert_(model, Int4())
    assert_untouched(model, before)


def test_what_cannot_be_int4_is_left_alone_with_the_reason():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).double(), nn.Conv2d(2, 2, 3, groups=2), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].bias[1] = float("nan")
    reasons = {row.name: row.reason for row in convert_(model, Int4()).skipped}
    assert reasons == {
        "0": "its bias holds NaN or infinity",
        "1": "its weight is torch.float64; float32, bfloat16 and float16 are supported",
        "2": "a depthwise convolution has too few weights for 4 bits to gain anything; Int8() has a kernel for it",
    }


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
@pytest.mark.parametrize("scheme", [Int4(), Int4(32, symmetric=True, rows=1), Int4(64, form="bitmap")], ids=repr)
def test_save_and_load(tmp_path, scheme, sparsity, device):
    model, x = pruned(sparsity), torch.randn(9, 203)
    convert_(model, PerLayer({"2": Int8(), "_default": scheme}))
    ek.save(model, tmp_path / "a")
    with torch.device(device):
        loaded = ek.load(chain(), tmp_path / "a")
    assert [type(layer) for layer in loaded] == [Int4Linear, nn.ReLU, Int8Linear, nn.ReLU, Int4Linear]
    assert loaded[0].scheme == scheme
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(run(loaded, x), run(model, x))
    ek.save(loaded, tmp_path / "b")
    for name in ("edgekern.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def header(folder):
    return json.loads((folder / "edgekern.json").read_text())


def test_the_version_of_a_file_is_the_lowest_that_says_what_is_in_it(tmp_path):
    found = {}
    for name, sparsity, config in [
        ("full", 0, Int4()),
        ("int8", 0.8, Int8()),
        ("int4", 0.8, Int4()),
        ("mixed", 0.8, PerLayer({"0": Int4(), "_default": Int8()})),
        ("few zeros of int4", 0.5, PerLayer({"0": Int4(), "_default": None})),
    ]:
        model = pruned(sparsity)
        if name == "few zeros of int4":
            model[0].weight.data = torch.randn(64, 203)
        convert_(model, config)
        ek.save(model, tmp_path / name)
        found[name] = header(tmp_path / name)["format_version"]
    assert found == {"full": 1, "int8": 2, "int4": 3, "mixed": 3, "few zeros of int4": 2}


def test_the_file_is_smaller_by_what_was_pruned(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 512, bias=False))
    ek.prune_(model, ek.Prune(0.8))
    convert_(model, Int4(symmetric=True, form="bitmap"))
    ek.save(model, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert stored.keys() == {f"0.{part}" for part in ("shape", "bitmask", "compressed", "row_offsets", "weight_scale")}
    assert stored["0.shape"].tolist() == [512, 1024]
    kept = int(model[0].weight.count_nonzero())
    assert len(stored["0.compressed"]) == (kept + 1) // 2
    weights = 1024 * 512
    wanted = weights / 8 + kept / 2 + 512 * 8 + weights / 128 * 2
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(wanted, rel=0.01)
    assert wanted < 0.6 * weights / 2


@settings(deadline=None)
@given(
    n=st.integers(1, 20),
    k=st.integers(1, 100),
    density=st.floats(0, 0.7),
    zero=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_split_and_join_are_inverse(n, k, density, zero, seed):
    generator = torch.Generator().manual_seed(seed)
    zeros = torch.randint(0, 16, (n, -(-k // 32)), generator=generator, dtype=torch.uint8)
    if not zero:
        zeros.fill_(8)
    spread = zeros.repeat_interleave(32, 1)[:, :k]
    values = torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8)
    kept = torch.rand(n, k, generator=generator) < density
    weight = ek.ops.int4_pair(torch.where(kept, values, spread))
    parts = nibbles.split(weight, zeros if zero else None, k, 32)
    if parts is None:
        return
    assert sum(part.nbytes for name, part in parts.items() if name != "shape") < weight.nbytes
    assert parts["bitmask"].shape == (n, -(-k // 8))
    assert torch.equal(nibbles.join(parts, zeros if zero else None, 32, "weight"), weight)


DAMAGES = {
    "value dropped": ("compressed", lambda part: part[:-1], "its mask keeps .* weights, but"),
    "values of another dtype": ("compressed", lambda part: part.view(torch.int8), "but torch.int8"),
    "mask cut": ("bitmask", lambda part: part[:, :-1], "does not fit its shape"),
    "zero points cut": ("zero", lambda part: part[:, :-1], "zero points of shape"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_parts_that_do_not_belong_together_are_refused(damage):
    part, change, message = DAMAGES[damage]
    layer = Int4Linear.from_linear(pruned(0.8)[0], Int4(32))
    state = layer.state_dict()
    given = {**nibbles.split(state["weight"], state["weight_zero"], 203, 32), "zero": state["weight_zero"]}
    given[part] = change(given[part])
    with pytest.raises(CheckpointCorruptError, match=message):
        nibbles.join(given, given.pop("zero"), 32, "0.weight")
