"""State dicts, pickles, copies and files of int8 convolutions: canonical, exact, and strict about what they take."""

import copy
import hashlib
import io
import json
import pickle

import pytest
import safetensors.torch
import torch
from conv_oracle import DTYPES, convolutions, make_conv, make_images, native, scheme_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import quick
from shrink_models import Inverted, ResNet
from small_models import assert_same, assert_untouched, canonical, snapshot
from torch import nn

from edgekern import Int8, convert_, explain, load, save
from edgekern.checkpoint import CheckpointCorruptError, CheckpointFormatError, CheckpointMismatchError
from edgekern.nn import Int8Conv2d
from edgekern.nn.fused import FusedConv2d

MANIFEST, TENSORS = "edgekern.json", "model.safetensors"
PLAIN = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}


def run(model, x):
    with torch.inference_mode():
        return model(x)


def test_the_state_dict_is_canonical():
    conv = make_conv({**PLAIN, "groups": 2}).bfloat16()
    state = native(conv).state_dict()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} == {
        "weight": (torch.int8, (6, 2, 3, 3)),
        "weight_scale": (torch.float32, (6, 1, 1, 1)),
        "bias": (torch.bfloat16, (6,)),
    }
    assert torch.equal(state["bias"], conv.bias)
    largest = conv.weight.float().abs().amax((1, 2, 3), keepdim=True)
    assert torch.equal(state["weight_scale"], largest / 127)
    assert torch.equal(state["weight"], (conv.weight.float() / (largest / 127)).round().to(torch.int8))
    assert "bias" not in native(make_conv({**PLAIN, "bias": False})).state_dict()


@quick
@given(
    drawn=convolutions(),
    dtype=st.sampled_from(DTYPES),
    form=st.sampled_from(Int8Conv2d.FORMS),
    seed=st.integers(0, 1000),
    assign=st.booleans(),
)
def test_state_dicts_pickles_and_copies_are_exact(drawn, dtype, form, seed, assign):
    options, shape = drawn
    scheme = scheme_of(form, options)
    layer = native(make_conv(options, seed).to(dtype), scheme)
    state = canonical(layer)
    loaded = Int8Conv2d(**options, dtype=dtype, scheme=scheme)
    loaded.load_state_dict(state, assign=assign)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    x = make_images(shape, dtype, seed)
    expected = run(layer, x)
    for other in (loaded, copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer)), saved):
        assert_same(canonical(other), state)
        assert torch.equal(run(other, x), expected)
        assert repr(other) == repr(layer)


@pytest.mark.parametrize(
    ("channels", "groups", "form"),
    [
        *((16, 1, form) for form in Int8Conv2d.FORMS),
        *((32, 2, form) for form in Int8Conv2d.FORMS),
        (256, 256, "dense"),
    ],
)
def test_any_int8_value_survives_also_minus_128(channels, groups, form):
    values = torch.arange(-128, 128, dtype=torch.int8).repeat(channels * (channels // groups) * 9 // 256)
    values = values.reshape(channels, channels // groups, 3, 3)
    layer = Int8Conv2d(channels, channels, 3, groups=groups, bias=False, scheme=Int8(form=form))
    layer.load_state_dict({"weight": values, "weight_scale": torch.ones(channels, 1, 1, 1)})
    assert torch.equal(layer.state_dict()["weight"], values)
    assert torch.equal(layer.weight, values.float())


def test_a_pickle_names_nothing_that_was_chosen_here():
    layer = native(make_conv(PLAIN))
    state = layer.__getstate__()
    assert vars(layer).keys() - state.keys() == {"packed", "choice", "input_range", "output_range", "_ranges"}
    assert state["canonical"].keys() == canonical(layer).keys()


def test_an_empty_layer_has_shapes_and_no_values():
    layer = Int8Conv2d(**PLAIN)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    assert layer.packed_bytes == 0
    again = pickle.loads(pickle.dumps(layer))
    assert repr(again) == repr(layer)
    with pytest.raises(ValueError, match="packed"):
        run(layer, torch.randn(1, 4, 5, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, 'Missing key.*"weight", "weight_scale", "bias"'),
        (lambda s: {**s, "weight": s["weight"][:, :-1]}, "size mismatch for weight"),
        (lambda s: {**s, "weight": s["weight"].flatten(1)}, "size mismatch for weight"),
        (lambda s: {**s, "weight_scale": s["weight_scale"].flatten()}, "size mismatch for weight_scale"),
        (lambda s: {**s, "weight": s["weight"].float()}, "dtype mismatch for weight: expected torch.int8"),
        (lambda s: {**s, "weight_scale": s["weight_scale"] / 0}, "NaN or infinite scale"),
        (lambda s: make_conv(PLAIN).state_dict(), "Missing key.*weight_scale"),
    ],
)
def test_state_dicts_that_do_not_fit_change_nothing(change, message):
    layer = native(make_conv(PLAIN, seed=1))
    before = canonical(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(canonical(native(make_conv(PLAIN, seed=2)))))
    assert_same(canonical(layer), before)


# --------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("make", [ResNet, Inverted])
@pytest.mark.parametrize("form", ["measured", "bitmap"])
def test_save_and_load(tmp_path, make, device, form):
    torch.manual_seed(0)
    model = make().eval()
    convert_(model, Int8(form=form))
    save(model, tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["format_version"] == 5
    with torch.device(device):
        other = make().eval()
    load(other, tmp_path)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(run(other, x), run(model, x))
    assert explain(other).converted == explain(model).converted
    assert_same(other.state_dict(), model.state_dict())


def test_weights_with_many_zeros_are_stored_as_mask_and_values(tmp_path):
    conv = make_conv({**PLAIN, "in_channels": 32, "out_channels": 32})
    conv.weight.mul_(torch.rand(conv.weight.shape) < 0.2)
    model = nn.Sequential(conv)
    convert_(model, Int8())
    save(model, tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["sparse"] == ["0.weight"]
    other = load(nn.Sequential(make_conv({**PLAIN, "in_channels": 32, "out_channels": 32})), tmp_path)
    assert_same(other.state_dict(), model.state_dict())


def test_one_convolution_in_two_places_is_stored_once(tmp_path):
    def make():
        conv = nn.Conv2d(4, 4, 3, padding=1)
        return nn.Sequential(conv, nn.ReLU(), conv)

    model = make()
    convert_(model, Int8())
    save(model, tmp_path)
    assert not any(name.startswith("2.") for name in safetensors.torch.load_file(tmp_path / TENSORS))
    other = load(make(), tmp_path)
    assert other[0] is other[2]
    assert_same(other.state_dict(), model.state_dict())


def test_fused_convolutions_come_back_in_fused_models(tmp_path):
    def make():
        return nn.Sequential(FusedConv2d(4, 4, 3, stride=2, same_padding=True, activation="hardswish"))

    model = make()
    convert_(model, Int8())
    save(model, tmp_path)
    other = load(make(), tmp_path)
    x = make_images((2, 4, 7, 8))
    assert torch.equal(run(other, x), run(model, x))


# ------------------------------------------------------------------------------------------------ files at odds


@pytest.fixture
def saved(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    convert_(model, Int8())
    save(model, tmp_path)
    return tmp_path


def assert_refused(folder, error, message, model=None):
    model = model or nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    before = snapshot(model)
    with pytest.raises(error, match=message):
        load(model, folder)
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), r"has stride=\(1, 1\), the model's \(2, 2\)"),
        (lambda: nn.Conv2d(4, 6, 3), r"has padding=\(1, 1\), the model's \(0, 0\)"),
        (lambda: nn.Conv2d(4, 6, 3, padding="same"), r"has padding=\(1, 1\), the model's 'same'"),
        (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), "has padding_mode='zeros'"),
        (lambda: nn.Conv2d(4, 6, 5, padding=1), r"weight is \[6, 4, 3, 3\], the model's \[6, 4, 5, 5\]"),
        (lambda: FusedConv2d(4, 6, 3, padding=1, activation="relu"), "has activation='none', the model's 'relu'"),
        (lambda: nn.Linear(4, 6), "the model has no layer '0', which the checkpoint converts"),
    ],
)
def test_another_convolution_is_refused(saved, module, message):
    assert_refused(saved, CheckpointMismatchError, message, nn.Sequential(module()))


