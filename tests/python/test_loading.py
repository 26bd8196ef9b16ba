"""Layers converted as their weights arrive, without any library that loads checkpoints."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.loading import Arrivals, MappedFiles, StoredLayers, records_from_data, records_of, records_to_data  # noqa: E402


def build():
    model = nn.Sequential(nn.Linear(24, 32), nn.LayerNorm(32), nn.Linear(32, 24, bias=False), nn.Linear(24, 24))
    return model.eval()


@pytest.fixture
def source():
    torch.manual_seed(0)
    return build()


@pytest.fixture
def empty():
    with torch.device("meta"):
        return build()


def arrive(model, arrivals, state):
    """Hands every tensor to whom it belongs, as a loader does."""
    for name, tensor in state.items():
        if name in arrivals:
            arrivals.take(name, tensor)
        else:
            module, _, attribute = name.rpartition(".")
            model.get_submodule(module)._parameters[attribute] = nn.Parameter(tensor)


def test_each_layer_is_converted_when_it_is_whole(source, empty):
    arrivals = Arrivals(empty, ek.PerLayer({"3": None, "_default": ek.Int8()}))
    state = source.state_dict()
    assert [name for name in state if name in arrivals] == ["0.weight", "0.bias", "2.weight"]
    arrivals.take("0.bias", state["0.bias"])
    assert isinstance(empty[0], nn.Linear)
    arrivals.take("0.weight", state["0.weight"])
    assert isinstance(empty[0], ek.nn.Int8Linear)
    assert "0.weight" not in arrivals
    arrive(empty, arrivals, {name: tensor for name, tensor in state.items() if not name.startswith("0.")})
    report = arrivals.finish()

    expected = ek.convert_(source, ek.PerLayer({"3": None, "_default": ek.Int8()}))
    assert report == expected == ek.explain(empty)
    x = torch.randn(5, 24)
    with torch.inference_mode():
        assert torch.equal(empty(x), source(x))


def test_float_layers_that_would_not_gain_stay_and_keep_their_values(source, empty):
    arrivals = Arrivals(empty, ek.Float32())
    arrive(empty, arrivals, source.state_dict())
    assert all(row.reason for row in arrivals.finish())
    x = torch.randn(5, 24)
    with torch.inference_mode():
        assert torch.equal(empty(x), source(x))


def test_a_tied_layer_waits_for_the_other_name():
    with torch.device("meta"):
        model = nn.ModuleDict({"embedding": nn.Embedding(16, 8), "head": nn.Linear(8, 16, bias=False)})
    tied = {"head.weight": "embedding.weight"}
    with pytest.raises(ek.ConvertError, match=r"'head' .*: its weight is also 'embedding.weight'"):
        Arrivals(model, ek.Int8(), tied)
    arrivals = Arrivals(model, ek.PerLayer({"head": ek.Int8()}), tied)
    assert "head.weight" not in arrivals
    with pytest.raises(ek.ConvertError, match="no values for 'head'"):
        arrivals.finish()
    weight = nn.Parameter(torch.randn(16, 8))
    model["embedding"].weight = model["head"].weight = weight
    arrivals.finish()
    assert isinstance(model["head"], ek.nn.Int8Linear)
    assert model["embedding"].table is model["head"]


def test_what_is_wrong_with_what_arrives(source, empty):
    state = source.state_dict()
    arrivals = Arrivals(empty, ek.Int8())
    with pytest.raises(ek.ConvertError, match=r"'2.weight' is \[24, 24\] in the checkpoint, \[24, 32\] in the model"):
        arrivals.take("2.weight", state["3.weight"])
    with pytest.raises(ek.ConvertError, match="the weight of '2' holds NaN"):
        arrivals.take("2.weight", torch.full((24, 32), torch.nan))
    with pytest.raises(ek.ConvertError, match=r"'2' cannot be converted: its weight is torch.float64"):
        arrivals.take("2.weight", state["2.weight"].double())
    with pytest.raises(ek.ConvertError, match=r"no values for '0.weight', '0.bias', .*incomplete"):
        arrivals.finish()
    with pytest.raises(TypeError, match="Prune is for prune_"):
        Arrivals(empty, ek.Prune(0.5))


def test_stored_layers(source, empty):
    ek.convert_(source, ek.PerLayer({"3": None, "_default": ek.Int8(rows=4)}))
    records = records_from_data(records_to_data(records_of(source)))
    assert records == records_of(source)
    stored = StoredLayers(empty, records)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in source.state_dict().items()
    }
    empty.load_state_dict(source.state_dict(), assign=True)
    seen = []
    stored.pack(seen.append)
    assert len(seen) == 2
    x = torch.randn(5, 24)
    with torch.inference_mode():
        assert torch.equal(empty(x), source(x))
    assert empty[0].scheme == ek.Int8(rows=4)


def resident(path):
    """Bytes of a mapped file that are in this process's memory."""
    entries = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(entry.split("Rss:")[1].split()[0]) for entry in entries) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads what is resident from /proc")
@pytest.mark.not_emulated("the emulator maps files itself")
def test_pages_of_a_mapped_file_are_given_back_and_nothing_is_lost(tmp_path):
    path = tmp_path / "with a space"
    path.write_bytes(bytes(range(256)) * (1 << 14))
    os.sync()  # what is not on disk yet is kept
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as pages,
    ):
        pages[5] = 77  # a page of our own, from now on
        assert bytes(pages)[6:] == path.read_bytes()[6:]
        assert resident(path) >= len(pages)
        MappedFiles([path]).have_read(1 << 20)
        assert resident(path) >= len(pages)  # too little to bother
        MappedFiles([path]).let_go()
        assert resident(path) < len(pages) / 2
        assert (pages[5], pages[6], pages[-1]) == (77, 6, 255)
