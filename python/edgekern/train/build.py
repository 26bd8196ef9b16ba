"""Optimizers and schedules by name and arguments, out of closed tables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from edgekern.config import OPTIMIZERS, SCHEDULERS
from edgekern.train.errors import TrainError

_LENGTHS = {"cosine": "T_max", "polynomial": "total_iters", "one_cycle": "total_steps"}
_AFTER_WARMUP = {"warmup_constant": "constant", "warmup_cosine": "cosine", "warmup_linear": "linear"}


def make_optimizer(spec: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> Optimizer:
    """The optimizer that ``FitConfig.optimizer`` says.

    Raises:
        TrainError: arguments that it does not take.
    """
    name, options = _taken_apart(spec)
    return _made("optimizer", name, getattr(torch.optim, OPTIMIZERS[name]), options, list(parameters))


def make_scheduler(spec: Mapping[str, Any], optimizer: Optimizer, steps: int | None) -> LRScheduler:
    """The schedule that ``FitConfig.scheduler`` says, for so many steps.

    Raises:
        TrainError: arguments that it does not take; a length that is left out and not known.
    """
    name, options = _taken_apart(spec)
    if name in _AFTER_WARMUP:
        return _warmed_up(name, options, optimizer, steps)
    if name == "one_cycle":
        options.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    given_otherwise = name == "one_cycle" and {"epochs", "steps_per_epoch"} <= options.keys()
    if name in _LENGTHS and _LENGTHS[name] not in options and not given_otherwise:
        options[_LENGTHS[name]] = _known(steps, name)
    return _made("scheduler", name, getattr(lr_scheduler, SCHEDULERS[name]), options, optimizer)


def _warmed_up(name: str, options: dict[str, Any], optimizer: Optimizer, steps: int | None) -> LRScheduler:
    warmup = options.pop("warmup", None)
    if isinstance(warmup, float) and 0 < warmup < 1:
        warmup = max(1, round(warmup * _known(steps, name)))
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 1:
        raise TrainError(
            f"scheduler: {name!r} needs warmup, in steps (1 or more) or as a share of all steps (above 0, below 1); "
            f"got {warmup!r}"
        )
    if name == "warmup_constant":
        options = {"factor": 1.0, "total_iters": 0, **options}
    else:
        left = _known(steps, name) - warmup
        if left < 1:
            raise TrainError(f"scheduler: {name!r} warms up for {warmup} steps, which leaves none of {steps}")
        length = {"T_max": left} if name == "warmup_cosine" else {"total_iters": left}
        falls = {} if name == "warmup_cosine" else {"start_factor": 1.0, "end_factor": 0.0}
        options = {**length, **falls, **options}
    after = _AFTER_WARMUP[name]
    rising = LinearLR(optimizer, 1 / warmup, 1.0, warmup)
    falling = _made("scheduler", name, getattr(lr_scheduler, SCHEDULERS[after]), options, optimizer)
    return SequentialLR(optimizer, [rising, falling], [warmup])


def _taken_apart(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    options = dict(spec)
    return options.pop("name"), options


def _known(steps: int | None, name: str) -> int:
    if steps is None:
        raise TrainError(
            f"scheduler: {name!r} has to know how many steps there are, and batches have no length; "
            "say FitConfig(steps=...), or give the schedule its length"
        )
    return steps


def _made(what: str, name: str, kind: type[Any], options: Mapping[str, Any], first: object) -> Any:
    known = list(inspect.signature(kind).parameters)[1:]  # the first is what it works on
    if unknown := sorted(options.keys() - set(known)):
        said = ", ".join(map(repr, unknown))
        raise TrainError(f"{what}: {name!r} has no argument {said}; it has {', '.join(known)}")
    try:
        return kind(first, **options)
    except (TypeError, ValueError) as error:
        raise TrainError(f"{what}: {name!r}: {error}") from None
