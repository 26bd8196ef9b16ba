"""compress: what a run writes, and what it says of the model."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tomli_w")

from compress_models import PRUNE, QUICK, build, converted, everything, fit, narrower, run  # noqa: E402
from small_models import native_names  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import CompressData  # noqa: E402
from edgekern.compress.record_file import read_record  # noqa: E402
from edgekern.config import (  # noqa: E402
    ConvertStage,
    DistilStage,
    EvaluateStage,
    FineTuneStage,
    PruneStage,
    read_recipe,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a stage of every kind. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("compress") / "out"
    return run(folder, everything())


# ---------------------------------------------------------------------------------------------------- what is written


def test_the_model_is_what_the_stages_make_of_it(whole):
    model = ek.load(build(), whole.folder / "model")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids), whole.model(ids))
    rows = {row.name: row for row in ek.explain(model)}
    assert {name: row.format for name, row in rows.items()} == {
        "embed": "int8",
        "lm_head": "int8",
        "blocks.0.up": "int8",
        "blocks.1.up": "int8",
        "blocks.0.down": "int4",
        "blocks.1.down": "int4",
    }
    for name in ("blocks.0.up", "blocks.1.down"):
        weight = model.get_submodule(name).dense().weight
        assert (weight == 0).float().mean() >= 0.5  # trained, rounded and converted, zeros stayed
    assert not model.training


def test_the_folder_holds_what_the_page_says(whole):
    folder, recipe = whole.folder, everything()
    assert read_recipe(folder / "recipe.toml") == recipe
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "model", "recipe.toml", "run.json", "stages"]
    stages = [
        "01-before",
        "02-prune",
        "03-distil",
        "04-fine_tune",
        "05-quantize",
        "06-convert",
        "07-after",
    ]
    assert sorted(path.name for path in (folder / "stages").iterdir()) == stages
    files = {name: {path.name for path in (folder / "stages" / name).iterdir()} for name in stages}
    model = {"inputs.json", "model.safetensors", "edgekern.json"}
    assert files["02-prune"] == model
    assert files["03-distil"] == model | {"metrics.jsonl"}
    assert files["04-fine_tune"] == model | {"metrics.jsonl", "conversion.json"}
    assert files["05-quantize"] == files["06-convert"] == model | {"conversion.json"}
    assert files["07-after"] == {"inputs.json"}


def test_the_record_says_what_happened(whole):
    record = read_record(whole.folder)
    assert record == whole.record
    assert (record.model, record.recipe, record.complete) == ("build", "everything", True)
    assert record.machine["isa"] == ek.kernels.default_isa()
    assert [stage.kind for stage in record.stages] == [
        "evaluate",
        "prune",
        "distil",
        "fine_tune",
        "quantize",
        "convert",
        "evaluate",
    ]
    before, prune, distil, tune, _, convert, after = record.stages
    assert "4 layers pruned, 50.0% of all weights looked at are zero" in prune.notes
    assert distil.metrics == "stages/03-distil/metrics.jsonl"
    lines = [json.loads(line) for line in (whole.folder / distil.metrics).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"loss", "soft", "hidden", "lr"} <= lines[0].keys()
    assert any("learnt from logits with weight 1 and 2 blocks inside" in note for note in distil.notes)
    assert "4 layers pruned, 75.0% of their weights are zero" in distil.notes
    assert tune.metrics in tune.outputs
    assert prune.metrics is None
    assert any(note.startswith("6 layers: 6 converted") for note in convert.notes)
    assert all(stage.seconds > 0 and len(stage.inputs) == 64 for stage in record.stages)
    assert (before.measured.quality, before.measured.metric) == (0, "squared error")
    assert after.measured.quality > 0
    assert after.measured.bytes_on_disk < before.measured.bytes_on_disk
    assert after.measured.bytes_in_memory < before.measured.bytes_in_memory
    assert list(after.measured.milliseconds) == [1]
    assert (after.measured.joules is None) == bool(after.measured.joules_reason)


def test_layers_are_measured(whole):
    before, after = (
        {layer.name: layer for layer in stage.measured.layers} for stage in whole.record.stages if stage.measured
    )
    assert before.keys() == after.keys() == {row.name for row in ek.explain(build())}
    assert {layer.form for layer in before.values()} == {"float32"}
    assert {layer.error for layer in before.values()} == {0}
    assert after["blocks.0.down"].form.startswith("int4")
    assert 0.01 < after["blocks.0.down"].error < 3  # half of the weights are gone, and training moved the others
    for name, layer in after.items():
        assert layer.milliseconds > 0
        assert layer.parameters == before[name].parameters
        assert layer.bytes < before[name].bytes or name in ("embed", "lm_head")
    # The table and the head are one tensor, which is stored once, under one name or the other.
    shared = [sorted(found[name].bytes for name in ("embed", "lm_head")) for found in (before, after)]
    assert shared == [[0, 40 * 16 * 4], [0, 40 * 16 + 40 * 4]]


def test_the_table_compares_the_first_and_the_last_evaluation(whole):
    text = str(whole)
    first, last = (stage.measured for stage in whole.record.stages if stage.measured)
    assert [row.what for row in whole.comparison][:3] == ["squared error", "on disk", "in memory"]
    assert f"{first.bytes_on_disk / last.bytes_on_disk:.2f}x smaller" in text
    assert "ms a call, 1 thread" in text
    assert "7 stages in" in text


def test_a_recipe_without_evaluations_compares_nothing(tmp_path):
    done = run(tmp_path / "out", converted(PRUNE))
    assert "no two evaluations to compare" in str(done)


def test_the_model_given_stays_as_it_is(tmp_path):
    model = build().train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = run(tmp_path / "out", converted(PRUNE), model)
    assert done.model is not model
    assert done.record.model == "LanguageModel"
    assert model.training
    assert native_names(model) == []
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_half_of_the_blocks(tmp_path):
    recipe = converted(EvaluateStage(seconds=0.01), DistilStage(fit=fit(4), layers=0.5), PRUNE, name="half")
    recipe = ek.Recipe("half", (*recipe.stages, EvaluateStage(seconds=0.01)))
    done = run(tmp_path / "out", recipe)
    assert len(done.model.blocks) == 1
    loaded = ek.load(ek.student_from(build(), layers=1), tmp_path / "out/model")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.equal(loaded(ids), done.model(ids))
    last = done.record.stages[-1].measured
    assert {layer.error for layer in last.layers} == {None}  # block 0 is another block than at first
    assert last.quality > 0


def test_narrower_students(tmp_path):
    given = build()
    torch.manual_seed(1)  # which must not matter
    done = run(tmp_path / "out", narrower(), given)
    model = done.model
    assert [len(model.blocks), *model.blocks[0].up.dense().weight.shape, *model.embed.weight.shape] == [1, 16, 8, 40, 8]
    distil = done.record.stages[2]
    assert any("learnt from logits with weight 1 and 2 blocks inside" in note for note in distil.notes)
    fresh = ek.student_from(build(), width=0.5, example_inputs=torch.arange(12)[None])
    loaded = ek.load(ek.student_from(fresh, 1, 0.5, torch.arange(12)[None]), tmp_path / "out/model")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.equal(loaded(ids), model(ids))
    assert {layer.error for layer in done.record.stages[-1].measured.layers} == {None}  # they are other layers
    torch.manual_seed(2)
    again = run(tmp_path / "again", narrower(), given)
    assert [stage.outputs for stage in again.record.stages] == [stage.outputs for stage in done.record.stages]


def test_narrower_students_that_cannot_be_made_are_noticed_before_anything_begins(tmp_path):
    recipe = converted(PRUNE, DistilStage(fit=fit(4), width=0.99))
    with pytest.raises(ek.PruneError, match="nothing to shrink: all 4 groups are left alone"):
        run(tmp_path / "out", recipe)
    assert not (tmp_path / "out/stages").exists()


def test_a_network_of_convolutions_with_a_measure_of_its_own(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 4)).eval()
    images, labels = torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def accuracy(model):
        return (model(images).argmax(1) == labels).float().mean().item()

    given = CompressData(
        calibration=[images],
        training=[(images, labels)],
        evaluation=[images[:2]],
        loss=loss,
        evaluate=accuracy,
        metric="accuracy",
    )
    tune = FineTuneStage(fit=ek.FitConfig(steps=20, optimizer={"name": "adam", "lr": 0.01}, evaluate_every=10))
    static = ConvertStage(scheme=ek.Int8(activations="static"))
    recipe = ek.Recipe("cnn", (PruneStage(scheme=ek.Prune(0.3)), tune, static, QUICK))
    done = run(tmp_path / "out", recipe, model, given)
    before, after = (stage.measured for stage in done.record.stages if stage.measured)
    assert (before.metric, before.higher_is_better) == ("accuracy", True)
    assert before.quality == pytest.approx(accuracy(model))
    assert after.quality == pytest.approx(accuracy(done.model))
    assert after.quality > before.quality
    assert done.record.stages[0].name == "before"
    assert isinstance(done.model[0], ek.nn.Int8Conv2d)
    assert done.model[0].input_range is not None
    tuned = (tmp_path / "out" / done.record.stages[2].metrics).read_text()
    assert '"evaluation": {"value": ' in tuned
