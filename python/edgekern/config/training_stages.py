"""The stages of a recipe that train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_count, check_number, kind_of
from edgekern.config.fit import FitConfig
from edgekern.config.gradual import AGP
from edgekern.config.per_layer import Config, check_config, needing_data, schemes_in
from edgekern.config.prune import Prune
from edgekern.config.stage import Stage


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """What the stages that train have in common.

    Attributes:
        fit: how to train.
        keep_zeros: weights that are zero when the stage begins stay zero.
        qat: what a later conversion will convert to, for the layers to train with its rounding; None trains floats.
        prune: ``Prune(...)``, or ``PerLayer`` with such: weights to be set to zero little by little, as a
            ``GradualPruner`` does, also by movement; None prunes nothing.
        schedule: when; goes with ``prune``.
    """

    trains: ClassVar[bool] = True

    fit: FitConfig
    keep_zeros: bool = True
    qat: Config | None = None
    prune: Config | None = None
    schedule: AGP | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.fit, FitConfig):
            raise TypeError(f"{self.owner}: fit must be FitConfig(...), got {kind_of(self.fit)}")
        self.check_bool("keep_zeros")
        if self.qat is not None:
            check_config(self.qat, "convert_")
        if self.prune is not None or self.schedule is not None:
            self._check_pruning()

    def _check_pruning(self) -> None:
        if self.prune is None or self.schedule is None:
            missing = "prune" if self.prune is None else "schedule, as { begin = 1, end = 500, every = 10 }"
            raise ValueError(f"{self.owner}: prune and schedule go together; it has no {missing}")
        if not isinstance(self.schedule, AGP):
            raise TypeError(f"{self.owner}: schedule must be AGP(...), got {kind_of(self.schedule)}")
        check_config(self.prune, "prune_")
        for scheme in schemes_in(self.prune):
            if isinstance(scheme, Prune):
                self.schedule.at(scheme, self.schedule.begin)
        if self.qat is not None:
            raise ValueError(f"{self.owner}: prune and qat do not go together; take a stage for each, pruning first")
        if not self.keep_zeros:
            raise ValueError(
                f"{self.owner}: keep_zeros is false, but what is pruned gradually stays zero; leave it out"
            )
        if self.fit.steps is not None and self.schedule.end > self.fit.steps:
            raise ValueError(
                f"{self.owner}: its schedule ends at step {self.schedule.end}, its training at {self.fit.steps}; the "
                "sparsity would not be reached"
            )

    @property
    def needs_calibration(self) -> bool:
        return self.prune is not None and needing_data(self.prune) is not None

    @property
    def prepares(self) -> bool:
        return self.qat is not None

    @property
    def needs_evaluation(self) -> bool:
        scheduler, stop, every = self.fit.scheduler, self.fit.early_stop, self.fit.evaluate_every
        goes_by_it = isinstance(scheduler, Mapping) and scheduler["name"] == "plateau"
        return goes_by_it or stop is not None or every is not None


@dataclass(frozen=True, kw_only=True)
class FineTuneStage(TrainingStage):
    """Training by the user's loss, or by the one that the model itself gives for labels."""

    kind: ClassVar[str] = "fine_tune"


@dataclass(frozen=True, kw_only=True)
class DistilStage(TrainingStage):
    """Training by what the model that the run began with says; no labels are needed.

    Attributes:
        layers: of each stack of blocks, how many to keep: a number, or a share below 1; as ``student_from`` does. None
            keeps all, and teaches the model as it is, pruned as it may be.
        width: share of the channels and heads to keep, above 0 and below 1; as ``student_from`` does. None keeps all.
        soft: weight of the teacher's logits; None is 1 for a model that has logits, 0 for one that has not.
        hidden: weight of what blocks of the same depth give; None is 1 for a model that has such blocks, otherwise 0.
        hard: weight of labels, which the data then have to hold.
        temperature: of the softmax over logits.
    """

    kind: ClassVar[str] = "distil"

    layers: int | float | None = None
    width: float | None = None
    soft: float | None = None
    hidden: float | None = None
    hard: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("soft", "hidden", "hard", "temperature"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, math.inf, self.owner)
        if self.temperature == 0:
            raise ValueError(f"{self.owner}: temperature must be above 0")
        if self.soft == self.hidden == self.hard == 0:
            raise ValueError(f"{self.owner}: soft, hidden and hard are 0; expected one of them above, to learn from")
        if self.layers is not None:
            self._check_layers()
        if self.width is not None:
            check_number("width", self.width, 1.0, self.owner)
            if self.width in (0, 1):
                raise ValueError(f"{self.owner}: width must be a share above 0 and below 1, got {self.width}")

    def _check_layers(self) -> None:
        if isinstance(self.layers, float):
            if not 0 < self.layers < 1:
                raise ValueError(f"{self.owner}: layers must be a number of blocks, or a share below 1; {self.layers}")
        else:
            check_count("layers", self.layers, 1, self.owner)
