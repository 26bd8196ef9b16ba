"""A training as callbacks see it, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgekern.config import EarlyStop


@dataclass
class Run:
    """A training that is going on.

    Attributes:
        model: what is trained.
        optimizer: what trains it.
        scheduler: what moves its learning rate; None when nothing does.
        step: steps made.
        epoch: how often the batches were gone through.
        loss: of the last step, the mean over its batches.
        metrics: of the last evaluation.
        stop: set it to end after this step.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None = None
    step: int = 0
    epoch: int = 0
    loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    stop: bool = False


@dataclass(frozen=True)
class FitResult:
    """What came of a training."""

    steps: int
    """Steps made, those before it was resumed included."""
    epochs: int
    """How often the batches were gone through to the end."""
    loss: float
    """Of the last step."""
    metrics: dict[str, float]
    """Of the last evaluation; empty without."""
    best: float | None
    """The best value of what ``early_stop`` looks at; None without."""
    stopped_early: bool
    """Whether it ended before its time."""
    resumed_at: int
    """The step of the checkpoint that it went on from; 0 when it began anew."""
    autocast: torch.dtype | None
    """What the forward pass was cast to; None: it was not."""


class Patience:
    """Early stopping, with what it has to remember."""

    def __init__(self, config: EarlyStop) -> None:
        self.config = config
        self.best: float | None = None
        self.waited = 0
        self.weights: dict[str, Tensor] | None = None

    def ends(self, model: nn.Module, metrics: Mapping[str, float]) -> bool:
        """Takes note of an evaluation; whether it was the last that may bring nothing better."""
        value = metrics[self.config.metric]
        gain = math.inf if self.best is None else self.best - value
        if self.best is not None and self.config.mode == "max":
            gain = -gain
        if not math.isnan(value) and gain > self.config.min_delta:
            self.best, self.waited = value, 0
            if self.config.restore_best:
                self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.config.patience

    @torch.no_grad()
    def restore_(self, model: nn.Module) -> None:
        """Puts the best weights back, where they were asked for and there are any."""
        if self.weights is not None:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]
