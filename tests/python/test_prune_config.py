import dataclasses
import json
import pickle

import pytest
from torch import nn

from edgekern import CheckpointError, Int4, Int8, PerLayer, Prune, config_from_dict, convert_, load, prune_, save


@pytest.mark.parametrize(
    "config",
    [
        Prune(0.5),
        Prune(0.8, "4x4", "magnitude", "global", min_sparsity=0.2, max_sparsity=0.9),
        Prune(pattern="2:4", method="sparsegpt", damping=0.1, block_size=64),
        Prune(0.5, method="sparsegpt", joint=Int8(), target="this CPU"),
        Prune(0.5, method="sparsegpt", joint=Int4(64, symmetric=True, rows=1)),
        PerLayer({"a": Prune(0.7, "1x4", "wanda"), "re:b.*": None, "_default": Prune(0.5, method="random", seed=3)}),
    ],
)
def test_it_is_a_frozen_value_that_survives_json(config):
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(config_from_dict(config.to_dict()))
    assert eval(repr(config)) == config


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prune(0.5).sparsity = 0.6


def test_it_is_written_as_short_as_it_can_be():
    assert repr(Prune(0.5)) == "Prune(sparsity=0.5)"
    assert repr(Prune(0.8, "4x4", "wanda")) == "Prune(sparsity=0.8, pattern='4x4', method='wanda')"


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5), ("1:3", 2 / 3)])
def test_n_of_m_settles_the_sparsity(pattern, sparsity):
    assert Prune(pattern=pattern).sparsity == pytest.approx(sparsity)
    assert Prune(sparsity, pattern) == Prune(pattern=pattern)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, r"'unstructured' needs one, as Prune\(0.5, 'unstructured'\)"),
        ({"sparsity": "0.5"}, TypeError, "sparsity must be a number, got str"),
        ({"sparsity": True}, TypeError, "sparsity must be a number, got bool"),
        ({"sparsity": 1.5}, ValueError, "sparsity must be 0 to 1, got 1.5"),
        ({"sparsity": -0.1}, ValueError, "0 to 1"),
        ({"sparsity": float("nan")}, ValueError, "0 to 1"),
        ({"sparsity": 0.5, "pattern": 4}, TypeError, "pattern must be a string"),
        ({"sparsity": 0.5, "pattern": "4*4"}, ValueError, "unknown pattern '4\\*4'; expected 'unstructured'"),
        ({"sparsity": 0.5, "pattern": "0x4"}, ValueError, "unknown pattern"),
        ({"pattern": "4:4"}, ValueError, "would keep everything"),
        ({"sparsity": 0.7, "pattern": "2:4"}, ValueError, "does not go with pattern '2:4', which means 0.5"),
        ({"sparsity": "x", "pattern": "2:4"}, TypeError, "must be a number"),
        ({"sparsity": 0.5, "method": "taylor"}, ValueError, "unknown method 'taylor'; this version knows magnitude"),
        ({"sparsity": 0.5, "scope": "layer"}, ValueError, "unknown scope 'layer'"),
        ({"pattern": "2:4", "scope": "global"}, ValueError, "the same share everywhere"),
        ({"sparsity": 0.5, "scope": "global", "method": "wanda"}, ValueError, "do not compare across layers"),
        ({"sparsity": 0.5, "scope": "global", "min_sparsity": 0.6}, ValueError, "lies outside of min_sparsity 0.6"),
        ({"sparsity": 0.5, "max_sparsity": 0.6}, ValueError, "bound the scopes 'global' and 'owl', not 'local'"),
        ({"sparsity": 0.5, "damping": -1}, ValueError, "damping must be 0 or more"),
        ({"sparsity": 0.5, "damping": float("inf")}, ValueError, "damping"),
        ({"sparsity": 0.5, "seed": 0.5}, TypeError, "seed must be an int, got float"),
        ({"sparsity": 0.5, "block_size": 0}, ValueError, "block_size must be 1 or more"),
        ({"sparsity": 0.5, "joint": "int8"}, TypeError, r"joint must be Int8\(\), Int4\(\) or None, got str"),
        ({"sparsity": 0.5, "joint": Int4}, TypeError, "got the class Int4"),
        ({"sparsity": 0.5, "joint": Int8()}, ValueError, "for method='sparsegpt'; with 'magnitude', prune and then"),
        ({"sparsity": 0.5, "target": 3}, TypeError, "target must be a string such as 'this CPU' or 'avx2', got int"),
        ({"sparsity": 0.5, "target": "sse2"}, ValueError, "unknown target 'sse2'; this version knows 'this CPU', avx5"),
        (
            {"pattern": "2:4", "method": "sparsegpt", "block_size": 30},
            ValueError,
            "multiple of the width of pattern '2:4', 4; got 30",
        ),
    ],
)
def test_wrong_options_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Prune(**options)


def test_each_function_takes_its_own_schemes():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(TypeError, match="Prune is for prune_, not for convert_"):
        convert_(model, PerLayer({"0": Prune(0.5), "_default": Int8()}))
    with pytest.raises(TypeError, match="Int8 is for convert_, not for prune_"):
        prune_(model, Int8())
    with pytest.raises(TypeError, match=r"write Prune\(...\)"):
        prune_(model, Prune)


def test_a_file_that_calls_pruning_a_format_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    convert_(model, Int8())
    save(model, tmp_path / "saved")
    manifest = next(path for path in (tmp_path / "saved").iterdir() if path.suffix == ".json")
    data = json.loads(manifest.read_text())
    data["layers"][0]["scheme"] = Prune(0.5).to_dict()
    manifest.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="'prune' is not a format of stored weights"):
        load(nn.Sequential(nn.Linear(4, 4)), tmp_path / "saved")
