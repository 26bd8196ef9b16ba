"""The stages of a recipe: what ``compress`` does to a model one after the other, as plain data that a file can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_count, check_number, check_options, from_options, kind_of
from edgekern.config.fit import FitConfig
from edgekern.config.gradual import AGP
from edgekern.config.per_layer import Config, check_config, needing_data, schemes_in
from edgekern.config.prune import Prune
from edgekern.config.stage import Stage
from edgekern.config.toml_file import config_from_toml
from edgekern.config.training_stages import DistilStage, FineTuneStage

_SCHEMES = ("scheme", "qat", "prune")
"""Options that hold a configuration."""


@dataclass(frozen=True, kw_only=True)
class PruneStage(Stage):
    """Weights set to zero, by ``prune_``.

    Attributes:
        scheme: ``Prune(...)``, or ``PerLayer`` with such.
        sequential: as for ``prune_``: each layer is judged by what comes through those pruned before it.
    """

    kind: ClassVar[str] = "prune"

    scheme: Config
    sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self.scheme, "prune_")
        self.check_bool("sequential")
        if any(isinstance(scheme, Prune) and scheme.method == "movement" for scheme in schemes_in(self.scheme)):
            raise ValueError(
                f"{self.owner}: method 'movement' judges weights while they train; give prune and schedule to a stage "
                "of kind 'distil' or 'fine_tune'"
            )

    @property
    def needs_calibration(self) -> bool:
        return needing_data(self.scheme) is not None


@dataclass(frozen=True, kw_only=True)
class QuantizeStage(Stage):
    """Weights rounded with a look at calibration data, by ``quantize_``; a later conversion stores what was rounded.

    Attributes:
        scheme: ``GPTQ``, ``AWQ`` or ``SmoothQuant``, or ``PerLayer`` with such.
    """

    kind: ClassVar[str] = "quantize"

    scheme: Config

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self.scheme, "quantize_")

    @property
    def needs_calibration(self) -> bool:
        return True

    @property
    def prepares(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class ConvertStage(Stage):
    """Layers replaced by native ones, by ``convert_``.

    Attributes:
        scheme: ``Int8``, ``Int4``, ``Float32``, ``Float16``, or ``PerLayer`` with such. What a stage before has rounded
            weights to, or trained them for, is kept; this is for all other layers. None leaves those alone.
    """

    kind: ClassVar[str] = "convert"

    scheme: Config | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme is not None:
            check_config(self.scheme, "convert_")

    @property
    def needs_calibration(self) -> bool:
        return self.scheme is not None and needing_data(self.scheme) is not None


@dataclass(frozen=True, kw_only=True)
class EvaluateStage(Stage):
    """Quality, size and time of the model as it then is.

    Attributes:
        threads: numbers of threads to time a call with; none for as many as there are now.
        seconds: that timing takes at most, for each number of threads.
        layers: whether each layer is timed too, and compared with what it gave when the run began.
    """

    kind: ClassVar[str] = "evaluate"
    changes_model: ClassVar[bool] = False

    threads: tuple[int, ...] = ()
    seconds: float = 2.0
    layers: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.threads, str) or not isinstance(self.threads, tuple | list):
            raise TypeError(f"{self.owner}: threads must be numbers, as [1, 4]; got {self.threads!r}")
        for count in self.threads:
            check_count("threads", count, 1, self.owner)
        object.__setattr__(self, "threads", tuple(self.threads))
        check_number("seconds", self.seconds, math.inf, self.owner)
        self.check_bool("layers")

    @property
    def needs_evaluation(self) -> bool:
        return True


# Kinds are looked up here and nowhere else, so that a string from a file can never name something to import.
STAGES: dict[str, type[Stage]] = {
    stage.kind: stage for stage in (PruneStage, DistilStage, FineTuneStage, QuantizeStage, ConvertStage, EvaluateStage)
}
"""Kinds of stages, and their classes."""


def stage_from_dict(data: object) -> Stage:
    """The inverse of ``Stage.to_dict``; a format's name alone stands for a scheme with its defaults.

    Raises:
        TypeError: no table, or an option of another type.
        ValueError: an unknown kind or option, one that is missing, or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"expected a table of options, got {kind_of(data)}")
    options = dict(data)
    kind = options.pop("kind", None)
    made = STAGES.get(kind) if isinstance(kind, str) else None
    if made is None:
        raise ValueError(f"unknown kind {kind!r}; this version knows {', '.join(STAGES)}")
    check_options(made, options, repr(kind))
    for name in _SCHEMES:
        if name in options:
            options[name] = config_from_toml(options[name])
    if "fit" in options:
        options["fit"] = FitConfig.from_dict(options["fit"])
    if "schedule" in options:
        options["schedule"] = from_options(AGP, options["schedule"], "schedule")
    return made(**options)
