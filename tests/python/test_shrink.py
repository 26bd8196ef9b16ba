"""shrink_: exactly the units that contribute nothing go, from everything that goes with them, in common networks."""

import copy
import io

import pytest
import torch
from shrink_models import (
    Concat,
    FusedAttention,
    Inverted,
    ResNet,
    bert,
    gpt2,
    image,
    llama,
    made,
    output,
    plant,
    runs,
    sequence,
    tokens,
    without,
)
from torch import nn

from edgekern import Int8, PerLayer, Shrink, convert_, shrink_, shrink_like_

GONE = [0, 2, 3, 7]


def rows(*names, units=GONE, width=1, **where):
    return {name: (0, runs(units, width, **where)) for name in names}


def columns(*names, units=GONE, width=1, **where):
    return {name: (1, runs(units, width, **where)) for name in names}


def norm(name, units=GONE):
    return rows(*(f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")), units=units)


# name of a layer: (model, batch, units, entries of those that go), each written down by hand.
ATTENTION = "encoder.layer.0.attention"
CASES = {
    "linear, activation, linear": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)),
        lambda: torch.randn(3, 6),
        "0",
        8,
        {**rows("0.weight", "0.bias"), **columns("2.weight")},
    ),
    "inside a residual block": (
        ResNet,
        image,
        "blocks.0.conv1",
        8,
        {**rows("blocks.0.conv1.weight"), **norm("blocks.0.bn1"), **columns("blocks.0.conv2.weight")},
    ),
    "a residual sum": (
        ResNet,
        image,
        "stem",
        8,
        {
            **rows("stem.weight", "stem.bias", "blocks.0.conv2.weight"),
            **norm("blocks.0.bn2"),
            **columns("blocks.0.conv1.weight", "blocks.1.conv1.weight", "blocks.1.down.0.weight"),
        },
    ),
    "a residual sum with a projection": (
        ResNet,
        image,
        "blocks.1.down.0",
        16,
        {
            **rows("blocks.1.conv2.weight", "blocks.1.down.0.weight"),
            **norm("blocks.1.bn2"),
            **norm("blocks.1.down.1"),
            **columns("head.weight"),
        },
    ),
    "a depthwise convolution": (
        Inverted,
        image,
        "depth",
        32,
        {
            **rows("expand.weight", "depth.weight", "depth.bias"),
            **norm("bn1"),
            **norm("bn2"),
            **columns("project.weight"),
        },
    ),
    "through flatten": (
        Inverted,
        image,
        "project",
        8,
        {
            **rows("stem.weight", "stem.bias", "project.weight", "project.bias"),
            **columns("expand.weight"),
            **columns("head.weight", width=16),
        },
    ),
    "first of a concatenation": (
        Concat,
        image,
        "left",
        8,
        {**rows("left.weight", "left.bias"), **columns("join.weight")},
    ),
    "second of a concatenation": (
        Concat,
        image,
        "right",
        16,
        {**rows("right.weight", "right.bias"), **columns("join.weight", offset=8)},
    ),
    "heads of one projection": (
        FusedAttention,
        sequence,
        "qkv",
        4,
        {
            **rows("qkv.weight", "qkv.bias", units=[0, 2], width=4, times=3, stride=16),
            **rows("bias", units=[0, 2]),
            **columns("proj.weight", units=[0, 2], width=4),
        },
    ),
    "heads of nn.MultiheadAttention": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        sequence,
        "self_attn",
        4,
        {
            **rows("self_attn.in_proj_weight", "self_attn.in_proj_bias", units=[0, 2], width=4, times=3, stride=16),
            **columns("self_attn.out_proj.weight", units=[0, 2], width=4),
        },
    ),
    "heads of BERT": (
        bert,
        tokens,
        f"{ATTENTION}.self.key",
        4,
        {
            **rows(
                *(
                    f"{ATTENTION}.self.{part}.{kind}"
                    for part in ("query", "key", "value")
                    for kind in ("weight", "bias")
                ),
                units=[0, 2],
                width=8,
            ),
            **columns(f"{ATTENTION}.output.dense.weight", units=[0, 2], width=8),
        },
    ),
    "heads of GPT-2, its weights transposed": (
        gpt2,
        tokens,
        "transformer.h.0.attn.c_attn",
        4,
        {
            **columns("transformer.h.0.attn.c_attn.weight", units=[0, 2], width=8, times=3, stride=32),
            **rows("transformer.h.0.attn.c_attn.bias", units=[0, 2], width=8, times=3, stride=32),
            **rows("transformer.h.0.attn.c_proj.weight", units=[0, 2], width=8),
        },
    ),
    "feed-forward of BERT": (
        bert,
        tokens,
        "encoder.layer.0.intermediate.dense",
        64,
        {
            **rows("encoder.layer.0.intermediate.dense.weight", "encoder.layer.0.intermediate.dense.bias"),
            **columns("encoder.layer.0.output.dense.weight"),
        },
    ),
    "grouped-query heads of LLaMA": (
        llama,
        tokens,
        "model.layers.0.self_attn.k_proj",
        4,
        {
            **rows("model.layers.0.self_attn.q_proj.weight", units=[0, 2], width=8),  # two queries' heads for each
            **rows(
                "model.layers.0.self_attn.k_proj.weight",
                "model.layers.0.self_attn.v_proj.weight",
                units=[0, 2],
                width=4,
            ),
            **columns("model.layers.0.self_attn.o_proj.weight", units=[0, 2], width=8),
        },
    ),
    "gated feed-forward of LLaMA": (
        llama,
        tokens,
        "model.layers.0.mlp.gate_proj",
        64,
        {
            **rows("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            **columns("model.layers.0.mlp.down_proj.weight"),
        },
    ),
}


