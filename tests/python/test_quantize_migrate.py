"""AWQ and SmoothQuant: which layers can be scaled, against what, and that the function stays; all or nothing."""

from __future__ import annotations

import pytest
import torch
from migrating_models import (
    WIDTH,
    Gated,
    Parallel,
    Plain,
    PostNorm,
    PreNorm,
    RMSNorm,
    error,
    migrated,
    model_of,
    quantized,
    tokens,
)
from small_models import LanguageModel, assert_untouched, snapshot
from test_prune_walk import MODELS, Narrow, batches, made, name_of
from torch import nn
from torch.nn import functional as F

from edgekern import AWQ, GPTQ, Int4, PerLayer, QuantizeError, SmoothQuant, quantize_

INT4 = Int4(32, symmetric=True)

# ------------------------------------------------------------------------------------------------ the same function

BLOCKS = {
    "llama": PreNorm,
    "opt": lambda: PreNorm(Plain, lambda: nn.LayerNorm(WIDTH)),
    "gpt2": lambda: PreNorm(lambda: Plain(F.gelu), lambda: nn.LayerNorm(WIDTH)),
    "gemma": lambda: PreNorm(Gated, lambda: RMSNorm(offset=1.0)),
    "gptj": Parallel,
    "bert": PostNorm,
}
# What each layer's channels are scaled against, within a block.
SOURCES = {
    "llama": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "gate": "norm2", "up": "norm2"}
    | {"down": "mlp.up"},
    "opt": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "fc1": "norm2", "fc2": "mlp.fc1"},
    "gpt2": {"q": "norm1", "k": "norm1", "v": "norm1", "o": "attention.v", "fc1": "norm2"},
    "gemma": {"o": "attention.v", "down": "mlp.up"},
    "gptj": {"q": "norm", "k": "norm", "v": "norm", "fc1": "norm", "o": "attention.v", "fc2": "mlp.fc1"},
    "bert": {"o": "attention.v"},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_can_take_the_division_is_found(name, monkeypatch):
    model = model_of(BLOCKS[name], outliers=8.0)
    got, report = migrated(model, SmoothQuant(), tokens(), monkeypatch)
    for row in report.rows[:-1]:
        block, layer = row.name.split(".")[0], row.name.rpartition(".")[2]
        expected = SOURCES[name].get(layer)
        assert row.source == (f"{block}.{expected}" if expected else ""), row.name
        assert bool(row.note) == (expected is None)
    assert report.rows[-1].source == ("2.norm2" if name == "bert" else "")  # the head reads the last norm alone
    assert error(got, model, tokens()) < 1e-9
    assert not any(torch.equal(got.get_parameter(f"{row.source}.weight"), model.get_parameter(f"{row.source}.weight"))
                   for row in report if row.source)  # fmt: skip


@pytest.mark.parametrize("scheme", [SmoothQuant(), AWQ(INT4)], ids=repr)
@pytest.mark.parametrize("make", MODELS, ids=name_of)
def test_the_float_model_computes_the_same(make, scheme, monkeypatch):
    """Whatever it is like: caches, layers called twice, hooks, blocks changed in place, experts."""
    model = made(make)
    got, _ = migrated(model, PerLayer({"re:.*": scheme}), batches(), monkeypatch)
    tolerance = 3e-2 if make is Narrow else 1e-4  # it computes in bfloat16

    def compute(model, batch):
        result = model(batch)
        return result[0] if isinstance(result, tuple) else result

    with torch.no_grad():
        for batch in batches(6):  # longer ones too, which it has not seen
            assert torch.allclose(compute(got, batch), compute(model, batch), rtol=1e-4, atol=tolerance)


class Routed(nn.Module):
    """Which of two layers reads the norm depends on the data."""

    def __init__(self):
        super().__init__()
        self.norm, self.experts = nn.LayerNorm(WIDTH), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        return self.experts[len(x) % 2](self.norm(x))


def test_layers_that_the_first_batch_misses_are_not_forgotten(monkeypatch):
    torch.manual_seed(0)
    data = [torch.randn(2, WIDTH), torch.randn(3, WIDTH)]
    model = Routed()
    got, report = migrated(model, SmoothQuant(), data, monkeypatch)
    assert "the first batch does not reach 'experts.1', which may read the same" in report.rows[0].note
    assert "the first batch does not reach it" in report.rows[1].note
    assert error(got, model, data) == 0


class Reads(nn.Module):
    """A norm, two layers that read it, and another way past them."""

    def __init__(self, past=0.0):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.past = past

    def forward(self, x):
        normed = self.norm(x)
        return self.a(normed) + self.b(normed) + self.past * normed


