"""shrink_: how many units go and which, what is left alone and why, that it does all or nothing, and its report."""

import json
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from shrink_models import FusedAttention, ResNet, image, made, output, sequence
from small_models import LanguageModel, assert_untouched, snapshot
from torch import nn
from torch.nn.utils import parametrizations

from edgekern import (
    Int8,
    PerLayer,
    Prune,
    PruneError,
    Shrink,
    config_from_dict,
    convert_,
    prune_,
    shrink_,
    shrink_like_,
)


def mlp(*widths):
    """Linear layers with ReLU between them; ``"0"``, ``"2"``, ``"4"``, ..."""
    torch.manual_seed(0)
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def batch(width=4):
    return torch.randn(16, width, generator=torch.Generator().manual_seed(1))


def widths(report):
    return {row.name: row.after for row in report.shrunk}


def reasons(model, config=None, inputs=None):
    report = shrink_(model, config or Shrink(0.5, round_to=1), batch() if inputs is None else inputs)
    return {row.name: row.reason for row in report.skipped}


# ------------------------------------------------------------------------------------------------ how many


@pytest.mark.parametrize(
    ("sparsity", "round_to", "left"),
    [(0.5, 8, 24), (0.3, 1, 28), (0.3, 8, 32), (0.55, 16, 16), (0.9, 1, 4), (1.0, 8, 8), (1.0, 1, 1)],
)
def test_budget_of_a_group(sparsity, round_to, left):
    report = shrink_(model := mlp(4, 40, 3), Shrink(sparsity, round_to=round_to), batch())
    assert widths(report) == {"0": left}
    assert model[0].weight.shape == (left, 4)
    assert model[2].weight.shape == (3, left)


def test_a_group_that_rounds_to_no_less_is_left_alone():
    model = mlp(4, 32, 7, 3)
    assert reasons(model, Shrink(0.5))["2"] == "3 of its 7 channels round to no less, by 8"
    with pytest.raises(PruneError, match="nothing of it was to go"):
        shrink_(model, Shrink(0.0), batch())


def test_heads_need_no_rounding_where_their_width_does_it():
    model = made(lambda: FusedAttention(width=32, heads=4))
    report = shrink_(model, Shrink(0.3, round_to=8), torch.randn(2, 5, 32))
    assert [(row.kind, row.after) for row in report.shrunk] == [("heads", 3)]
    assert model.num_heads == 3


def low_in_first():
    """Of whose first layer three quarters of the units weigh little."""
    model = mlp(4, 32, 32, 3)
    with torch.no_grad():
        model[0].weight[:24] *= 0.01
        model[0].bias[:24] *= 0.01
        model[2].weight[:, :24] *= 0.01
    return model


def test_a_global_budget_goes_where_units_weigh_least():
    assert widths(shrink_(low_in_first(), Shrink(0.375, scope="global", round_to=1), batch())) == {"0": 8}
    assert widths(shrink_(low_in_first(), Shrink(0.375, round_to=1), batch())) == {"0": 20, "2": 20}


def test_floor_and_ceiling_of_a_global_budget():
    scheme = Shrink(0.375, scope="global", round_to=1, min_sparsity=0.125, max_sparsity=0.5)
    assert widths(shrink_(low_in_first(), scheme, batch())) == {"0": 16, "2": 24}
    assert widths(shrink_(low_in_first(), Shrink(0.375, scope="global", round_to=1, min_sparsity=0.25), batch())) == {
        "0": 16,
        "2": 24,
    }


def test_a_global_budget_does_not_mind_the_scale_of_a_group():
    model = mlp(4, 32, 32, 3)
    with torch.no_grad():
        model[0].weight.mul_(100)  # by themselves, all of its units are far above those of the next layer
    left = widths(shrink_(model, Shrink(0.5, scope="global", round_to=1), batch()))
    assert 8 <= left["0"] <= 24
    assert left["0"] + left["2"] == 32


# ------------------------------------------------------------------------------------------------ which


def dead_but_heavy():
    model = mlp(4, 8, 3)
    with torch.no_grad():
        model[0].bias[5] = -1000  # ReLU makes it zero, whatever comes in
    return model


@pytest.mark.parametrize(("method", "gone"), [("wanda", True), ("magnitude", False)])
def test_wanda_sees_what_a_unit_adds(method, gone):
    model = dead_but_heavy()
    with torch.no_grad():
        model[0].weight[5] *= 10
    heavy = model[0].weight[5].detach().clone()
    shrink_(model, Shrink(0.25, method, round_to=1), batch(), data=[batch()])
    assert (not (model[0].weight == heavy).all(1).any()) == gone


