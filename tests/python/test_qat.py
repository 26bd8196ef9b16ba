"""prepare_qat_: what trains is what runs, gradients pass, and everything else of a model stays as it is."""

import copy
import io
import json
import pickle

import pytest
import torch
from rich.console import Console
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
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import edgekern as ek
from edgekern import GPTQ, ConvertError, Float32, Int4, Int8, MaskLock, PerLayer, Prune, QATError, convert_, ops, prune_
from edgekern.nn import QATLinear

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMES = [
    *(Int8(), Int4(32), Int4(64, symmetric=True), Int4(128, clip="mse"), Int4(32, symmetric=True, clip="mse")),
    *(Int8(activations="float"), Int4(32, activations="float")),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layer(scheme, k=70, n=33, dtype=torch.float32, bias=True, seed=0):
    torch.manual_seed(seed)
    return QATLinear(k, n, bias, dtype=dtype, scheme=scheme)


def rows(*shape, dtype=torch.float32, seed=1):
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5).to(dtype)


def trained(model, data, steps=5, rate=1e-2, **lock):
    optimizer = torch.optim.Adam(model.parameters(), rate)
    held = MaskLock(model, optimizer) if lock else None
    for _ in range(steps):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
    return held


# ------------------------------------------------------------------------------------------------ the arithmetic


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (70, 33), (127, 16), (256, 5), (129, 64)], ids=str)
def test_it_computes_what_the_converted_layer_does(scheme, dtype, shape):
    k, n = shape
    model = nn.Sequential(layer(scheme, k, n, dtype))
    x = rows(2, 5, k, dtype=dtype)
    with torch.no_grad():
        found = model(x)
        values = model[0].rounded_weight()
    convert_(model, scheme)
    assert torch.equal(model[0]._float_weight(model[0]._canonical()), values.to(dtype))
    with torch.no_grad():
        expected = model(x)
    assert found.dtype == expected.dtype == dtype
    size = float(x.float().abs().max() * values.abs().sum(1).max()) + 1
    last_digit = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}[dtype]
    tolerance = last_digit * (size if dtype == torch.float32 else float(expected.abs().max()))
    assert torch.allclose(found.float(), expected.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_rounded_as_the_kernels_round_them(dtype):
    """With an identity for a weight, int8's output is the row as the kernel sees it."""
    one = nn.Sequential(nn.Linear(48, 48, bias=False, dtype=dtype))
    with torch.no_grad():
        one[0].weight.copy_(torch.eye(48))
    x = rows(20, 48, dtype=dtype)
    x[0], x[1], x[2] = 0, x[1].abs(), -x[2].abs()
    ek.prepare_qat_(one, Int8())
    with torch.no_grad():
        found = one(x)
    convert_(one, Int8())
    with torch.no_grad():
        assert torch.allclose(found.float(), one(x).float(), rtol=2e-7 if dtype == torch.float32 else 8e-3, atol=0)


def test_rows_that_are_not_finite_are_nan_and_no_others():
    model, x = layer(Int8()), rows(4, 70)
    x[1, 3], x[2, 0] = float("nan"), float("inf")
    y = model(x)
    assert y.isnan().all(1).tolist() == [False, True, True, False]
    assert torch.allclose(y[0], model(x[:1])[0], atol=1e-5)


@pytest.mark.parametrize("scheme", [Int8(activations="float"), Int4(32, activations="float")], ids=repr)
def test_rows_stay_as_they_are_where_activations_do(scheme):
    model, x = layer(scheme), rows(4, 70)
    x[:, 3] *= 1e4  # rounded to eight bits, the others would be gone
    assert torch.equal(model(x), F.linear(x, model.rounded_weight(), model.bias))
    x[1, 3] = float("nan")
    assert model(x).isnan().all(1).tolist() == [False, True, False, False]


def test_inputs_of_any_shape():
    model = layer(Int4(32))
    assert model(rows(70)).shape == (33,)
    assert model(rows(0, 70)).shape == (0, 33)
    x = rows(70, 6)
    assert torch.equal(model(x.t()), model(x.t().contiguous()))


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if getattr(s, "clip", "none") == "none"], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_the_rounded_values(scheme, dtype):
    model = layer(scheme, dtype=dtype)
    x, g = rows(6, 70, dtype=dtype).requires_grad_(), rows(6, 33, dtype=dtype, seed=2)
    model(x).backward(g)
    eye = nn.Sequential(nn.Linear(70, 70, bias=False))
    with torch.no_grad():
        eye[0].weight.copy_(torch.eye(70))
        convert_(eye, Int8(activations=scheme.activations))
        seen = eye(x.float().detach())  # the rows as the kernels see them
        wanted = g.float() @ model.rounded_weight(), g.float().t() @ seen, g.float().sum(0)
    for gradient, right in zip((x.grad, model.weight.grad, model.bias.grad), wanted, strict=True):
        assert gradient.dtype == dtype
        assert torch.allclose(gradient.float(), right, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_that_were_moved_in_only_get_what_brings_them_back(symmetric):
    scheme = Int4(128, symmetric=symmetric, clip="mse")
    model = layer(scheme, 128, 40, bias=False)
    with torch.no_grad():
        model.weight.normal_()
        _, scale, _ = ops.int4_quantize(model.weight, 128, symmetric=symmetric, clip="mse")
        beyond = (model.weight - model.rounded_weight()) / scale.float()
    above, below = beyond > 0.51, beyond < -0.51
    inside = ~(above | below)
    assert above.any()
    assert below.any()
    assert inside.float().mean() > 0.9
    for up in (1.0, -1.0):
        model.weight.grad = None
        (-up * model.rounded_weight()).sum().backward()  # a step moves all weights up, or down
        assert (model.weight.grad[inside] == -up).all()
        assert (model.weight.grad[above] == (0 if up > 0 else 1)).all()
        assert (model.weight.grad[below] == (-1 if up > 0 else 0)).all()


def test_a_layer_learns_what_its_float_twin_does():
    torch.manual_seed(0)
    target, x = nn.Linear(64, 8), rows(256, 64)
    wanted = target(x).detach()
    model = nn.Sequential(nn.Linear(64, 8))
    ek.prepare_qat_(model, Int8())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), wanted)
        loss.backward()
        optimizer.step()
    assert loss < 1e-3 * wanted.var()


