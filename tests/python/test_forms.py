"""Sparse forms of a layer: the numbers of the dense one, chosen by measuring."""

from __future__ import annotations

import copy
import functools
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import pretend_times
from torch import nn

import edgekern as ek
from edgekern import kernels
from edgekern.nn import Int8Linear, forms, memory
from edgekern.nn.forms import Choice

SPARSE = [form for form in kernels.FORMS if form != "dense"]


def pruned(
    sparsity: float = 0.8, pattern: str = "4x4", shape: tuple[int, int] = (96, 64), bias: bool = True
) -> nn.Linear:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Linear(*shape, bias=bias))
    ek.prune_(holder, ek.Prune(sparsity, pattern=pattern))
    return holder[0]


def quantized(linear: nn.Linear, **options) -> Int8Linear:
    return Int8Linear.from_linear(linear, ek.Int8(**options))


@pytest.fixture
def measured(monkeypatch):
    return functools.partial(pretend_times, monkeypatch)


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("shape", [(2, 96), (3, 5, 96), (96,), (0, 96), (40, 96)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_form_computes_what_the_dense_one_does(form, shape, dtype):
    linear = pruned()
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        assert torch.equal(quantized(linear, form=form)(x), quantized(linear, form="dense")(x))


@settings(deadline=None)  # building a thousand small matrices on a busy machine
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 140),
    m=st.integers(1, 20),
    density=st.floats(0, 1),
    form=st.sampled_from(SPARSE),
    seed=st.integers(0, 10_000),
)
def test_random_masks(n, k, m, density, form, seed):
    random = np.random.default_rng(seed)
    w = random.integers(-128, 128, (n, k), dtype=np.int8) * (random.random((n, k)) < density).astype(np.int8)
    q, zero_point = random.integers(0, 256, (m, k), dtype=np.uint8), random.integers(0, 256, m, dtype=np.int32)
    wanted = (q.astype(np.int64) - zero_point[:, None]) @ w.T.astype(np.int64)
    for isa in kernels.isas():
        if isa["supported"]:
            packed = kernels.int8_pack(w, np.ones(n, np.float32), form=form, isa=isa["name"])
            assert packed.form == form
            np.testing.assert_array_equal(kernels.int8_matmul(q, zero_point, packed, isa=isa["name"]), wanted)
            np.testing.assert_array_equal(packed.unpack()[0], w)


@pytest.mark.parametrize("form", SPARSE)
def test_strides_nan_and_no_bias(form):
    linear = pruned(bias=False)
    layer, dense = quantized(linear, form=form), quantized(linear, form="dense")
    x = torch.randn(96, 12).T[::2]
    x = x.clone().T.contiguous().T  # not contiguous along the features
    x[3, 5] = torch.nan
    with torch.inference_mode():
        y = layer(x)
        assert y[3].isnan().all()
        torch.testing.assert_close(y, dense(x), rtol=0, atol=0, equal_nan=True)


def test_threads_may_change_after_packing():
    linear = pruned(0.7, "1x4", (512, 512))
    layer, x = quantized(linear, form="blocks_2"), torch.randn(64, 512)
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            wanted = layer(x)
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                assert torch.equal(layer(x), wanted)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("form", SPARSE)
def test_copies_pickles_and_state_dicts(form):
    layer = quantized(pruned(), form=form)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    other = Int8Linear(96, 64, scheme=ek.Int8(form=form))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 96)
    with torch.inference_mode():
        for twin in (
            copy.deepcopy(layer),
            pickle.loads(pickle.dumps(layer)),
            torch.load(file, weights_only=False),
            other,
        ):
            assert twin.choice.form == form
            assert torch.equal(twin(x), layer(x))
    assert layer.state_dict()["weight"].shape == (64, 96)


def test_a_form_that_cannot_hold_a_layer_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(8, 70_000), nn.Linear(70_000, 2))
    with pytest.raises(ValueError, match="cannot hold this matrix"):
        ek.convert_(model, ek.Int8(form="blocks_1"))
    assert [type(layer) for layer in model] == [nn.Linear] * 2
    ek.convert_(model, ek.Int8())
    assert [layer.choice.form for layer in model] == ["dense"] * 2


