"""Recipes: what files mean, what is written again, and what mistakes say."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern.config import (
    STAGES,
    ConvertStage,
    DistilStage,
    EvaluateStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    Text,
    read_recipe,
    write_recipe,
)

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot read TOML")

CONVERT = '[[stage]]\nkind = "convert"\nscheme = "int8"\n'


GRADUAL = """[[stage]]
kind = "distil"
fit = { steps = 10 }
prune = { format = "prune", sparsity = 0.5, method = "movement" }
schedule = { begin = 1, end = 9 }
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_recipe(path)


def test_what_a_file_means(tmp_path):
    recipe = read(
        tmp_path,
        """
        [text]
        tokens = 64
        [[stage]]
        kind = "prune"
        scheme = { format = "prune", sparsity = 0.8, pattern = "4x4" }
        [[stage]]
        kind = "distil"
        layers = 0.5
        width = 0.75
        fit = { steps = 10, optimizer = { name = "sgd", lr = 0.1 } }
        [[stage]]
        kind = "convert"
        [stage.scheme]
        format = "per_layer"
        rules = { lm_head = "dense", "re:.*mlp.*" = { format = "int8", rows = 8 }, _default = "int4" }
        [[stage]]
        kind = "evaluate"
        threads = [1, 2]
        """,
    )
    rules = {"lm_head": None, "re:.*mlp.*": ek.Int8(rows=8), "_default": ek.Int4()}
    assert recipe == ek.Recipe(
        "mine",
        (
            EvaluateStage(name="before", threads=(1, 2)),
            PruneStage(name="prune", scheme=ek.Prune(0.8, "4x4")),
            DistilStage(
                name="distil",
                layers=0.5,
                width=0.75,
                fit=ek.FitConfig(steps=10, optimizer={"name": "sgd", "lr": 0.1}),
            ),
            ConvertStage(name="convert", scheme=ek.PerLayer(rules)),
            EvaluateStage(name="evaluate", threads=(1, 2)),
        ),
        Text(tokens=64),
    )
    assert list(recipe.stages[3].scheme.rules) == list(rules)


def test_stages_of_one_kind_get_names_of_their_own():
    stages = (ConvertStage(scheme=ek.Int8()), ConvertStage(name="convert", scheme=ek.Int8()), EvaluateStage())
    named = ek.Recipe("r", stages)
    assert [stage.name for stage in named.stages] == ["before", "convert-2", "convert", "evaluate"]
    assert ek.Recipe("r", named.stages) == named


