"""Checkpoints that are damaged, forged, or made for another model: a named error, and the model as it was."""

import hashlib
import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LanguageModel, assert_untouched, native_names, snapshot
from torch import nn

from edgekern import Int8, convert_, load, save
from edgekern.checkpoint import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointVersionError,
)

MANIFEST, TENSORS = "edgekern.json", "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The two files of a sound checkpoint, as (manifest text, tensor bytes)."""
    torch.manual_seed(0)
    model, folder = LanguageModel(), tmp_path_factory.mktemp("original")
    convert_(model, Int8())
    save(model, folder)
    return (folder / MANIFEST).read_text(), (folder / TENSORS).read_bytes()


def write(folder, text, tensors):
    (folder / MANIFEST).write_text(text)
    (folder / TENSORS).write_bytes(tensors)


def assert_refused(folder, error, message="", model=None):
    model = model or LanguageModel()
    before = snapshot(model)
    with pytest.raises(error, match=message) as raised:
        load(model, folder)
    assert isinstance(raised.value, CheckpointError)
    assert isinstance(raised.value, ValueError)
    assert_untouched(model, before)


def forge(folder, original, change):
    """Writes the checkpoint with other tensors and a description that is consistent with them."""
    data = json.loads(original[0])
    tensors = safetensors.torch.load(original[1])
    change(data, tensors)
    content = safetensors.torch.save(tensors)
    data["size"], data["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    data["tensors"] = {
        name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for name, t in tensors.items()
    }
    write(folder, json.dumps(data), content)


# ------------------------------------------------------------------------------------------------ missing files


def test_missing_files(tmp_path, original):
    assert_refused(tmp_path / "nowhere", CheckpointNotFoundError, "is not a directory")
    assert_refused(tmp_path, CheckpointNotFoundError, "holds no edgekern.json; expected what edgekern.save writes")
    (tmp_path / MANIFEST).write_text(original[0])
    assert_refused(tmp_path, CheckpointNotFoundError, r"holds no model.safetensors")


# ------------------------------------------------------------------------------------------------- the description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "describes something else"),
        ('{"model_type": "bert"}', "describes something else"),
        ('{"format": "edgekern", "format_version": 1}', "must have exactly"),
    ],
)
def test_what_is_no_description(tmp_path, original, text, message):
    write(tmp_path, text, original[1])
    assert_refused(tmp_path, CheckpointFormatError, message)


def test_a_description_that_is_no_text(tmp_path, original):
    write(tmp_path, "", original[1])
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    assert_refused(tmp_path, CheckpointFormatError, "is not UTF-8")


@pytest.mark.parametrize("version", [0, 6, "1", None, True, 1.5])
def test_other_versions(tmp_path, original, version):
    data = {**json.loads(original[0]), "format_version": version}
    write(tmp_path, json.dumps(data), original[1])
    assert_refused(tmp_path, CheckpointVersionError, "this edgekern reads up to 5; save the model again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(layers={}), "layers must be list, got dict"),
        (lambda d: d.update(size="1"), "size must be int, got str"),
        (lambda d: d.update(more=1), "must have exactly"),
        (lambda d: d["layers"][0].update(names=[]), "a layer has no names"),
        (lambda d: d["layers"][0].update(names=[1]), "names must be a list of strings"),
        (lambda d: d["layers"][0].update(scheme={"format": "os.system"}), "unknown format 'os.system'"),
        (lambda d: d["layers"][0].update(scheme={"format": "int8", "isa": "avx2"}), "no option 'isa'"),
        (lambda d: d["layers"][0].update(in_features=True), "in_features must be int, got bool"),
        (lambda d: d["layers"][0].update(in_features=0), "cannot pack 0 features in"),
        (lambda d: d["layers"][0].update(out_features=10**30), "layer 'blocks.0.up': .* cannot pack"),
        (lambda d: d["layers"][0].update(activation="tanh"), "activation: expected one of"),
        (lambda d: d["layers"][0].update(dtype="float64"), "dtype must be one of"),
        (lambda d: d["layers"][0].update(bias_dtype="__import__"), "dtype must be one of"),
        (lambda d: d["layers"][0].pop("dtype"), "a layer must have exactly"),
        (lambda d: d["tensors"]["embed.weight"].update(shape=[-1]), "shape must be a list of sizes"),
        (lambda d: d["aliases"].update({"lm_head.weight": "nothing"}), "alias 'lm_head.weight' must name a stored"),
        (lambda d: d["aliases"].update({"embed.weight": "embed.weight"}), "alias 'embed.weight' must name a stored"),
        (lambda d: d.update(non_persistent=["x"]), "non_persistent names 'x'"),
    ],
)
def test_wrong_fields(tmp_path, original, change, message):
    data = json.loads(original[0])
    change(data)
    write(tmp_path, json.dumps(data), original[1])
    assert_refused(tmp_path, CheckpointFormatError, message)


