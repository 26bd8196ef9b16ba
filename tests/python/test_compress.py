"""compress: what a run writes, how it goes on, and what stands in its way."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tomli_w")

from compress_models import BLOCKS, QUICK, build, converted, data, everything, fit  # noqa: E402
from small_models import native_names  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import CompressData, CompressError, compress  # noqa: E402
from edgekern.compress import inputs  # noqa: E402
from edgekern.compress import run as engine  # noqa: E402
from edgekern.compress.record_file import read_record  # noqa: E402
from edgekern.config import (  # noqa: E402
    ConvertStage,
    DistilStage,
    EvaluateStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    read_recipe,
)

pytestmark = pytest.mark.usefixtures("one_thread")
PRUNE = PruneStage(scheme=ek.PerLayer({BLOCKS: ek.Prune(0.5)}))


def run(folder, recipe, model=build, given=None, **options):
    return compress(model, recipe, folder, data() if given is None else given, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a stage of every kind. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("compress") / "out"
    return run(folder, everything())


@pytest.fixture
def pruned(tmp_path):
    """A short run that has ended."""
    run(tmp_path / "out", converted(PRUNE))
    return tmp_path / "out"


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
    assert sorted(path.name for path in folder.iterdir()) == ["model", "recipe.toml", "run.json", "stages"]
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


def test_a_recipe_without_evaluations_compares_nothing(pruned):
    done = run(pruned, converted(PRUNE))
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


# ---------------------------------------------------------------------------------------------------- going on


def test_a_finished_run_says_so(pruned, capsys, monkeypatch):
    monkeypatch.setattr(engine, "carry_out", lambda task: pytest.fail("nothing is left to do"))
    before = (pruned / "run.json").read_bytes()
    compress(build, converted(PRUNE), pruned, data())
    assert f"finished: {pruned / 'model'} holds the model" in capsys.readouterr().err
    assert (pruned / "run.json").read_bytes() == before


def test_a_model_that_is_gone_is_written_again(pruned):
    expected = (pruned / "model/model.safetensors").read_bytes()
    for path in (pruned / "model").iterdir():
        path.unlink()
    (pruned / "model").rmdir()
    run(pruned, converted(PRUNE))
    assert (pruned / "model/model.safetensors").read_bytes() == expected


def test_a_longer_recipe_goes_on_after_a_shorter_one(pruned):
    first = read_record(pruned)
    done = run(
        pruned, ek.Recipe("longer", (*converted(PRUNE).stages, ConvertStage(scheme=ek.PerLayer({"embed": ek.Int8()}))))
    )
    assert done.record.stages[:2] == first.stages
    assert (done.record.recipe, done.record.complete) == ("longer", True)
    assert isinstance(done.model.embed, ek.nn.Int8Embedding)


def test_a_stage_that_fails_leaves_the_others(tmp_path, capsys):
    def fails(model, batch):
        raise RuntimeError("no loss today")

    recipe = converted(PRUNE, FineTuneStage(fit=fit(4)))
    with pytest.raises(RuntimeError, match="no loss today"):
        run(tmp_path / "out", recipe, given=data(loss=fails, version="1"))
    assert [stage.name for stage in read_record(tmp_path / "out").stages] == ["prune"]
    assert not read_record(tmp_path / "out").complete
    (tmp_path / "out/stages/02-fine_tune/inputs.json").unlink()  # the loss that failed was another
    compress(build, recipe, tmp_path / "out", data(version="1"))
    said = capsys.readouterr().err
    assert "stage 1" not in said
    assert "stage 2 of 3: fine_tune" in said
    assert read_record(tmp_path / "out").complete


def test_restart_begins_anew(pruned):
    recipe = converted()
    with pytest.raises(CompressError, match="restart"):
        run(pruned, recipe)
    run(pruned, recipe, restart=True)
    assert [path.name for path in (pruned / "stages").iterdir()] == ["01-convert"]
    assert [stage.name for stage in read_record(pruned).stages] == ["convert"]


# ---------------------------------------------------------------------------------------------------- what goes wrong


def other_model():
    return build(size=20)


def other_weights():
    model = build()
    with torch.no_grad():
        model.blocks[0].up.weight[0, 0] += 1
    return model


def with_share(share):
    return converted(PruneStage(scheme=ek.PerLayer({BLOCKS: ek.Prune(share)})))


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        (other_model, converted(PRUNE), "stage 'prune' has ended with something else: the model before it is another"),
        (
            other_weights,
            converted(PRUNE),
            "the model before it is another. Put it back, or begin the run anew: --restart",
        ),
        (build, with_share(0.6), r"its options: scheme was .*0.5.*, is .*0.6"),
        (build, converted(), r"recipe: in .* stage 1 was 'prune' \(prune\), is 'convert' \(convert\)"),
        (build, ek.Recipe("r", (PRUNE,)), r"recipe: in .* stage 2 was 'convert' \(convert\), is none"),
    ],
)
def test_a_run_goes_on_only_with_what_it_began_with(pruned, model, recipe, message):
    files = {path: path.read_bytes() for path in pruned.rglob("*") if path.is_file()}
    with pytest.raises(CompressError, match=message):
        run(pruned, recipe, model)
    assert {path: path.read_bytes() for path in pruned.rglob("*") if path.is_file()} == files


def test_other_data_and_another_version_are_noticed(tmp_path, monkeypatch):
    recipe = converted(QuantizeStage(scheme=ek.PerLayer({"re:.*down": ek.GPTQ(ek.Int4(32))})))
    run(tmp_path / "out", recipe)
    run(tmp_path / "out", recipe, given=data(training=[torch.zeros(1, 2, dtype=torch.long)]))  # which no stage reads
    with pytest.raises(CompressError, match=r"something else: the data \(calibration\)"):
        run(tmp_path / "out", recipe, given=data(calibration=[torch.zeros(1, 2, dtype=torch.long)]))
    monkeypatch.setattr(inputs, "core", type("Newer", (), {"version": "9.9"}))
    with pytest.raises(CompressError, match=r"the code's version: edgekern was \"[^\"]+\", is \"9.9\""):
        run(tmp_path / "out", recipe)


@pytest.mark.parametrize("damage", ["changed", "gone", "swapped"])
def test_damaged_files_are_noticed(pruned, damage):
    path = pruned / "stages/01-prune/model.safetensors"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes((pruned / "stages/02-convert/model.safetensors").read_bytes())
    with pytest.raises(CompressError, match=r"stage 'prune': .*model\.safetensors (is gone|has changed since)"):
        run(pruned, converted(PRUNE))
    run(pruned, converted(PRUNE), restart=True)


def test_a_stage_that_was_begun_with_other_options(tmp_path):
    def stop(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", converted(FineTuneStage(fit=fit(4))), given=data(loss=stop))
    with pytest.raises(CompressError, match=r"stage 'fine_tune' was begun with something else: its options: fit was"):
        run(tmp_path / "out", converted(FineTuneStage(fit=fit(5))), given=data(loss=stop))


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("meow")
    for restart in (False, True):
        with pytest.raises(CompressError, match=r"holds cat.jpg, and no run.json of a run; give another name"):
            run(tmp_path / "photos", converted(), restart=restart)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    with pytest.raises(CompressError, match="is a file"):
        run(tmp_path / "photos/cat.jpg", converted())


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        (converted(DistilStage(fit=fit(1))), {"training": None}, r"stage 'distil' \(distil\) needs training data"),
        (ek.Recipe("r", (QUICK,)), {"evaluation": None}, "needs evaluation data"),
        (converted(QuantizeStage(scheme=ek.GPTQ())), {"calibration": None}, "needs calibration data"),
        (converted(PruneStage(scheme=ek.Prune(0.5, method="wanda"))), {"calibration": None}, "needs calibration data"),
    ],
)
def test_missing_data_are_noticed_before_anything_begins(tmp_path, recipe, given, message):
    with pytest.raises(CompressError, match=message):
        run(tmp_path / "out", recipe, given=data(**given))
    assert not (tmp_path / "out").exists()


def test_arguments_of_another_kind(tmp_path):
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, or a function that builds one, got str"):
        run(tmp_path / "out", converted(), "model/")
    with pytest.raises(TypeError, match=r"the function gave int; expected a torch.nn.Module"):
        run(tmp_path / "out", converted(), lambda: 3)
    with pytest.raises(TypeError, match="data: expected CompressData"):
        run(tmp_path / "out", converted(), given=[torch.zeros(1)])
    with pytest.raises(CompressError, match="builds a model with other weights at each call"):
        run(tmp_path / "new", converted(), lambda: nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="calibration: an iterator can be gone through once"):
        data(calibration=iter([]))
    with pytest.raises(TypeError, match="evaluation: expected an iterable of batches, got Tensor"):
        data(evaluation=torch.zeros(1))
    with pytest.raises(TypeError, match="loss: expected a function, got int"):
        data(loss=3)


def test_a_quality_that_is_no_number(tmp_path):
    with pytest.raises(CompressError, match="stage 'evaluate': speed is nan; expected a finite number"):
        run(tmp_path / "out", ek.Recipe("r", (QUICK,)), given=data(evaluate=lambda model: math.nan, metric="speed"))


def test_a_model_without_a_loss_of_its_own(tmp_path):
    given = dataclasses.replace(data(), loss=CompressData().loss)
    with pytest.raises(CompressError, match="LanguageModel gives no 'loss' for a batch of the training data"):
        run(tmp_path / "out", converted(FineTuneStage(fit=fit(1))), given=given)
