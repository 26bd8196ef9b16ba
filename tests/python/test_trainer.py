"""What plugs into train.fit, in a Hugging Face Trainer, which runs under accelerate."""

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate")

from edgekern import AGP, Int8, Prune, convert_, prune_  # noqa: E402
from edgekern.integrations.trainer import EdgekernCallback  # noqa: E402
from edgekern.nn import QATLinear  # noqa: E402
from edgekern.train import Callback, KeepZeros, PrepareQAT, PruneGradually, TrainError  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x, labels):
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return [{"x": each, "labels": each[:3].argmax()} for each in x]


def train(model, folder, callbacks, resume=None, steps=16):
    args = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=0.02,
        save_steps=4,
        logging_steps=100,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, args, train_dataset=rows(), callbacks=[EdgekernCallback(callbacks)])
    trainer.train(resume_from_checkpoint=resume)
    return model


def zeros(model):
    return {name: parameter == 0 for name, parameter in model.named_parameters() if name.endswith("weight")}


def test_zeros_stay(tmp_path):
    model, other = Model(), Model()
    for each in (model, other):
        prune_(each, Prune(0.5))
    before = zeros(model)
    train(model, tmp_path / "a", [KeepZeros()])
    train(other, tmp_path / "b", [])
    assert all(torch.equal(mask, before[name]) for name, mask in zeros(model).items())
    assert not any(mask.any() for mask in zeros(other).values())


class Stop(Callback):
    def after_step(self, run):
        run.stop = run.step == 8


@pytest.mark.parametrize("kind", ["prune", "qat"])
def test_it_resumes(kind, tmp_path):
    def callbacks():
        if kind == "qat":
            return [PrepareQAT(Int8(), begin=6)]
        return [PruneGradually(Prune(0.5), AGP(2, 14, every=3))]

    whole = train(Model(), tmp_path / "whole", [*callbacks(), Callback()])
    broken = tmp_path / "broken"
    train(Model(), broken, [*callbacks(), Stop()])
    assert (broken / "checkpoint-8" / "edgekern.pt").is_file()
    resumed = train(Model(), broken, [*callbacks(), Stop()], str(broken / "checkpoint-8"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    if kind == "qat":
        assert isinstance(resumed.layers[0], QATLinear)
        assert len(convert_(resumed, Int8()).converted) == 2
    else:
        assert zeros(resumed)["layers.0.weight"].float().mean() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(TrainError, match=r"is of callbacks \['P\w+', 'Stop'\], not \['KeepZeros'\]"):
        train(Model(), broken, [KeepZeros()], str(broken / "checkpoint-8"))
    (broken / "checkpoint-8" / "edgekern.pt").unlink()
    with pytest.raises(TrainError, match="which holds what callbacks remember, cannot be read"):
        train(Model(), broken, [*callbacks(), Stop()], str(broken / "checkpoint-8"))


def test_other_things_are_no_callbacks():
    with pytest.raises(TypeError, match=r"expected a list of edgekern.train.Callback"):
        EdgekernCallback([print])