def test_training_at_four_bits_beats_rounding_afterwards():
    """Three layers that are to give the same outputs as floats, on inputs that neither has seen."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
    scheme = Int4(64, symmetric=True)
    student, rounded = copy.deepcopy(dense), copy.deepcopy(dense)
    ek.prepare_qat_(student, scheme)
    optimizer = torch.optim.Adam(student.parameters(), 1e-4)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for step in range(200):
        x = rows(128, 64, seed=step)
        optimizer.zero_grad()
        F.mse_loss(student(x), dense(x).detach()).backward()
        optimizer.step()
        rate.step()
    x = rows(2000, 64, seed=10_000)
    convert_(rounded, scheme)
    convert_(student, scheme)
    with torch.no_grad():
        wanted = dense(x)
        errors = [float(F.mse_loss(model(x), wanted)) for model in (student, rounded)]
    assert errors[0] < 0.7 * errors[1]


# ------------------------------------------------------------------------------------------------ in a model


def test_a_model_trains_is_converted_and_gives_the_same():
    model, data = nn.Sequential(Block(), Block()), rows(64, 16)
    names, weights = list(model.state_dict()), [id(p) for p in model.parameters()]
    modules = [id(m) for m in model.modules()]
    config = PerLayer({"0.down": Int8(), "_default": Int4(32)})
    report = ek.prepare_qat_(model, config)
    assert [id(m) for m in model.modules()] == modules
    assert ([id(p) for p in model.parameters()], list(model.state_dict())) == (weights, names)
    before = model[0].up.weight.detach().clone()
    trained(model, data)
    assert not torch.equal(model[0].up.weight, before)
    model.eval()
    with torch.no_grad():
        expected = model(data)
    rounded = {
        name: module.rounded_weight().detach() for name, module in model.named_modules() if hasattr(module, "scheme")
    }
    by_rules, by_report = copy.deepcopy(model), model
    convert_(by_rules, config)
    convert_(by_report, report.config)
    for converted in (by_rules, by_report):
        assert native_names(converted) == ["0.up", "0.down", "1.up", "1.down"]
        assert all(torch.equal(converted.get_submodule(name).weight, value) for name, value in rounded.items())
        with torch.no_grad():
            assert torch.allclose(converted(data), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    ek.dense_(by_rules)
    assert type(by_rules[0].up) is nn.Linear
    assert not {"scheme", "_float_class"} & set(vars(by_rules[0].up))


def test_checkpoints_of_the_float_model_load():
    model, fresh = nn.Sequential(Block()), nn.Sequential(Block())
    ek.prepare_qat_(fresh, Int8())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh[0].up.weight, model[0].up.weight)
    model.load_state_dict(fresh.state_dict())


def test_an_optimizer_made_before_goes_on():
    model, data = nn.Sequential(Block()), rows(8, 16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ek.prepare_qat_(model, Int4(32))
    before = model[0].up.weight.detach().clone()
    model(data).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[0].up.weight, before)


@pytest.mark.parametrize("scheme", [Int8(), Int4(32), Int4(32, clip="mse")], ids=repr)
def test_pruned_weights_stay_zero(scheme):
    model, data = nn.Sequential(Block()), rows(64, 16)
    prune_(model, Prune(0.5))
    ek.prepare_qat_(model, scheme)
    masks = trained(model, data, lock=True).masks
    assert set(masks) == {"0.up.weight", "0.down.weight"}
    with torch.no_grad():
        for name, mask in masks.items():
            assert (model.get_submodule(name.removesuffix(".weight")).rounded_weight()[~mask] == 0).all()
    convert_(model, scheme)
    for name, mask in masks.items():
        assert (model.get_submodule(name.removesuffix(".weight")).weight[~mask] == 0).all()


def test_a_prepared_model_can_be_pruned():
    model = nn.Sequential(Block())
    ek.prepare_qat_(model, Int8())
    assert len(prune_(model, Prune(0.5, method="wanda"), [rows(8, 16)], progress=False).pruned) == 2
    assert isinstance(model[0].up, QATLinear)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_go_on(way):
    model, data = nn.Sequential(Block()), rows(8, 16)
    ek.prepare_qat_(model, Int4(32))
    other = way(model)
    assert torch.equal(other(data), model(data))
    trained(other, data)
    assert not torch.equal(other[0].up.weight, model[0].up.weight)
    ek.undo_qat_(other)
    assert type(other[0].up) is nn.Linear


def test_a_model_saved_as_a_whole_loads():
    model, data, file = nn.Sequential(Block()), rows(8, 16), io.BytesIO()
    ek.prepare_qat_(model, Int8())
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(data), model(data))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model, data = Block(), rows(8, 16).requires_grad_()
    ek.prepare_qat_(model, Int4(32))
    model(data).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    checkpoint(model, data, use_reentrant=reentrant).square().mean().backward()
    assert all(torch.equal(p.grad, right) for p, right in zip(model.parameters(), expected, strict=True))


def test_under_autocast_results_have_its_dtype_and_values_are_the_same():
    model, data = layer(Int4(32)), rows(8, 70)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(data)
        again = model(data.bfloat16())
    assert y.dtype == again.dtype == torch.bfloat16
    assert torch.equal(y, model(data).bfloat16())
    y.float().square().mean().backward()
    assert model.weight.grad.dtype == torch.float32
    assert model.weight.grad.abs().sum() > 0


def test_modes_change_nothing_and_hooks_stay():
    model, data, seen = nn.Sequential(Block()), rows(8, 16), []
    handle = model[0].up.register_forward_hook(lambda *_: seen.append(1))
    ek.prepare_qat_(model, Int8())
    assert torch.equal(model.train()(data), model.eval()(data))
    assert len(seen) == 2
    handle.remove()
    model(data)
    assert len(seen) == 2


def test_tied_weights_stay_tied():
    model, ids = LanguageModel(), torch.randint(0, 40, (4, 8))
    config = PerLayer({"lm_head": Int8(), "_default": Int4(32)})
    assert len(ek.prepare_qat_(model, config).prepared) == 5
    assert model.lm_head.weight is model.embed.weight
    trained(model, ids)
    assert model.lm_head.weight is model.embed.weight
    with torch.no_grad():
        expected = model(ids)
    convert_(model, config)
    assert model.embed.tied  # rounded with the head, which training did not see
    with torch.no_grad():
        assert (model(ids) - expected).square().mean() < 1e-3 * expected.square().mean()


def test_one_module_in_two_places():
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    ek.prepare_qat_(model, Int8())
    trained(model, rows(8, 16))
    convert_(model, Int8())
    assert model[0] is model[2]


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        model, data = nn.Sequential(Block()), rows(8, 16)
        ek.prepare_qat_(model, Int4(32))
        alone = copy.deepcopy(model)
        trained(DistributedDataParallel(model), data)
        trained(alone, data)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    finally:
        torch.distributed.destroy_process_group()


def test_fused_transformer_layers_do_not_bypass_it():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 1)
    dense, x = copy.deepcopy(model).eval(), rows(2, 5, 16)
    ek.prepare_qat_(model, Int4(32))
    training = model(x).detach()
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), training, atol=1e-5)
        assert not torch.allclose(dense(x), training, atol=1e-3)
    ek.undo_qat_(model)
    assert model.use_nested_tensor
    with torch.no_grad():
        assert torch.equal(model(x), dense(x))


# ------------------------------------------------------------------------------------------------ and back


def test_undone_a_model_is_what_it_was():
    model = nn.Sequential(nn.Linear(16, 16), NoForward(16, 16))
    model[0].note = "kept"
    before = snapshot(model)
    attributes = [set(vars(m)) for m in model.modules()]
    ek.prepare_qat_(model, Int4(32))
    assert [type(m) for m in model] == [QATLinear, QATLinear]
    ek.undo_qat_(model)
    assert_untouched(model, before)
    assert [type(m) for m in model] == [nn.Linear, NoForward]
    assert [set(vars(m)) for m in model.modules()] == attributes
    ek.undo_qat_(model)  # nothing is left to do


def test_preparing_again_changes_nothing_and_for_another_is_refused():
    model, data = nn.Sequential(Block()), rows(8, 16)
    ek.prepare_qat_(model, Int4(32))
    y = model(data)
    assert len(ek.prepare_qat_(model, Int4(32, rows=1)).prepared) == 2
    assert torch.equal(model(data), y)
    with pytest.raises(QATError, match=r"prepared to train for Int4\(.*\), not for Int8\(\).*undo_qat_\(model\) first"):
        ek.prepare_qat_(model, Int8())
    with pytest.raises(QATError, match=r"not for Int4\(group_size=32, activations='float'\)"):
        ek.prepare_qat_(model, Int4(32, activations="float"))


@pytest.mark.parametrize(
    "config",
    [Int8(), Int4(64), Int4(32, clip="mse"), Int4(32, activations="float"), Float32(), PerLayer({"re:.*": Int8()})],
    ids=repr,
)
def test_converting_to_what_it_was_not_prepared_for_is_refused(config):
    model = nn.Sequential(Block(), nn.Linear(16, 2))
    ek.prepare_qat_(model, PerLayer({"0.up": Int4(32)}))
    before = snapshot(model)
    with pytest.raises(
        ConvertError, match=r"layer '0.up' cannot be converted: it is prepared to train for Int4\(group"
    ):
        convert_(model, config)
    assert_untouched(model, before)
    convert_(model, PerLayer({"0.up": None, "_default": Int8()}))  # said by name, it goes on training
    assert isinstance(model[0].up, QATLinear)
    reasons = {row.name: row.reason for row in ek.explain(model).skipped}
    assert reasons == {"0.up": "prepared to train for Int4(group_size=32); convert_ finishes it"}
    convert_(model, Int4(32, rows=1))
    assert ek.explain(model).skipped == ()


def test_gptq_rounds_a_prepared_layer_to_what_it_trains_for():
    model, data = nn.Sequential(Block()), [rows(64, 16)]
    ek.prepare_qat_(model, Int4(32))
    config = ek.quantize_(model, GPTQ(Int4(32)), data, progress=False).config
    convert_(model, config)
    ek.prepare_qat_(other := nn.Sequential(Block()), Int4(32))
    with pytest.raises(ek.QuantizeError, match="prepared to train for"):
        ek.quantize_(other, GPTQ(Int8()), data, progress=False)


# ------------------------------------------------------------------------------------------------ reports and errors


def test_layers_left_alone_are_listed_with_the_reason():
    model = LanguageModel(tied=False)
    model.own, model.conv, model.native, model.declined = (
        OwnForward(16, 16),
        nn.Conv2d(1, 1, 1),
        nn.Linear(16, 8),
        nn.Linear(8, 8),
    )
    model.fused = ek.nn.FusedLinear(4, 4, activation="relu")
    convert_(model, PerLayer({"native": Int8()}))
    report = ek.prepare_qat_(model, Int4(32), lambda module, name: name != "declined")
    assert [row.name for row in report.prepared] == BLOCK_LAYERS
    reasons = {row.name: row.reason for row in report.skipped}
    assert "the output head" in reasons["lm_head"]
    assert "forward of its own" in reasons["own"]
    assert "training with rounding is for linear layers" in reasons["conv"]
    assert reasons["fused"] == "applies relu itself, which training does not; prepare before fuse_"
    assert "int8 already, and without a backward; dense_(model) makes it trainable" in reasons["native"]
    assert reasons["declined"] == "filter_fn declined it"
    assert report.config == PerLayer(dict.fromkeys(BLOCK_LAYERS, Int4(32)))
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["to"] == Int4(32).to_dict()
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    for shown in (str(report), capture.get(), report._repr_html_()):
        assert "10 layers: 4 prepared, 6 left alone" in shown
        assert "Int4(group_size=32)" in shown


def test_a_layer_that_is_the_model():
    model = nn.Linear(16, 8)
    report = ek.prepare_qat_(model, Int8())
    assert isinstance(model, QATLinear)
    assert report.config == PerLayer({"_default": Int8()})
    assert "scheme=Int8()" in repr(model)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((nn.Sequential(nn.Linear(8, 8)), GPTQ()), TypeError, "GPTQ is for quantize_"),
        ((nn.Sequential(nn.Linear(8, 8)), Float32()), TypeError, r"takes Int8\(\) and Int4\(...\).*got Float32\(\)"),
        ((nn.Sequential(nn.Linear(8, 8)), PerLayer({"0": Prune(0.5)})), TypeError, "got Prune"),
        ((nn.Sequential(nn.Linear(8, 8)), Int8), TypeError, r"got the class Int8; write Int8\(...\)"),
        ((nn.Sequential(nn.Linear(8, 8)), PerLayer({"1": Int8()})), QATError, "no layer is called '1'"),
        ((nn.Sequential(nn.ReLU()), Int8()), QATError, "nothing to prepare: the model has no linear layers"),
        ((nn.Sequential(nn.Linear(8, 8)), Int8(), 3), TypeError, "filter_fn"),
        (("model", Int8()), TypeError, "expected a torch.nn.Module, got str"),
    ],
)
def test_mistakes_are_explained(args, error, message):
    with pytest.raises(error, match=message):
        ek.prepare_qat_(*args)


def test_weights_that_are_not_finite():
    model = nn.Sequential(nn.Linear(8, 8))
    ek.prepare_qat_(model, Int8())
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"QATLinear\(.*weight must be finite.*did training diverge\?"):
        model(rows(2, 8))
    ek.undo_qat_(model)
    with pytest.raises(QATError, match="the weight of '0' holds NaN"):
        ek.prepare_qat_(model, Int8())


def test_a_weight_of_inference_mode_is_left_alone():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(16, 8))
    model.append(nn.Linear(8, 8))
    assert "cannot be trained; clone it" in ek.prepare_qat_(model, Int8()).rows[0].reason


def test_a_layer_takes_int8_and_int4_only():
    with pytest.raises(TypeError, match=r"QATLinear: scheme must be Int8\(\) or Int4\(...\), got Prune"):
        QATLinear(4, 4, scheme=Prune(0.5))
