"""What plugs into ``train.fit``, as a callback of the Hugging Face ``Trainer``."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekern.checkpoint.atomic import written_whole
from edgekern.train import Callback, Run, TrainError

STATE_FILE = "edgekern.pt"
"""Beside the Trainer's own files in each of its checkpoints."""


class EdgekernCallback(TrainerCallback):
    """Prunes gradually, keeps zeros, or trains with rounding while a ``Trainer`` trains.

    What the callbacks remember is written beside each checkpoint of the Trainer, and read when it resumes.

    Args:
        callbacks: as for ``train.fit``: ``KeepZeros()``, ``PruneGradually(...)``, ``PrepareQAT(...)``.
        resume_from: the checkpoint's folder that is given to ``Trainer.train(resume_from_checkpoint=)``, where it does
            not lie in the Trainer's ``output_dir``.

    Raises:
        TypeError: not a list of callbacks.
        TrainError: when training resumes: the checkpoint has no such file, or one of other callbacks.
    """

    def __init__(self, callbacks: Sequence[Callback], resume_from: str | Path | None = None) -> None:
        if not isinstance(callbacks, Sequence) or not all(isinstance(each, Callback) for each in callbacks):
            raise TypeError(f"callbacks: expected a list of edgekern.train.Callback, got {callbacks!r}")
        self.callbacks = tuple(callbacks)
        self._resume_from = resume_from
        self._run: Run | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The optimizer is made, and a checkpoint's weights are in the model."""
        model, optimizer = given["model"], given["optimizer"]
        assert isinstance(model, nn.Module)
        self._run = run = Run(model, _bare(optimizer), given.get("lr_scheduler"), step=state.global_step)
        for callback in self.callbacks:
            callback.start(run)
        if state.global_step:
            folder = self._resume_from or _folder(args, state)
            for callback, remembered in zip(self.callbacks, self._read(Path(folder) / STATE_FILE), strict=True):
                callback.load_state_dict(remembered)
                callback.resume(run)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Gradients are there."""
        for callback in self.callbacks:
            callback.after_backward(self.run)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """The optimizer has made a step."""
        run = self.run
        run.step, run.epoch = state.global_step, math.floor(state.epoch or 0)
        for callback in self.callbacks:
            callback.after_step(run)
        control.should_training_stop |= run.stop

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **given: Any
    ) -> None:
        """There are new metrics. Also called outside of training."""
        if self._run is None:
            return
        self._run.metrics = {name: float(value) for name, value in (metrics or {}).items() if _is_number(value)}
        for callback in self.callbacks:
            callback.after_evaluate(self._run)
        control.should_training_stop |= self._run.stop

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """The Trainer has written a checkpoint."""
        if not state.is_world_process_zero:
            return
        with written_whole(_folder(args, state) / STATE_FILE) as part:
            torch.save([[type(each).__name__, each.state_dict()] for each in self.callbacks], part)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Training is over."""
        for callback in self.callbacks:
            callback.end(self.run)
        self._run = None

    @property
    def run(self) -> Run:
        """The training that is going on."""
        if self._run is None:
            raise RuntimeError("the Trainer has not begun to train")
        return self._run

    def _read(self, path: Path) -> list[dict[str, Any]]:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise TrainError(
                f"resume_from_checkpoint: {path}, which holds what callbacks remember, cannot be read: {error}; train "
                "from the beginning, or give EdgekernCallback(..., resume_from=folder)"
            ) from None
        kinds, present = [name for name, _ in found], [type(each).__name__ for each in self.callbacks]
        if kinds != present:
            raise TrainError(f"resume_from_checkpoint: {path} is of callbacks {kinds}, not {present}")
        return [remembered for _, remembered in found]


def _bare(optimizer: Any) -> Optimizer:
    """The optimizer itself, whose hooks are called; accelerate wraps it."""
    while not isinstance(inner := getattr(optimizer, "optimizer", None), type(None)):
        optimizer = inner
    assert isinstance(optimizer, Optimizer)
    return optimizer


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