def test_a_fused_checkpoint_does_not_go_into_a_model_that_is_not_fused(tmp_path):
    model = nn.Sequential(FusedConv2d(4, 6, 3, padding=1, activation="hardswish"))
    convert_(model, Int8())
    save(model, tmp_path)
    assert_refused(tmp_path, CheckpointMismatchError, r"activation='hardswish', the model's 'none'; fuse .*fuse_\(")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["convs"][0].update(stride=[1]), r"stride must be 2 whole numbers, got \[1\]"),
        (lambda d: d["convs"][0].update(stride=[0, 1]), r"layer '0': .*stride must be one or two whole numbers"),
        (lambda d: d["convs"][0].update(groups=0), "groups must be a whole number from 1"),
        (lambda d: d["convs"][0].update(groups=True), "groups must be int, got bool"),
        (lambda d: d["convs"][0].update(out_channels=10**30), "too large to be packed"),
        (lambda d: d["convs"][0].update(padding="__import__"), "padding must be 'same', 'valid'"),
        (lambda d: d["convs"][0].update(pads=[0, 1, 2]), "pads must be 4 whole numbers"),
        (lambda d: d["convs"][0].update(same_padding=1), "same_padding must be bool, got int"),
        (lambda d: d["convs"][0].update(dtype="float64"), "dtype must be one of"),
        (lambda d: d["convs"][0].update(activation="tanh"), "activation: expected one of"),
        (lambda d: d["convs"][0].update(scheme={"format": "f16"}), r"a convolution cannot be of scheme Float16\(\)"),
        (lambda d: d["convs"][0].update(scheme={"format": "int8", "activations": "float"}), "is for linear layers"),
        (lambda d: d["convs"][0].pop("dilation"), "a layer must have exactly"),
    ],
)
def test_wrong_fields(saved, change, message):
    data = json.loads((saved / MANIFEST).read_text())
    change(data)
    (saved / MANIFEST).write_text(json.dumps(data))
    assert_refused(saved, CheckpointFormatError, message)


def test_tensors_that_do_not_hold_together(saved):
    data, tensors = json.loads((saved / MANIFEST).read_text()), safetensors.torch.load_file(saved / TENSORS)
    tensors["0.weight_scale"] = tensors["0.weight_scale"].flatten()
    content = safetensors.torch.save(tensors)
    data.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    data["tensors"]["0.weight_scale"]["shape"] = [6]
    (saved / MANIFEST).write_text(json.dumps(data))
    (saved / TENSORS).write_bytes(content)
    assert_refused(saved, CheckpointCorruptError, "(?s)layer '0' of the checkpoint cannot be packed.*size mismatch")
