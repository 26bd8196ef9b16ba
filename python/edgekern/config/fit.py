"""``FitConfig``: how ``train.fit`` trains, as plain data that a file can hold."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekern.config.checks import check_choice, check_count, check_number, from_options, kind_of
from edgekern.config.toml_file import read_toml

# Names are looked up here and nowhere else, so that a string from a file can never name something to import.
OPTIMIZERS: dict[str, str] = {
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamax": "Adamax",
    "adamw": "AdamW",
    "asgd": "ASGD",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "rprop": "Rprop",
    "sgd": "SGD",
}
"""Names of optimizers, and of their classes in ``torch.optim``."""
SCHEDULERS: dict[str, str] = {
    "constant": "ConstantLR",
    "cosine": "CosineAnnealingLR",
    "cosine_restarts": "CosineAnnealingWarmRestarts",
    "cyclic": "CyclicLR",
    "exponential": "ExponentialLR",
    "linear": "LinearLR",
    "multistep": "MultiStepLR",
    "one_cycle": "OneCycleLR",
    "plateau": "ReduceLROnPlateau",
    "polynomial": "PolynomialLR",
    "step": "StepLR",
}
"""Names of schedules, and of their classes in ``torch.optim.lr_scheduler``."""
WARMED_UP = ("warmup_constant", "warmup_cosine", "warmup_linear")
"""Names of schedules that rise first: a ``LinearLR`` and another, in a ``SequentialLR``."""
AUTOCAST = ("bf16", "auto")


@dataclass(frozen=True)
class EarlyStop:
    """Stops a training that gets no better.

    Attributes:
        patience: how many evaluations in a row may bring nothing better before training stops.
        metric: which result of ``evaluate`` counts; it is "value" where that gives a plain number.
        mode: ``"min"`` or ``"max"``: which way is better.
        min_delta: by how much a value has to be better to count.
        restore_best: puts the weights of the best evaluation back at the end.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range.
    """

    patience: int
    metric: str = "value"
    mode: str = "min"
    min_delta: float = 0.0
    restore_best: bool = False

    def __post_init__(self) -> None:
        check_count("patience", self.patience, 1, "EarlyStop")
        if not isinstance(self.metric, str):
            raise TypeError(f"EarlyStop: metric must be a string, got {kind_of(self.metric)}")
        check_choice("mode", self.mode, ("min", "max"), "EarlyStop")
        check_number("min_delta", self.min_delta, math.inf, "EarlyStop")
        _check_bool("restore_best", self.restore_best, "EarlyStop")


@dataclass(frozen=True)
class FitConfig:
    """How ``train.fit`` trains. A step is one step of the optimizer, over ``accumulate`` batches.

    Attributes:
        steps: how many; or
        epochs: how often the batches are gone through. One of the two is needed.
        optimizer: a name of :data:`OPTIMIZERS`, or a mapping with it and the arguments of the class of that name in
            ``torch.optim``: ``{"name": "sgd", "lr": 0.1, "momentum": 0.9}``.
        scheduler: a name of :data:`SCHEDULERS` or :data:`WARMED_UP`, or a mapping likewise, for
            ``torch.optim.lr_scheduler``. It moves on after each step, but "plateau" after each evaluation. Lengths that
            are left out are all the steps. Those that rise first take ``warmup``, in steps or as a share below 1, and
            otherwise the arguments of what follows. None leaves the learning rate as it is.
        accumulate: batches whose gradients are averaged for one step.
        clip: the largest norm of all gradients together; None does not clip.
        autocast: ``"bf16"``: the forward pass in bfloat16 where ``torch.autocast`` allows. ``"auto"``: the same, but
            only on devices that multiply bfloat16 themselves; others are slower at it. None: in the model's dtype.
        train_mode: calls ``model.train()`` first. False leaves the modes as they are: dropout stays off in a model in
            eval mode, and batch normalisations keep their statistics.
        seed: of Python's, NumPy's and torch's generators.
        evaluate_every: steps between evaluations; None evaluates at the end of each epoch. The last step always is.
        early_stop: when to stop before the end.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        log_every: steps between lines of the log.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range, a name that is not known, or options that do not go together.
    """

    steps: int | None = None
    epochs: int | None = None
    optimizer: str | Mapping[str, Any] = "adamw"
    scheduler: str | Mapping[str, Any] | None = None
    accumulate: int = 1
    clip: float | None = None
    autocast: str | None = None
    train_mode: bool = True
    seed: int = 0
    evaluate_every: int | None = None
    early_stop: EarlyStop | None = None
    checkpoint_every: int = 100
    log_every: int = 1

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("FitConfig: expected either steps or epochs, as FitConfig(steps=1000)")
        for name in ("steps", "epochs", "evaluate_every"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, 1, "FitConfig")
        for name, least in (("accumulate", 1), ("seed", 0), ("checkpoint_every", 1), ("log_every", 1)):
            check_count(name, getattr(self, name), least, "FitConfig")
        if self.clip is not None:
            check_number("clip", self.clip, math.inf, "FitConfig")
            if self.clip == 0:
                raise ValueError("FitConfig: clip must be above 0, or None for no clipping")
        if self.autocast is not None:
            check_choice("autocast", self.autocast, AUTOCAST, "FitConfig")
        _check_bool("train_mode", self.train_mode, "FitConfig")
        object.__setattr__(self, "optimizer", _named("optimizer", self.optimizer, tuple(OPTIMIZERS)))
        if self.scheduler is not None:
            known = (*SCHEDULERS, *WARMED_UP)
            object.__setattr__(self, "scheduler", _named("scheduler", self.scheduler, known))
        if isinstance(self.early_stop, Mapping):
            object.__setattr__(self, "early_stop", from_options(EarlyStop, self.early_stop, "EarlyStop"))
        if not isinstance(self.early_stop, EarlyStop | None):
            raise TypeError(f"FitConfig: early_stop must be EarlyStop(...) or None, got {kind_of(self.early_stop)}")

    def to_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """The options that are not their defaults, as JSON-ready data; ``whole`` has all but those that are None."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default or (whole and value is not None):
                found[field.name] = dataclasses.asdict(value) if isinstance(value, EarlyStop) else value
        return found

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> FitConfig:
        """The inverse of ``to_dict``.

        Raises:
            TypeError, ValueError: as when made; an option that there is not.
        """
        return from_options(cls, options, "FitConfig")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> FitConfig:
        """The options in a TOML file.

        Raises:
            ImportError: Python is older than 3.11.
            OSError: the file cannot be read.
            ValueError: no TOML, or not such options; the message names the file.
        """
        try:
            return cls.from_dict(read_toml(path))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _named(option: str, given: object, known: tuple[str, ...]) -> dict[str, Any]:
    """A mapping with a name that is known, from that or the name alone."""
    found = {"name": given} if isinstance(given, str) else given
    if not isinstance(found, Mapping) or "name" not in found:
        raise TypeError(f"FitConfig: {option} must be a name, or a mapping with a 'name' and arguments; got {given!r}")
    check_choice(option, found["name"], known, "FitConfig")
    return {"name": found["name"], **{key: value for key, value in found.items() if key != "name"}}


def _check_bool(name: str, value: object, owner: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be a bool, got {kind_of(value)}")