def test_wanda_sums_over_the_pixels_of_convolutions():
    model = made(ResNet)
    stem = model.stem.weight.detach().clone()
    loud = [1, 4, 5, 6]
    with torch.no_grad():
        quiet = torch.ones(8, dtype=torch.bool)
        quiet[loud] = False
        for name in ("stem.weight", "stem.bias", "blocks.0.conv2.weight", "blocks.0.bn2.weight", "blocks.0.bn2.bias"):
            model.get_parameter(name)[quiet] *= 0.01
        model.blocks[0].bn2.running_mean[quiet] = 0
    shrink_(model, PerLayer({"stem": Shrink(0.5, "wanda", round_to=1)}), image(), data=[image()])
    assert torch.equal(model.stem.weight, stem[loud])


def test_random_depends_on_the_seed_alone():
    def kept(seed):
        model = mlp(4, 32, 3)
        shrink_(model, Shrink(0.5, "random", seed=seed), batch())
        return model[0].weight

    assert torch.equal(kept(0), kept(0))
    assert not torch.equal(kept(0), kept(1))


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "needs calibration data"), ([], "not one batch"), ([batch() * float("nan")], "NaN or infinity")],
)
def test_wanda_needs_good_data(data, message):
    model = mlp(4, 32, 3)
    before = snapshot(model)
    with pytest.raises(PruneError, match=message):
        shrink_(model, Shrink(0.5, "wanda"), batch(), data)
    assert_untouched(model, before)


def test_wanda_leaves_alone_what_no_layer_reads_by_itself():
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval())
    report = shrink_(model, Shrink(0.5, "wanda"), sequence(), data=[sequence()])
    assert widths(report) == {"0.linear1": 16}
    assert report.rows[0].reason == "the calibration data never reached a layer that reads it"


# ------------------------------------------------------------------------------------------------ rules


def test_a_rule_for_any_layer_of_a_group_is_the_whole_groups():
    report = shrink_(model := made(ResNet), PerLayer({"blocks.0.conv2": Shrink(0.5, round_to=4)}), image())
    assert widths(report) == {"stem": 4}
    assert model.blocks[0].conv1.weight.shape == (8, 4, 3, 3)
    assert {row.reason for row in report.skipped} == {"no rule speaks for it, and there is no '_default'"}


def test_the_more_direct_rule_wins():
    rules = {"re:.*conv1": None, "blocks.1.conv1": Shrink(0.75, round_to=4), "_default": Shrink(0.5, round_to=4)}
    report = shrink_(made(ResNet), PerLayer(rules), image())
    assert widths(report) == {"stem": 4, "blocks.1.conv1": 4, "blocks.1.conv2": 8}
    assert report.rows[1].reason == "the rule 're:.*conv1' is None"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"stem": Shrink(0.5), "blocks.0.conv2": Shrink(0.25)}, "can only lose the same channels, but the rules say"),
        ({"head": Shrink(0.5)}, "'head' is named but cannot be shrunk: the model returns it"),
        ({"spare": Shrink(0.5)}, "'spare' is named but cannot be shrunk: example_inputs do not reach it"),
        ({"stam": Shrink(0.5)}, "no layer is called 'stam'; close to it: 'stem'"),
    ],
)
def test_rules_that_cannot_be_followed(rules, message):
    model = made(ResNet)
    model.spare = nn.Linear(4, 4)
    before = snapshot(model)
    with pytest.raises(PruneError, match=message):
        shrink_(model, PerLayer(rules), image())
    assert_untouched(model, before)


# ------------------------------------------------------------------------------------------------ what is left alone


class Between(nn.Module):
    """Two layers with something between them, before a pair that always shrinks."""

    def __init__(self, between, width=8):
        super().__init__()
        self.up, self.down, self.between = nn.Linear(4, 8), nn.Linear(width, 4), between
        self.pair = mlp(4, 8, 3)

    def forward(self, x):
        return self.pair(self.down(self.between(self.up(x))))


def shuffled(x):
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: x.cumsum(-1), "what cumsum does to channels is not known here"),
        (lambda x: x.softmax(-1), "softmax works along them"),
        (lambda x: x - x.mean(-1, keepdim=True), "mean is computed over all of its channels"),
        (lambda x: x + torch.ones(8), "in add it meets a tensor that keeps its size"),
        (lambda x: x.view(16, 2, 4).sin().flatten(1), "the model's code does not run without them: shape"),
        (lambda x: x.square().roll(3, -1), "what roll does to channels is not known here"),
        (shuffled, "taken out, they change more than what they said to the layers that read them"),
    ],
)
def test_what_else_is_done_to_channels(between, reason):
    model = Between(between)
    given = reasons(model)
    assert given["up"].startswith(reason)
    assert model.pair[0].out_features == 4
    assert model.up.out_features == 8