# ------------------------------------------------------------------------------------------------- choosing


def test_dense_weights_are_not_measured(monkeypatch):
    monkeypatch.setattr(forms, "_measure", lambda *_: pytest.fail("measured"))
    assert quantized(nn.Linear(96, 64)).choice == Choice(zeros=pytest.approx(0, abs=0.1))
    assert quantized(pruned(0.2, "unstructured")).choice.form == "dense"


def test_the_fastest_form_is_taken(measured):
    measured({"dense": [1, 1, 1], "blocks_2": [0.9, 0.5, 0.4], "blocks_4": [0.9, 0.4, 0.3]})
    layer = quantized(pruned())
    assert layer.choice.form == "blocks_4"
    assert layer.packed.nbytes < layer.dense_packed_size
    assert layer.choice.describe() == "blocks_4 (1.1/2.5/3.3x dense at 1/16/128 rows)"


def test_a_form_that_is_slower_anywhere_is_not_taken(measured):
    measured({"dense": [1, 1, 1], "blocks_4": [1.1, 0.2, 0.1]})
    layer = quantized(pruned())
    assert layer.choice.form == "dense"
    assert layer.choice.describe() == "dense (blocks_4 is 0.9/5.0/10.0x at 1/16/128 rows)"


def test_a_small_gain_is_left_to_the_dense_form(measured):
    measured({"dense": [1, 1, 1], "blocks_4": [0.95, 0.95, 0.95]})
    assert quantized(pruned()).choice.form == "dense"


def test_only_the_rows_that_were_asked_for_count(measured):
    measured({"dense": [1], "blocks_4": [0.2]})
    choice = quantized(pruned(), rows=128).choice
    assert (choice.form, choice.rows) == ("blocks_4", (128,))


def test_two_packings(measured):
    measured({"dense": [1, 1, 1], "blocks_1": [2, 0.5, 0.6], "blocks_4": [2, 2, 0.1]})
    layer = quantized(pruned(), packings=2)
    choice = layer.choice
    assert (choice.few, choice.few_rows, choice.form) == ("dense", 16, "blocks_4")
    assert layer.packed_bytes == layer.packed.nbytes + layer.packed_few.nbytes > layer.dense_packed_size
    dense = quantized(pruned(), form="dense")
    with torch.inference_mode():
        for rows in (1, 16, 17, 128):
            x = torch.randn(rows, 96)
            assert torch.equal(layer(x), dense(x))
    assert quantized(pruned(), packings=1).choice.form == "dense"


def test_one_packing_serves_all_rows_when_it_is_best_everywhere(measured):
    measured({"dense": [1, 1, 1], "blocks_4": [0.5, 0.5, 0.5]})
    layer = quantized(pruned(), packings=2)
    assert layer.packed_few is None
    assert layer.choice.few == ""


def test_layers_alike_are_measured_once(measured, monkeypatch):
    measured({"dense": [1, 1, 1], "blocks_4": [0.5, 0.5, 0.5]})
    calls = []
    inner = forms._measure
    monkeypatch.setattr(forms, "_measure", lambda *given: calls.append(given) or inner(*given))
    for _ in range(3):
        quantized(pruned())
    quantized(pruned(0.9))
    assert len(calls) == 2


def test_measuring_for_real():
    layer = quantized(pruned(0.95, "4x4", (1024, 1024)))
    times = {(timing.form, timing.rows): timing.seconds for timing in layer.choice.timings}
    assert {rows for _, rows in times} == {1, 16, 128}
    assert {form for form, _ in times} == {"dense", *SPARSE}  # all are smaller than the dense form
    assert all(seconds > 0 for seconds in times.values())


