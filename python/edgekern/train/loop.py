"""``fit``: a training loop over any iterable of batches, which goes on exactly where it was killed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from edgekern.calibration.progress import progress_bar
from edgekern.config import FitConfig
from edgekern.config.checks import kind_of
from edgekern.plan import check_model
from edgekern.train.callbacks import Callback
from edgekern.train.checkpoint import checked_path, read_checkpoint
from edgekern.train.errors import TrainError
from edgekern.train.feed import Batches
from edgekern.train.generators import kept_generators
from edgekern.train.log import Log
from edgekern.train.run import FitResult
from edgekern.train.state import check_state
from edgekern.train.training import Evaluate, Loss, Training


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    config: FitConfig,
    *,
    optimizer: Optimizer | None = None,
    callbacks: Sequence[Callback] = (),
    evaluate: Evaluate | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> FitResult:
    """Trains ``model`` in place.

    With a ``checkpoint``, a training that was killed, at any moment and in any way, is gone on with by the same call:
    its weights end up bit for bit as if nothing had happened, on the same machine with the same number of threads. For
    that, going through the batches of an epoch again has to give the same ones. A list does so, and a ``DataLoader``,
    also one that shuffles; so does what has ``set_epoch(epoch)``, as torch's ``DistributedSampler``, or a function that
    gives the batches of an epoch by its number. Batches that were used already are read again and dropped.

    Args:
        model: any module. Parameters that do not require gradients stay.
        batches: what is gone through in every epoch, with or without a length; or a function ``batches(epoch)``.
        loss: called as ``loss(model, batch)``. It gives a scalar, or a mapping with one under "loss" and others that
            are logged. Where it is a module, as ``Distiller``, its own parameters are trained with the model's.
        config: how to train.
        optimizer: one that is made already; None makes the one that ``config`` says.
        callbacks: what plugs in: ``KeepZeros``, ``PruneGradually``, ``PrepareQAT``, and others of that kind.
        evaluate: called as ``evaluate(model)``, the model in eval mode and without autograd; gives a number, or numbers
            by name.
        checkpoint: a file. Where it exists, training goes on from it; it is replaced every
            ``config.checkpoint_every`` steps and at the end. Loaded with ``weights_only``.
        log: a file for a JSON object a step, and one an evaluation.
        progress: shows a progress bar.

    Returns:
        What came of it.

    Raises:
        TypeError: an argument of another type.
        TrainError: options that do not fit the model or the data, or a checkpoint of another training: nothing has
            changed. A loss or gradients that are NaN or infinite: weights are those of the step before, and the
            checkpoint is the last that was written. Data that end too early.
    """
    _check_arguments(model, loss, config, optimizer, callbacks, evaluate)
    paths = checked_path(checkpoint, "checkpoint"), checked_path(log, "log")
    training = Training(model, batches, loss, config, optimizer, callbacks, evaluate)
    found = None
    if paths[0] is not None and paths[0].exists():
        found = read_checkpoint(paths[0], config)
        check_state(training, found, paths[0])
    modes = {module: module.training for module in model.modules()}
    training.log = Log(paths[1])
    training.checkpoint = paths[0]
    try:
        with kept_generators():
            if config.train_mode:
                model.train()
            training.begin(found)
            if not (found and found["done"]):
                with progress_bar("Training", training.steps, progress) as advance:
                    training.go_on(advance)
            return training.result(found)
    finally:
        training.end()
        for module, mode in modes.items():
            module.training = mode


def _check_arguments(
    model: object, loss: object, config: object, optimizer: object, callbacks: object, evaluate: object
) -> None:
    check_model(model, "train", TrainError)
    for name, given in (("loss", loss), ("evaluate", evaluate)):
        if not callable(given) and not (name == "evaluate" and given is None):
            raise TypeError(f"{name}: expected a function, got {kind_of(given)}")
    if not isinstance(config, FitConfig):
        raise TypeError(f"config: expected FitConfig(...), got {kind_of(config)}")
    if not isinstance(optimizer, Optimizer | None):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer or None, got {kind_of(optimizer)}")
    if not isinstance(callbacks, Sequence) or not all(isinstance(each, Callback) for each in callbacks):
        raise TypeError(f"callbacks: expected a list of Callback, got {callbacks!r}")
    if config.early_stop is not None and evaluate is None:
        raise TrainError("evaluate: early_stop goes by evaluations; pass evaluate=")
