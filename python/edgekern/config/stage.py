"""``Stage``: what all stages of a recipe have in common."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from edgekern.config.checks import kind_of
from edgekern.config.fit import FitConfig
from edgekern.config.gradual import AGP
from edgekern.config.per_layer import PerLayer
from edgekern.config.scheme import Scheme
from edgekern.config.toml_file import config_to_toml


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
            raise TypeError(f"{self.owner}: name must be a string, got {kind_of(self.name)}")
        if self.name and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.name):
            raise ValueError(f"{self.owner}: name must be small letters, digits, - and _, as 'half'; got {self.name!r}")

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
            elif isinstance(value, AGP):
                value = dataclasses.asdict(value)
            if value is not None:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    @property
    def owner(self) -> str:
        """What messages call it."""
        return f"stage {self.name or self.kind!r}" if isinstance(self.name, str) else type(self).__name__

    def check_bool(self, name: str) -> None:
        """TypeError unless an option is true or false."""
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise TypeError(f"{self.owner}: {name} must be true or false, got {kind_of(value)}")
