"""compress: how a run goes on, and what stands in its way."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tomli_w")

from compress_models import BLOCKS, PRUNE, QUICK, build, converted, data, fit, narrower, run  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import CompressData, CompressError, compress  # noqa: E402
from edgekern.compress import inputs, structure  # noqa: E402
from edgekern.compress import run as engine  # noqa: E402
from edgekern.compress.record_file import read_record  # noqa: E402
from edgekern.config import ConvertStage, DistilStage, FineTuneStage, PruneStage, QuantizeStage  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pruned(tmp_path):
    """A short run that has ended."""
    run(tmp_path / "out", converted(PRUNE))
    return tmp_path / "out"


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


def test_narrower_students_are_gone_on_with_after_each_stage(tmp_path, monkeypatch):
    recipe = narrower(6)
    whole = run(tmp_path / "whole", recipe)
    carry_out = engine.carry_out

    def stopped(task):
        if task.folder.name in stops:
            stops.remove(task.folder.name)
            raise KeyboardInterrupt
        return carry_out(task)

    stops = {path.name for path in (tmp_path / "whole/stages").iterdir()}
    monkeypatch.setattr(engine, "carry_out", stopped)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", recipe)
    done = run(tmp_path / "out", recipe)
    assert [stage.outputs for stage in done.record.stages] == [stage.outputs for stage in whole.record.stages]
    for name in ("model.safetensors", "edgekern.json"):
        assert (tmp_path / "out/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()


def test_what_stays_of_a_narrower_student_is_not_chosen_again(tmp_path, monkeypatch):
    first = run(tmp_path / "out", ek.Recipe("first", (DistilStage(fit=fit(2), width=0.5),)))
    monkeypatch.setattr(structure, "student_from", lambda *_: pytest.fail("the weights it goes by are others now"))
    again = run(tmp_path / "out", converted(DistilStage(fit=fit(2), width=0.5)))
    assert again.record.stages[0] == first.record.stages[0]
    assert again.model.blocks[0].up.dense().weight.shape == (32, 8)


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


def test_what_a_kill_after_the_end_of_a_training_leaves_is_removed(tmp_path):
    recipe = converted(FineTuneStage(fit=fit(2)))
    run(tmp_path / "out", recipe)
    left = tmp_path / "out/stages/01-fine_tune/training.pt"
    left.write_bytes(b"as large as three models")
    run(tmp_path / "out", recipe)
    assert not left.exists()


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