def test_explain_shows_the_choice(measured):
    measured({"dense": [1, 1, 1], "blocks_4": [0.5, 0.25, 0.2]})
    model = nn.Sequential(pruned(), nn.Linear(64, 8))
    report = ek.convert_(model, ek.Int8())
    row, plain = report.rows
    assert row.packing == "blocks_4 (2.0/4.0/5.0x dense at 1/16/128 rows)"
    assert row.zeros >= 0.8
    assert row.kernel == f"int8_spmm_{kernels.default_isa()}"
    assert row.bytes_after == model[0].packed.nbytes
    assert ("blocks_4", 128, 0.2) in row.timings
    assert (plain.packing, plain.timings) == ("dense", ())
    assert row.packing in str(ek.explain(model))
    assert row.to_dict()["timings"][0] == ["dense", 1, 1]


def test_options_are_checked_and_survive_a_checkpoint(tmp_path, measured):
    measured({"dense": [1, 1], "blocks_1": [2, 0.5]})
    with pytest.raises(ValueError, match="form"):
        ek.Int8(form="coo")
    with pytest.raises(ValueError, match="rows"):
        ek.Int8(rows=(0, 4))
    with pytest.raises(TypeError, match="rows"):
        ek.Int8(rows=())
    with pytest.raises(ValueError, match="packings"):
        ek.Int8(packings=3)
    assert ek.Int8(rows=[128, 1, 1]).rows == (1, 128)
    scheme = ek.Int8(rows=(1, 64), packings=2)
    model = nn.Sequential(pruned())
    ek.convert_(model, scheme)
    ek.save(model, tmp_path)
    loaded = ek.load(nn.Sequential(nn.Linear(96, 64)), tmp_path)
    assert loaded[0].scheme == scheme
    assert loaded[0].choice == model[0].choice


# ------------------------------------------------------------------------------------------------ cache or memory


@pytest.fixture
def called(monkeypatch):
    """The packed tensors that are measured, call by call, as (address, bytes); with a cache of 64 KiB."""
    calls = []
    inner = forms._time

    def call(one, x):
        weights = one.keywords["packed"]
        calls.append((weights.data_ptr(), weights.nbytes))
        return inner(one, x)

    monkeypatch.setattr(forms, "_time", call)
    monkeypatch.setattr(forms, "_measured", {})
    monkeypatch.setattr(memory, "last_level_cache", lambda: 64 << 10)
    return calls


def test_a_model_larger_than_the_cache_is_measured_from_memory(called):
    model = nn.Sequential(*(pruned(shape=(96, 128)) for _ in range(8)))
    ek.convert_(model, ek.Int8(rows=1))
    assert len({address for address, _ in called}) >= 2 * len(model[0].choice.timings)
    for i, (address, _) in enumerate(called):
        later = [other for other, _ in called[i + 1 :]]
        if address in later:  # by the time its turn comes again, more than the cache holds has been read
            assert sum(nbytes for _, nbytes in called[i : i + 1 + later.index(address)]) > 64 << 10


def test_a_model_that_fits_is_measured_from_the_cache(called):
    model = nn.Sequential(pruned(shape=(96, 128)))
    ek.convert_(model, ek.Int8(rows=1))
    assert len({address for address, _ in called}) == len(model[0].choice.timings) < len(called)


def test_a_loaded_model_is_measured_as_a_converted_one(called, tmp_path):
    model = nn.Sequential(*(pruned(shape=(96, 128)) for _ in range(8)))
    fresh = copy.deepcopy(model)
    ek.convert_(model, ek.Int8(rows=1))
    ek.save(model, tmp_path / "saved")
    converted = len(called)
    ek.load(fresh, tmp_path / "saved")
    assert len(called) == converted  # known already, under the same key
    assert [layer.choice for layer in fresh] == [layer.choice for layer in model]


def test_the_cache_of_this_cpu():
    memory.last_level_cache.cache_clear()
    assert 1 << 14 <= memory.last_level_cache() <= 1 << 32
    assert [memory._bytes(size) for size in ("512K", "32M", "1G", "64")] == [1 << 19, 1 << 25, 1 << 30, 64]