@pytest.mark.parametrize(
    ("between", "width", "silent"),
    [
        (lambda x: x.flip(-1), 8, [0, 3, 4, 6]),
        (lambda x: torch.cat([x, x.sin()], -1), 16, [0, 3, 4, 6]),
        (lambda x: x.repeat_interleave(2, -1), 16, [0, 3, 4, 6]),
        (lambda x: x.chunk(2, -1)[0].sigmoid() * x.chunk(2, -1)[1], 4, [0, 2, 4, 6]),
        (lambda x: nn.functional.pad(x.view(16, -1, 1, 1), (1, 1)).amax((2, 3)), 8, [0, 3, 4, 6]),
        (lambda x: torch.where(x > 0, x, 0.1 * x).clamp(max=3) / 2, 8, [0, 3, 4, 6]),
    ],
)
def test_channels_are_followed_wherever_they_are_moved(between, width, silent):
    model = Between(between, width).eval()
    with torch.no_grad():
        model.up.weight[silent] = 0
        model.up.bias[silent] = 0
    before, kept = output(model, batch()), model.up.weight[[i for i in range(8) if i not in silent]].clone()
    shrink_(model, PerLayer({"up": Shrink(0.5, round_to=1)}), batch())
    assert torch.equal(model.up.weight, kept)
    assert model.down.in_features == width // 2
    assert torch.allclose(output(model, batch()), before, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "what linear does to channels is not known here"),
        (lambda: nn.Bilinear(8, 8, 8), "what bilinear does to channels is not known here"),
    ],
)
def test_layers_that_compute_their_weights_or_are_none_of_these(make, reason):
    odd = make()
    two = isinstance(odd, nn.Bilinear)
    given = reasons(Between(lambda x: odd(x, x) if two else odd(x)))
    assert given["up"] == reason


def test_grouped_convolutions_keep_their_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
    given = reasons(model, inputs=image())
    assert given["0"] == given["1"] == "a convolution in 2 groups keeps its channels"
    assert model[2].out_channels == 4


def test_a_depthwise_convolution_with_several_outputs_each():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1], model[1].bias[2:4] = 0, 0, 0
    before = output(model, image())
    shrink_(model, Shrink(0.25, round_to=1), image())
    assert (model[1].groups, model[1].in_channels, model[1].out_channels) == (3, 3, 6)
    assert torch.allclose(output(model, image()), before, atol=1e-6)


def test_native_layers_and_those_not_reached_are_left_alone():
    model = mlp(4, 8, 8, 3)
    model.spare = nn.ModuleList([nn.Linear(4, 4)])
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    convert_(model, PerLayer({"2": Int8()}))
    with pytest.raises(PruneError, match="nothing to shrink") as caught:
        shrink_(model, Shrink(0.5, round_to=1), batch())
    assert "channels of '0': what int8_linear does to channels is not known here" in str(caught.value)


def test_a_tied_embedding_loses_its_width_and_keeps_its_words():
    model = LanguageModel(tied=True)
    given = reasons(model, inputs=torch.arange(6).view(1, 6))
    assert given["lm_head"] == "the model returns it"
    assert model.lm_head.weight is model.embed.weight
    assert model.embed.weight.shape == (40, 8)
    assert (model.embed.embedding_dim, model.lm_head.in_features) == (8, 8)


# ------------------------------------------------------------------------------------------------ all or nothing


class FailsAt(nn.Module):
    """Fails when it is run for the n-th time from now."""

    def __init__(self, calls, failure):
        super().__init__()
        self.body, self.calls, self.failure = mlp(4, 16, 3), calls, failure

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.calls[0] -= 1
            if self.calls[0] == 0:
                raise self.failure
        return self.body(x)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_an_interrupt_at_any_moment_leaves_the_model_as_it_was(call):
    model = FailsAt([call], KeyboardInterrupt())
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        shrink_(model, Shrink(0.5), batch())
    assert_untouched(model, before)
    assert model.body[0].out_features == 16
    model.calls[0] = 100
    assert shrink_(model, Shrink(0.5), batch()).shrunk


