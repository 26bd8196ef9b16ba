"""Models divided within layers, and trained on several ranks."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

from parallel_outcome import NEEDS, failed, succeeded  # noqa: E402
from parallel_scenarios import BATCH, PROMPT, model_of  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.parallel import tensor_parallel_  # noqa: E402
from edgekern.parallel.norms import SharedNorms  # noqa: E402
from edgekern.parallel.slices import grain_of, needs_range, some_inputs, some_outputs  # noqa: E402

pytestmark = NEEDS


def logits(model, ids=BATCH):
    with torch.inference_mode():
        return model(ids).logits


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
def test_logits_are_those_of_one_process(ranks, scheme):
    sizes = {"hidden_size": 128, "intermediate_size": 192} if scheme == "int4" else {}  # heads of a whole group
    results = succeeded(ranks("tensor", 2, {"scheme": scheme, "sizes": sizes}))
    model = model_of(scheme, **sizes)
    expected = logits(model)
    assert results[0] == results[1]
    found = torch.tensor(results[0]["False"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    rounded = torch.tensor(results[0]["True"])
    assert 0 < (rounded - expected).abs().max() < 0.1 * expected.abs().max()
    assert results[0]["q"] == model.model.layers[0].self_attn.q_proj.out_features // 2
    assert len(results[0]["names"]) == 3 * 7
    with torch.inference_mode():
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert len(results[0]["tokens"][0]) == model.generate(PROMPT, **options).shape[1]


def test_parts_are_read_layer_by_layer(ranks, tmp_path):
    ek.save(model_of("int8"), tmp_path / "saved")
    results = succeeded(ranks("tensor", 2, {"checkpoint": str(tmp_path / "saved")}))
    torch.testing.assert_close(torch.tensor(results[0]["False"]), logits(model_of("int8")), rtol=1e-4, atol=1e-4)


def test_rules_divide_any_model(ranks):
    for found in succeeded(ranks("tensor_rules", 2)):
        assert found["difference"] < 1e-5
        assert found["features"] == 32


SCHEMES = [
    ek.Int8(),
    ek.Int8(activations="float"),
    ek.Int4(group_size=32),
    ek.Int4(group_size=32, symmetric=True),
    ek.Int4(group_size=64, activations="float"),
    ek.Float16(),
    None,
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("ends", [(0, 64, 160), (0, 128, 160), (0, 160)], ids=repr)
def test_slices_add_up_to_the_layer(scheme, ends):
    torch.manual_seed(0)
    linear = nn.Linear(160, 24)
    model = nn.Sequential(linear)
    if scheme is not None:
        ek.convert_(model, scheme)
    layer = model[0]
    assert all(end % grain_of(layer) == 0 or end == 160 for end in ends)
    x = torch.randn(7, 160) * torch.rand(7, 1)
    with torch.inference_mode():
        expected = layer(x)
        total = torch.zeros(7, 24)
        for start, stop in itertools.pairwise(ends):
            part = some_inputs(layer, start, stop)
            given = x[:, start:stop]
            if needs_range(layer):
                given = torch.cat([given, x.amax(1, keepdim=True), x.amin(1, keepdim=True)], 1)
            total += part(given)
        torch.testing.assert_close(total + layer.bias, expected, rtol=1e-5, atol=1e-5)
        halves = [some_outputs(layer, 0, 10)(x), some_outputs(layer, 10, 24)(x)]
        torch.testing.assert_close(torch.cat(halves, 1), expected, rtol=0, atol=1e-6)


def test_what_cannot_be_divided_is_told():
    class Alone:
        rank, size = 0, 3

        def together(self, doing):
            from contextlib import nullcontext

            return nullcontext()

    with pytest.raises(ValueError, match=r"3 ranks, and the model has 2 heads of keys; start as many at most"):
        tensor_parallel_(model_of(), Alone())
    with pytest.raises(ValueError, match=r"rules: expected for models that are not of type llama"):
        tensor_parallel_(nn.Linear(4, 4), Alone())
    with pytest.raises(ValueError, match=r"rules: expected 'column' or 'row', got 'both'"):
        tensor_parallel_(nn.Sequential(nn.Linear(4, 4)), Alone(), rules={"0": "both"})
    int4 = nn.Sequential(nn.Linear(128, 8))
    ek.convert_(int4, ek.Int4(group_size=64))
    with pytest.raises(ValueError, match=r"cut through a group of 64 int4 weights"):
        some_inputs(int4[0], 0, 32)


# ------------------------------------------------------------------------------------------ training


def test_two_ranks_distill_as_one_with_the_whole_batch(ranks):
    one, two = succeeded(ranks("distill", 2, {"ranks": 2}))
    alone = succeeded(ranks("distill", 1, {"ranks": 1}))[0]
    assert one["weights"] == two["weights"]
    assert one["masks"] == two["masks"] == alone["masks"]
    assert one["zeros"] == two["zeros"] == alone["zeros"] > 200
    assert two["log"] == ""
    curve, expected = ([json.loads(line) for line in each["log"].splitlines()] for each in (one, alone))
    assert len(curve) == len(expected) == 30
    for step, other in zip(curve, expected, strict=True):
        # Distances of layers inside are relative to those of the batch, of which a rank sees its own rows.
        assert step["soft"] == pytest.approx(other["soft"], rel=0.03)
        assert step["loss"] == pytest.approx(other["loss"], rel=0.03)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert one["files"] == ["fit.pt"] or two["files"] == ["fit.pt"]


def test_what_one_rank_prunes_all_do(ranks, tmp_path):
    one, two = succeeded(ranks("prunes", 2, folder=tmp_path))
    assert one["weights"] == two["weights"]
    assert one["zeros"][0] == pytest.approx(0.6, abs=0.02)
    assert one["metric"] == two["metric"] == 0.5
    again = succeeded(ranks("prunes", 2, folder=tmp_path))  # the checkpoint of rank 0 says that all is done
    assert again[0]["weights"] == again[1]["weights"] == one["weights"]


def test_batch_norms_go_by_the_rows_of_all_ranks(ranks):
    one, two = succeeded(ranks("norms", 2, {"ranks": 2}))
    alone = succeeded(ranks("norms", 1, {"ranks": 1}))[0]
    assert one == two
    assert one["0.running_mean"] == pytest.approx(alone["0.running_mean"], rel=1e-5)
    assert one["0.running_var"] == pytest.approx(alone["0.running_var"], rel=1e-5)
    for name in ("0.weight", "0.bias", "1.weight"):
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(alone[name]), rtol=1e-4, atol=1e-6)
    assert one["0.num_batches_tracked"] == alone["0.num_batches_tracked"] == 14
    assert one["own"] != alone["own"]  # rank 0 has seen half of the rows


def test_shared_norms_add_up_bfloat16_as_floats():
    """As under autocast, which leaves a norm's parameters float32."""
    x = (torch.randn(16, 5, 33, 31, generator=torch.Generator().manual_seed(0)) * 2 + 10).bfloat16()
    ours, theirs = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for _ in range(3):
        with SharedNorms(SimpleNamespace(size=1)):
            found = ours(x)
        expected = theirs(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(32, 5), (8, 5, 3, 4)])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}], ids=str
)
def test_shared_norms_are_those_of_torch(shape, options):
    """On one rank, whose rows are all there are."""
    torch.manual_seed(0)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    ours, theirs = kind(5, **options), kind(5, **options)
    found = []
    for norm, inside in ((ours, SharedNorms(SimpleNamespace(size=1))), (theirs, nullcontext())):
        torch.manual_seed(1)
        for _ in range(3):
            x = (torch.randn(shape) * 2 + 10).requires_grad_()
            with inside:
                y = norm(x)
            (y * torch.randn(shape)).sum().backward()
        with inside:
            found.append([y, x.grad, norm.eval()(x), *norm.state_dict().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_a_loss_that_is_not_finite_stops_all(ranks):
    failed(ranks("not_finite", 2), "TrainError: the loss of step 1 is nan")
