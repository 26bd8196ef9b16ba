"""The stages of a recipe: what ``compress`` does to a model one after the other, as plain data that a file can hold."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edgekern.config.checks import check_count, check_number, kind_of
from edgekern.config.fit import FitConfig
from edgekern.config.per_layer import Config, PerLayer, check_config, needing_data
from edgekern.config.scheme import Scheme
from edgekern.config.toml_file import config_from_toml, config_to_toml

_SCHEMES = ("scheme", "qat")
"""Options that hold a configuration."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of every stage.

    Attributes:
        name: unique in a recipe: small letters, digits, ``-`` and ``_``. Empty for the kind, with a number where that
            is taken.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range.
    """

    kind: ClassVar[str]
    changes_model: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"{self._owner}: name must be a string, got {kind_of(self.name)}")
        if self.name and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.name):
            raise ValueError(
                f"{self._owner}: name must be small letters, digits, - and _, as 'half'; got {self.name!r}"
            )

    @property
    def needs_calibration(self) -> bool:
        """Whether it runs the model on calibration data."""
        return False

    @property
    def needs_evaluation(self) -> bool:
        """Whether it measures the model's quality."""
        return False

    @property
    def prepares(self) -> bool:
        """Whether it settles what a later conversion converts to."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """All options, those at their defaults too, as data for JSON or TOML; those that are None are left out."""
        found: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Scheme | PerLayer):
                value = config_to_toml(value, whole=True)
            elif isinstance(value, FitConfig):
                value = value.to_dict(whole=True)
            if value is not None:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    @property
    def _owner(self) -> str:
        return f"stage {self.name or self.kind!r}" if isinstance(self.name, str) else type(self).__name__

    def _check_bool(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise TypeError(f"{self._owner}: {name} must be true or false, got {kind_of(value)}")


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
        self._check_bool("sequential")

    @property
    def needs_calibration(self) -> bool:
        return needing_data(self.scheme) is not None


@dataclass(frozen=True, kw_only=True)
class _Training(Stage):
    """What the stages that train have in common.

    Attributes:
        fit: how to train.
        keep_zeros: weights that are zero when the stage begins stay zero.
        qat: what a later conversion will convert to, for the layers to train with its rounding; None trains floats.
    """

    trains: ClassVar[bool] = True

    fit: FitConfig
    keep_zeros: bool = True
    qat: Config | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.fit, FitConfig):
            raise TypeError(f"{self._owner}: fit must be FitConfig(...), got {kind_of(self.fit)}")
        self._check_bool("keep_zeros")
        if self.qat is not None:
            check_config(self.qat, "convert_")

    @property
    def prepares(self) -> bool:
        return self.qat is not None

    @property
    def needs_evaluation(self) -> bool:
        scheduler, stop, every = self.fit.scheduler, self.fit.early_stop, self.fit.evaluate_every
        goes_by_it = isinstance(scheduler, Mapping) and scheduler["name"] == "plateau"
        return goes_by_it or stop is not None or every is not None


@dataclass(frozen=True, kw_only=True)
class FineTuneStage(_Training):
    """Training by the user's loss, or by the one that the model itself gives for labels."""

    kind: ClassVar[str] = "fine_tune"


@dataclass(frozen=True, kw_only=True)
class DistilStage(_Training):
    """Training by what the model that the run began with says; no labels are needed.

    Attributes:
        layers: of each stack of blocks, how many to keep: a number, or a share below 1; as ``student_from`` does. None
            keeps all, and teaches the model as it is, pruned as it may be.
        soft: weight of the teacher's logits; None is 1 for a model that has logits, 0 for one that has not.
        hidden: weight of what blocks of the same depth give; None is 1 for a model that has such blocks, otherwise 0.
        hard: weight of labels, which the data then have to hold.
        temperature: of the softmax over logits.
    """

    kind: ClassVar[str] = "distil"

    layers: int | float | None = None
    soft: float | None = None
    hidden: float | None = None
    hard: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("soft", "hidden", "hard", "temperature"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, math.inf, self._owner)
        if self.temperature == 0:
            raise ValueError(f"{self._owner}: temperature must be above 0")
        if self.soft == self.hidden == self.hard == 0:
            raise ValueError(f"{self._owner}: soft, hidden and hard are 0; expected one of them above, to learn from")
        if self.layers is not None:
            self._check_layers()

    def _check_layers(self) -> None:
        if isinstance(self.layers, float):
            if not 0 < self.layers < 1:
                raise ValueError(f"{self._owner}: layers must be a number of blocks, or a share below 1; {self.layers}")
        else:
            check_count("layers", self.layers, 1, self._owner)


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
            raise TypeError(f"{self._owner}: threads must be numbers, as [1, 4]; got {self.threads!r}")
        for count in self.threads:
            check_count("threads", count, 1, self._owner)
        object.__setattr__(self, "threads", tuple(self.threads))
        check_number("seconds", self.seconds, math.inf, self._owner)
        self._check_bool("layers")

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
    fields = dataclasses.fields(made)
    known = [field.name for field in fields]
    if unknown := sorted(options.keys() - set(known)):
        said = ", ".join(map(repr, unknown))
        raise ValueError(f"{kind!r} has no option {said}; it has {', '.join(known)}")
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in options]:
        raise ValueError(f"{kind!r} needs {' and '.join(missing)}")
    for name in _SCHEMES:
        if name in options:
            options[name] = config_from_toml(options[name])
    if "fit" in options:
        options["fit"] = FitConfig.from_dict(options["fit"])
    return made(**options)