@pytest.mark.parametrize(("build", "batch", "layer", "size", "entries"), CASES.values(), ids=CASES.keys())
def test_units_without_effect_go_and_nothing_else_changes(build, batch, layer, size, entries):
    model, inputs = made(build), batch()
    plant(model, entries)
    before, expected = copy.deepcopy(model.state_dict()), output(model, inputs)
    gone = 2 if size == 4 else 4
    report = shrink_(model, PerLayer({layer: Shrink(gone / size, round_to=1)}), inputs)
    assert [(row.before, row.after) for row in report.shrunk] == [(size, size - gone)]
    assert layer in report.shrunk[0].layers
    state, wanted = model.state_dict(), without(before, entries)
    assert state.keys() == wanted.keys()
    for name in state:
        assert torch.equal(state[name], wanted[name]), name
    assert report.shapes == {name: (before[name].shape, wanted[name].shape) for name in entries}
    assert torch.allclose(output(model, inputs), expected, atol=1e-5)


WHOLE = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 4)), lambda: torch.randn(3, 6)),
    "resnet": (ResNet, image),
    "mobilenet": (Inverted, image),
    "concat": (Concat, image),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2), sequence),
    "bert": (bert, tokens),
    "tied llama": (lambda: llama(tied=True), tokens),
}


@pytest.mark.parametrize(("build", "batch"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_model_shrinks_saves_loads_and_converts(build, batch):
    model, fresh, inputs = made(build), build().eval(), batch()
    shape = output(model, inputs).shape
    report = shrink_(model, Shrink(0.5, round_to=2), inputs)
    assert report.shrunk
    assert all(row.after * 2 == row.before for row in report.shrunk)
    expected = output(model, inputs)
    assert expected.shape == shape
    assert report.after.parameters == sum(p.numel() for p in model.parameters()) < report.before.parameters
    assert report.after.macs < report.before.macs

    for module in model.modules():  # what they say about themselves is what they hold
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels // module.groups) == module.weight.shape[:2]
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    shrink_like_(fresh, state, inputs)
    fresh.load_state_dict(state)
    assert torch.equal(output(fresh, inputs), expected)
    assert torch.equal(output(copy.deepcopy(model), inputs), expected)

    assert convert_(model, Int8()).converted
    assert torch.allclose(output(model, inputs), expected, atol=0.1 * expected.abs().max())


def test_a_shrunk_model_trains():
    model = made(ResNet)
    shrink_(model, Shrink(0.5, round_to=4), image())
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.stem.weight.detach().clone()
    model(image()).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.stem.weight)


def test_one_width_through_all_norms():
    model = made(lambda: llama(tied=True))
    report = shrink_(model, Shrink(0.5, through_norms=True), tokens())
    assert model.model.embed_tokens.weight.shape == (20, 16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.model.norm.weight.shape == (16,)
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (16, 16)
    assert {row.kind for row in report.shrunk} == {"channels", "heads"}
    assert output(model, tokens()).shape == (2, 6, 20)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.down(self.norm(self.up(x)))


def test_norms_need_to_be_allowed_and_are_then_mended():
    model = made(Normed)
    mixed = nn.Sequential(model, nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    report = shrink_(mixed, Shrink(0.5), torch.randn(3, 6))
    assert [row.name for row in report.shrunk] == ["1"]
    assert report.skipped[0].reason.startswith("layer_norm is computed over all of its channels")
    shrink_(model, Shrink(0.5, through_norms=True), torch.randn(3, 6))
    assert model.norm.normalized_shape == (8,)
    assert model.down.in_features == len(model.norm.bias) == 8


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_without_some_heads_is_that_of_the_others(batch_first):
    """The shrunk module against PyTorch's own, with the heads that go reading and saying nothing."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    model = made(lambda: layer)
    x = torch.randn(5, 5, 16)
    attention = model.self_attn
    plant(model, {"self_attn.out_proj.weight": (1, runs([1, 3], 4)), "self_attn.in_proj_weight": (0, runs([1, 3], 4))})
    padding = torch.zeros(5, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    per_head = torch.randn(5 * 4, 5, 5)
    kept = per_head.view(5, 4, 5, 5)[:, [0, 2]].reshape(-1, 5, 5)
    options = [
        {},
        {"attn_mask": causal, "is_causal": True},
        {"attn_mask": causal < 0},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": causal < 0},
    ]
    wanted = [attention(x, x, x, need_weights=False, **option)[0] for option in options]
    wanted.append(attention(x, x, x, attn_mask=per_head, need_weights=False)[0])
    first = x[0]
    alone = attention(first, first, first)[0]
    weights = attention(x, x, x, average_attn_weights=False)[1][:, [0, 2]]
    shrink_(model, PerLayer({"self_attn": Shrink(0.5)}), x)
    assert attention.num_heads == 2
    assert attention.in_proj_weight.shape == (24, 16)
    got = [attention(x, x, x, need_weights=False, **option)[0] for option in options]
    got.append(attention(x, x, x, attn_mask=kept, need_weights=False)[0])
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(attention(first, first, first)[0], alone, atol=1e-5)
    out, shown = attention(x, x, x, average_attn_weights=False)
    assert torch.allclose(out, wanted[0], atol=1e-5)
    assert torch.allclose(shown, weights, atol=1e-5)
    assert torch.allclose(attention(x, x, x)[1], weights.mean(1), atol=1e-5)
    with pytest.raises(ValueError, match="must be one tensor"):
        attention(x, x.clone(), x)
