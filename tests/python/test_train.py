"""train.fit: what it computes is what a loop by hand computes; what is wrong is refused before anything changes."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekern import AGP, EarlyStop, FitConfig, Int8, MaskLock, Prune, convert_, prune_
from edgekern.config import OPTIMIZERS, SCHEDULERS
from edgekern.train import Callback, KeepZeros, PrepareQAT, PruneGradually, TrainError, fit

pytestmark = pytest.mark.usefixtures("one_thread")


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def make_batches(count=12, rows=8):
    generator = torch.Generator().manual_seed(3)
    x = [torch.randn(rows, 8, generator=generator) for _ in range(count)]
    return [(each, each[:, :3].argmax(1)) for each in x]


BATCHES = make_batches()


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def mean_loss(model):
    return torch.stack([loss(model, batch) for batch in BATCHES]).mean().item()


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def train(model, batches=BATCHES, of=loss, callbacks=(), evaluate=None, checkpoint=None, log=None, **options):
    options = {"optimizer": {"name": "adam", "lr": 0.01}, **({} if "epochs" in options else {"steps": 12}), **options}
    rest = {"callbacks": callbacks, "evaluate": evaluate, "checkpoint": checkpoint, "log": log}
    return fit(model, batches, of, FitConfig(**options), **rest, progress=False)


def test_it_computes_what_a_loop_by_hand_does():
    ours, theirs = make(), make()
    result = train(ours, accumulate=2, clip=0.5, steps=9, scheduler={"name": "step", "step_size": 3, "gamma": 0.5})
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    for step in range(9):
        optimizer.zero_grad()
        for batch in (BATCHES * 2)[2 * step : 2 * step + 2]:
            (loss(theirs, batch) / 2).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    assert same(weights(ours), weights(theirs))
    assert (result.steps, result.epochs, result.resumed_at) == (9, 1, 0)


@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_every_optimizer_learns(name):
    model = make()
    before = mean_loss(model)
    train(model, optimizer={"name": name, "lr": 1.0 if name == "adadelta" else 0.02}, epochs=3)
    assert mean_loss(model) < before


RATES = {
    "constant": ({"factor": 0.5, "total_iters": 2}, lambda step: 0.5 if step < 2 else 1),
    "step": ({"step_size": 4, "gamma": 0.1}, lambda step: 0.1 ** (step // 4)),
    "multistep": ({"milestones": [3, 5], "gamma": 0.1}, lambda step: 0.1 ** ((step >= 3) + (step >= 5))),
    "exponential": ({"gamma": 0.9}, lambda step: 0.9**step),
    "linear": ({"start_factor": 1.0, "end_factor": 0.5, "total_iters": 4}, lambda step: 1 - min(step, 4) / 8),
    "polynomial": ({}, lambda step: 1 - step / 12),
    "cosine": ({}, lambda step: (1 + torch.tensor(step * torch.pi / 12).cos().item()) / 2),
    "warmup_linear": ({"warmup": 0.25}, lambda step: 1 - (step - 3) / 9),
    "warmup_constant": ({"warmup": 4}, lambda step: min(1, 0.25 + 0.75 * step / 4)),
}


@pytest.mark.parametrize("name", [*RATES])
def test_schedules_by_name(name, tmp_path):
    options, expected = RATES[name]
    train(make(), scheduler={"name": name, **options}, log=tmp_path / "log")
    found = [json.loads(line)["lr"] / 0.01 for line in (tmp_path / "log").read_text().splitlines()]
    if name == "warmup_linear":  # it rises from a third
        assert found[:4] == pytest.approx([1 / 3, 5 / 9, 7 / 9, 1])
        assert found[3:] == pytest.approx([expected(step) for step in range(3, 12)], abs=1e-6)
    else:
        assert found == pytest.approx([expected(step) for step in range(12)], abs=1e-6)


@pytest.mark.parametrize("name", ["one_cycle", "cosine_restarts", "cyclic", "warmup_cosine"])
def test_schedules_that_rise_and_fall(name, tmp_path):
    options = {
        "one_cycle": {},
        "cosine_restarts": {"T_0": 3},
        "cyclic": {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 2, "cycle_momentum": False},
        "warmup_cosine": {"warmup": 3},
    }[name]
    train(make(), scheduler={"name": name, **options}, log=tmp_path / "log")
    found = [json.loads(line)["lr"] for line in (tmp_path / "log").read_text().splitlines()]
    assert max(found) == pytest.approx(0.01, rel=0.05)
    assert min(found) < 0.006
    assert {*SCHEDULERS} <= {*RATES, "one_cycle", "cosine_restarts", "cyclic", "plateau"}


def test_a_plateau_lowers_the_rate():
    seen = []

    class Watch(Callback):
        def after_evaluate(self, run):
            seen.append(run.optimizer.param_groups[0]["lr"])

    train(
        make(),
        scheduler={"name": "plateau", "metric": "error", "patience": 1, "factor": 0.1},
        evaluate=lambda model: {"error": 1.0},
        evaluate_every=2,
        callbacks=[Watch()],
    )
    assert seen == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_early_stopping_puts_the_best_weights_back():
    seen = []

    def evaluate(model):
        assert not model.training
        seen.append(weights(model))
        return [0.5, 0.9, 0.8, 0.85, 1.0][len(seen) - 1]

    model = make()
    stop = EarlyStop(2, mode="max", restore_best=True)
    result = train(model, steps=100, evaluate=evaluate, evaluate_every=3, early_stop=stop)
    assert (result.steps, result.stopped_early, result.best) == (12, True, 0.9)
    assert same(weights(model), seen[1])


def test_any_iterable_will_do():
    class Epochs:
        def __init__(self):
            self.seen = []

        def set_epoch(self, epoch):
            self.seen.append(epoch)

        def __iter__(self):
            return iter(BATCHES[:3])

    epochs, by_list, by_call, once = Epochs(), make(), make(), make()
    train(by_list, BATCHES[:3] * 2)
    by_object = make()
    assert train(by_object, epochs, epochs=4).epochs == 4
    assert epochs.seen == [0, 1, 2, 3]
    numbers = []
    train(by_call, lambda epoch: numbers.append(epoch) or BATCHES[:3], epochs=4)
    assert numbers == [0, 1, 2, 3]
    train(once, iter(BATCHES[:3] * 4))
    assert same(weights(by_list), weights(by_object))
    assert same(weights(by_list), weights(by_call))
    assert same(weights(by_list), weights(once))
    with pytest.raises(TrainError, match="ended after step 3 of 12; give more, or a list"):
        train(make(), iter(BATCHES[:3]))
    with pytest.raises(TrainError, match="there is none in epoch 0"):
        train(make(), [])


def test_a_group_does_not_go_beyond_its_epoch():
    result = train(make(), BATCHES[:5], epochs=2, accumulate=2)
    assert result.steps == 6


def test_modes_and_generators_are_put_back():
    model = make().append(nn.Dropout(0.5)).eval()
    model[3].train()
    torch.manual_seed(9)
    state = torch.get_rng_state()
    modes = []
    train(model, of=lambda model, batch: modes.append(model.training) or loss(model, batch))
    assert all(modes)
    assert not model.training
    assert model[3].training
    assert torch.equal(torch.get_rng_state(), state)
    modes.clear()
    train(model, of=lambda model, batch: modes.append(model.training) or loss(model, batch), train_mode=False)
    assert not any(modes)


def test_autocast_computes_in_bfloat16():
    seen = []
    train(make(), of=lambda model, batch: seen.append(model(batch[0]).dtype) or loss(model, batch), autocast="bf16")
    assert set(seen) == {torch.bfloat16}


def test_autocast_of_the_caller_stays():
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        train(make(), of=lambda model, batch: seen.append(model(batch[0]).dtype) or loss(model, batch))
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("capability", ["avx512_bf16", "bf16", "avx512_vnni", None])
def test_autocast_is_left_to_the_processor(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    seen = []
    result = train(
        make(), of=lambda model, batch: seen.append(model(batch[0]).dtype) or loss(model, batch), autocast="auto"
    )
    cast = torch.bfloat16 if capability in ("avx512_bf16", "bf16") else None
    assert result.autocast is cast
    assert set(seen) == {cast or torch.float32}


def test_parameters_of_the_loss_are_trained_and_frozen_ones_are_not():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, model, batch):
            return {"loss": loss(model, batch) * self.scale.exp(), "plain": loss(model, batch)}

    model, scaled = make(), Scaled()
    model[0].weight.requires_grad_(False)
    before = weights(model)
    train(model, of=scaled)
    assert scaled.scale < 1
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_ends_training_before_it_does_harm(where, tmp_path):
    model, seen = make(), []

    def bad(model, batch):
        seen.append(weights(model))
        value = loss(model, batch)
        if len(seen) < 5:
            return value
        return value * float("nan") if where == "loss" else value + (model[0].weight * 0).sum().sqrt()

    with pytest.raises(TrainError, match=rf"{where}.* of step 5 .*weights are those after step 4; .*holds the last"):
        train(model, of=bad, checkpoint=tmp_path / "fit.pt", checkpoint_every=2)
    assert same(weights(model), seen[4])
    kept = torch.load(tmp_path / "fit.pt", weights_only=True)
    assert kept["run"]["step"] == 4
    assert same(kept["model"], seen[4])


class Interrupt(Callback):
    def __init__(self, step):
        self.step = step

    def after_step(self, run):
        if run.step == self.step:
            raise KeyboardInterrupt

    def end(self, run):
        self.step = 0


def callbacks_of(kind):
    return {
        "zeros": lambda: [KeepZeros()],
        "prune": lambda: [PruneGradually(Prune(0.5), AGP(2, 9, every=2))],
        "movement": lambda: [PruneGradually(Prune(0.5, method="movement"), AGP(4, 9, every=2))],
        "qat": lambda: [PrepareQAT(Int8(), begin=3)],
    }[kind]()


@pytest.mark.parametrize("kind", ["zeros", "prune", "movement", "qat"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_plugs_in_is_resumed_exactly(kind, optimizer, tmp_path):
    options = {"optimizer": {"name": optimizer, "lr": 0.01}, "scheduler": "one_cycle", "checkpoint_every": 4}

    def start():
        model = make()
        if kind == "zeros":
            prune_(model, Prune(0.5))
        return model

    whole, broken, resumed = start(), start(), start()
    train(whole, callbacks=callbacks_of(kind), **options)
    path = tmp_path / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        train(broken, callbacks=[*callbacks_of(kind), Interrupt(7)], checkpoint=path, **options)
    result = train(resumed, callbacks=[*callbacks_of(kind), Interrupt(0)], checkpoint=path, **options)
    assert result.resumed_at == 4
    assert same(weights(whole), weights(resumed))
    again = start()
    assert train(again, callbacks=[*callbacks_of(kind), Interrupt(0)], checkpoint=path, **options).steps == 12
    assert same(weights(whole), weights(again))
    if kind == "qat":
        assert len(convert_(again, Int8()).converted) == 2
    else:
        assert (whole[0].weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_zeros_stay_and_the_lock_lets_go():
    model = make()
    prune_(model, Prune(0.5))
    gone = model[0].weight == 0
    keep = KeepZeros()
    train(model, callbacks=[keep], optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9}, clip=0.1)
    assert (model[0].weight[gone] == 0).all()
    assert isinstance(keep.lock, MaskLock)
    assert "0 optimizers" in repr(keep.lock)


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    path = tmp_path / "fit.pt"
    train(make(), checkpoint=path)
    model = make(1)
    before = weights(model)
    for message, call in {
        "other options: clip was not given, is 1.0": lambda: train(model, checkpoint=path, clip=1.0),
        "of another model; at odds over 2.bias": lambda: train(model[:2], checkpoint=path),
        r"'0.weight' has shape \[16, 8\] there, \[4, 8\] here": lambda: train(
            nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), checkpoint=path
        ),
        r"has callbacks \[\], this training \['KeepZeros'\]": lambda: train(
            model, checkpoint=path, callbacks=[KeepZeros()]
        ),
    }.items():
        with pytest.raises(TrainError, match=message):
            call()
    assert same(weights(model), before)
    train(model, checkpoint=path, checkpoint_every=7, log_every=2)  # how often is of no account
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TrainError, match=r"fit.pt cannot be read: .*; move it away to begin anew"):
        train(model, checkpoint=path)
    torch.save({"some": "thing"}, path)
    with pytest.raises(TrainError, match=r"was not written by train.fit"):
        train(model, checkpoint=path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"format": Evil()}, tmp_path / "fit.pt")
    with pytest.raises(TrainError, match="cannot be read"):
        train(make(), checkpoint=tmp_path / "fit.pt")
    assert not (tmp_path / "owned").exists()


def test_data_that_became_fewer_are_noticed(tmp_path):
    path = tmp_path / "fit.pt"
    options = {"checkpoint": path, "checkpoint_every": 5}
    with pytest.raises(KeyboardInterrupt):
        train(make(), callbacks=[Interrupt(6)], **options)
    with pytest.raises(TrainError, match="after 5 batches of epoch 0, but there are 3"):
        train(make(), BATCHES[:3], callbacks=[Interrupt(0)], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": {"name": "adam", "rl": 1}}, "optimizer: 'adam' has no argument 'rl'; it has lr, betas"),
        ({"optimizer": {"name": "adam", "lr": -1}}, "optimizer: 'adam': Invalid learning rate"),
        ({"scheduler": "step"}, "scheduler: 'step': .*step_size"),
        ({"scheduler": {"name": "cosine", "Tmax": 3}}, "'cosine' has no argument 'Tmax'"),
        ({"scheduler": "warmup_cosine"}, "needs warmup, in steps"),
        ({"scheduler": {"name": "warmup_cosine", "warmup": 12}}, "leaves none of 12"),
        ({"scheduler": "plateau"}, "'plateau' goes by evaluations"),
        ({"early_stop": EarlyStop(2)}, "early_stop goes by evaluations"),
        ({"batches": iter(BATCHES), "epochs": 2}, "an iterator is gone through once, not 2 times"),
        ({"batches": lambda epoch: BATCHES, "epochs": 2, "scheduler": "cosine"}, "has to know how many steps"),
        ({"checkpoint": "missing/fit.pt"}, "checkpoint: expected a file's path in a folder that exists"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    model = make()
    before = weights(model)
    with pytest.raises(TrainError, match=message):
        train(model, **options)
    assert same(weights(model), before)


def test_wrong_types_are_refused():
    for message, call in {
        "batches: expected an iterable of batches.*got Tensor": lambda: train(make(), torch.zeros(3, 8)),
        "loss: expected a function, got str": lambda: train(make(), of="mse"),
        "loss: expected a scalar tensor.*step 1": lambda: train(make(), of=lambda model, batch: model(batch[0])),
        "expected a list of Callback": lambda: train(make(), callbacks=[MaskLock(make())]),
        "config: expected FitConfig": lambda: fit(make(), BATCHES, loss, {"steps": 3}),
        "model: expected a torch.nn.Module": lambda: train(3),
    }.items():
        with pytest.raises(TypeError, match=message):
            call()
    frozen = copy.deepcopy(make()).requires_grad_(False)
    with pytest.raises(TrainError, match="no parameter requires gradients"):
        train(frozen)
    with pytest.raises(TrainError, match="evaluate: it gave no 'error'; there is value"):
        train(make(), evaluate=mean_loss, early_stop=EarlyStop(1, metric="error"))
