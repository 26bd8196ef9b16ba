import copy
import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern.config import Float16, Float32, Int4, Int8, PerLayer, check_config, config_from_dict

names = st.text("abc.01", min_size=1).filter(lambda name: not name.startswith("re:"))
rules = st.dictionaries(
    st.one_of(names, names.map(lambda name: f"re:{name}.*"), st.just("_default")),
    st.sampled_from(
        [
            None,
            Int8(),
            Int8(rows=7),
            Int4(),
            Int4(32, symmetric=True, clip="mse"),
            Float32(),
            Float32(channels=4, rows=(1, 2)),
            Float16(),
            Float16(channels=1),
        ]
    ),
    min_size=1,
)


def test_int8_is_a_frozen_value():
    assert Int8() == Int8()
    assert hash(Int8()) == hash(Int8())
    assert Int8().to_dict() == {"format": "int8"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Int8().format = "int4"


def test_int4_is_a_frozen_value():
    assert Int4() == Int4(group_size=128, symmetric=False, clip="none", rows=[128, 1, 16, 1])
    assert Int4().to_dict() == {"format": "int4"}
    scheme = Int4(64, True, "bitmap", 1, "mse")
    assert scheme.to_dict() == {
        "format": "int4",
        "group_size": 64,
        "symmetric": True,
        "form": "bitmap",
        "rows": [1],
        "clip": "mse",
    }
    assert config_from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    assert eval(repr(scheme)) == scheme
    with pytest.raises(dataclasses.FrozenInstanceError):
        Int4().group_size = 64


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group_size": 16}, ValueError, "Int4: group_size must be one of 32, 64, 128; got 16"),
        ({"group_size": 64.0}, ValueError, "Int4: group_size must be one of 32, 64, 128; got 64.0"),
        ({"group_size": "64"}, ValueError, "got '64'"),
        ({"symmetric": 1}, TypeError, "Int4: symmetric must be a bool, got int"),
        ({"form": "blocks_4"}, ValueError, "Int4: unknown form 'blocks_4'; this version knows measured, dense, bitmap"),
        ({"rows": 0}, ValueError, "Int4: rows must be 1 or more, got 0"),
        ({"rows": ()}, TypeError, "Int4: rows must be numbers of rows"),
        ({"clip": "max"}, ValueError, "Int4: unknown clip 'max'; this version knows none, mse, hqq"),
        ({"clip": None}, ValueError, "Int4: unknown clip None"),
    ],
)
def test_wrong_options_of_int4(options, error, message):
    with pytest.raises(error, match=message):
        Int4(**options)


def test_float32_and_float16_are_frozen_values():
    assert Float32() == Float32(channels="measured", rows=[128, 1, 16, 1])
    assert Float32().to_dict() == {"format": "f32"}
    assert Float16(rows=2).to_dict() == {"format": "f16", "rows": [2]}
    assert Float16() != Float32()
    assert Float32(channels=4, rows=32).to_dict() == {"format": "f32", "channels": 4, "rows": [32]}
    assert [repr(scheme) for scheme in (Float32(), Float32(channels=2), Int8(), Int8(rows=3))] == [
        "Float32()",
        "Float32(channels=2)",
        "Int8()",
        "Int8(rows=(3,))",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 3}, ValueError, "Float32: channels must be 'measured' or one of 1, 2, 4, 8; got 3"),
        ({"channels": "blocks_4"}, ValueError, "got 'blocks_4'"),
        ({"channels": True}, ValueError, "got True"),
        ({"channels": 4.0}, ValueError, "got 4.0"),
        ({"rows": ()}, TypeError, "Float32: rows must be numbers of rows"),
        ({"rows": "16"}, TypeError, "Float32: rows must be numbers of rows"),
        ({"rows": (0, 4)}, ValueError, "Float32: rows must be 1 or more, got 0"),
        ({"rows": (1.5,)}, TypeError, "Float32: rows must be an int"),
    ],
)
def test_wrong_options_of_float32_and_float16(options, error, message):
    with pytest.raises(error, match=message):
        Float32(**options)
    with pytest.raises(error, match=message.replace("Float32", "Float16")):
        Float16(**options)


@given(rules)
def test_per_layer_survives_json_and_copies(rules):
    config = PerLayer(rules)
    data = json.loads(json.dumps(config.to_dict()))
    back = config_from_dict(data)
    assert back == config
    assert list(back.rules) == list(rules), "patterns are tried in order, so the order must survive"
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert hash(back) == hash(config)


def test_per_layer_does_not_follow_later_changes_of_its_argument():
    rules = {"_default": Int8()}
    config = PerLayer(rules)
    rules["other"] = None
    assert config.rules == {"_default": Int8()}


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ([("a", None)], TypeError, "mapping"),
        ({}, ValueError, "no rules"),
        ({1: None}, TypeError, "key must be a string"),
        ({"": None}, ValueError, "names no layer"),
        ({"re:": None}, ValueError, "names no layer"),
        ({"re:(": None}, ValueError, "regular expression"),
        ({"a": "int8"}, TypeError, "scheme"),
        ({"a": Int8}, TypeError, r"write Int8\(\)"),
        ({"a": PerLayer({"b": None})}, TypeError, "scheme"),
    ],
)
def test_wrong_rules_are_refused_at_once(rules, error, message):
    with pytest.raises(error, match=message):
        PerLayer(rules)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("int8", TypeError, "mapping"),
        ({}, ValueError, "unknown format None"),
        ({"format": "os.system"}, ValueError, "unknown format 'os.system'"),
        ({"format": ["int8"]}, ValueError, "unknown format"),
        ({"format": "int8", "bits": 8}, ValueError, "no option 'bits'"),
        ({"format": "per_layer"}, ValueError, "takes 'rules'"),
        ({"format": "per_layer", "rules": {"a": None}, "more": 1}, ValueError, "takes 'rules'"),
        ({"format": "per_layer", "rules": {"a": 3}}, TypeError, "mapping"),
        ({"format": "per_layer", "rules": {"a": {"format": "per_layer", "rules": {}}}}, ValueError, "unknown format"),
    ],
)
def test_wrong_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        config_from_dict(data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Int8, r"write Int8\(\.\.\.\)"),
        ({"a": Int8()}, "wrap it: PerLayer"),
        ("int8", "got str"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_config_says_what_to_write(config, message):
    with pytest.raises(TypeError, match=message):
        check_config(config)