def test_a_failure_puts_attention_back():
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), FailsAt([4], MemoryError()))
    model[1].body = mlp(16, 16, 3)
    before = snapshot(model)
    with pytest.raises(MemoryError):
        shrink_(model, Shrink(0.5), sequence())
    assert_untouched(model, before)
    attention = model[0].self_attn
    assert type(attention) is nn.MultiheadAttention
    assert (attention.num_heads, attention.head_dim, attention._qkv_same_embed_dim) == (4, 4, True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model[2].weight.data.fill_(float("nan")), "hold NaN or infinity; repair them"),
        (lambda model: setattr(model, "forward", lambda x: model[0](x) if x.sum() > 0 else x), "cannot trace it"),
    ],
)
def test_what_cannot_be_shrunk_is_not_touched(spoil, message):
    model = mlp(4, 16, 3)
    spoil(model)
    before = snapshot(model)
    with pytest.raises(PruneError, match=message):
        shrink_(model, Shrink(0.5), batch())
    assert_untouched(model, before)


def test_shapes_of_another_model_are_refused():
    model, other = mlp(4, 16, 3), mlp(4, 16, 3)
    state = mlp(4, 8, 5).state_dict()
    before = snapshot(other)
    with pytest.raises(PruneError, match=r"state: '2.weight' has shape \[5, 8\].* this model's has \[3, 8\]"):
        shrink_like_(other, state, batch())
    assert_untouched(other, before)
    shrink_like_(model, model.state_dict(), batch())
    assert_untouched(other, snapshot(other))


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
        shrink_(3, Shrink(0.5), batch())
    with pytest.raises(TypeError, match="config: Prune is for prune_, not for shrink_"):
        shrink_(mlp(4, 8, 3), Prune(0.5), batch())
    with pytest.raises(TypeError, match="config: Shrink is for shrink_, not for prune_"):
        prune_(mlp(4, 8, 3), Shrink(0.5))
    with pytest.raises(TypeError, match=r"data: expected an iterable of batches, got Tensor; one batch is \[batch\]"):
        shrink_(mlp(4, 8, 3), Shrink(0.5), batch(), batch())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.5}, ValueError, "Shrink: sparsity must be 0 to 1, got 1.5"),
        ({"sparsity": "half"}, TypeError, "Shrink: sparsity must be a number, got str"),
        (
            {"method": "sparsegpt"},
            ValueError,
            "Shrink: unknown method 'sparsegpt'; this version knows magnitude, wanda",
        ),
        ({"scope": "owl"}, ValueError, "Shrink: unknown scope 'owl'"),
        ({"round_to": 0}, ValueError, "Shrink: round_to must be 1 or more, got 0"),
        ({"through_norms": 1}, TypeError, "Shrink: through_norms must be a bool, got int"),
        ({"scope": "global", "method": "wanda"}, ValueError, "do not compare across groups; use scope='local'"),
        ({"min_sparsity": 0.2}, ValueError, "bound the scope 'global', not 'local'"),
        ({"scope": "global", "max_sparsity": 0.2}, ValueError, "lies outside of min_sparsity 0.0 to max_sparsity 0.2"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        Shrink(**{"sparsity": 0.5, **options})


def test_options_survive_json():
    config = PerLayer({"a": Shrink(0.5, "wanda", round_to=4, through_norms=True), "_default": None})
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


# ------------------------------------------------------------------------------------------------ the report


def test_report():
    report = shrink_(made(ResNet), Shrink(0.5), image())
    assert [(row.name, row.before, row.after) for row in report] == [
        ("stem", 8, 8),
        ("blocks.0.conv1", 8, 8),
        ("blocks.1.conv1", 16, 8),
        ("blocks.1.conv2", 16, 8),
        ("head", 5, 5),
    ]
    assert report.rows[3].layers == ("blocks.1.conv2", "blocks.1.down.0")
    assert report.shapes["head.weight"] == ((5, 16), (5, 8))
    # 4 x 4 images: the stem, then 2 x 2 after pooling, 1 x 1 after the stride, and the head.
    assert report.before.macs == 2 * (16 * 8 * 27 + 4 * 2 * 8 * 72 + (16 * 72 + 16 * 144 + 16 * 8) + 80)
    assert report.after.macs == 2 * (16 * 8 * 27 + 4 * 2 * 8 * 72 + (8 * 72 + 8 * 72 + 8 * 8) + 40)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["groups"][2]["achieved"] == 0.5
    assert data["before"]["nbytes"] > data["after"]["nbytes"]
    text = str(report)
    assert "blocks.1.conv2 and 1 more" in text
    assert "5 groups: 2 shrunk, 3 left alone" in text
    assert "<td>the model returns it</td>" in report._repr_html_()
    console = Console(record=True, width=200)
    console.print(report)
    assert "blocks.1.conv2 and 1 more" in console.export_text()
