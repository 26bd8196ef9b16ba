"""FitConfig: checked when made, and read from files."""

import json

import pytest

from edgekern import EarlyStop, FitConfig

EXAMPLE = """
epochs = 3
scheduler = { name = "warmup_cosine", warmup = 0.1 }
clip = 1.0
autocast = "bf16"
early_stop = { patience = 3, metric = "accuracy", mode = "max" }

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
"""


def test_files_hold_the_options(tmp_path):
    pytest.importorskip("tomllib", reason="reading TOML files needs Python 3.11")
    path = tmp_path / "fit.toml"
    path.write_text(EXAMPLE)
    config = FitConfig.read(path)
    assert config.optimizer == {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    assert config.early_stop == EarlyStop(3, "accuracy", "max")
    assert FitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    path.write_text("steps = 3\noptimiser = 'adam'")
    with pytest.raises(ValueError, match=r"fit.toml: FitConfig has no option 'optimiser'; it has steps"):
        FitConfig.read(path)
    path.write_text("steps = ")
    with pytest.raises(ValueError, match=r"fit.toml: "):
        FitConfig.read(path)


def test_a_name_alone_will_do():
    assert FitConfig(steps=1, optimizer="sgd") == FitConfig(steps=1, optimizer={"name": "sgd"})
    assert FitConfig(steps=1).to_dict() == {"steps": 1, "optimizer": {"name": "adamw"}}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, ValueError, "either steps or epochs"),
        ({"steps": 0}, ValueError, "steps must be 1 or more, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an int, got float"),
        ({"optimizer": "os.system"}, ValueError, "unknown optimizer 'os.system'; this version knows adadelta"),
        ({"optimizer": {"lr": 1}}, TypeError, "a mapping with a 'name'"),
        ({"scheduler": {"name": "StepLR"}}, ValueError, "unknown scheduler 'StepLR'"),
        ({"accumulate": 0}, ValueError, "accumulate must be 1 or more"),
        ({"clip": 0}, ValueError, "clip must be above 0"),
        ({"clip": -1.0}, ValueError, "clip must be 0 or more"),
        ({"autocast": "fp16"}, ValueError, "unknown autocast 'fp16'; this version knows bf16, auto"),
        ({"train_mode": 1}, TypeError, "train_mode must be a bool"),
        ({"early_stop": 3}, TypeError, r"early_stop must be EarlyStop\(...\) or None, got int"),
        ({"early_stop": {"patience": 0}}, ValueError, "EarlyStop: patience must be 1 or more"),
        ({"early_stop": {}}, ValueError, "EarlyStop needs patience"),
        ({"early_stop": {"patience": 1, "mode": "up"}}, ValueError, "unknown mode 'up'; this version knows min, max"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FitConfig(**({"steps": 1} if options and "steps" not in options and "epochs" not in options else {}), **options)
