"""All that a training has to remember, as data that a checkpoint can hold, and going on from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from edgekern.train.checkpoint import check_fits
from edgekern.train.errors import TrainError
from edgekern.train.generators import generators, set_generators

if TYPE_CHECKING:
    from edgekern.train.training import Training


def state_of(training: Training) -> dict[str, Any]:
    """What :func:`load_state` takes."""
    run, scheduler = training.run, training.run.scheduler
    return {
        "model": training.model.state_dict(),
        "loss": _loss_state(training),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "callbacks": [[type(each).__name__, each.state_dict()] for each in training.callbacks],
        "patience": None if training.patience is None else training.patience.state_dict(),
        "feed": training.feed.state_dict(),
        "generators": generators(),
        "run": {"step": run.step, "epoch": run.epoch, "loss": run.loss, "metrics": dict(run.metrics)},
        "evaluated_at": training.evaluated_at,
        "stop": [run.stop, training.stopped_early],
        "log": training.log.saved(),
        "done": training.done,
    }


def check_state(training: Training, state: dict[str, Any], path: Path) -> None:
    """TrainError unless a checkpoint is of this training."""
    check_fits(path, "model", state["model"], training.model.state_dict())
    check_fits(path, "loss", state["loss"], _loss_state(training))
    kinds, present = [name for name, _ in state["callbacks"]], [type(each).__name__ for each in training.callbacks]
    if kinds != present:
        raise TrainError(f"checkpoint: {path} has callbacks {kinds}, this training {present}")
    saved = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    here = [len(group["params"]) for group in training.run.optimizer.param_groups]
    if saved != here:
        raise TrainError(f"checkpoint: {path} has groups of {saved} parameters in its optimizer, this one {here}")


def load_state(training: Training, state: dict[str, Any]) -> None:
    """Makes a training that has begun the one that was written; the random number generators go there last."""
    run = training.run
    training.model.load_state_dict(state["model"])
    if state["loss"]:
        cast(nn.Module, training.loss).load_state_dict(state["loss"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.scheduler is not None:
        run.scheduler.load_state_dict(state["scheduler"])
    run.step, run.epoch, run.loss = (state["run"][name] for name in ("step", "epoch", "loss"))
    run.metrics = dict(state["run"]["metrics"])
    training.evaluated_at, training.done = state["evaluated_at"], state["done"]
    run.stop, training.stopped_early = state["stop"]
    for callback, (_, remembered) in zip(training.callbacks, state["callbacks"], strict=True):
        callback.load_state_dict(remembered)
        callback.resume(run)
    if training.patience and state["patience"]:
        training.patience.load_state_dict(state["patience"])
    training.log.back_to(state["log"])
    if not training.done:
        training.feed.load_state_dict(state["feed"])
    else:
        training.feed.epoch = state["feed"]["epoch"]
    set_generators(state["generators"])


def _loss_state(training: Training) -> dict[str, Any]:
    return training.loss.state_dict() if isinstance(training.loss, nn.Module) else {}