@pytest.mark.parametrize(
    ("rules", "note"),
    [
        ({"b": None}, "another linear layer reads the same input, and is left alone"),
        ({"b": GPTQ(INT4)}, "'b' reads the same input, and its rule is another"),
        ({"b": SmoothQuant(alpha=0.6)}, "'b' reads the same input, and its rule is another"),
    ],
)
def test_all_that_read_it_have_to_be_scaled(rules, note, monkeypatch):
    torch.manual_seed(0)
    data = [torch.randn(8, WIDTH)]
    _, report = migrated(Reads(), PerLayer({**rules, "_default": SmoothQuant()}), data, monkeypatch)
    assert note in report.rows[0].note
    _, report = migrated(Reads(), PerLayer({"b": SmoothQuant(INT4), "a": SmoothQuant()}), data, monkeypatch)
    assert [row.source for row in report] == ["norm", "norm"]


@pytest.mark.parametrize("past", [1.0, 1e-3])
def test_what_goes_past_the_layers_speaks_against_it(past, monkeypatch):
    torch.manual_seed(0)
    _, report = migrated(Reads(past), SmoothQuant(), [torch.randn(8, WIDTH)], monkeypatch)
    assert all("nothing before it can take the division" in row.note for row in report)


def test_weights_that_others_hold_are_not_scaled(monkeypatch):
    torch.manual_seed(0)
    model = Reads()
    model.c = nn.Linear(WIDTH, WIDTH)
    model.c.weight = model.b.weight
    _, report = migrated(model, PerLayer({"re:[ab]": SmoothQuant()}), [torch.randn(8, WIDTH)], monkeypatch)
    assert "its weight is also 'c.weight'" in report.rows[0].note
    model = Reads()
    model.other = nn.LayerNorm(WIDTH)
    model.other.weight = model.norm.weight
    _, report = migrated(model, SmoothQuant(), [torch.randn(8, WIDTH)], monkeypatch)
    assert [row.source for row in report] == ["", ""]


def test_a_layer_that_is_left_alone_is_not_divided_either(monkeypatch):
    model = model_of(PreNorm, outliers=8.0)
    got, report = migrated(model, PerLayer({"re:.*v": None, "re:.*o": SmoothQuant()}), tokens(), monkeypatch)
    assert {row.source for row in report} == {""}
    assert all(torch.equal(a, b) for a, b in zip(got.parameters(), model.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------ all or nothing


class Fails(nn.Module):
    """After some calls."""

    def __init__(self, calls, failure):
        super().__init__()
        self.left, self.failure = calls, failure

    def forward(self, x):
        self.left -= 1
        if self.left >= 0:
            return x
        if self.failure is None:
            return x * float("nan")
        raise self.failure


@pytest.mark.parametrize("calls", [0, 2, 4, 7, 11, 15, 19, 21, 23])
@pytest.mark.parametrize("failure", [None, RuntimeError("out of luck"), KeyboardInterrupt()])
def test_failure_puts_norms_and_layers_back(calls, failure):
    """Wherever it comes: in a survey, in a trial while channels are scaled, or when layers have been rounded."""
    model = model_of(PreNorm, outliers=8.0)
    model.insert(2, Fails(calls, failure))
    before = snapshot(model)
    try:
        quantize_(model, AWQ(INT4, steps=2, bias_correction=True), tokens(2), progress=False)
    except (QuantizeError, RuntimeError, KeyboardInterrupt):
        assert_untouched(model, before)
    else:
        pytest.fail("it ran through")
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())


def test_float16_that_cannot_hold_it_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)).half()
    model[1].weight.data[:, 0] = 3e3
    before = snapshot(model)
    data = [torch.randn(8, WIDTH).half() * size for size in (0.01, 300)]
    with pytest.raises(QuantizeError, match=r"beyond torch.float16; use torch.bfloat16"):
        quantize_(model, SmoothQuant(alpha=1.0), data, progress=False)
    assert_untouched(model, before)


def test_data_are_needed():
    with pytest.raises(QuantizeError, match="data: AWQ needs calibration data"):
        quantize_(model_of(PreNorm), AWQ(INT4))


def test_tied_heads_are_left_alone():
    model = LanguageModel()
    got, report = quantized(model, AWQ(INT4), batches())
    assert "which would be rounded with it" in report.rows[-1].reason
    assert torch.equal(got.lm_head.weight, model.lm_head.weight)
