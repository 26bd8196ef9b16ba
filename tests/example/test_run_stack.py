"""examples/cpp: the program computes what Python does, and says what is wrong with its files."""

from __future__ import annotations

import json
import runpy
import shutil

import numpy as np
import pytest
import torch
from commands import EXAMPLE
from safetensors.numpy import load_file, save_file
from torch import nn

import edgekern as ek


def any_program(test):
    """For what depends neither on the CPU nor on how the library is linked."""
    return pytest.mark.any_cpu(pytest.mark.parametrize("executable", ["static"], indirect=True)(test))


def test_same_output_as_python(program, cpu, exported, tmp_path):
    done = program(exported / "model", exported / "input.safetensors", tmp_path / "output.safetensors")
    assert done.returncode == 0, done.stderr
    assert "layer 1: 250 -> 130, activation gelu" in done.stdout
    expected = load_file(exported / "expected.safetensors")["y"]
    got = load_file(tmp_path / "output.safetensors")["y"]
    if cpu is None:  # the same kernels
        np.testing.assert_array_equal(got, expected)
    else:
        # Integers are exact everywhere. Floats may differ in their last bits, and then an activation may round to its
        # neighbour, 1/255 of its row's range away. In this stack one of them moves an output by up to 0.15 % of the
        # largest; three are allowed.
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.005 * np.abs(expected).max())


def test_another_number_of_rows(program, exported, tmp_path):
    """A row does not depend on the others, so fewer of them give the same values."""
    x = load_file(exported / "input.safetensors")["x"]
    for rows in (0, 1, 3):
        save_file({"x": x[:rows].copy()}, tmp_path / "input.safetensors")
        done = program(exported / "model", tmp_path / "input.safetensors", tmp_path / f"{rows}.safetensors")
        assert done.returncode == 0, done.stderr
    y = {rows: load_file(tmp_path / f"{rows}.safetensors")["y"] for rows in (0, 1, 3)}
    assert y[0].shape == (0, 10)
    np.testing.assert_array_equal(y[1], y[3][:1])


@any_program
def test_what_it_says_of_wrong_use(program, exported, tmp_path):
    done = program(exported / "model")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: run_stack MODEL INPUT OUTPUT")


def edit_header(**changes):
    def edit(folder):
        path = folder / "model/edgekern.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_layer(place, **changes):
    def edit(folder):
        path = folder / "model/edgekern.json"
        header = json.loads(path.read_text())
        header["layers"][place].update(changes)
        path.write_text(json.dumps(header))

    return edit


def edit_tensor(file, name, change):
    def edit(folder):
        tensors = load_file(folder / file)
        tensors[name] = np.ascontiguousarray(change(tensors[name]))
        save_file(tensors, folder / file)

    return edit


def drop_tensor(file, name):
    def edit(folder):
        tensors = load_file(folder / file)
        del tensors[name]
        save_file(tensors, folder / file)

    return edit


def cut(file, size):
    """Keeps `size` bytes; a negative size counts from the end, as in a slice."""

    def edit(folder):
        path = folder / file
        path.write_bytes(path.read_bytes()[:size])

    return edit


def remove(file):
    return lambda folder: (folder / file).unlink()


def save_instead(*layers):
    def edit(folder):
        model = nn.Sequential(*layers)
        ek.convert_(model, ek.PerLayer({r"re:[0-3]": ek.Int8()}))
        ek.save(model, folder / "model", overwrite=True)

    return edit


