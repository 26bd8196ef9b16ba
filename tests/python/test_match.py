import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern.match import Match, match

NAMES = ["encoder.0.mlp.up", "encoder.0.mlp.down", "encoder.0.attention.q", "encoder.1.mlp.up", "lm_head"]


def values(rules):
    return {name: found.value for name, found in match(rules, NAMES).items()}


def test_exact_beats_pattern_beats_default_whatever_the_order():
    assert values({"_default": 0, "re:.*mlp.*": 1, "encoder.0.mlp.up": 2}) == {
        "encoder.0.mlp.up": 2,
        "encoder.0.mlp.down": 1,
        "encoder.0.attention.q": 0,
        "encoder.1.mlp.up": 1,
        "lm_head": 0,
    }


def test_the_first_pattern_wins():
    assert match({"re:.*up": 1, "re:.*mlp.*": 2}, NAMES)["encoder.0.mlp.up"] == Match("re:.*up", 1)
    assert match({"re:.*mlp.*": 2, "re:.*up": 1}, NAMES)["encoder.0.mlp.up"] == Match("re:.*mlp.*", 2)


def test_patterns_match_whole_names():
    assert values({r"re:encoder\.\d\.mlp\.up": 1}) == {"encoder.0.mlp.up": 1, "encoder.1.mlp.up": 1}


def test_names_without_a_rule_are_absent():
    assert values({"lm_head": 7}) == {"lm_head": 7}


def test_ranks_order_the_three_kinds_of_rules():
    assert [Match(rule, None).rank for rule in ("_default", "re:a", "a")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("lm_haed", r"no layer is called 'lm_haed'; close to it: 'lm_head'"),
        ("encoder.0.mlp.upp", r"close to it: 'encoder.0.mlp.up'"),
        ("encoder.0", r"not a layer but holds 3 of them; 're:encoder\\\\.0\\\\\.\.\*' names those"),
        ("zzz", r"nothing is close to it; the model's 5 layers begin with 'encoder.0.mlp.up'"),
        ("re:mlp", r"only part of 3 \('encoder.0.mlp.up'\); did you mean 're:\.\*\(mlp\)\.\*'"),
        (r"re:encodr\.0\.mlp\..*", r"matches no layer; close to it: 'encoder.0.mlp"),
        ("re:decoder.*", "matches no layer"),
    ],
)
def test_a_rule_for_nothing_is_an_error_that_helps(rule, message):
    with pytest.raises(ValueError, match=message):
        match({"_default": 0, rule: 1}, NAMES)


def test_suggested_patterns_work():
    for rule in ("re:mlp", "encoder.0", "re:up|down"):
        with pytest.raises(ValueError, match="re:") as error:
            match({rule: 1}, NAMES)
        suggestion = re.findall(r"'(re:[^']*)'", str(error.value))[-1]
        assert match({suggestion.replace("\\\\", "\\"): 1}, NAMES)


def test_a_model_without_layers_has_nothing_to_name():
    assert match({"_default": 1}, []) == {}
    with pytest.raises(ValueError, match="no layers"):
        match({"a": 1}, [])


@given(st.lists(st.text("ab.", min_size=1), unique=True, min_size=1), st.data())
def test_every_name_gets_its_own_exact_rule(names, data):
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
    found = match({**{name: name for name in chosen}, "re:.*": "pattern", "_default": "default"}, names)
    assert {name: rule.value for name, rule in found.items()} == {
        name: name if name in chosen else "pattern" for name in names
    }