# ------------------------------------------------------------------------------------------------------ the tensors


def test_truncated_or_changed_bytes(tmp_path, original):
    text, tensors = original
    write(tmp_path, text, tensors[:-1])
    assert_refused(tmp_path, CheckpointCorruptError, f"has {len(tensors) - 1} bytes, edgekern.json says {len(tensors)}")
    write(tmp_path, text, tensors[:-1] + bytes([tensors[-1] ^ 1]))
    assert_refused(tmp_path, CheckpointCorruptError, "SHA-256 differs")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 64, (20).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
)
def test_a_checksum_does_not_make_it_a_safetensors_file(tmp_path, original, content):
    data = json.loads(original[0])
    data.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    write(tmp_path, json.dumps(data), content)
    assert_refused(tmp_path, CheckpointCorruptError, "is not a safetensors file")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape":[64,16]', b'"shape":[64,17]'),
        (b'"shape":[64,16]', b'"shape":[16,64]'),
        (b'"dtype":"I8"', b'"dtype":"U8"'),
        (b'"dtype":"F32"', b'"dtype":"I32"'),
        (b'"embed.weight"', b'"embed.weighs"'),
        (b'"data_offsets":[', b'"data_offsets":[9'),
    ],
)
def test_headers_that_lie(tmp_path, original, old, new):
    content = original[1]
    assert old in content
    content = content.replace(old, new, 1)
    length = int.from_bytes(content[:8], "little") + len(new) - len(old)
    content = length.to_bytes(8, "little") + content[8:]
    data = json.loads(original[0])
    data.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    write(tmp_path, json.dumps(data), content)
    assert_refused(tmp_path, CheckpointCorruptError, TENSORS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: t.pop("blocks.0.up.weight_scale"), "cannot be packed: .*Missing key"),
        (lambda d, t: t.update({"blocks.0.up.zero": torch.ones(1)}), "cannot be packed: .*Unexpected key"),
        (lambda d, t: t["blocks.0.up.weight_scale"].fill_(float("nan")), "NaN or infinite scale"),
        (lambda d, t: t.update({"blocks.0.up.weight": torch.ones(64, 16)}), "dtype mismatch"),
        (lambda d, t: t.update({"blocks.0.up.bias": torch.ones(63)}), "size mismatch"),
    ],
)
def test_layers_that_do_not_hold_together(tmp_path, original, change, message):
    forge(tmp_path, original, change)
    assert_refused(tmp_path, CheckpointCorruptError, f"(?s)layer 'blocks.0.up' of the checkpoint .*{message}")


# -------------------------------------------------------------------------------------------------- another model


