"""A training of ``fit``, from its first step to its last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgekern.calibration.observe import inference
from edgekern.config import FitConfig
from edgekern.config.checks import kind_of
from edgekern.train.autocast import autocast_dtype
from edgekern.train.build import make_optimizer, make_scheduler
from edgekern.train.callbacks import Callback
from edgekern.train.checkpoint import write_checkpoint
from edgekern.train.errors import TrainError
from edgekern.train.feed import Batches, Feed
from edgekern.train.generators import seed_all
from edgekern.train.log import Log
from edgekern.train.run import FitResult, Patience, Run
from edgekern.train.state import load_state, state_of

Loss = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""Called as ``loss(model, batch)``: a scalar, or a mapping with one as "loss" and others to be logged."""
Evaluate = Callable[[nn.Module], float | Mapping[str, float]]


class Training:
    """A training, from its first step to its last."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss,
        config: FitConfig,
        optimizer: Optimizer | None,
        callbacks: Sequence[Callback],
        evaluate: Evaluate | None,
    ) -> None:
        self.model, self.loss, self.config = model, loss, config
        self.callbacks, self.evaluate = callbacks, evaluate
        self.feed = Feed(batches, config.accumulate)
        self.steps = self._count_steps()
        parameters = _trainable(model, loss)
        made = make_optimizer(cast(dict[str, Any], config.optimizer), parameters) if optimizer is None else optimizer
        self.run = Run(model, made)
        self.parameters = [parameter for group in made.param_groups for parameter in group["params"]]
        self.watched = ""
        self._make_scheduler(made)
        self.patience = Patience(config.early_stop) if config.early_stop else None
        self.stopped_early = False
        self.done = False
        self.log = Log(None)
        self.checkpoint: Path | None = None
        self.evaluated_at = -1
        device = self.parameters[0].device.type
        self.autocast = autocast_dtype(device, config.autocast)
        # One that the caller is in stays, where none is asked for.
        self._cast: Callable[[], AbstractContextManager[Any]] = (
            nullcontext if self.autocast is None else partial(torch.autocast, device, self.autocast)
        )

    def _count_steps(self) -> int | None:
        config = self.config
        if config.epochs is None:
            return config.steps
        if self.feed.passes_once and config.epochs > 1:
            raise TrainError(f"batches: an iterator is gone through once, not {config.epochs} times; give a list")
        return None if self.feed.steps is None else config.epochs * self.feed.steps

    def _make_scheduler(self, optimizer: Optimizer) -> None:
        if self.config.scheduler is None:
            return
        spec = dict(cast(dict[str, Any], self.config.scheduler))
        if spec["name"] == "plateau":
            self.watched = spec.pop("metric", "value")
            if self.evaluate is None:
                raise TrainError("scheduler: 'plateau' goes by evaluations; pass evaluate=")
        self.run.scheduler = make_scheduler(spec, optimizer, self.steps)

    # ------------------------------------------------------------------------------------------ steps

    def begin(self, found: dict[str, Any] | None) -> None:
        """Makes all ready for the first step, or for the next after a checkpoint."""
        seed_all(self.config.seed)
        for callback in self.callbacks:
            callback.start(self.run)
        if found is not None:
            load_state(self, found)
        else:
            self.log.back_to(0)

    def go_on(self, advance: Callable[[str], None]) -> None:
        """Makes steps until it is time to stop."""
        for _ in range(self.run.step):
            advance("")
        while not self._is_over():
            group = self.feed.next_group()
            if not group:
                self._end_epoch()
                continue
            self._step(group)
            advance(f"loss {self.run.loss:.4f}")
            every = self.config.evaluate_every
            if every and self.run.step % every == 0:
                self._evaluate()
            if self.run.step % self.config.checkpoint_every == 0:
                self._save()
        if self.evaluated_at != self.run.step:
            self._evaluate()
        if self.patience:
            self.patience.restore_(self.model)
        self.done = True
        self._save()

    def _is_over(self) -> bool:
        config, run = self.config, self.run
        enough = run.step >= config.steps if config.steps is not None else self.feed.epoch >= (config.epochs or 0)
        return enough or run.stop

    def _end_epoch(self) -> None:
        if self.config.steps is not None and self.feed.passes_once:
            raise TrainError(
                f"batches: the iterator ended after step {self.run.step} of {self.config.steps}; give more, or a list"
            )
        if self.config.evaluate_every is None:
            self._evaluate()
        self.feed.end_epoch()
        self.run.epoch = self.feed.epoch

    def _step(self, group: list[Any]) -> None:
        run, number = self.run, self.run.step + 1
        run.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for batch in group:
            with self._cast():
                parts = _parts(self.loss(self.model, batch), number)
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part.item() / len(group)
            if not math.isfinite(sums["loss"]):
                raise TrainError(self._diverged(f"the loss of step {number} is {sums['loss']}"))
            (parts["loss"] / len(group)).backward()
        for callback in self.callbacks:
            callback.after_backward(run)
        norm = self._clipped_norm()
        if not math.isfinite(norm):
            raise TrainError(self._diverged(f"the gradients of step {number} have the norm {norm}"))
        rates = [float(part["lr"]) for part in run.optimizer.param_groups]
        run.optimizer.step()
        if run.scheduler is not None and not self.watched:
            run.scheduler.step()
        run.step, run.loss = number, sums["loss"]
        for callback in self.callbacks:
            callback.after_step(run)
        if number % self.config.log_every == 0:
            self.log.write(step=number, epoch=self.feed.epoch, **sums, gradient_norm=norm, lr=max(rates))

    def _clipped_norm(self) -> float:
        gradients = [parameter for parameter in self.parameters if parameter.grad is not None]
        most = math.inf if self.config.clip is None else self.config.clip
        if math.isinf(most):
            return float(torch.nn.utils.get_total_norm([cast(Tensor, each.grad) for each in gradients]))
        return float(torch.nn.utils.clip_grad_norm_(gradients, most))

    def _diverged(self, what: str) -> str:
        kept = f"; {self.checkpoint} holds the last checkpoint" if self.checkpoint and self.checkpoint.exists() else ""
        return f"{what}: weights are those after step {self.run.step}{kept}; try a smaller learning rate, or clip"

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        with inference(self.model):
            given = self.evaluate(self.model)
        found = given if isinstance(given, Mapping) else {"value": given}
        self.run.metrics = {name: float(value) for name, value in found.items()}
        self.evaluated_at = self.run.step
        for name in filter(None, (self.watched, self.patience.config.metric if self.patience else "")):
            if name not in self.run.metrics:
                raise TrainError(f"evaluate: it gave no {name!r}; there is {', '.join(self.run.metrics)}")
        if self.watched and self.run.scheduler is not None:
            cast(Any, self.run.scheduler).step(self.run.metrics[self.watched])
        for callback in self.callbacks:
            callback.after_evaluate(self.run)
        self.log.write(step=self.run.step, epoch=self.feed.epoch, evaluation=self.run.metrics)
        if self.patience and self.patience.ends(self.model, self.run.metrics):
            self.run.stop = self.stopped_early = True

    def _save(self) -> None:
        if self.checkpoint is not None:
            write_checkpoint(self.checkpoint, self.config, state_of(self))

    def end(self) -> None:
        """Lets go of everything."""
        for callback in self.callbacks:
            callback.end(self.run)
        self.log.close()

    def result(self, found: dict[str, Any] | None) -> FitResult:
        """What came of it."""
        run = self.run
        best = self.patience.best if self.patience else None
        before = found["run"]["step"] if found else 0
        early = self.stopped_early
        return FitResult(run.step, self.feed.epoch, run.loss, run.metrics, best, early, before, self.autocast)


def _trainable(model: nn.Module, loss: object) -> list[nn.Parameter]:
    parts = [model, loss] if isinstance(loss, nn.Module) else [model]
    unique = {id(parameter): parameter for part in parts for parameter in part.parameters()}
    found = [parameter for parameter in unique.values() if parameter.requires_grad]
    if not found:
        raise TrainError("model: no parameter requires gradients; dense_(model) makes converted layers trainable")
    return found


def _parts(given: object, step: int) -> dict[str, Tensor]:
    parts: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"loss": given}
    total = parts.get("loss")
    if not isinstance(total, Tensor) or total.numel() != 1 or not all(isinstance(p, Tensor) for p in parts.values()):
        shape = list(total.shape) if isinstance(total, Tensor) else kind_of(total)
        raise TypeError(
            f"loss: expected a scalar tensor, or a mapping of such with one as 'loss'; in step {step} got {shape}"
        )
    return {"loss": total.squeeze(), **{name: part.detach() for name, part in parts.items() if name != "loss"}}