FIT = ek.FitConfig(
    epochs=2,
    optimizer={"name": "adamw", "lr": 0.1},
    scheduler="cosine",
    clip=1.0,
    early_stop=ek.EarlyStop(3, restore_best=True),
)
RECIPES = [
    ek.Recipe("one", (ConvertStage(scheme=ek.Int8()),)),
    ek.Recipe(
        "many",
        (
            EvaluateStage(threads=(1, 4), seconds=0.5, layers=False),
            PruneStage(scheme=ek.Prune(0.5, "4x4", "sparsegpt", joint=ek.Int4(32)), sequential=False),
            FineTuneStage(fit=FIT, qat=ek.PerLayer({"b": ek.Int8(), "a": None, "_default": ek.Int4()})),
            DistilStage(fit=ek.FitConfig(steps=3), layers=2, width=0.5, soft=0.5, hidden=0, hard=0.5, keep_zeros=False),
            FineTuneStage(fit=FIT, prune=ek.Prune(0.8, "4x4", "movement"), schedule=ek.AGP(5, 50, 5, 0.5)),
            QuantizeStage(scheme=ek.AWQ(ek.GPTQ(ek.Int4(32)), steps=3)),
            ConvertStage(),
        ),
        Text(8, 2, 1, 1, 5),
    ),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_written_and_read_again(tmp_path, recipe):
    pytest.importorskip("tomli_w")
    write_recipe(recipe, tmp_path / "r.toml")
    again = read_recipe(tmp_path / "r.toml")
    assert again == recipe
    assert {type(stage).kind for stage in RECIPES[1].stages} == STAGES.keys()
    text = (tmp_path / "r.toml").read_text()
    assert "seed = " in text
    if recipe.name == "many":
        for default in ("accumulate = 1", "damping = 0.01", "temperature = 2.0", "patience = 3", "min_delta = 0.0"):
            assert default in text


@given(
    st.dictionaries(
        st.sampled_from(["name", "text", "stage", "kind", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["kind", "fit", "scheme", "format", "name", "steps"]), inner, max_size=4
                )
            ),
            max_leaves=8,
        ),
    )
)
@settings(max_examples=100, deadline=None)
def test_no_data_do_worse_than_a_value_error(data):
    try:
        recipe = ek.Recipe.from_dict(data)
    except ValueError:
        return
    assert ek.Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage = 3", "stage: expected a list of tables"),
        ("", "no stages"),
        (b"\xff", "can't decode"),
        ("colour = 1\n" + CONVERT, "no key 'colour'; a recipe has name, text and tables"),
        ("[text]\nwords = 3\n" + CONVERT, "text has no option 'words'; it has tokens, batch"),
        ("[text]\ntokens = 1\n" + CONVERT, "text: tokens must be 2 or more, got 1"),
        ('[[stage]]\nkind = "os.system"', r"number 1: unknown kind 'os.system'; this version knows prune, distil"),
        (CONVERT + '[[stage]]\nname = "x"', "number 2: unknown kind None"),
        ('[[stage]]\nkind = "convert"\nbits = 3', "number 1: 'convert' has no option 'bits'; it has name, scheme"),
        ('[[stage]]\nkind = "prune"', "'prune' needs scheme"),
        ('[[stage]]\nkind = "prune"\nscheme = "int8"', "Int8 is for convert_, not for prune_"),
        ('[[stage]]\nkind = "convert"\nscheme = "int9"', "unknown format 'int9'"),
        ('[[stage]]\nkind = "convert"\nscheme = 3', "expected a format's name or a table"),
        ('[[stage]]\nkind = "convert"\nscheme = "int8"\nname = "../x"', "name must be small letters"),
        ('[[stage]]\nkind = "convert"', "'convert' has no scheme, and no stage before it rounds"),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1, optimiser = "sgd" }', "has no option 'optimiser'"),
        ('[[stage]]\nkind = "distil"\nfit = 3', "FitConfig: expected a table"),
        (
            '[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nlayers = 1.5',
            "layers must be a number of blocks, or a share",
        ),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nlayers = 0', "layers must be 1 or more"),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nwidth = "half"', "width must be a number, got str"),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nwidth = 1.5', "width must be 0 to 1, got 1.5"),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nwidth = 1', "width must be a share above 0 and below 1"),
        ('[[stage]]\nkind = "distil"\nfit = { steps = 1 }\nsoft = 0\nhidden = 0', "expected one of them above"),
        (GRADUAL.replace("schedule", "fit_schedule"), "'distil' has no option 'fit_schedule'; it has"),
        (GRADUAL.replace("schedule = { begin = 1, end = 9 }", ""), "go together; it has no schedule, as { begin = 1"),
        (GRADUAL.replace("prune = ", "qat = "), "Prune is for prune_, not for convert_"),
        (GRADUAL.replace("end = 9", "stop = 9"), "schedule has no option 'stop'; it has begin, end, every"),
        (GRADUAL.replace(", end = 9", ""), "schedule needs end"),
        (GRADUAL.replace("{ begin = 1, end = 9 }", "9"), "schedule: expected a table"),
        (GRADUAL.replace("end = 9", "end = 99"), "its schedule ends at step 99, its training at 10"),
        (GRADUAL.replace("movement", "sparsegpt"), "method 'sparsegpt' cannot be gradual"),
        (GRADUAL + 'qat = "int8"', "prune and qat do not go together"),
        (GRADUAL + "keep_zeros = false", "keep_zeros is false, but what is pruned gradually stays zero"),
        (
            '[[stage]]\nkind = "prune"\nscheme = { format = "prune", sparsity = 0.5, method = "movement" }',
            "'movement' judges weights while they train; give prune and schedule to a stage of kind 'distil'",
        ),
        ('[[stage]]\nkind = "evaluate"\nthreads = [0]', "threads must be 1 or more"),
        ('[[stage]]\nkind = "evaluate"\nthreads = "all"', "threads must be numbers"),
        (CONVERT.replace("scheme", 'name = "a"\nscheme') * 2, "two stages are called 'a'"),
        (CONVERT + '[[stage]]\nkind = "distil"\nfit = { steps = 1 }', "'distil' comes after 'convert', but converted"),
    ],
)
def test_mistakes_name_the_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"mine\.toml: .*{message}"):
        read(tmp_path, text)


def test_recipes_that_come_along():
    pytest.importorskip("torch")
    from edgekern.compress import CompressError, recipe_names, recipe_of

    assert recipe_names() == ("distil-half", "int4", "int8", "sparse50-int8", "sparse80-int8", "tiny-llm")
    for name in recipe_names():
        recipe = recipe_of(name)
        assert recipe.name == name
        assert (recipe.stages[0].kind, recipe.stages[-1].kind) == ("evaluate", "evaluate")
    assert recipe_of(RECIPES[0]) is RECIPES[0]
    with pytest.raises(CompressError, match=r"int9 is no file, and none of distil-half, .*did you mean int8"):
        recipe_of("int9")
    with pytest.raises(TypeError, match="expected Recipe"):
        recipe_of(3)