WEIGHTS = "model/model.safetensors"
HEADER = "model/edgekern.json"
INPUT = "input.safetensors"
DAMAGES = {
    "no header": (remove(HEADER), "edgekern.json: cannot be read: No such file"),
    "no weights": (remove(WEIGHTS), "model.safetensors: cannot be read: No such file"),
    "no input": (remove(INPUT), "input.safetensors: cannot be read: No such file"),
    "half a header": (cut(HEADER, 300), "edgekern.json: [json.exception.parse_error"),
    "header without layers": (edit_header(layers=[]), "the model has no int8 layer"),
    "layers of a wrong type": (edit_header(layers=[1]), "edgekern.json: [json.exception.type_error"),
    "header of something else": (edit_header(format="gguf"), "describes something else than an edgekern model"),
    "another version": (edit_header(format_version=2), "format_version is 2, this program reads 1"),
    "another scheme": (edit_layer(0, scheme={"format": "int4"}), 'layer 0 is {"format":"int4"}, expected int8'),
    "unknown activation": (edit_layer(0, activation="mish"), "unknown activation 'mish'"),
    "empty layer": (edit_layer(0, in_features=0), "layer 0 is empty"),
    "layers that do not meet": (edit_layer(1, in_features=251), "layer 1 takes 251 features, the one before gives 250"),
    "shared layer": (edit_layer(1, names=["1", "4"]), 'layer 1 is called ["1","4"]: the model is not a plain stack'),
    "activation not fused": (
        save_instead(nn.Linear(60, 8), nn.ReLU(), nn.Linear(8, 8)),
        'layer 1 is called ["2"]: the model is not a plain stack of int8 layers; save one as export.py does',
    ),
    "float layer": (save_instead(*(nn.Linear(60, 60) for _ in range(5))), "belongs to no int8 layer"),
    "weights cut off": (cut(WEIGHTS, -1), "model.safetensors: truncated: tensor"),
    "cut in the header": (cut(WEIGHTS, 100), "not a safetensors file: its header does not fit in its 100 bytes"),
    "cut in the length": (cut(WEIGHTS, 5), "truncated, or not a safetensors file"),
    "missing tensor": (drop_tensor(WEIGHTS, "2.bias"), "model.safetensors: has no tensor '2.bias'"),
    "weights of another dtype": (
        edit_tensor(WEIGHTS, "0.weight", lambda weight: weight.astype(np.float32)),
        "tensor '0.weight' is F32 [250,60], expected I8 [250,60]",
    ),
    "weights of another shape": (
        edit_tensor(WEIGHTS, "0.weight", lambda weight: weight.T),
        "tensor '0.weight' is I8 [60,250], expected I8 [250,60]",
    ),
    "bias of another dtype": (
        edit_tensor(WEIGHTS, "2.bias", lambda bias: bias.astype(np.float16)),
        "tensor '2.bias' is F16 [100], expected F32 [100]",
    ),
    "scale that is no number": (
        edit_tensor(WEIGHTS, "3.weight_scale", lambda scale: scale * np.float32("nan")),
        "layer 3: ",
    ),
    "input too wide": (
        edit_tensor(INPUT, "x", lambda x: np.pad(x, ((0, 0), (0, 1)))),
        "input.safetensors: tensor 'x' is F32 [16,61], expected F32 [16,60]",
    ),
    "input of another dtype": (
        edit_tensor(INPUT, "x", lambda x: x.astype(np.float64)),
        "tensor 'x' is F64 [16,60], expected F32 [16,60]",
    ),
    "input of one dimension": (edit_tensor(INPUT, "x", lambda x: x[0]), "tensor 'x' is F32 [60], expected F32 [60,60]"),
}


@any_program
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(program, exported, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    edit, message = DAMAGES[damage]
    edit(folder)
    done = program(folder / "model", folder / INPUT, folder / "output.safetensors")
    assert done.returncode == 1
    assert done.stderr.startswith("run_stack: ")
    assert message in done.stderr
    assert not (folder / "output.safetensors").exists()


@any_program
def test_bytes_that_do_not_fill_the_shape(program, exported, tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [16, 60], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / INPUT
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    done = program(exported / "model", path, tmp_path / "output.safetensors")
    assert done.returncode == 1
    assert "tensor 'x' is F32 [16,60], but has 8 bytes" in done.stderr


@any_program
def test_an_output_that_cannot_be_written(program, exported, tmp_path):
    done = program(exported / "model", exported / INPUT, tmp_path / "nowhere" / "output.safetensors")
    assert done.returncode == 1
    assert "output.safetensors: cannot be written: No such file or directory" in done.stderr


@any_program
def test_kernels_that_do_not_exist(program, exported, tmp_path):
    output = tmp_path / "output.safetensors"
    done = program(exported / "model", exported / INPUT, output, EDGEKERN_ISA="sse9")
    assert done.returncode == 1
    assert done.stderr.startswith("run_stack: EDGEKERN_ISA: ")


def test_export_refuses_what_a_checkpoint_does_not_record():
    fuse = runpy.run_path(str(EXAMPLE / "export.py"))["fuse"]
    with torch.inference_mode():
        for model in (
            nn.Sequential(nn.ReLU(), nn.Linear(4, 4)),
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.SiLU()),
        ):
            ek.convert_(model, ek.Int8())
            with pytest.raises(TypeError, match="expected int8 layers, each with at most one activation; got"):
                fuse(model)
