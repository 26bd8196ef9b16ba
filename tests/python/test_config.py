import copy
import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern.config import Int8, PerLayer, check_config, config_from_dict

names = st.text("abc.01", min_size=1).filter(lambda name: not name.startswith("re:"))
rules = st.dictionaries(
    st.one_of(names, names.map(lambda name: f"re:{name}.*"), st.just("_default")),
    st.one_of(st.none(), st.just(Int8())),
    min_size=1,
)


def test_int8_is_a_frozen_value():
    assert Int8() == Int8()
    assert hash(Int8()) == hash(Int8())
    assert Int8().to_dict() == {"format": "int8"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Int8().format = "int4"


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