def other_model(change):
    model = LanguageModel()
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4)), "has no layer 'blocks.0.up'.*nothing is close"),
        (other_model(lambda m: delattr(m.blocks[0], "up")), "has no layer 'blocks.0.up'.*close to it: 'blocks.1.up'"),
        (LanguageModel(size=8), r"'blocks.0.up': the checkpoint's weight is \[64, 16\], the model's \[32, 8\]"),
        (LanguageModel(words=41), r"'embed.weight' is float32 \[41, 16\] in the model, float32 \[40, 16\]"),
        (LanguageModel().bfloat16(), r"'embed.weight' is bfloat16 \[40, 16\] in the model, float32"),
        (other_model(lambda m: m.add_module("more", nn.LayerNorm(3))), "'more.weight' is missing from the checkpoint"),
        (other_model(lambda m: delattr(m, "lm_head")), "'lm_head.weight' is unknown to the model"),
        (other_model(lambda m: m.blocks.__setitem__(1, m.blocks[0])), "the checkpoint shares one layer under"),
        (other_model(lambda m: m.blocks[0].up.register_buffer("x", torch.ones(1))), "cannot be replaced: holds more"),
        (nn.Linear(4, 4), "has no layer"),
    ],
)
def test_models_that_do_not_fit(tmp_path, original, model, message):
    write(tmp_path, *original)
    assert_refused(tmp_path, CheckpointMismatchError, f"(?s){message}", model)


def test_a_model_that_ties_what_the_checkpoint_does_not(tmp_path):
    model = LanguageModel(tied=False)
    convert_(model, Int8())
    save(model, tmp_path)
    message = "'embed.weight' and 'lm_head.weight' are one tensor in the model, not in the checkpoint"
    assert_refused(tmp_path, CheckpointMismatchError, message)
    load(LanguageModel(tied=False), tmp_path)


def test_a_meta_buffer_that_no_file_fills(tmp_path):
    def make(buffer):
        model = LanguageModel()
        if buffer:
            model.register_buffer("inverse", torch.ones(3), persistent=False)
        return model

    model = make(buffer=False)
    convert_(model, Int8())
    save(model, tmp_path)
    with torch.device("meta"):
        other = make(buffer=True)
    with pytest.raises(CheckpointMismatchError, match=r"buffer 'inverse' has no values in the model \(meta device\)"):
        load(other, tmp_path)
    assert native_names(other) == []
    assert torch.equal(load(make(buffer=True), tmp_path).inverse, torch.ones(3))


def test_many_problems_are_cut_short(tmp_path, original):
    write(tmp_path, *original)
    model = other_model(lambda m: [m.add_module(f"more{i}", nn.LayerNorm(3)) for i in range(10)])
    assert_refused(tmp_path, CheckpointMismatchError, r"(?s)'more0.bias' is missing.*and 10 more", model)


# --------------------------------------------------------------------------------------------------------- fuzzing


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)


def paths(value, path=()):
    """The path of every node of a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def load_unless_refused(folder):
    """The loaded model; None when the checkpoint was refused, with the model left as it was."""
    model = LanguageModel()
    before = snapshot(model)
    try:
        return load(model, folder)
    except CheckpointError:
        assert_untouched(model, before)
        return None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_the_description_is_refused_or_harmless(tmp_path_factory, original, data):
    document = json.loads(original[0])
    path = data.draw(st.sampled_from([path for path in paths(document) if path and path != ("edgekern_version",)]))
    *parents, last = path
    changed = document
    for key in parents:
        changed = changed[key]
    if data.draw(st.booleans()):
        del changed[last]
    else:
        changed[last] = data.draw(junk)
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, json.dumps(document), original[1])
    model = load_unless_refused(folder)
    if model is not None:
        reference = folder / "reference"
        reference.mkdir()
        write(reference, *original)
        expected = load(LanguageModel(), reference).state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor.float(), expected[name].float())


@settings(max_examples=150, deadline=None)
@given(data=st.data(), checksummed=st.booleans())
def test_any_change_of_the_tensor_file_is_refused(tmp_path_factory, original, data, checksummed):
    content = bytearray(original[1])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        header = 8 + int.from_bytes(content[:8], "little")
        for position in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4, unique=True)):
            content[position] ^= data.draw(st.integers(1, 255))
    description = original[0]
    if checksummed:
        fields = json.loads(description)
        fields.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        description = json.dumps(fields)
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, description, bytes(content))
    if load_unless_refused(folder) is not None:
        # The forger may recompute the checksum and spoil what nothing depends on: metadata, spaces of the header.
        assert checksummed
